"""Logistic regression of probabilities."""

import jax
import jax.numpy as jnp

from jaxinterp.local._least_squares import condition_number
from jaxinterp.typing import Array


def logistic_regression(
    design: Array,
    targets: Array,
    weights: Array,
    ridge: float,
    *,
    tolerance: float,
    max_steps: int,
    fixed: int = 0,
    cluster: int = 1,
) -> tuple[Array, Array, Array, Array, Array]:
    r"""Minimises the cross-entropy :math:`-\sum_i w_i(y_i \log g_i + (1 - y_i)\log(1 - g_i)) + \tfrac\lambda2\|b\|^2`.

    :math:`g_i = \sigma(a + z_i^\top b)`. Newton steps in standardised columns, halved until the objective falls; the
    problem is convex. The derivative is that of the optimum (the last step is taken at fixed coefficients).

    Args:
      design: z, [samples, features].
      targets: y, probabilities, [samples].
      weights: w >= 0, [samples].
      ridge: λ >= 0.
      tolerance: of the gradient, relative to the sum of the weights times the largest \|z\|, standardised.
      max_steps: the most Newton steps.
      fixed: how many of the first samples are not random.
      cluster: how many of the others, one after the other, depend on each other.

    Returns:
      a and b in one vector, their covariance by the sandwich formula (infinite if the rows leave a direction open), the
      condition number of the Hessian's square root in standardised columns, the relative norm of the gradient, and the
      number of steps.

    >>> z = jnp.linspace(-1.0, 1.0, 20)[:, None]
    >>> y = jax.nn.sigmoid(1 - 2 * z[:, 0])
    >>> b, *_ = logistic_regression(z, y, jnp.ones(20), 0.0, tolerance=1e-6, max_steps=50)
    >>> [round(float(c), 3) for c in b]
    [1.0, -2.0]
    """
    samples, features = design.shape
    share = jax.lax.stop_gradient(weights / jnp.sum(weights))
    middle = jnp.dot(share, jax.lax.stop_gradient(design), precision="highest")
    width = jnp.sqrt(jnp.dot(share, (jax.lax.stop_gradient(design) - middle[None]) ** 2, precision="highest"))
    width = jnp.where(width == 0, jnp.ones_like(width), width)
    rows = jnp.concatenate([jnp.ones((samples, 1), design.dtype), (design - middle[None]) / width[None]], 1)
    damping = jnp.concatenate([jnp.zeros((1,), design.dtype), jnp.asarray(ridge, design.dtype) / width**2])
    scale = jnp.sum(weights) * jnp.max(jnp.abs(rows))
    given = (targets, weights, rows, damping)
    constants = jax.lax.stop_gradient(given)
    _, w, z, _ = constants

    def objective(b: Array, y: Array, w: Array, z: Array, damping: Array) -> Array:
        logits = jnp.dot(z, b, precision="highest")
        return jnp.sum(w * (jax.nn.softplus(logits) - y * logits)) + jnp.sum(damping * b**2) / 2

    def slope(b: Array, y: Array, w: Array, z: Array, damping: Array) -> Array:
        error = w * (jax.nn.sigmoid(jnp.dot(z, b, precision="highest")) - y)
        return jnp.dot(error, z, precision="highest") + damping * b

    def inverse_hessian(b: Array) -> Array:
        p = jax.nn.sigmoid(jnp.dot(z, b, precision="highest"))
        hessian = jnp.dot((w * p * (1 - p))[None] * z.T, z, precision="highest") + jnp.diag(constants[3])
        return jnp.linalg.pinv(hessian, hermitian=True)

    def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        b, count, _ = state
        direction = jnp.dot(inverse_hessian(b), slope(b, *constants), precision="highest")
        before = objective(b, *constants)
        sizes = 0.5 ** jnp.arange(12, dtype=b.dtype)
        values = jax.vmap(lambda size: objective(b - size * direction, *constants))(sizes)
        best = jnp.argmin(values)
        falls = values[best] <= before
        new = b - jnp.where(falls, sizes[best], 0) * direction
        return new, count + 1, falls & jnp.any(new != b)

    def goes_on(state: tuple[Array, Array, Array]) -> Array:
        b, count, moves = state
        return moves & (count < max_steps) & (jnp.max(jnp.abs(slope(b, *constants))) > tolerance * scale)

    start = (jnp.zeros((features + 1,), design.dtype), jnp.zeros((), jnp.int32), jnp.ones((), bool))
    b, count, _ = jax.lax.while_loop(goes_on, step, start)
    inverse = inverse_hessian(b)
    b = b - jnp.dot(inverse, slope(b, *given), precision="highest")
    p = jax.nn.sigmoid(jnp.dot(z, b, precision="highest"))
    error = (w * (p - constants[0]))[:, None] * z
    influence = jnp.dot(error, inverse, precision="highest")[fixed:]
    influence = jnp.sum(influence.reshape(-1, cluster, features + 1), 1)
    freedom = samples // cluster - features - 1
    covariance = samples // cluster / max(freedom, 1) * jnp.dot(influence.T, influence, precision="highest")
    after = 0 * jax.lax.stop_gradient(b)[None]  # one decomposition after the other: docs/notes/batched-lapack.md
    root = jnp.sqrt(w * p * (1 - p))[:, None]
    condition = condition_number(jnp.concatenate([root * z, jnp.diag(jnp.sqrt(constants[3]))]) + after)
    is_known = ~jnp.isinf(condition) & (freedom > 0) | (fixed == samples)
    residual = jnp.max(jnp.abs(slope(jax.lax.stop_gradient(b), *constants))) / scale
    back = jnp.diag(jnp.concatenate([jnp.ones((1,), b.dtype), 1 / width])).at[0, 1:].set(-middle / width)
    b, half = jnp.dot(back, b, precision="highest"), jnp.dot(back, covariance, precision="highest")
    covariance = jnp.where(is_known, jnp.dot(half, back.T, precision="highest"), jnp.full_like(covariance, jnp.inf))
    return b, covariance, condition, residual, count
