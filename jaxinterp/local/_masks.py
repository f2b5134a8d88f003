"""Masks over the features of an input: which entries belong to a feature, and what replaces one that is removed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxinterp import checks, tree
from jaxinterp.local._backgrounds import checked_background
from jaxinterp.typing import Array, PyTree, ScalarFn


@dataclasses.dataclass(frozen=True, eq=False)
class Masks:
    r"""Functions of masks in place of functions of inputs.

    A mask z has one number for each feature, 1 where it is kept and 0 where it is removed. f becomes
    :math:`v(z) = f(z \odot x + (1 - z) \odot b)`, or with a background the mean of that over its rows b.

    Attributes:
      x: the input.
      baseline: b, like x; `None` with a background.
      background: rows like x, or `None`.
      groups: the feature of each entry, like x; `None` makes each entry a feature.
      num_features: how many features there are.
    """

    x: PyTree
    baseline: PyTree | None
    background: PyTree | None
    groups: PyTree | None
    num_features: int

    @property
    def all_kept(self) -> PyTree:
        """The mask of x itself: [features] with groups, otherwise like x."""
        if self.groups is None:
            return tree.ones_like(self.x)
        dtype = tree.accumulator(jnp.result_type(*jax.tree.leaves(self.x)))
        return jnp.ones((self.num_features,), dtype)

    def shaped(self, mask: Array) -> PyTree:
        """A mask [features] in the structure of `all_kept`."""
        flat, unravel = ravel_pytree(self.all_kept)
        return unravel(mask.astype(flat.dtype))

    def active(self) -> PyTree:
        """The mask that keeps the features whose removal changes x at all; without them f is the same."""
        rows = self.background if self.baseline is None else jax.tree.map(lambda b: b[None], self.baseline)
        differs = jax.tree.map(lambda a, b: jnp.any(b != a[None], 0).astype(a.dtype), self.x, rows)
        if self.groups is None:
            return differs
        return (self._per_group(differs) > 0).astype(self.all_kept.dtype)

    def spread(self, values: Array) -> PyTree:
        """One number for each feature, [features], as one for each entry of x, in its dtypes."""
        return self.spread_mask(self.shaped(values))

    def spread_mask(self, mask: PyTree) -> PyTree:
        """The number of its feature for each entry of x, in its dtypes."""
        return tree.cast_like(mask, self.x) if self.groups is None else spread_over(self.groups, mask, self.x)

    def point(self, mask: PyTree) -> PyTree:
        """The input in which the features that the mask removes have the baseline, or the mean of the background."""
        keep, baseline = self.spread_mask(mask), self.baseline
        if self.background is not None:
            baseline = jax.tree.map(lambda rows: jnp.mean(rows, 0), self.background)
        return jax.tree.map(_between, keep, self.x, baseline)

    def function(self, f: ScalarFn) -> ScalarFn:
        """v: f as a function of the mask, which may have any numbers between 0 and 1."""

        def value(mask: PyTree) -> Array:
            keep = self.spread_mask(mask)
            at = lambda baseline: f(jax.tree.map(_between, keep, self.x, baseline))  # noqa: E731
            return at(self.baseline) if self.background is None else jnp.mean(jax.vmap(at)(self.background))

        return value

    def mask_of(self, point: PyTree) -> PyTree:
        """The mask whose `point` is nearest: per feature the mean of (point - b)/(x - b), over entries with x != b."""
        baseline = self.point(tree.zeros_like(self.all_kept))
        width = tree.sub(self.x, baseline)
        share = jax.tree.map(
            lambda p, b, w: jnp.where(w == 0, 1.0, (p - b) / jnp.where(w == 0, 1.0, w)), point, baseline, width
        )
        if self.groups is None:
            return share
        counted = jax.tree.map(lambda w: (w != 0).astype(w.dtype), width)
        totals, counts = (self._per_group(values) for values in (tree.mul(share, counted), counted))
        return jnp.where(counts == 0, 1.0, totals / jnp.where(counts == 0, 1.0, counts))

    def _per_group(self, values: PyTree) -> Array:
        flat, groups = (
            jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(t)]) for t in (values, self.groups)
        )
        return jnp.zeros((self.num_features,), flat.dtype).at[groups].add(flat)


def masks(
    method: str,
    x: PyTree,
    *,
    baseline: PyTree = 0.0,
    background: PyTree | None = None,
    groups: PyTree | None = None,
    num_groups: int | None = None,
) -> Masks:
    """Checks what removes features of x, and how entries form features; see `Masks`.

    Raises:
      TypeError: if there are both a baseline and a background, the background is not floating-point, the groups are
        not integers, or only one of `groups` and `num_groups` is given.
      ValueError: if a baseline, a background or groups do not fit x.

    >>> v = masks("example", jnp.array([1.0, 2.0]), baseline=5.0).function(jnp.sum)
    >>> float(v(jnp.array([1.0, 0.0])))
    6.0
    """
    if background is not None and not (isinstance(baseline, float) and baseline == 0):
        raise TypeError(f"`{method}` replaces features by a `baseline` or by the rows of a `background`, not by both.")
    groups_of, num_features = feature_groups(method, groups, num_groups, x)
    rows = None if background is None else checked_background(method, background, x)[0]
    origin = tree.broadcast_prefix("baseline", baseline, x) if background is None else None
    return Masks(x, origin, rows, None if groups is None else groups_of, num_features)


def _between(keep: Array, a: Array, b: Array) -> Array:
    """`a` where `keep` is 1, `b` where it is 0, and linear between, with the derivative of that everywhere."""
    keep = keep.astype(a.dtype)
    return keep * a + (1 - keep) * b


def spread_over(groups: PyTree, values: Array, x: PyTree) -> PyTree:
    """Returns to each entry of x the value of its group, [num_groups], in its dtype; NaN for a group outside."""

    def leaf(group: Array, like: Array) -> Array:
        group = jnp.asarray(group)
        group = group.astype(jnp.int32) if group.dtype.itemsize < 4 else group  # wide enough for the number of groups
        inside = (group >= 0) & (group < values.shape[0])
        return jnp.where(inside, values[group], jnp.full_like(values, jnp.nan)[group]).astype(like.dtype)

    return jax.tree.map(leaf, groups, x)


def masked(keep: PyTree, x: PyTree, baseline: PyTree) -> PyTree:
    """Returns x where `keep` is 1, the baseline where it is 0, and NaN where it is NaN."""

    def leaf(z: Array, a: Array, b: Array) -> Array:
        return jnp.where(jnp.isnan(z), z.astype(a.dtype), jnp.where(z != 0, a, b))

    return jax.tree.map(leaf, keep, x, baseline)


def feature_groups(method: str, groups: PyTree | None, num_groups: int | None, x: PyTree) -> tuple[PyTree, int]:
    """Returns the feature of each entry of x and their number: `groups` if given, otherwise each entry its own.

    Raises:
      TypeError: if only one of `groups` and `num_groups` is given, or groups are not integers.
      ValueError: if the groups are not shaped like x, or one is not in 0..num_groups-1.

    >>> feature_groups("example", None, None, {"u": jnp.zeros(2), "v": jnp.zeros(())})
    ({'u': array([0, 1], dtype=int32), 'v': array(2, dtype=int32)}, 3)
    """
    if (groups is None) != (num_groups is None):
        raise TypeError(
            f"`{method}` needs `num_groups` when it is built and `groups` at the call, both or neither; "
            f"got num_groups={num_groups} and groups {'missing' if groups is None else 'given'}."
        )
    if num_groups is not None:
        _check_groups(method, groups, checks.positive_integer("num_groups", num_groups), x)
        return groups, num_groups
    leaves, structure = jax.tree.flatten(x)
    ends = np.cumsum([leaf.size for leaf in leaves])
    numbers = [np.arange(e - a.size, e, dtype=np.int32).reshape(a.shape) for e, a in zip(ends, leaves, strict=True)]
    return jax.tree.unflatten(structure, numbers), int(ends[-1])


def _check_groups(method: str, groups: PyTree, num_groups: int, x: PyTree) -> None:
    """Errors if `groups` do not name a feature in 0..num_groups-1 for each entry of x."""
    checks.same_structure(method, "groups", groups, x)
    for leaf in jax.tree.leaves(groups):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.integer):
            raise TypeError(f"`groups` of `{method}` must be integers; got dtype {jnp.result_type(leaf)}.")
        known = checks.concrete(leaf)
        if known is not None and (known.min() < 0 or known.max() >= num_groups):
            raise ValueError(
                f"`groups` of `{method}` must lie in 0..{num_groups - 1} (num_groups={num_groups}); "
                f"got values from {known.min()} to {known.max()}."
            )


def grid_groups(shape: tuple[int, ...], cells: tuple[int, ...]) -> np.ndarray:
    """Returns `groups` for `binary_mask` that divide an array into a grid of nearly equal cells.

    Args:
      shape: of the array.
      cells: how many cells there are along each axis; 1 for an axis that is not divided, such as channels.

    Returns:
      int32 of that shape, with values 0 .. product of `cells` - 1.

    Raises:
      ValueError: if there are not between 1 and n cells along an axis of n entries, for each axis.

    >>> grid_groups((4, 4), (2, 1)).tolist()
    [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    """
    if len(cells) != len(shape) or any(not 1 <= c <= n for c, n in zip(cells, shape, strict=True)):
        raise ValueError(
            f"`cells` of `grid_groups` must be one number per axis of {shape}, from 1 to its length; got {cells}."
        )
    along = [np.arange(n) * c // n for n, c in zip(shape, cells, strict=True)]
    return np.ravel_multi_index(np.meshgrid(*along, indexing="ij"), cells).astype(np.int32)
