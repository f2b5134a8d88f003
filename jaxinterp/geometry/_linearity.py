"""How steep a function can be near a point, and how far from linear it is there: by search, and in the mean."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxinterp import checks, derivatives, local, tree
from jaxinterp.derivatives import Estimate, Norm, Spectral, projected_ascent
from jaxinterp.interpreters import restrict, restrict_scalar
from jaxinterp.typing import Array, Key, PyTree, ScalarFn


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Attained:
    """The largest value that a search found: a lower bound of the supremum.

    Attributes:
      value: what was found.
      point: where, a pytree.
    """

    value: Array
    point: PyTree


def jacobian_norm(
    f: Callable[..., PyTree],
    argnums: int | tuple[int, ...] = 0,
    *,
    num_iterations: int = 64,
    tolerance: float = 1e-3,
) -> Callable[..., Spectral]:
    r"""Spectral norm of the Jacobian: returns `(key, *args) -> Spectral` of :math:`\|J_f(x)\|_2`, the local gain.

    The root of the largest eigenvalue of :math:`J^\top J`, by `derivatives.lanczos`; a lower bound that the residual
    qualifies, which is that of the singular value. The vector is the direction of largest gain. For a scalar function
    it is the norm of the gradient.

    Args:
      f: a function that returns a pytree of arrays.
      argnums: the argument, or several, that varies.
      num_iterations: largest number of products with J and its transpose.
      tolerance: relative residual at which to stop.

    >>> norm = jacobian_norm(lambda x: jnp.stack([3 * x[0], x[1] - x[0], x[1]]))
    >>> round(float(norm(jax.random.key(0), jnp.ones(2)).value), 4)
    3.1817
    """
    checks.positive_integer("num_iterations", num_iterations)
    checks.non_negative("tolerance", tolerance)

    def norm(key: Key, *args: PyTree) -> Spectral:
        g, x = restrict("jacobian_norm", f, argnums, args)
        _, push = jax.linearize(g, x)
        pull = jax.linear_transpose(push, x)
        squared = derivatives.lanczos(
            lambda v: pull(push(v))[0], num_iterations=num_iterations, tolerance=2 * tolerance
        )(checks.key("jacobian_norm", key), x)[1]
        value = jnp.sqrt(jnp.maximum(squared.value, 0))
        residual = squared.residual / jnp.where(value > 0, value, jnp.ones_like(value))
        return dataclasses.replace(squared, value=value, residual=residual)

    return norm


def local_lipschitz(
    f: ScalarFn,
    argnums: int | tuple[int, ...] = 0,
    *,
    norm: Norm = "l2",
    num_steps: int = 20,
    num_restarts: int = 4,
    step_size: float = 0.125,
) -> Callable[..., Attained]:
    r"""Local Lipschitz constant from below: returns `(key, *args, radius) -> Attained`.

    The largest :math:`\|\nabla f(x')\|_2` that projected gradient ascent finds over the ball
    :math:`\|x' - x\| \le r`. What it attains is a lower bound; `bounds` gives an upper one. Points where it is not a
    number are passed over. A ReLU network has no derivative of this norm, so there only the restarts search.

    Args:
      f: a scalar function.
      argnums: the argument, or several, that varies.
      norm: of the ball.
      num_steps: of each run.
      num_restarts: how many runs, the first from x.
      step_size: in units of the radius.

    Returns:
      A function of a key, f's arguments and the keyword `radius` (>= 0, in the units of x).

    Raises:
      TypeError: at the call, if f is not scalar, the input not floating-point or the key not a typed key.
      ValueError: if a count is not positive, the norm unknown, or the radius negative.

    >>> steep = local_lipschitz(lambda x: x[0] ** 2)(jax.random.key(0), jnp.ones(1), radius=0.5)
    >>> round(float(steep.value), 3), round(float(steep.point[0]), 3)
    (3.0, 1.5)
    """
    climb = projected_ascent(norm=norm, num_steps=num_steps, num_restarts=num_restarts, step_size=step_size)

    def steepness(g: ScalarFn, x: PyTree) -> tuple[ScalarFn, ...]:
        return (lambda z: tree.norm(jax.grad(g)(z)),)

    return _searched("local_lipschitz", f, argnums, climb, steepness)


def local_linearity(
    f: ScalarFn,
    argnums: int | tuple[int, ...] = 0,
    *,
    norm: Norm = "l2",
    num_steps: int = 20,
    num_restarts: int = 4,
    step_size: float = 0.125,
) -> Callable[..., Attained]:
    r"""Local linearity measure: returns `(key, *args, radius) -> Attained` of the largest gap to the tangent.

    :math:`\gamma(r, x) = \max_{\|\delta\| \le r} |f(x + \delta) - f(x) - \delta^\top\nabla f(x)|`, searched by
    projected gradient ascent, so from below. For a function of curvature C it is at most :math:`C r^2/2`.

    Args:
      f: a scalar function, such as a loss.
      argnums: the argument, or several, that varies.
      norm: of the ball.
      num_steps: of each run.
      num_restarts: how many runs above the tangent and below it, at least 2: the first starts at x, where the gap is
        flat, the others at random points.
      step_size: in units of the radius.

    Returns:
      A function of a key, f's arguments and the keyword `radius` (>= 0, in the units of x).

    Raises:
      TypeError: at the call, if f is not scalar, the input not floating-point or the key not a typed key.
      ValueError: if a count is too small, the norm unknown, or the radius negative.

    Source: Qin et al. (2019).

    >>> gap = local_linearity(lambda x: 2 * x[0] ** 2)(jax.random.key(0), jnp.ones(1), radius=0.5)
    >>> round(float(gap.value), 4)
    0.5
    """
    if checks.positive_integer("num_restarts", num_restarts) < 2:
        raise ValueError("`num_restarts` of `local_linearity` must be 2 or more: at x itself the gap is flat.")
    climb = projected_ascent(norm=norm, num_steps=num_steps, num_restarts=num_restarts, step_size=step_size)

    def gaps(g: ScalarFn, x: PyTree) -> tuple[ScalarFn, ...]:
        value, slope = jax.value_and_grad(g)(x)

        def above(z: PyTree) -> Array:
            difference = g(z) - value
            return difference - tree.vdot(slope, tree.sub(z, x)).astype(difference.dtype)

        return above, lambda z: -above(z)

    return _searched("local_linearity", f, argnums, climb, gaps)


def gradient_change(
    f: ScalarFn, argnums: int | tuple[int, ...] = 0, *, num_samples: int = 64, chunk_size: int | None = 16
) -> Callable[..., Estimate]:
    r"""How much the gradient changes under noise: returns `(key, *args, stddev) -> Estimate`, relative to its norm.

    :math:`\mathbb E\,\|\nabla f(x + \sigma\varepsilon) - \nabla f(x)\|_2 / \|\nabla f(x)\|_2`, the mean that the
    normalised curvature C bounds to first order: by about :math:`C\,\sigma\sqrt n` for an input of n entries.

    Args:
      f: a scalar function.
      argnums: the argument, or several, that noise is added to.
      num_samples: noisy copies.
      chunk_size: copies taken together.

    Returns:
      A function of a key, f's arguments and the keyword `stddev` (σ >= 0, in the units of x).

    Source: Srinivas, Matoba, Lakkaraju & Fleuret (2022).

    >>> change = gradient_change(lambda x: jnp.vdot(x, x))(jax.random.key(0), jnp.ones(4), stddev=0.0)
    >>> float(change.mean)
    0.0
    """
    checks.positive_integer("num_samples", num_samples)

    def estimate(key: Key, *args: PyTree, stddev: PyTree) -> Estimate:
        g, x = restrict_scalar("gradient_change", f, argnums, args)
        slope = jax.grad(g)(x)
        size = tree.norm(slope)

        def sample(k: Key) -> Array:
            noisy = local.gaussian(k, x, stddev=stddev).point
            return tree.norm(tree.sub(jax.grad(g)(noisy), slope)) / size

        return derivatives.expectation(sample, num_samples, chunk_size=chunk_size)(checks.key("gradient_change", key))

    return estimate


def _searched(
    method: str,
    f: ScalarFn,
    argnums: int | tuple[int, ...],
    climb: Callable[..., tuple[PyTree, Array]],
    measures: Callable[[ScalarFn, PyTree], tuple[ScalarFn, ...]],
) -> Callable[..., Attained]:
    """The largest of what is measured of f around x, of several measures, in a ball around x."""

    def search(key: Key, *args: PyTree, radius: Array | float) -> Attained:
        key = checks.key(method, key)
        g, x = restrict_scalar(method, f, argnums, args)
        best = Attained(jnp.full((), -jnp.inf, jax.eval_shape(g, x).dtype), x)
        for i, measure in enumerate(measures(g, x)):
            point, value = climb(jax.random.fold_in(key, i), measure, x, radius=radius)
            found = Attained(value.astype(best.value.dtype), point)
            is_more = ~(found.value <= best.value)  # NaN too
            best = jax.tree.map(lambda a, b, is_more=is_more: jnp.where(is_more, a, b), found, best)
        return best

    return search
