"""Occlusion: what the output loses when a window of the input is replaced."""

import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp import checks, local, tree
from jaxinterp.attribution._axes import checked_sizes, one_per_axis
from jaxinterp.derivatives import weighted_sum
from jaxinterp.interpreters import restrict_scalar
from jaxinterp.typing import Array, PyTree, ScalarFn


def occlusion(
    f: ScalarFn,
    argnums: int | tuple[int, ...] = 0,
    *,
    window: int | tuple[int, ...] = 1,
    stride: int | tuple[int, ...] | None = None,
    chunk_size: int | None = 16,
) -> Callable[..., PyTree]:
    r"""Occlusion: returns `(*args, baseline=0)` -> the drop of f when the windows that cover an entry are replaced.

    For the windows W at the positions 0, stride, 2·stride, ... along each axis, :math:`\phi_i = \frac{1}{|\{W \ni
    i\}|}\sum_{W \ni i} f(x) - f(x_{W \to b})`. Windows at the far border are cut off there; entries that no window
    covers (stride larger than the window) get 0. Each array of a pytree is occluded by itself.

    With a window of one entry it is the exact effect of removing that entry: for a linear function
    :math:`a_i (x_i - b_i)`.

    Args:
      f: a scalar function.
      argnums: the explained argument, or several (then the result is a tuple).
      window: size of the window, the same along all axes or one size per axis.
      stride: distance of neighbouring windows, likewise; `None` takes 1 along every axis.
      chunk_size: windows evaluated together; memory grows with it, the result does not depend on it. `None` takes all.

    Returns:
      A function of f's arguments and of the keyword `baseline` (b, a pytree prefix of x; zeros by default). The map is
      like the explained argument, in units of f.

    Raises:
      TypeError: at the call, if f is not scalar or the input is not floating-point.
      ValueError: if a window, a stride or the chunk size is not positive, or a window has another number of axes
        than an array.

    Source: Zeiler & Fergus (2014); overlapping windows are averaged as in captum.

    >>> explain = occlusion(lambda x: jnp.sum(x**2), window=2)
    >>> explain(jnp.array([1.0, 2.0, 3.0])).tolist()
    [5.0, 9.0, 13.0]
    """
    window = checked_sizes("window", window)
    stride = checked_sizes("stride", 1 if stride is None else stride)
    checks.optional_chunk_size(chunk_size)

    def attribute(*args: PyTree, baseline: PyTree = 0.0) -> PyTree:
        g, x = restrict_scalar("occlusion", f, argnums, args)
        origin = tree.broadcast_prefix("baseline", baseline, x)
        leaves, structure = jax.tree.flatten(x)
        value = g(x)

        def leaf_map(position: int) -> Array:
            def occluded(array: Array) -> PyTree:
                return g(jax.tree.unflatten(structure, [*leaves[:position], array, *leaves[position + 1 :]]))

            return _occlude(
                occluded, value, leaves[position], jax.tree.leaves(origin)[position], window, stride, chunk_size
            )

        return jax.tree.unflatten(structure, [leaf_map(i) for i in range(len(leaves))])

    return attribute


def _occlude(
    g: Callable[[Array], Array],
    value: Array,
    x: Array,
    baseline: Array,
    window: int | tuple,
    stride: int | tuple,
    chunk_size: int | None,
) -> Array:
    sizes, steps = (one_per_axis("occlusion", name, s, x.shape) for name, s in (("window", window), ("stride", stride)))
    # Along each axis: the last window is the first that reaches the far border.
    starts = [
        range(0, (math.ceil(max(n - w, 0) / s)) * s + 1, s) for n, w, s in zip(x.shape, sizes, steps, strict=True)
    ]
    corners = np.array(list(itertools.product(*starts)), np.int32).reshape(math.prod(map(len, starts)), x.ndim)

    def covers(corner: Array) -> Array:
        inside = jnp.ones(x.shape, bool)
        for axis, (n, w) in enumerate(zip(x.shape, sizes, strict=True)):
            distance = jnp.arange(n, dtype=corner.dtype) - corner[axis]
            along = (distance >= 0) & (distance < w)
            inside &= jnp.expand_dims(along, [a for a in range(x.ndim) if a != axis])
        return inside

    def drop(corner: Array) -> Array:
        covered = covers(corner).astype(x.dtype)
        return (value - g(local.masked(1 - covered, x, baseline))).astype(x.dtype) * covered

    ones = jnp.ones(len(corners), tree.accumulator(x.dtype))
    total = weighted_sum(drop, jnp.asarray(corners), ones, chunk_size=chunk_size)
    counts = _coverage(x.shape, sizes, starts)
    return total / jnp.asarray(np.maximum(counts, 1), x.dtype)


def _coverage(shape: tuple[int, ...], sizes: tuple[int, ...], starts: list[range]) -> np.ndarray:
    """How many windows cover each entry: a product over the axes."""
    counts = np.ones((), int)
    for n, w, along in zip(shape, sizes, starts, strict=True):
        counts = np.multiply.outer(
            counts, sum(((np.arange(n) >= s) & (np.arange(n) < s + w)).astype(int) for s in along)
        )
    return counts
