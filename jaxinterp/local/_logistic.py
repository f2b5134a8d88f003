"""Logistic regression of probabilities."""

import jax
import jax.numpy as jnp

from jaxinterp.local._least_squares import condition_number
from jaxinterp.typing import Array


def logistic_regression(
    design: Array, targets: Array, weights: Array, ridge: float, *, tolerance: float, max_steps: int
) -> tuple[Array, Array, Array, Array, Array]:
    r"""Minimises the cross-entropy :math:`-\sum_i w_i(y_i \log g_i + (1 - y_i)\log(1 - g_i)) + \tfrac\lambda2\|b\|^2`.

    :math:`g_i = \sigma(a + z_i^\top b)`. Newton steps, halved until the objective falls; the problem is convex. The
    derivative is that of the optimum (the last step is taken at fixed coefficients).

    Args:
      design: z, [samples, features].
      targets: y, probabilities, [samples].
      weights: w >= 0, [samples].
      ridge: λ >= 0.
      tolerance: of the gradient, relative to the sum of the weights times the largest \|z\|.
      max_steps: the most Newton steps.

    Returns:
      a and b in one vector, their covariance by the sandwich formula (infinite if the rows leave a direction open), the
      condition number of the Hessian's square root, the relative norm of the gradient, and the number of steps.

    >>> z = jnp.linspace(-1.0, 1.0, 20)[:, None]
    >>> y = jax.nn.sigmoid(1 - 2 * z[:, 0])
    >>> b, *_ = logistic_regression(z, y, jnp.ones(20), 0.0, tolerance=1e-6, max_steps=50)
    >>> [round(float(c), 3) for c in b]
    [1.0, -2.0]
    """
    samples, features = design.shape
    rows = jnp.concatenate([jnp.ones((samples, 1), design.dtype), design], 1)
    damping = jnp.asarray(ridge, design.dtype) * jnp.concatenate(
        [jnp.zeros((1,), design.dtype), jnp.ones((features,), design.dtype)]
    )
    scale = jnp.sum(weights) * jnp.maximum(jnp.max(jnp.abs(design)), 1e-30)

    def objective(b: Array, y: Array, w: Array, z: Array) -> Array:
        logits = jnp.dot(z, b, precision="highest")
        return jnp.sum(w * (jax.nn.softplus(logits) - y * logits)) + jnp.sum(damping * b**2) / 2

    def slope(b: Array, y: Array, w: Array, z: Array) -> Array:
        error = w * (jax.nn.sigmoid(jnp.dot(z, b, precision="highest")) - y)
        return jnp.dot(error, z, precision="highest") + damping * b

    def hessian(b: Array, w: Array, z: Array) -> Array:
        p = jax.nn.sigmoid(jnp.dot(z, b, precision="highest"))
        return jnp.dot((w * p * (1 - p))[None] * z.T, z, precision="highest") + jnp.diag(damping)

    fixed = jax.lax.stop_gradient((targets, weights, rows))
    y, w, z = fixed

    def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        b, count, _ = state
        direction = jnp.dot(jnp.linalg.pinv(hessian(b, w, z), hermitian=True), slope(b, *fixed), precision="highest")
        before = objective(b, *fixed)
        sizes = 0.5 ** jnp.arange(12, dtype=b.dtype)
        values = jax.vmap(lambda size: objective(b - size * direction, *fixed))(sizes)
        best = jnp.argmin(values)
        falls = values[best] <= before
        new = b - jnp.where(falls, sizes[best], 0) * direction
        return new, count + 1, falls & jnp.any(new != b)

    def goes_on(state: tuple[Array, Array, Array]) -> Array:
        b, count, moves = state
        return moves & (count < max_steps) & (jnp.max(jnp.abs(slope(b, *fixed))) > tolerance * scale)

    start = (jnp.zeros((features + 1,), design.dtype), jnp.zeros((), jnp.int32), jnp.ones((), bool))
    b, count, _ = jax.lax.while_loop(goes_on, step, start)
    inverse = jnp.linalg.pinv(hessian(b, w, z), hermitian=True)
    b = b - jnp.dot(inverse, slope(b, targets, weights, rows), precision="highest")
    error = (w * (jax.nn.sigmoid(jnp.dot(z, b, precision="highest")) - y))[:, None] * z
    influence = jnp.dot(error, inverse, precision="highest")
    p = jax.nn.sigmoid(jnp.dot(z, b, precision="highest"))
    condition = condition_number(jnp.concatenate([jnp.sqrt(w * p * (1 - p))[:, None] * z, jnp.diag(jnp.sqrt(damping))]))
    residual = jnp.max(jnp.abs(slope(jax.lax.stop_gradient(b), *fixed))) / scale
    covariance = jnp.dot(influence.T, influence, precision="highest")
    covariance = jnp.where(jnp.isinf(condition), jnp.full_like(covariance, jnp.inf), covariance)
    return b, covariance, condition, residual, count
