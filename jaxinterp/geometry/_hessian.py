"""Estimates of the Hessian of a scalar function as an operator: with respect to an input, or to parameters."""

from collections.abc import Callable

import jax.numpy as jnp

from jaxinterp import checks, derivatives, interpreters
from jaxinterp.derivatives import Eigenpairs, Estimate, SpectralDensity
from jaxinterp.typing import Key, MatVec, PyTree, ScalarFn

Estimator = Callable[[MatVec], Callable[[Key, PyTree], PyTree]]


def hessian_trace(
    f: ScalarFn, argnums: int | tuple[int, ...] = 0, *, num_products: int = 30, sketched: bool = True
) -> Callable[..., Estimate]:
    r"""Trace of the Hessian, the Laplacian: returns `(key, *args) -> Estimate` of :math:`\sum_i \partial_i^2 f(x)`.

    By `derivatives.hutch_plus_plus`, or plainly by Hutchinson's probes with `sketched=False`, which keeps one vector
    instead of a third of the products.

    Args:
      f: a scalar function.
      argnums: the argument, or several, with respect to which the Hessian is taken; the parameters for a loss.
      num_products: Hessian-vector products.
      sketched: whether the largest part of the Hessian is taken exactly.

    >>> estimate = hessian_trace(lambda x: jnp.sum(x**4) / 12)(jax.random.key(0), jnp.array([1.0, 2.0]))
    >>> round(float(estimate.mean), 3)
    5.0
    """
    if sketched:
        return _of_hessian(
            "hessian_trace", f, argnums, lambda product: derivatives.hutch_plus_plus(product, num_products=num_products)
        )
    return _of_hessian(
        "hessian_trace", f, argnums, lambda product: derivatives.trace(product, num_samples=num_products, chunk_size=1)
    )


def hessian_frobenius_norm(
    f: ScalarFn, argnums: int | tuple[int, ...] = 0, *, num_samples: int = 30
) -> Callable[..., Estimate]:
    r"""Frobenius norm of the Hessian: returns `(key, *args) -> Estimate` of :math:`\|\nabla^2 f(x)\|_F`.

    The root of the mean of :math:`\|\nabla^2 f\,v\|^2` over signs v, with the standard error of that mean over twice
    the root: the bias is below it. It is infinite for one sample.

    Args:
      f: a scalar function.
      argnums: the argument, or several, with respect to which the Hessian is taken.
      num_samples: Hessian-vector products.

    >>> norm = hessian_frobenius_norm(lambda x: 1.5 * x[0] ** 2 + 2 * x[1] ** 2)(jax.random.key(0), jnp.ones(2))
    >>> round(float(norm.mean), 3)
    5.0
    """

    def estimator(product: MatVec) -> Callable[[Key, PyTree], Estimate]:
        squared = derivatives.squared_frobenius_norm(product, num_samples=num_samples, chunk_size=1)

        def root(key: Key, like: PyTree) -> Estimate:
            found = squared(key, like)
            mean = jnp.sqrt(found.mean)
            safe = jnp.where(mean > 0, mean, jnp.ones_like(mean))
            return Estimate(mean, found.stderr / (2 * safe), found.num_samples)

        return root

    return _of_hessian("hessian_frobenius_norm", f, argnums, estimator)


def hessian_eigenpairs(
    f: ScalarFn, num_pairs: int, argnums: int | tuple[int, ...] = 0, *, num_iterations: int = 64
) -> Callable[..., Eigenpairs]:
    r"""Eigenvalues of the Hessian of largest magnitude: returns `(key, *args) -> Eigenpairs`, with residuals.

    By `derivatives.eigenpairs`. Of a loss with respect to its parameters they are the sharpest directions.

    Args:
      f: a scalar function.
      num_pairs: how many.
      argnums: the argument, or several, with respect to which the Hessian is taken.
      num_iterations: Hessian-vector products, and vectors that are kept.

    >>> found = hessian_eigenpairs(lambda x: x[0] ** 2 - 3 * x[1] ** 2, 2)(jax.random.key(0), jnp.ones(2))
    >>> [round(float(value), 3) for value in found.values]
    [-6.0, 2.0]
    """
    return _of_hessian(
        "hessian_eigenpairs",
        f,
        argnums,
        lambda product: derivatives.eigenpairs(product, num_pairs, num_iterations=num_iterations),
    )


def hessian_density(
    f: ScalarFn, argnums: int | tuple[int, ...] = 0, *, num_samples: int = 8, num_iterations: int = 32
) -> Callable[..., SpectralDensity]:
    """The distribution of all eigenvalues of the Hessian: returns `(key, *args) -> SpectralDensity`.

    By `derivatives.spectral_density`. For the Gauss-Newton matrix of a loss, which is the Fisher matrix for a
    cross-entropy over logits, pass `derivatives.gauss_newton(model, loss)` to it instead.

    Args:
      f: a scalar function.
      argnums: the argument, or several, with respect to which the Hessian is taken.
      num_samples: probes.
      num_iterations: Hessian-vector products for each.

    >>> found = hessian_density(lambda x: x[0] ** 2 + 2 * x[1] ** 2)(jax.random.key(0), jnp.ones(2))
    >>> sorted(round(float(node), 3) for node in found.nodes[0])
    [2.0, 4.0]
    """
    return _of_hessian(
        "hessian_density",
        f,
        argnums,
        lambda product: derivatives.spectral_density(product, num_samples=num_samples, num_iterations=num_iterations),
    )


def _of_hessian(
    method: str, f: ScalarFn, argnums: int | tuple[int, ...], estimator: Estimator
) -> Callable[..., PyTree]:
    estimator(lambda v: v)  # so that bad options are refused when the method is built

    def estimate(key: Key, *args: PyTree) -> PyTree:
        checks.key(method, key)
        interpreters.restrict(method, f, argnums, args)  # so that errors name the method
        gradient, product = derivatives.hessian(f, argnums)(*args)
        return estimator(product)(key, gradient)

    return estimate
