"""Algebra on pytrees of arrays: each function treats a whole pytree as one vector.

Products and norms accumulate in at least float32 and at the highest matrix precision, so that a bfloat16 input on an
accelerator does not lose the sum. Random trees fold the leaf's index into the key and draw in float32, so the same key
gives the same sample whatever the dtype of the leaves.
"""

import functools
import math
import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxinterp import checks
from jaxinterp.typing import Array, Key, PyTree


def accumulator(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype in which sums over `dtype` are kept: `dtype` itself, but a floating one of at least 32 bits."""
    wide = jnp.issubdtype(dtype, jnp.inexact) and jnp.finfo(dtype).bits >= 32
    return jnp.dtype(dtype) if wide else jnp.dtype(jnp.float32)


def path_name(path: tuple) -> str:
    """Returns the name of a leaf from its path in a tree: keys, attributes and positions joined by `/`.

    >>> [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path({"dense": [1.0, {"bias": 2.0}]})]
    ['dense/0', 'dense/1/bias']
    """
    return jax.tree_util.keystr(path, simple=True, separator="/")


def add(a: PyTree, b: PyTree) -> PyTree:
    """Returns `a + b`."""
    return jax.tree.map(jnp.add, a, b)


def sub(a: PyTree, b: PyTree) -> PyTree:
    """Returns `a - b`."""
    return jax.tree.map(jnp.subtract, a, b)


def mul(a: PyTree, b: PyTree) -> PyTree:
    """Returns the elementwise product of `a` and `b`."""
    return jax.tree.map(jnp.multiply, a, b)


def scale(alpha: Array | float, a: PyTree) -> PyTree:
    """Returns `alpha * a` in the dtypes of `a`."""
    return jax.tree.map(lambda leaf: jnp.asarray(alpha).astype(leaf.dtype) * leaf, a)


def axpy(alpha: Array | float, x: PyTree, y: PyTree) -> PyTree:
    """Returns `alpha * x + y` in the dtypes of `y`."""
    return jax.tree.map(lambda a, b: jnp.asarray(alpha).astype(b.dtype) * a.astype(b.dtype) + b, x, y)


def vdot(a: PyTree, b: PyTree) -> Array:
    """Returns the inner product of `a` and `b`, a scalar of at least float32.

    >>> float(vdot({"u": jnp.ones(3), "v": jnp.ones(())}, {"u": jnp.arange(3.0), "v": jnp.asarray(4.0)}))
    7.0
    """

    def leaf(x: Array, y: Array) -> Array:
        dtype = accumulator(jnp.result_type(x, y))
        return jnp.sum(x.astype(dtype) * y.astype(dtype))

    return functools.reduce(operator.add, jax.tree.leaves(jax.tree.map(leaf, a, b)))


def squared_norm(a: PyTree) -> Array:
    """Returns the squared Euclidean norm of `a`."""
    return vdot(a, a)


def norm(a: PyTree) -> Array:
    """Returns the Euclidean norm of `a`; its gradient at zero is zero, not NaN.

    The entries are divided by the largest before they are squared: squares leave the range of float32 below 1e-19 and
    above 1e19.
    """
    dtype = max((accumulator(leaf.dtype) for leaf in jax.tree.leaves(a)), key=lambda dtype: jnp.finfo(dtype).bits)
    wide = jax.tree.map(lambda leaf: leaf.astype(dtype), a)
    largest = jnp.stack([jnp.max(jnp.abs(leaf), initial=0.0) for leaf in jax.tree.leaves(wide)]).max()
    largest = jax.lax.stop_gradient(largest)
    is_zero = largest == 0  # written so that NaN is not taken for zero
    largest = jnp.where(is_zero | jnp.isinf(largest), jnp.ones_like(largest), largest)
    square = squared_norm(jax.tree.map(lambda leaf: leaf / largest, wide))
    root = jnp.sqrt(jnp.where(is_zero, jnp.ones_like(square), square))
    return jnp.where(is_zero, jnp.zeros_like(square), root * largest)


def unit(a: PyTree) -> tuple[PyTree, Array]:
    """Returns `a` over its norm, in at least float32, and the norm; zeros stay zeros.

    >>> direction, length = unit(jnp.array([3, 4]))
    >>> [round(v, 4) for v in direction.tolist()], float(length)
    ([0.6, 0.8], 5.0)
    """
    wide = jax.tree.map(lambda leaf: leaf.astype(accumulator(leaf.dtype)), a)
    length = norm(wide)
    safe = jnp.where(length == 0, jnp.ones_like(length), length)
    return jax.tree.map(lambda leaf: leaf / safe.astype(leaf.dtype), wide), length


def zeros_like(a: PyTree) -> PyTree:
    """Returns zeros with the structure, shapes and dtypes of `a`."""
    return jax.tree.map(jnp.zeros_like, a)


def ones_like(a: PyTree) -> PyTree:
    """Returns ones with the structure, shapes and dtypes of `a`."""
    return jax.tree.map(jnp.ones_like, a)


def size(a: PyTree) -> int:
    """Returns the number of entries of `a`."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(a))


def all_finite(a: PyTree) -> Array:
    """Returns whether no floating-point entry of `a` is NaN or infinite, a boolean scalar."""
    leaves = [leaf for leaf in jax.tree.leaves(a) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
    return functools.reduce(jnp.logical_and, [jnp.all(jnp.isfinite(leaf)) for leaf in leaves], jnp.asarray(True))


def cast_like(a: PyTree, like: PyTree) -> PyTree:
    """Returns `a` with the dtypes of `like`."""
    return jax.tree.map(lambda x, y: x.astype(y.dtype), a, like)


def ravel(a: PyTree) -> tuple[Array, Callable[[Array], PyTree]]:
    """Returns the entries of `a` as one vector of at least float32, and the function back, in the dtypes of `a`.

    >>> flat, unravel = ravel({"u": jnp.ones(2, jnp.bfloat16), "v": jnp.zeros(())})
    >>> flat.dtype.name, unravel(flat)["u"].dtype.name
    ('float32', 'bfloat16')
    """
    dtype = max((accumulator(leaf.dtype) for leaf in jax.tree.leaves(a)), key=lambda dtype: jnp.finfo(dtype).bits)
    flat, unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf.astype(dtype), a))
    return flat, lambda vector: cast_like(unravel(vector.astype(dtype)), a)


def broadcast_prefix(name: str, prefix: PyTree, like: PyTree) -> PyTree:
    """Returns `prefix` spread over the structure, shapes and dtypes of `like`.

    Args:
      name: what to call `prefix` in the error.
      prefix: a scalar, or a pytree whose leaves stand for whole sub-trees of `like` and broadcast to their shapes.
      like: a pytree of floating-point arrays.

    Raises:
      ValueError: if `prefix` is no prefix of `like`, or a shape does not broadcast.

    >>> broadcast_prefix("baseline", 1, {"u": jnp.zeros(2)})["u"].tolist()
    [1.0, 1.0]
    """

    def spread(path: tuple, value: Array, sub: PyTree) -> PyTree:
        def leaf(inner: tuple, target: Array) -> Array:
            array = jnp.asarray(value)
            if array.ndim > target.ndim or any(
                n not in (1, m) for n, m in zip(array.shape[::-1], target.shape[::-1], strict=False)
            ):
                where = jax.tree_util.keystr((*path, *inner))
                raise ValueError(
                    f"`{name}` of shape {array.shape} does not broadcast to the input{where} of shape {target.shape}."
                )
            return jnp.broadcast_to(array.astype(target.dtype), target.shape)

        return jax.tree_util.tree_map_with_path(leaf, sub)

    try:
        jax.tree.map(lambda *_: None, prefix, like)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"`{name}` must be a scalar, an array, or a pytree prefix of the input's structure "
            f"{jax.tree.structure(like)}; got {jax.tree.structure(prefix)}."
        ) from error
    return jax.tree_util.tree_map_with_path(spread, prefix, like)


def clipping(like: PyTree, low: PyTree, high: PyTree) -> Callable[[PyTree], PyTree]:
    """Returns the function that clips a tree to limits, each a prefix of `like`, or `None` for no limit.

    >>> clipping({"u": jnp.zeros(3)}, None, 1.0)({"u": jnp.arange(3.0)})["u"].tolist()
    [0.0, 1.0, 1.0]
    """
    lowest = None if low is None else broadcast_prefix("low", low, like)
    highest = None if high is None else broadcast_prefix("high", high, like)
    if lowest is not None and highest is not None:
        for a, b in zip(jax.tree.leaves(lowest), jax.tree.leaves(highest), strict=True):
            ends = checks.concrete(a), checks.concrete(b)
            if ends[0] is not None and ends[1] is not None and (ends[0] > ends[1]).any():
                raise ValueError(f"`low` must not be above `high`; got {low} and {high}.")

    def clip(a: PyTree) -> PyTree:
        if lowest is not None:
            a = jax.tree.map(lambda leaf, b: jnp.maximum(leaf, b.astype(leaf.dtype)), a, lowest)
        if highest is not None:
            a = jax.tree.map(lambda leaf, b: jnp.minimum(leaf, b.astype(leaf.dtype)), a, highest)
        return a

    return clip


def _random_like(draw: Callable[[Key, tuple[int, ...]], Array], key: Key, like: PyTree) -> PyTree:
    leaves, structure = jax.tree.flatten(like)
    drawn = [draw(jax.random.fold_in(key, i), leaf.shape).astype(leaf.dtype) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(structure, drawn)


def normal_like(key: Key, like: PyTree) -> PyTree:
    """Returns standard normal noise with the structure, shapes and dtypes of `like`."""
    return _random_like(lambda k, shape: jax.random.normal(k, shape, jnp.float32), key, like)


def uniform_like(key: Key, like: PyTree) -> PyTree:
    """Returns noise that is uniform between -1 and 1 with the structure, shapes and dtypes of `like`."""
    return _random_like(lambda k, shape: jax.random.uniform(k, shape, jnp.float32, -1.0), key, like)


def rademacher_like(key: Key, like: PyTree) -> PyTree:
    """Returns independent fair signs (-1 or +1) with the structure, shapes and dtypes of `like`."""
    return _random_like(lambda k, shape: jax.random.rademacher(k, shape, jnp.float32), key, like)


def bernoulli_like(key: Key, like: PyTree, probability: PyTree) -> PyTree:
    """Returns independent 0/1 draws, 1 with `probability` (a prefix of `like`), like `like` in structure and dtypes.

    Where the probability is NaN, so is the draw.
    """
    wide = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), like)
    uniform = _random_like(lambda k, shape: jax.random.uniform(k, shape, jnp.float32), key, wide)
    threshold = broadcast_prefix("probability", probability, wide)
    drawn = jax.tree.map(lambda u, p: jnp.where(jnp.isnan(p), p, (u < p).astype(p.dtype)), uniform, threshold)
    return cast_like(drawn, like)
