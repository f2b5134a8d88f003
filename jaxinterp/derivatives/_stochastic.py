"""Stochastic estimates of traces, diagonals and norms of operators that are known by their products only.

Rademacher probes are used throughout: v·Hv is even in v, so antithetic pairs ±v would repeat the same number. Those
belong to `laplacian`, which sees function values only and cancels the first-order term with them.
"""

from collections.abc import Callable

import jax.numpy as jnp

from jaxinterp import checks, tree
from jaxinterp.derivatives._expectation import Estimate, expectation
from jaxinterp.interpreters import restrict_scalar
from jaxinterp.typing import Array, Key, MatVec, PyTree, ScalarFn


def trace(matvec: MatVec, *, num_samples: int, chunk_size: int | None = None) -> Callable[..., Estimate]:
    r"""Trace of a square operator: returns `(key, like) -> Estimate`.

    :math:`\operatorname{tr} A = \mathbb E[v^\top A v]` for independent signs v. For symmetric A the variance of one
    sample is :math:`2(\|A\|_F^2 - \sum_i A_{ii}^2)` (Hutchinson, 1989).

    Args:
      matvec: v -> A·v on pytrees.
      num_samples: number of probes.
      chunk_size: probes per chunk.

    The argument `like` of the returned function is a pytree with the structure and shapes of v.

    >>> estimate = trace(lambda v: 3.0 * v, num_samples=4)(jax.random.key(0), jnp.zeros(5))
    >>> float(estimate.mean), float(estimate.stderr)
    (15.0, 0.0)
    """

    def sample(key: Key, like: PyTree) -> Array:
        probe = tree.rademacher_like(key, like)
        return tree.vdot(probe, matvec(probe))

    return expectation(sample, num_samples, chunk_size=chunk_size)


def diagonal(matvec: MatVec, *, num_samples: int, chunk_size: int | None = None) -> Callable[..., Estimate]:
    r"""Diagonal of a square operator: returns `(key, like) -> Estimate` of :math:`\mathbb E[v \odot A v]`.

    Source: Bekas, Kokiopoulou & Saad (2007). Exact for a diagonal operator.

    >>> diagonal(lambda v: jnp.arange(3.0) * v, num_samples=2)(jax.random.key(0), jnp.zeros(3)).mean.tolist()
    [0.0, 1.0, 2.0]
    """

    def sample(key: Key, like: PyTree) -> PyTree:
        probe = tree.rademacher_like(key, like)
        return tree.mul(probe, matvec(probe))

    return expectation(sample, num_samples, chunk_size=chunk_size)


def squared_frobenius_norm(
    matvec: MatVec, *, num_samples: int, chunk_size: int | None = None
) -> Callable[..., Estimate]:
    r"""Squared Frobenius norm: returns `(key, like) -> Estimate` of :math:`\|A\|_F^2 = \mathbb E\|A v\|^2`.

    >>> estimate = squared_frobenius_norm(lambda v: 2.0 * v, num_samples=4)(jax.random.key(0), jnp.zeros(5))
    >>> float(estimate.mean)
    20.0
    """

    def sample(key: Key, like: PyTree) -> Array:
        return tree.squared_norm(matvec(tree.rademacher_like(key, like)))

    return expectation(sample, num_samples, chunk_size=chunk_size)


def laplacian(
    f: ScalarFn, argnums: int | tuple[int, ...] = 0, *, num_samples: int, chunk_size: int | None = None
) -> Callable[..., Estimate]:
    r"""Hessian trace from function values: returns `(key, *args, stddev) -> Estimate`.

    :math:`\operatorname{tr}\nabla^2 f(x) \approx \sigma^{-2}\,\mathbb E[f(x+v) + f(x-v) - 2f(x)]` with :math:`v
    \sim \mathcal N(0, \sigma^2 I)`; it is exact in expectation for quadratics and has a bias of order σ² otherwise.
    The pair ±v cancels the gradient, which would otherwise drown the trace (variance 4‖∇f‖²/σ² per sample of the
    one-sided form of Srinivas & Fleuret, 2021). Rounding contributes about 2·ε·|f|/σ², so σ must not be too small
    in float32.

    Raises:
      ValueError: at the call, if σ is negative or not one number.

    >>> estimate = laplacian(lambda x: jnp.sum(x**2), num_samples=500)(jax.random.key(0), jnp.ones(3), stddev=0.1)
    >>> bool(abs(estimate.mean - 6.0) < 4 * estimate.stderr)
    True
    """

    def sample(key: Key, *args: PyTree, stddev: Array | float) -> Array:
        g, x = restrict_scalar("laplacian", f, argnums, args)
        sigma = checks.distance("stddev", stddev)
        step = tree.scale(sigma, tree.normal_like(key, x))
        pair = g(tree.add(x, step)) + g(tree.sub(x, step))
        return (pair - 2 * g(x)) / jnp.square(sigma.astype(pair.dtype))

    return expectation(sample, num_samples, chunk_size=chunk_size)
