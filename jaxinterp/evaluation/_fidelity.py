"""How well a local model predicts the function around its point."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxinterp import batching, checks, interpreters, local
from jaxinterp.derivatives import Estimate
from jaxinterp.interpreters import restrict_scalar
from jaxinterp.typing import Array, Key, PyTree, ScalarFn


def local_r_squared(
    f: ScalarFn, argnums: int | tuple[int, ...] = 0, *, num_samples: int = 200, chunk_size: int | None = 16
) -> Callable[..., Estimate]:
    r"""Fidelity: returns `(key, model, *args, stddev) -> Estimate` of R² of the model over a Gaussian neighbourhood.

    :math:`R^2 = 1 - \mathbb E(f(x') - g(x'))^2 / \operatorname{Var} f(x')` for :math:`x' = x + \sigma\varepsilon`:
    1 for a perfect model, 0 for one as good as the mean of f, below 0 for a worse one. NaN where f is constant up to
    rounding. The standard error is that of the linearised ratio (delta method).

    Args:
      f: a scalar function.
      argnums: the argument, or several, that noise is added to.
      num_samples: number of fresh samples.
      chunk_size: samples evaluated together.

    >>> f, x = lambda x: jnp.sum(x**2), jnp.ones(3)
    >>> fidelity = local_r_squared(f)(jax.random.key(0), local.tangent(f)(x), x, stddev=0.01)
    >>> bool(fidelity.mean > 0.99), bool(fidelity.stderr < 0.001)
    (True, True)
    """
    n = checks.positive_integer("num_samples", num_samples)
    batch = checks.optional_chunk_size(chunk_size) or n

    def r_squared(key: Key, model: local.LinearModel, *args: PyTree, stddev: PyTree) -> Estimate:
        g, x = restrict_scalar("local_r_squared", f, argnums, args)
        checks.key("local_r_squared", key)
        centre = jax.lax.stop_gradient(g(x))

        def draw(index: Array) -> tuple[Array, Array]:
            point = local.gaussian(jax.random.fold_in(key, index), x, stddev=stddev).point
            value = g(point)
            return (value - model(point)) ** 2, value - centre  # the change: a large value would hide it in rounding

        indices = jnp.arange(n, dtype=jnp.int32)
        errors, changes = batching.map_examples(interpreters.loop_safe(draw), batch_size=batch)(indices)
        squares = (changes - jnp.mean(changes)) ** 2
        error, variance = jnp.mean(errors), jnp.mean(squares)
        influence = (error * (squares / variance - 1) - (errors - error)) / variance
        rounding = (4 * jnp.finfo(centre.dtype).eps * centre) ** 2
        unknown = jnp.full_like(error, jnp.nan)
        return Estimate(
            jnp.where(variance <= rounding, unknown, 1 - error / variance),
            jnp.where(variance <= rounding, unknown, jnp.sqrt(jnp.mean(influence**2) / max(n - 1, 1))),
            jnp.asarray(n, jnp.int32),
        )

    return r_squared
