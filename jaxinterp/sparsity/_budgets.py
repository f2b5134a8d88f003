"""Who is removed: masks of a given sparsity from scores, the lowest first."""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp import checks, tree
from jaxinterp.typing import Array, PyTree

Budget = Callable[[PyTree, Array | float], PyTree]
"""`(scores, sparsity) -> masks`, of the same structure, shapes and dtypes; `None` where there are no scores.

Scores that hold NaN and a sparsity outside [0, 1) raise `ValueError`. Under `jax.jit`, as in `prune`, values are
unknown: there NaN counts as the highest score, so that it is not pruned out of sight, and a sparsity outside counts as
the nearer end.
"""


def over_all() -> Budget:
    """The lowest scores of all parameters together are removed: `round(sparsity * number)` of them, exactly.

    Of equal scores the first are kept.

    >>> over_all()({"a": jnp.array([3.0, 1.0]), "b": jnp.array([2.0, 4.0])}, 0.5)
    {'a': Array([1., 0.], dtype=float32), 'b': Array([0., 1.], dtype=float32)}
    """

    def masks(scores: PyTree, sparsity: Array | float) -> PyTree:
        leaves, structure = _checked(scores, sparsity)
        dtype = functools.reduce(jnp.promote_types, [leaf.dtype for leaf in leaves])
        flat = jnp.concatenate([leaf.astype(dtype).ravel() for leaf in leaves])
        kept = highest(flat, _kept(sparsity, flat.size))
        parts = jnp.split(kept, np.cumsum([leaf.size for leaf in leaves])[:-1])
        return structure.unflatten(
            [part.reshape(leaf.shape).astype(leaf.dtype) for part, leaf in zip(parts, leaves, strict=True)]
        )

    return masks


def per_parameter() -> Budget:
    """The lowest scores of each parameter are removed, the same fraction of each.

    >>> per_parameter()({"a": jnp.array([3.0, 1.0]), "b": jnp.array([2.0, 4.0])}, 0.5)
    {'a': Array([1., 0.], dtype=float32), 'b': Array([0., 1.], dtype=float32)}
    """
    return _by_parameter(lambda shapes, sparsity: [_kept(sparsity, math.prod(shape)) for shape in shapes])


def erdos_renyi() -> Budget:
    r"""Parameters keep more the smaller they are: "ERK", the density of a kernel is in proportion to Σ axes / Π axes.

    :math:`d_l = \min(1, \epsilon \sum_i n_i / \prod_i n_i)` with ε such that the sparsity of all together is the wanted
    one, up to one entry for each parameter.

    Source: Mocanu et al. (2018), for convolution kernels Evci, Gale, Menick, Castro & Elsen (2020).

    >>> masks = erdos_renyi()({"a": jnp.arange(100.0).reshape(10, 10), "b": jnp.arange(900.0).reshape(30, 30)}, 0.8)
    >>> [int(masks[name].sum()) for name in "ab"]
    [50, 150]
    """

    def counts(shapes: Sequence[tuple[int, ...]], sparsity: Array | float) -> list[Array]:
        sizes = jnp.asarray([math.prod(shape) for shape in shapes], float)
        densities = jnp.asarray([max(1, sum(shape)) / max(1, math.prod(shape)) for shape in shapes], float)
        wanted = (1 - jnp.asarray(sparsity, sizes.dtype)) * jnp.sum(sizes)

        def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = ends
            middle = (low + high) / 2
            is_enough = jnp.sum(sizes * jnp.minimum(1, middle * densities)) >= wanted
            return jnp.where(is_enough, low, middle), jnp.where(is_enough, middle, high)

        most = jnp.max(1 / densities)
        _, scale = jax.lax.fori_loop(0, 40, halve, (jnp.zeros_like(most), most))
        return list(jnp.round(sizes * jnp.minimum(1, scale * densities)).astype(jnp.int32))

    return _by_parameter(counts)


def n_of_m(n: int, m: int, *, axis: int = -2) -> Budget:
    """In each m consecutive entries along an axis the n highest scores are kept, as sparse matrix units want it.

    The axis is that of the inputs by default, in a kernel [inputs, outputs] or [height, width, inputs, outputs]. The
    sparsity is 1 - n/m as soon as any is asked for; at sparsity 0 everything is kept.

    Raises:
      TypeError: if one of the three is no integer.
      ValueError: if not 0 < n < m, or at the call if m does not divide the axis.

    Source: Zhou et al. (2021); Mishra et al. (2021) for 2:4.

    >>> n_of_m(2, 4)({"kernel": jnp.array([[1.0], [4.0], [3.0], [2.0]])}, 0.5)["kernel"].ravel().tolist()
    [0.0, 1.0, 1.0, 0.0]
    """
    if isinstance(axis, bool) or not isinstance(axis, int):
        raise TypeError(f"`axis` of `n_of_m` must be an integer; got {axis!r}.")
    if not 0 < checks.positive_integer("n", n) < checks.positive_integer("m", m):
        raise ValueError(f"`n_of_m` needs 0 < n < m; got n={n} and m={m}.")

    def one(path: tuple, scores: Array) -> Array:
        if scores.ndim <= (axis if axis >= 0 else -axis - 1) or scores.shape[axis] % m:
            raise ValueError(
                f"`n_of_m` cannot divide axis {axis} of {jax.tree_util.keystr(path)} with shape {scores.shape} into "
                f"groups of {m}; choose another axis, or leave that parameter out."
            )
        moved = jnp.moveaxis(scores, axis, -1)
        groups = moved.reshape(-1, m)
        order = jnp.argsort(jnp.where(jnp.isnan(groups), -jnp.inf, -groups), axis=1, stable=True)
        kept = jnp.argsort(order, axis=1) < n  # the rank of each, the first of equal ones being higher
        return jnp.moveaxis(kept.reshape(moved.shape), -1, axis).astype(scores.dtype)

    def masks(scores: PyTree, sparsity: Array | float) -> PyTree:
        _checked(scores, sparsity)
        chosen = jax.tree_util.tree_map_with_path(one, scores)
        return jax.tree.map(lambda mask: jnp.where(jnp.asarray(sparsity) > 0, mask, jnp.ones_like(mask)), chosen)

    return masks


def check_budget(method: str, budget: Budget) -> None:
    """`TypeError` for what makes a budget in place of one."""
    for make in (over_all, per_parameter, erdos_renyi, n_of_m):
        if budget is make:
            raise TypeError(f"`{make.__name__}` makes a budget: write `{method}(..., budget={make.__name__}(...))`.")


def highest(scores: Array, count: Array) -> Array:
    """Whether each entry of a vector is among the `count` highest, the first of equal ones; exactly so many are.

    NaN counts as the highest. The lowest score that is kept is found bit by bit, each by counting the scores above:
    many times faster than sorting, and sharded scores stay where they are.
    """
    keys = _ordered(scores)
    number = jnp.arange(scores.size, dtype=jnp.uint32)
    lowest = _last(lambda key: jnp.sum(keys >= key, dtype=jnp.int32) >= count, keys.dtype)
    above, is_lowest = keys > lowest, keys == lowest
    end = _last(lambda n: jnp.sum(above | (is_lowest & (number < n)), dtype=jnp.int32) <= count, number.dtype)
    return above | (is_lowest & (number < end))


def _ordered(scores: Array) -> Array:
    """Unsigned integers in the order of the scores."""
    wide = scores if scores.dtype == jnp.float64 else scores.astype(jnp.float32)
    bits = 8 * wide.dtype.itemsize
    unsigned = jnp.uint64 if bits == 64 else jnp.uint32
    sign = jnp.asarray(1 << (bits - 1), unsigned)
    plain = jnp.where(wide == 0, 0.0, jnp.where(jnp.isnan(wide), jnp.inf, wide))  # one zero, and no NaN
    pattern = jax.lax.bitcast_convert_type(plain, unsigned)
    return jnp.where(pattern >= sign, ~pattern, pattern | sign)


def _last(holds: Callable[[Array], Array], dtype: jnp.dtype) -> Array:
    """The largest integer for which a condition holds that holds up to some integer, from 0 on."""
    bits = 8 * jnp.dtype(dtype).itemsize

    def decide(i: Array, found: Array) -> Array:
        candidate = found | (jnp.asarray(1, dtype) << (bits - 1 - i).astype(dtype))
        return jnp.where(holds(candidate), candidate, found)

    return jax.lax.fori_loop(0, bits, decide, jnp.zeros((), dtype))


def _by_parameter(counts: Callable[[Sequence[tuple[int, ...]], Array | float], Sequence[Array]]) -> Budget:
    def masks(scores: PyTree, sparsity: Array | float) -> PyTree:
        leaves, structure = _checked(scores, sparsity)
        kept = counts([leaf.shape for leaf in leaves], sparsity)
        return structure.unflatten(
            [
                highest(leaf.ravel(), count).reshape(leaf.shape).astype(leaf.dtype)
                for leaf, count in zip(leaves, kept, strict=True)
            ]
        )

    return masks


def _kept(sparsity: Array | float, size: int) -> Array:
    return size - jnp.round(jnp.asarray(sparsity) * size).astype(jnp.int32)


def _checked(scores: PyTree, sparsity: Array | float) -> tuple[list[Array], jax.tree_util.PyTreeDef]:
    known = checks.concrete(sparsity)
    is_real = known is None or any(jnp.issubdtype(known.dtype, kind) for kind in (jnp.floating, jnp.integer))
    if not is_real or np.shape(sparsity):
        raise TypeError(f"`sparsity` must be one number; got {sparsity!r}.")
    if known is not None and not 0 <= known < 1:
        raise ValueError(f"`sparsity` must be a fraction from 0 to below 1, of what is removed; got {known}.")
    leaves, structure = jax.tree.flatten(scores)
    if not leaves:
        raise ValueError("There are no scores, so nothing can be removed.")
    for path, leaf in jax.tree_util.tree_leaves_with_path(scores):
        values = checks.concrete(leaf)
        if values is not None and np.isnan(values).any():
            raise ValueError(f"The scores of `{tree.path_name(path)}` hold NaN.")
    return leaves, structure
