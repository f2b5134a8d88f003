"""Weighted linear least squares with an intercept."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from jaxinterp.typing import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LeastSquares:
    """A fitted linear model.

    Attributes:
      intercept: a, a scalar.
      coefficients: b, [features].
      stderr: standard errors of the coefficients, [features], from the residuals of the fit and without the
        assumption that these have equal variance (White, 1980, with the factor n/(n - p)).
    """

    intercept: Array
    coefficients: Array
    stderr: Array


def weighted_least_squares(design: Array, targets: Array, weights: Array, ridge: float) -> LeastSquares:
    r"""Minimises :math:`\sum_i w_i (y_i - a - z_i^\top b)^2 + \lambda\|b\|^2` by a QR decomposition.

    :math:`\lambda = ridge + \epsilon\,\overline{\|\sqrt{w} z_j\|^2}`, with the machine epsilon and the mean over
    the columns: a perturbation of the size of the rounding errors, which gives the shortest solution where columns
    are linearly dependent.

    Args:
      design: z, [samples, features].
      targets: y, [samples].
      weights: w >= 0, [samples].
      ridge: λ before the term above.

    Returns:
      A `LeastSquares`.
    """
    samples, features = design.shape
    root = jnp.sqrt(weights)[:, None]
    rows = jnp.concatenate([root, root * design], axis=1)
    penalty = ridge + jnp.finfo(design.dtype).eps * jnp.sum(rows[:, 1:] ** 2) / features
    damping = jnp.sqrt(penalty) * jnp.eye(features, features + 1, 1, dtype=design.dtype)
    q, r = jnp.linalg.qr(jnp.concatenate([rows, damping]))
    pseudo_inverse = solve_triangular(r, q[:samples].T)
    solution = jnp.dot(pseudo_inverse, root[:, 0] * targets, precision="highest")
    residual = root[:, 0] * (targets - solution[0] - jnp.dot(design, solution[1:], precision="highest"))
    freedom = samples / max(samples - features - 1, 1)
    stderr = jnp.sqrt(freedom * jnp.sum((pseudo_inverse[1:] * residual[None]) ** 2, axis=1))
    return LeastSquares(solution[0], solution[1:], stderr)
