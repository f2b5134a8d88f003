"""Neighbourhoods: distributions of inputs around a point, and the coordinates in which a local model is fitted.

A neighbourhood is a function `(key, x, **arrays) -> Perturbation` that draws one sample; arrays such as `stddev` or
`baseline` come at the call. With a loss and a class of models it makes a local explanation (Han, Srinivas &
Lakkaraju, 2022).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp import checks, tree
from jaxinterp.typing import Array, Key, PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Perturbation:
    """One sample of a neighbourhood.

    Attributes:
      point: the perturbed input, like x.
      coordinates: what the local model sees of it, a pytree of floating-point arrays.
      anchor: the coordinates of x itself.
    """

    point: PyTree
    coordinates: PyTree
    anchor: PyTree


Neighbourhood = Callable[..., Perturbation]
"""`(key, x, **arrays) -> Perturbation`."""


def gaussian(key: Key, x: PyTree, *, stddev: PyTree) -> Perturbation:
    r"""Additive Gaussian noise: :math:`x' = x + \sigma\varepsilon`, coordinates x'.

    Args:
      key: random key.
      x: the point.
      stddev: σ >= 0 in the units of x; a scalar, or a pytree prefix of x whose leaves broadcast.

    >>> gaussian(jax.random.key(0), jnp.ones(2), stddev=0.0).point.tolist()
    [1.0, 1.0]
    """
    sigma = tree.broadcast_prefix("stddev", checks.non_negative("stddev", stddev), x)
    point = tree.add(x, tree.mul(sigma, tree.normal_like(key, x)))
    return Perturbation(point, point, x)


def segment(key: Key, x: PyTree, *, baseline: PyTree = 0.0) -> Perturbation:
    r"""Uniform on the segment from the baseline to x: :math:`x' = b + t(x - b),\ t \sim U(0, 1)`, coordinates x'.

    Args:
      key: random key.
      x: the point.
      baseline: b, a pytree prefix of x.

    >>> bool(0 <= segment(jax.random.key(0), jnp.ones(())).point <= 1)
    True
    """
    point = along_segment(jax.random.uniform(key, (), jnp.float32), x, tree.broadcast_prefix("baseline", baseline, x))
    return Perturbation(point, point, x)


def along_segment(t: Array, x: PyTree, baseline: PyTree) -> PyTree:
    """Returns `baseline + t·(x - baseline)`, computed in at least float32, in the dtypes of `x`."""

    def leaf(a: Array, b: Array) -> Array:
        wide = tree.accumulator(a.dtype)
        a_wide, b_wide = a.astype(wide), b.astype(wide)
        return (b_wide + jnp.asarray(t).astype(wide) * (a_wide - b_wide)).astype(a.dtype)

    return jax.tree.map(leaf, x, baseline)


def binary_mask(
    key: Key, x: PyTree, *, baseline: PyTree = 0.0, groups: PyTree | None = None, num_groups: int | None = None
) -> Perturbation:
    r"""Keeps each feature with probability 1/2: :math:`x' = z \odot x + (1 - z) \odot b`, coordinates z.

    The mask z is uniform on :math:`\{0, 1\}^d`.

    Args:
      key: random key.
      x: the point.
      baseline: b, what a removed feature is replaced by; a pytree prefix of x.
      groups: integer arrays in the structure and shapes of x that name the feature each entry belongs to; `None`
        makes every entry a feature of its own.
      num_groups: the number of features, static; needed with `groups`, whose entries must lie in 0..num_groups-1 (while
        traced, an entry outside gives NaN).

    >>> mask = binary_mask(jax.random.key(0), jnp.ones(4), groups=jnp.array([0, 0, 1, 1]), num_groups=2)
    >>> mask.coordinates.shape, bool(mask.point[0] == mask.point[1])
    ((2,), True)
    """
    if groups is None:
        keep = tree.bernoulli_like(key, x, 0.5)
        spread = keep
    else:
        checked_groups("binary_mask", groups, num_groups, x)
        dtype = tree.accumulator(jnp.result_type(*jax.tree.leaves(x)))
        keep = tree.bernoulli_like(key, jnp.zeros((num_groups,), dtype), 0.5)
        spread = spread_over(groups, keep, x)
    return Perturbation(masked(spread, x, tree.broadcast_prefix("baseline", baseline, x)), keep, tree.ones_like(keep))


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


def checked_groups(method: str, groups: PyTree, num_groups: int | None, x: PyTree) -> PyTree:
    """Returns `groups` if they name a feature in 0..num_groups-1 for each entry of x; errors otherwise."""
    if num_groups is None:
        raise TypeError(
            f"`{method}` got `groups` without `num_groups`, the number of features, fixed when the method is built."
        )
    checks.positive_integer("num_groups", num_groups)
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
    return groups


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
        return checked_groups(method, groups, num_groups, x), num_groups
    leaves, structure = jax.tree.flatten(x)
    ends = np.cumsum([leaf.size for leaf in leaves])
    numbers = [np.arange(e - a.size, e, dtype=np.int32).reshape(a.shape) for e, a in zip(ends, leaves, strict=True)]
    return jax.tree.unflatten(structure, numbers), int(ends[-1])


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
