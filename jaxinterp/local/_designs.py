"""Designs: neighbourhoods of finitely many perturbations, such as all masks, or masks chosen for Shapley values."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxinterp import checks, tree
from jaxinterp.local._backgrounds import background_row, checked_background
from jaxinterp.local._masks import masks
from jaxinterp.local._neighbourhoods import Perturbation, masked_perturbation
from jaxinterp.local._plans import Plan, plan_of
from jaxinterp.typing import Array, Key, PyTree

MOST_FEATURES = 20  # of which all subsets are taken
MOST_COMPARED = 128  # features whose order is found by comparing all pairs


@dataclasses.dataclass(frozen=True)
class Design:
    """A neighbourhood that lists its perturbations.

    Attributes:
      draw: `(key, index, x, **arrays) -> Perturbation`; a design without chance ignores the key.
      size: takes x and returns the number of perturbations.
      fixed: takes x and returns how many of the first perturbations do not depend on the key.
      cluster: how many of the others, one after the other, depend on each other.
    """

    draw: Callable[..., Perturbation]
    size: Callable[[PyTree], int]
    fixed: Callable[[PyTree], int]
    cluster: int = 1


def one_hot(*, num_groups: int | None = None) -> Design:
    r"""The masks that remove one feature each: :math:`z = 1 - e_i` for all features i.

    The keywords at the call are those of `binary_mask`. With it, the slope of a linear model with its intercept at the
    anchor is the effect of removing the feature: occlusion.

    >>> design = one_hot()
    >>> design.draw(None, 1, jnp.ones(3)).coordinates.tolist(), design.size(jnp.ones(3))
    ([1.0, 0.0, 1.0], 3)
    """

    def draw(key: Key, index: Array, x: PyTree, **arrays: PyTree) -> Perturbation:
        del key
        removing = masks("one_hot", x, num_groups=num_groups, **arrays)
        keep = jnp.arange(removing.num_features, dtype=jnp.int32) != index
        return masked_perturbation(removing, removing.shaped(keep))

    size = functools.partial(_count, num_groups)
    return Design(draw, size, size)


def all_masks(*, num_groups: int | None = None) -> Design:
    r"""All :math:`2^d` masks; bit i of the index says whether feature i is kept.

    The keywords at the call are those of `binary_mask`.

    Raises:
      ValueError: at the call, if there are more than 20 features.

    >>> design = all_masks()
    >>> [design.draw(None, i, jnp.ones(2)).coordinates.tolist() for i in range(design.size(jnp.ones(2)))]
    [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    """

    def draw(key: Key, index: Array, x: PyTree, **arrays: PyTree) -> Perturbation:
        del key
        removing = masks("all_masks", x, num_groups=num_groups, **arrays)
        keep = (jnp.asarray(index, jnp.int32) >> jnp.arange(removing.num_features, dtype=jnp.int32)) & 1
        return masked_perturbation(removing, removing.shaped(keep))

    def size(x: PyTree) -> int:
        features = _count(num_groups, x)
        if features > MOST_FEATURES:
            raise ValueError(
                f"All masks of {features} features are 2^{features}; at most {MOST_FEATURES} features can be taken. "
                "Group the features, or sample masks (`local.coalitions`)."
            )
        return 2**features

    return Design(draw, size, size)


def coalitions(num_samples: int, *, num_groups: int | None = None) -> Design:
    r"""The masks of KernelSHAP: :math:`z \ne 0, 1`, weighted by :math:`\pi(z) = (d-1)/(\binom dk k (d-k))`, k = |z|.

    Sizes k and d - k are taken with all their masks, from the outside in, as long as their share of the samples is
    enough for that. The others are sampled: sizes by systematic sampling, more often where values vary more (or in
    proportion to their weight, if there are not enough for all), and subsets of a size uniformly, each mask together
    with its complement. If there are samples for all :math:`2^d - 2` masks, nothing is sampled.

    The weights sum to 1. Features that removing does not change, x = b, have the coordinate 0 throughout. The keywords
    at the call are those of `binary_mask`.

    Args:
      num_samples: the most masks.
      num_groups: the number of features if `groups` are given at the call.

    Source: Lundberg & Lee (2017), the `shap` package; pairs by Covert & Lee (2021).

    >>> design = coalitions(6)
    >>> design.size(jnp.ones(3)), design.fixed(jnp.ones(3))
    (6, 6)
    """
    checks.positive_integer("num_samples", num_samples)

    def plan(x: PyTree) -> Plan:
        features = _count(num_groups, x)
        if features < 2:
            raise ValueError("`coalitions` are masks of two features or more; the value of one is f(x) - f(b).")
        return plan_of(features, num_samples)

    def draw(key: Key, index: Array, x: PyTree, **arrays: PyTree) -> Perturbation:
        removing = masks("coalitions", x, num_groups=num_groups, **arrays)
        chosen = plan(x)
        count = len(chosen.masks)
        mask, weight = jnp.zeros((removing.num_features,), bool), jnp.zeros((), float)
        if count:
            listed = jnp.minimum(index, count - 1)
            mask, weight = jnp.asarray(chosen.masks)[listed], jnp.asarray(chosen.weights, float)[listed]
        if chosen.pairs:
            sampled, share = _sampled(key, jnp.maximum(index - count, 0), chosen)
            mask, weight = jnp.where(index < count, mask, sampled), jnp.where(index < count, weight, share)
        active = removing.active()
        found = masked_perturbation(removing, tree.mul(removing.shaped(mask), active), weight)
        return dataclasses.replace(found, anchor=active)

    return Design(draw, lambda x: plan(x).size, lambda x: len(plan(x).masks), cluster=2)


def nearest(num_neighbours: int) -> Design:
    """The nearest rows of a data set, in Euclidean distance: a neighbourhood on the data manifold.

    The keyword at the call is `data`, rows like x; the coordinates are the inputs.

    Raises:
      ValueError: at the call, if there are fewer rows.

    >>> design = nearest(2)
    >>> design.draw(None, 0, jnp.zeros(1), data=jnp.array([[3.0], [1.0], [2.0]])).point.tolist()
    [1.0]
    """
    checks.positive_integer("num_neighbours", num_neighbours)

    def draw(key: Key, index: Array, x: PyTree, *, data: PyTree) -> Perturbation:
        del key
        rows, count = checked_background("nearest", data, x, "data")
        if count < num_neighbours:
            raise ValueError(f"`nearest` needs {num_neighbours} rows of `data`; got {count}.")
        distance = jax.vmap(lambda row: tree.squared_norm(tree.sub(row, x)))(rows)
        point = background_row(rows, jnp.argsort(distance)[index])
        return Perturbation(point, point, x)

    return Design(draw, lambda x: num_neighbours, lambda x: num_neighbours)


def _count(num_groups: int | None, x: PyTree) -> int:
    return tree.size(x) if num_groups is None else checks.positive_integer("num_groups", num_groups)


def _sampled(key: Key, index: Array, plan: Plan) -> tuple[Array, Array]:
    """One mask of a pair, and its weight.

    Pair j has the size at the level (j + u)/pairs of their distribution. Of a size with few subsets they are drawn
    without replacement: the n-th pair takes the n-th of the shuffled subsets. A size has its own weight, whatever the
    number of its pairs.
    """
    pair, is_complement = index // 2, index % 2 == 1
    start = jax.random.uniform(jax.random.fold_in(key, 0), (), jnp.float32)
    cumulative = jnp.asarray(plan.cumulative, jnp.float32)
    reached = jnp.ceil(plan.pairs * cumulative - start).astype(jnp.int32)  # the pairs up to each size
    stratum = jnp.minimum(jnp.sum(pair >= reached, dtype=jnp.int32), len(plan.sizes) - 1)
    before = jnp.where(stratum > 0, reached[stratum - 1], 0)
    mask = _random_subset(
        jax.random.fold_in(key, 1 + pair), plan.masks.shape[1], jnp.asarray(plan.sizes, jnp.int32)[stratum]
    )
    for place, subsets in enumerate(plan.subsets):
        if subsets is not None:
            shuffle = jax.random.fold_in(jax.random.fold_in(key, 1 + plan.pairs), place)
            order = jax.random.permutation(shuffle, jnp.arange(len(subsets), dtype=jnp.int32))
            chosen = jnp.asarray(subsets)[order[jnp.minimum(pair - before, len(subsets) - 1)]]
            mask = jnp.where(stratum == place, chosen, mask)
    if not plan.shares:
        return mask != is_complement, jnp.asarray(plan.weight, float)
    number = (reached[stratum] - before).astype(float)
    return mask != is_complement, jnp.asarray(plan.shares, float)[stratum] / (2 * number)


def _random_subset(key: Key, features: int, size: Array) -> Array:
    """A mask that keeps `size` features, all equally likely."""
    scores = jax.random.bits(key, (features,), jnp.uint32)
    if features > MOST_COMPARED:
        return jnp.argsort(jnp.argsort(scores)).astype(jnp.int32) < size
    scores = scores // MOST_COMPARED * MOST_COMPARED + jnp.arange(features, dtype=jnp.uint32)  # no two are equal
    return jnp.sum(scores[:, None] > scores[None], 1, dtype=jnp.int32) < size  # faster than to sort so few
