"""Weighted linear least squares with an intercept."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxinterp import checks
from jaxinterp.typing import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LeastSquares:
    """A fitted linear model.

    Attributes:
      intercept: a, a scalar.
      coefficients: b, [features].
      stderr: standard errors of the coefficients, [features], from the residuals of the fit and without the
        assumption that these have equal variance (White, 1980, with the factor n/(n - p)). Infinite where the rows do
        not determine a coefficient, and everywhere if there are no more samples than coefficients.
    """

    intercept: Array
    coefficients: Array
    stderr: Array


def weighted_least_squares(design: Array, targets: Array, weights: Array, ridge: float) -> LeastSquares:
    r"""Minimises :math:`\sum_i w_i (y_i - a - z_i^\top b)^2 + \lambda\|b\|^2` in closed form.

    The weighted means are taken out, which settles the intercept, and b is the pseudo-inverse of the centred rows
    :math:`\sqrt{w_i}(z_i - \bar z)` applied to the targets: of all solutions the shortest, where columns are linearly
    dependent. Directions in which the rows vary less than :math:`4\epsilon\sqrt{n}` of their largest variation
    (:math:`\epsilon` the machine precision) are taken for rounding errors and get no slope. The derivative is that of
    the pseudo-inverse at constant rank (Golub & Pereyra, 1973).

    Args:
      design: z, [samples, features].
      targets: y, [samples].
      weights: w >= 0, [samples]; all zero gives NaN.
      ridge: λ >= 0; the intercept is not penalised. The derivative with respect to a traced λ is NaN at 0.

    Returns:
      A `LeastSquares`.
    """
    samples, features = design.shape
    share = weights / jnp.sum(weights)
    middle = jnp.dot(share, design, precision="highest")
    height = jnp.dot(share, targets, precision="highest")
    root = jnp.sqrt(weights)
    rows = root[:, None] * (design - middle[None])
    eps = float(jnp.finfo(design.dtype).eps)
    lengths, uncentred = (jnp.linalg.norm(z, axis=0) for z in (rows, root[:, None] * design))
    rows = jnp.where((lengths <= 4 * eps * uncentred)[None], jnp.zeros_like(rows), rows)  # constant up to rounding
    heights = root * (targets - height)
    damped = features if checks.concrete(ridge) is None or ridge else 0  # no rows of zeros
    damping = jnp.sqrt(jnp.asarray(ridge, design.dtype)) * jnp.eye(damped, features, dtype=design.dtype)
    stacked = jnp.concatenate([rows, damping])
    pseudo_inverse = jnp.linalg.pinv(stacked, rtol=4 * eps * samples**0.5)
    determined = jnp.sum(pseudo_inverse * stacked.T, axis=1) > 0.99  # the diagonal of the projection on the rows
    pseudo_inverse = pseudo_inverse[:, :samples]
    slope = jnp.dot(pseudo_inverse, heights, precision="highest")
    residual = heights - jnp.dot(rows, slope, precision="highest")
    freedom = samples - features - 1
    stderr = jnp.sqrt(samples / max(freedom, 1) * jnp.sum((pseudo_inverse * residual[None]) ** 2, axis=1))
    stderr = jnp.where(determined & (freedom > 0), stderr, jnp.full_like(stderr, jnp.inf))
    return LeastSquares(height - jnp.dot(middle, slope, precision="highest"), slope, stderr)
