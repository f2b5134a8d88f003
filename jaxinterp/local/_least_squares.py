"""Weighted linear least squares."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from jaxinterp import batching, checks
from jaxinterp.typing import Array

_Triple = tuple[Array, Array, Array]
WELL_CONDITIONED = 50.0  # the condition number up to which normal equations lose nothing that one step cannot mend


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LeastSquares:
    r"""A fitted linear model.

    Attributes:
      intercept: a, a scalar.
      coefficients: b, [features].
      stderr: standard errors of the coefficients, [features], from the residuals of the fit and without the
        assumption that these have equal variance (White, 1980, with the factor n/(n - p)). Infinite where the rows do
        not determine a coefficient, and everywhere if no more samples have a weight than there are coefficients.
      condition: the condition number of the weighted rows, the largest over the smallest singular value; infinite if
        they leave a direction open.
    """

    intercept: Array
    coefficients: Array
    stderr: Array
    condition: Array


def weighted_least_squares(
    design: Array,
    targets: Array,
    weights: Array,
    ridge: float = 0.0,
    *,
    intercept: bool = True,
    basis: Array | None = None,
    prior: Array | None = None,
    fixed: int = 0,
    cluster: int = 1,
) -> LeastSquares:
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
      intercept: whether there is one; otherwise a = 0.
      basis: if given, [coefficients, features]: the coefficients returned, and their errors, are `basis @ b`.
      prior: if given, rows [any, features] that b is to be orthogonal to, beside the samples.
      fixed: how many of the first samples are not random: their residuals add nothing to the standard error.
      cluster: how many of the others, one after the other, depend on each other.

    Returns:
      A `LeastSquares`.

    Raises:
      ValueError: if the ridge is negative.
    """
    checks.non_negative("ridge", ridge)
    samples, features = design.shape
    total = jnp.sum(weights)
    share = weights / total
    middle, height = jnp.zeros((features,), design.dtype), jnp.zeros((), targets.dtype)
    if intercept:
        middle = jnp.dot(share, design, precision="highest")
        height = jnp.dot(share, targets, precision="highest")
    root = jnp.sqrt(share + 1e-30) * jnp.sqrt(total)  # differentiable at 0
    rows = root[:, None] * (design - middle[None])
    eps = float(jnp.finfo(design.dtype).eps)
    spread, uncentred = (jnp.linalg.norm(z, axis=0) for z in (rows, root[:, None] * design))
    rows = jnp.where((spread <= 4 * eps * uncentred)[None], jnp.zeros_like(rows), rows)  # constant up to rounding
    heights = root * (targets - height)
    damped = features if checks.concrete(ridge) is None or ridge else 0  # no rows of zeros
    damping = jnp.sqrt(jnp.asarray(ridge, design.dtype)) * jnp.eye(damped, features, dtype=design.dtype)
    stacked = jnp.concatenate([rows, damping] if prior is None else [rows, damping, prior])
    whole, lengths, projection = _pseudo_inverse(4 * eps * samples**0.5, stacked)
    determined = projection > 0.99
    pseudo_inverse = whole[:, :samples]
    slope = jnp.dot(pseudo_inverse, heights, precision="highest")
    constant = height - jnp.dot(middle, slope, precision="highest")
    residual = heights - jnp.dot(rows, slope, precision="highest")
    present = jnp.sum(weights > 0, dtype=jnp.int32) // cluster  # a mask and its complement are one row, up to the sign
    freedom = present - features - int(intercept)
    influence = (pseudo_inverse * residual[None])[:, fixed:]
    if basis is not None:
        slope, influence = (jnp.dot(basis, part, precision="highest") for part in (slope, influence))
        determined = jnp.broadcast_to(jnp.all(determined), slope.shape)
    if cluster > 1:
        influence = jnp.sum(influence.reshape(len(influence), -1, cluster), axis=2)
    factor = present.astype(slope.dtype) / jnp.maximum(freedom, 1).astype(slope.dtype)
    stderr = jnp.sqrt(factor * jnp.sum(influence**2, axis=1))
    is_known = determined & (freedom > 0) | (fixed == samples)
    return LeastSquares(
        constant,
        slope,
        jnp.where(is_known, stderr, jnp.full_like(stderr, jnp.inf)),
        jnp.where(jnp.all(determined), lengths[0] / lengths[-1], jnp.full_like(height, jnp.inf)),
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _pseudo_inverse(rtol: float, rows: Array) -> _Triple:
    """The pseudo-inverse of a matrix, its singular values, and the diagonal of the projection on its rows."""
    if not rows.shape[1]:
        return rows.T, jnp.ones((1,), rows.dtype), jnp.ones((0,), rows.dtype)
    if rows.shape[0] < rows.shape[1]:
        return _by_singular_vectors(rtol, rows)
    return _by_gram_matrix(rtol, rows)


def _by_gram_matrix(rtol: float, rows: Array) -> _Triple:
    r"""`_pseudo_inverse` from the eigenvectors of :math:`A^\top A`, if that is well conditioned (in all of a batch).

    With eigenvectors V and eigenvalues :math:`D^2` of that, the columns of :math:`B = AVD^{-1}` are orthonormal up to
    :math:`\epsilon\kappa^2`, and a Newton step for the inverse of :math:`B^\top B` squares that error. If it
    is not, from the singular vectors of A, which take several times as long.
    """
    squares, vectors = jnp.linalg.eigh(_dot(rows.T, rows))

    def fast() -> _Triple:
        scaled = vectors / jnp.sqrt(squares)[None]
        columns = _dot(rows, scaled)
        square = _dot(columns.T, columns)
        inverse = 2 * jnp.eye(rows.shape[1], dtype=rows.dtype) - square
        lengths = jnp.sqrt(squares * jnp.diagonal(square))
        return _dot(_dot(scaled, inverse), columns.T), lengths[::-1], jnp.ones_like(lengths)

    is_ill = squares[0] * WELL_CONDITIONED**2 <= squares[-1]
    return jax.lax.cond(batching.any_example(is_ill), lambda: _by_singular_vectors(rtol, rows), fast)


def _by_singular_vectors(rtol: float, rows: Array) -> _Triple:
    left, lengths, right = jnp.linalg.svd(rows, full_matrices=False)
    kept = lengths > rtol * lengths[:1]
    inverse = jnp.where(kept, 1 / jnp.where(kept, lengths, jnp.ones_like(lengths)), jnp.zeros_like(lengths))
    projection = jnp.sum(jnp.where(kept[:, None], right, jnp.zeros_like(right)) ** 2, 0)
    scaled = right.T * inverse[None]
    return _dot(scaled, left.T), lengths, projection


_dot = functools.partial(jnp.matmul, precision="highest")


@_pseudo_inverse.defjvp
def _(rtol: float, primals: tuple[Array], tangents: tuple[Array]) -> tuple[_Triple, _Triple]:
    """Golub & Pereyra (1973), at constant rank; the singular values and the projection count as constants."""
    (a,), (da,) = primals, tangents
    p, lengths, projection = _pseudo_inverse(rtol, a)

    def dot(*factors: Array) -> Array:
        return functools.reduce(_dot, factors)

    beside = dot(p, p.T, da.T - dot(da.T, a, p))
    outside = dot(da.T, p.T, p)
    dp = beside - dot(p, da, p) + outside - dot(p, a, outside)
    return (p, lengths, projection), (dp, jnp.zeros_like(lengths), jnp.zeros_like(projection))


def condition_number(rows: Array) -> Array:
    """The largest over the smallest singular value; infinite where the rows leave a direction open, up to rounding."""
    lengths = jnp.linalg.svd(jax.lax.stop_gradient(rows), compute_uv=False)
    is_open = lengths[-1] <= 4 * float(jnp.finfo(rows.dtype).eps) * rows.shape[0] ** 0.5 * lengths[0]
    missing = rows.shape[0] < rows.shape[1]
    return jnp.where(is_open | missing, jnp.full_like(lengths[0], jnp.inf), lengths[0] / lengths[-1])
