"""How well a local model predicts the function around its point."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxinterp import local
from jaxinterp.derivatives import expectation, restrict_scalar
from jaxinterp.typing import Array, Key, PyTree, ScalarFn


def local_r_squared(
    f: ScalarFn, argnums: int | tuple[int, ...] = 0, *, num_samples: int = 200, chunk_size: int | None = 16
) -> Callable[..., Array]:
    r"""Fidelity: returns `(key, model, *args, stddev)` -> R² of the model over a Gaussian neighbourhood.

    :math:`R^2 = 1 - \mathbb E(f(x') - g(x'))^2 / \operatorname{Var} f(x')` for :math:`x' = x + \sigma\varepsilon`:
    1 for a perfect model, 0 for one as good as the mean of f, below 0 for a worse one. NaN where f is constant
    up to rounding.

    Args:
      f: a scalar function.
      argnums: the argument, or several, that noise is added to.
      num_samples: number of fresh samples.
      chunk_size: samples evaluated together.

    >>> f, x = lambda x: jnp.sum(x**2), jnp.ones(3)
    >>> fidelity = local_r_squared(f)(jax.random.key(0), local.tangent(f)(x), x, stddev=0.01)
    >>> bool(fidelity > 0.99)
    True
    """

    def r_squared(key: Key, model: local.LinearModel, *args: PyTree, stddev: PyTree) -> Array:
        g, x = restrict_scalar("local_r_squared", f, argnums, args)

        centre = jax.lax.stop_gradient(g(x))

        def squared_error_and_change(k: Key) -> tuple[Array, Array]:
            point = local.gaussian(k, x, stddev=stddev).point
            value = g(point)
            return (value - model(point)) ** 2, value - centre

        estimate = expectation(squared_error_and_change, num_samples, chunk_size=chunk_size)(key)
        error, variance = estimate.mean[0], estimate.stderr[1] ** 2 * (num_samples - 1)
        rounding = (4 * jnp.finfo(centre.dtype).eps * centre) ** 2
        return jnp.where(variance <= rounding, jnp.full_like(error, jnp.nan), 1 - error / variance)

    return r_squared
