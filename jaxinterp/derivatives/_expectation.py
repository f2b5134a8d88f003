"""Weighted sums and averages over many evaluations of a function, with memory for `chunk_size` of them.

Every path integral, noise average and Monte Carlo estimate of the library is a call of one of the two functions here.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxinterp import checks, interpreters, tree
from jaxinterp.typing import Array, Key, PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Estimate:
    """A sample average with its uncertainty.

    Attributes:
      mean: the average, a pytree.
      stderr: its standard error (one standard deviation of the average), like `mean`. It is infinite for a single
        sample, which tells nothing of the spread, and 0 for a deterministic estimator, whose bias it does not include.
      num_samples: the number of samples, an int32 scalar; 0 for a deterministic estimator.
    """

    mean: PyTree
    stderr: PyTree
    num_samples: Array


def weighted_sum(
    g: Callable[[PyTree], PyTree], nodes: PyTree, weights: Array, *, chunk_size: int | None = None
) -> PyTree:
    r"""Returns :math:`\sum_i w_i\, g(t_i)`, a running sum over chunks.

    `g` is traced once. Sums are kept in at least float32 and returned in the dtypes of `g`.

    Args:
      g: a function of one node.
      nodes: t, a pytree of arrays with a leading axis of length n.
      weights: w, an array [n], n >= 1.
      chunk_size: how many nodes are evaluated together (by `jax.vmap`); memory grows with it. `None` takes all at once.

    Raises:
      TypeError: if g does not return floating-point arrays.
      ValueError: if there are no nodes, or not as many as weights.

    >>> nodes, weights = jnp.arange(5.0), jnp.ones(5)
    >>> float(weighted_sum(lambda t: t**2, nodes, weights, chunk_size=2))
    30.0
    """
    nodes, weights = jax.tree.map(jnp.asarray, nodes), jnp.asarray(weights)
    lengths = {leaf.shape[:1] for leaf in jax.tree.leaves(nodes)}
    if lengths != {weights.shape} or not weights.size:
        raise ValueError(
            f"`weighted_sum` needs one weight for each node and at least one; got {weights.shape} weights for nodes of "
            f"leading shape {', '.join(map(str, sorted(lengths)))}."
        )
    program = interpreters.trace(g, jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), nodes))
    shapes = _floating("weighted_sum", program.out_shape)

    def add_chunk(total: PyTree, indices: Array) -> PyTree:
        values = jax.vmap(program)(jax.tree.map(lambda a: a[indices], nodes))
        return jax.tree.map(lambda s, v: s + _dot(weights[indices], v.astype(s.dtype)), total, values)

    total = _over_chunks(add_chunk, _zeros(shapes), weights.shape[0], chunk_size)
    return tree.cast_like(total, shapes)


def expectation(
    sample: Callable[..., PyTree], num_samples: int, *, chunk_size: int | None = None
) -> Callable[..., Estimate]:
    r"""Monte Carlo average: returns `(key, *args) -> Estimate` of :math:`\mathbb E[\mathrm{sample}(key, *args)]`.

    Sample i is `sample(jax.random.fold_in(key, i), *args)`: its random bits depend on the key and on i alone, whatever
    the chunk size or the number of devices. Mean and variance are merged chunk by chunk (Chan, Golub & LeVeque, 1983);
    the standard error is :math:`\sqrt{\sum_i (s_i - \bar s)^2 / (n(n-1))}`.

    Args:
      sample: draws one sample, a pytree of floating-point arrays.
      num_samples: n.
      chunk_size: how many samples are drawn together; `None` draws all at once.

    >>> dice = expectation(lambda key: jax.random.randint(key, (), 1, 7).astype(float), 1000, chunk_size=64)
    >>> estimate = dice(jax.random.key(0))
    >>> bool(abs(estimate.mean - 3.5) < 4 * estimate.stderr)
    True
    """
    n = checks.positive_integer("num_samples", num_samples)
    checks.optional_chunk_size(chunk_size)

    def estimate(key: Key, *args: PyTree, **arrays: PyTree) -> Estimate:
        mean, squares = _moments(lambda k: sample(k, *args, **arrays), n, chunk_size, checks.key("expectation", key))
        stderr = jax.tree.map(lambda s: jnp.full_like(s, jnp.inf) if n == 1 else jnp.sqrt(s / n / (n - 1)), squares)
        return Estimate(mean, tree.cast_like(stderr, mean), jnp.asarray(n, jnp.int32))

    return estimate


def variance(
    sample: Callable[..., PyTree], num_samples: int, *, chunk_size: int | None = None
) -> Callable[..., PyTree]:
    r"""Returns `(key, *args)` -> the variance :math:`\tfrac1n\sum_i (s_i - \bar s)^2` of the samples of `expectation`.

    >>> bool(variance(lambda key: jax.random.normal(key), 2000)(jax.random.key(0)) > 0.9)
    True
    """
    n = checks.positive_integer("num_samples", num_samples)
    checks.optional_chunk_size(chunk_size)

    def value(key: Key, *args: PyTree, **arrays: PyTree) -> PyTree:
        mean, squares = _moments(lambda k: sample(k, *args, **arrays), n, chunk_size, checks.key("variance", key))
        return tree.cast_like(tree.scale(1 / n, squares), mean)

    return value


def _moments(
    draw: Callable[[Key], PyTree], num_samples: int, chunk_size: int | None, key: Key
) -> tuple[PyTree, PyTree]:
    """The mean of the samples, and in at least float32 the sum of their squared deviations from it."""
    program = interpreters.trace(draw, key)
    shapes = _floating("expectation", program.out_shape)

    structure = jax.tree.structure(shapes)

    def merged(mean: Array, squares: Array, values: Array, before: Array) -> tuple[Array, Array]:
        """One leaf, with `before` samples so far and a chunk of `values`."""
        values, before, size = values.astype(mean.dtype), before.astype(mean.dtype), values.shape[0]
        fraction = size / (before + size)
        part = jnp.mean(values, 0)
        shift = part - mean
        between = jnp.where(before == 0, jnp.zeros_like(shift), before * fraction * shift**2)
        return mean + fraction * shift, squares + jnp.sum((values - part[None]) ** 2, 0) + between

    def merge(total: list[tuple[Array, Array]], indices: Array) -> list[tuple[Array, Array]]:
        values = jax.vmap(lambda i: program(jax.random.fold_in(key, i)))(indices)
        return [merged(*pair, v, indices[0]) for pair, v in zip(total, jax.tree.leaves(values), strict=True)]

    zeros = [(zero, zero) for zero in jax.tree.leaves(_zeros(shapes))]
    means, squares = zip(*_over_chunks(merge, zeros, num_samples, chunk_size), strict=True)
    mean = tree.cast_like(jax.tree.unflatten(structure, means), shapes)
    return mean, jax.tree.unflatten(structure, squares)


def _over_chunks(combine: Callable[[PyTree, Array], PyTree], total: PyTree, num: int, chunk_size: int | None) -> PyTree:
    """Feeds the indices 0 .. num-1 to `combine`, `chunk_size` at a time, the remainder in a last, smaller call."""
    size = min(checks.optional_chunk_size(chunk_size) or num, num)
    full, rest = divmod(num, size)
    indices = jnp.arange(num, dtype=jnp.int32)
    if full > 1:
        step = interpreters.loop_safe(combine)
        total, _ = jax.lax.scan(lambda t, i: (step(t, i), None), total, indices[: full * size].reshape(full, size))
    else:
        total = combine(total, indices[:size])
    return combine(total, indices[full * size :]) if rest else total


def _floating(name: str, shapes: PyTree) -> PyTree:
    """The shapes of what a function returns, if all are floating-point; averages of integers are no integers."""
    for leaf in jax.tree.leaves(shapes):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"`{name}` averages floating-point numbers, but the function returned dtype {leaf.dtype}; "
                "convert it, for instance with `.astype(float)`."
            )
    return shapes


def _zeros(shapes: PyTree) -> PyTree:
    return jax.tree.map(lambda s: jnp.zeros(s.shape, tree.accumulator(s.dtype)), shapes)


def _dot(weights: Array, values: Array) -> Array:
    return jnp.sum(weights.astype(values.dtype).reshape(-1, *(1,) * (values.ndim - 1)) * values, 0)
