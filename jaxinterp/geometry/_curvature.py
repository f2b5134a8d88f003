"""Curvature of a scalar function at a point: the norm of its Hessian, by itself and relative to the gradient."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxinterp import checks, derivatives, interpreters, tree
from jaxinterp.derivatives import Spectral
from jaxinterp.typing import Array, Key, PyTree, ScalarFn


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Curvature:
    """How curved a function is at a point.

    Attributes:
      normalised: ‖∇²f‖₂ / (‖∇f‖₂ + ε), per unit of x.
      hessian_norm: ‖∇²f‖₂, the spectral norm of the Hessian.
      gradient_norm: ‖∇f‖₂.
      residual: the Hessian has an eigenvalue whose magnitude is within this distance of `hessian_norm`.
      num_iterations: Hessian-vector products that the iteration took, an int32 scalar.
    """

    normalised: Array
    hessian_norm: Array
    gradient_norm: Array
    residual: Array
    num_iterations: Array


def hessian_norm(
    f: ScalarFn, argnums: int | tuple[int, ...] = 0, *, num_iterations: int = 64, tolerance: float = 1e-3
) -> Callable[..., Spectral]:
    r"""Spectral norm of the Hessian: returns `(key, *args) -> Spectral` of :math:`\max_i |\lambda_i(\nabla^2 f(x))|`.

    Found by `derivatives.lanczos`, so it is a lower bound that the residual qualifies. A ReLU network has Hessian 0
    wherever it is differentiable: the value is then exactly 0 and says nothing of the kinks.

    Args:
      f: a scalar function.
      argnums: the argument, or several, with respect to which the Hessian is taken.
      num_iterations: largest number of Hessian-vector products.
      tolerance: relative residual at which to stop.

    Returns:
      A function of a key (for the starting direction) and f's arguments.

    Raises:
      TypeError: at the call, if f is not scalar, the input not floating-point or the key not a typed key.

    >>> norm = hessian_norm(lambda x: x[0] ** 2 - 3.0 * x[1] ** 2)
    >>> round(float(norm(jax.random.key(0), jnp.ones(2)).value), 4)
    6.0
    """
    checks.positive_integer("num_iterations", num_iterations)
    checks.non_negative("tolerance", tolerance)

    def spectral(key: Key, *args: PyTree) -> Spectral:
        return _largest("hessian_norm", f, argnums, num_iterations, tolerance, key, args)[1]

    return spectral


def curvature(
    f: ScalarFn,
    argnums: int | tuple[int, ...] = 0,
    *,
    epsilon: float = 1e-6,
    num_iterations: int = 64,
    tolerance: float = 1e-3,
) -> Callable[..., Curvature]:
    r"""Normalised curvature: returns `(key, *args) -> Curvature`, the Hessian norm relative to the gradient norm.

    :math:`C_f(x) = \|\nabla^2 f(x)\|_2 / (\|\nabla f(x)\|_2 + \epsilon)`.
    1/C is the distance over which the gradient changes by about its own size, so a local linear explanation holds well
    within it. Up to ε it does not change when f is scaled.

    Args:
      f: a scalar function.
      argnums: the argument, or several, with respect to which derivatives are taken.
      epsilon: ε >= 0, guards the division where the gradient vanishes. The default is that of the source; where a
        network is so sure that gradients are smaller than it, pass less.
      num_iterations: largest number of Hessian-vector products.
      tolerance: relative residual at which to stop.

    Returns:
      A function of a key (for the starting direction) and f's arguments.

    Raises:
      TypeError: at the call, if f is not scalar, the input not floating-point or the key not a typed key.
      ValueError: if ε or the tolerance is negative, or `num_iterations` not positive.

    Source: Srinivas, Matoba, Lakkaraju & Fleuret (2022).

    >>> result = curvature(lambda x: 3.0 * x[0] + 2.0 * x[0] ** 2)(jax.random.key(0), jnp.zeros(1))
    >>> round(float(result.hessian_norm), 4), round(float(result.normalised), 4)
    (4.0, 1.3333)
    """
    checks.positive_integer("num_iterations", num_iterations)
    checks.non_negative("tolerance", tolerance)
    checks.non_negative("epsilon", epsilon)

    def at(key: Key, *args: PyTree) -> Curvature:
        gradient, norm = _largest("curvature", f, argnums, num_iterations, tolerance, key, args)
        gradient_norm = tree.norm(gradient)
        return Curvature(
            norm.value / (gradient_norm + epsilon), norm.value, gradient_norm, norm.residual, norm.num_iterations
        )

    return at


def _largest(
    method: str,
    f: ScalarFn,
    argnums: int | tuple[int, ...],
    num_iterations: int,
    tolerance: float,
    key: Key,
    args: tuple,
) -> tuple[PyTree, Spectral]:
    """The gradient, and the eigenvalue of largest magnitude with that magnitude as its value."""
    checks.key(method, key)
    interpreters.restrict(method, f, argnums, args)  # so that errors name the method
    gradient, product = derivatives.hessian(f, argnums)(*args)
    low, high = derivatives.lanczos(product, num_iterations=num_iterations, tolerance=tolerance)(key, gradient)
    negative = jnp.abs(low.value) > jnp.abs(high.value)
    chosen = jax.tree.map(lambda a, b: jnp.where(negative, a, b), low, high)
    return gradient, dataclasses.replace(chosen, value=jnp.abs(chosen.value))
