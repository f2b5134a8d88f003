"""How well a local model predicts the function around its point."""

from collections.abc import Callable

import jax

from jaxinterp import local
from jaxinterp.derivatives import expectation, restrict_scalar
from jaxinterp.typing import Array, Key, PyTree, ScalarFn


def local_r_squared(
    f: ScalarFn, argnums: int | tuple[int, ...] = 0, *, num_samples: int = 200, chunk_size: int | None = 16
) -> Callable[..., Array]:
    r"""Fidelity: returns `(key, model, *args, stddev)` -> R² of the model over a Gaussian neighbourhood.

    :math:`R^2 = 1 - \mathbb E(f(x') - g(x'))^2 / \operatorname{Var} f(x')` for :math:`x' = x + \sigma\varepsilon`:
    1 for a perfect model, 0 for one as good as the mean of f, below 0 for a worse one. NaN where f is constant.

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

        def moments(k: Key) -> tuple[Array, Array, Array]:
            point = local.gaussian(k, x, stddev=stddev).point
            value = g(point)
            shifted = value - centre  # keeps the variance from drowning in a large mean
            return (value - model(point)) ** 2, shifted, shifted**2

        error, first, second = expectation(moments, num_samples, chunk_size=chunk_size)(key).mean
        return 1 - error / (second - first**2)

    return r_squared
