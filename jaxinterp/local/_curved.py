"""Classes of curved models: quadratic and additive ones, nearest to the samples."""

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp import checks
from jaxinterp.local._evidence import chance, dot, evidence, is_zero, linear_part, require, weighted_mean, wide
from jaxinterp.local._least_squares import weighted_least_squares
from jaxinterp.local._samples import Loss, Samples
from jaxinterp.local._surrogates import AdditiveModel, LocalModel, QuadraticModel, hinges
from jaxinterp.typing import Array


@dataclasses.dataclass(frozen=True)
class Quadratic:
    r"""Quadratic models :math:`a + \langle b, \delta\rangle + \tfrac12\delta^\top H\delta`, δ = z - z₀, in closed form.

    Gradient matching finds the symmetric H nearest to the change of ∇f with δ. A low rank r means
    :math:`H = V C V^\top` with the r leading left singular vectors V of
    :math:`\sum_i w_i (\nabla f_i - \overline{\nabla f})\,\delta_i^\top`: for Gaussian noise, up to the variance, the
    mean Hessian (Stein, 1981), and for a quadratic f of that rank the range of its Hessian.

    Attributes:
      hessian: "full", "diagonal", or a rank.
      ridge: λ >= 0 on all coefficients but the intercept, in units of the root mean square of δ.
    """

    hessian: Literal["full", "diagonal"] | int = "full"
    ridge: float = 0.0

    needs_ends: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if isinstance(self.hessian, str):
            checks.one_of("hessian", self.hessian, ("full", "diagonal"))
        else:
            checks.positive_integer("hessian", self.hessian)
        checks.non_negative("ridge", self.ridge)

    def needs_slopes(self, loss: Loss) -> bool:
        require(self, loss, "squared_error", "gradient_matching")
        return loss == "gradient_matching" or not isinstance(self.hessian, str)

    def num_coefficients(self, loss: Loss, coordinates: int) -> int:
        if loss == "gradient_matching":
            if isinstance(self.hessian, str):
                return 2 if self.hessian == "diagonal" else coordinates + 1
            return min(self.hessian, coordinates) + 1
        if not is_zero(self.ridge):
            return 2
        if self.hessian == "diagonal":
            return 2 * coordinates + 1
        rank = coordinates if self.hessian == "full" else min(int(self.hessian), coordinates)
        return coordinates + rank * (rank + 1) // 2 + 1

    def fitted(self, samples: Samples, loss: Loss) -> LocalModel:
        z, y, w = wide(samples)
        scale = jnp.sqrt(jnp.sum(w[:, None] * z**2) / (jnp.sum(w) * z.shape[1]))
        scale = jnp.where(scale == 0, jnp.ones_like(scale), scale)
        unit = z / scale
        directions = None if isinstance(self.hessian, str) else self._directions(unit, samples, w)
        inner = unit if directions is None else jnp.dot(unit, directions, precision="highest")
        if loss == "gradient_matching":
            slopes = samples.derivatives().astype(unit.dtype) * scale
            a, b, c, stderr, condition = self._by_slopes(samples, unit, inner, directions, slopes, y, w)
        else:
            a, b, c, stderr, condition = self._by_values(samples, unit, inner, y, w)
        bend = dot(inner**2, c) if c.ndim == 1 else jnp.sum(jnp.dot(inner, c, precision="highest") * inner, 1)
        predicted = a + dot(unit, b) + bend / 2
        linear = linear_part(samples, a, b / scale, stderr / scale)
        return evidence(
            samples, QuadraticModel(**linear, curvature=c / scale**2, directions=directions), predicted, condition
        )

    def _directions(self, unit: Array, samples: Samples, w: Array) -> Array:
        slopes = samples.derivatives().astype(unit.dtype)
        share = (w / jnp.sum(w))[:, None]
        moment = jnp.dot((share * (slopes - jnp.sum(share * slopes, 0, keepdims=True))).T, unit, precision="highest")
        return jnp.linalg.svd(jax.lax.stop_gradient(moment))[0][:, : int(self.hessian)]

    def _by_values(self, samples: Samples, unit: Array, inner: Array, y: Array, w: Array) -> tuple[Array, ...]:
        p, k = unit.shape[1], inner.shape[1]
        first, second = (np.arange(k),) * 2 if self.hessian == "diagonal" else np.triu_indices(k)
        products = inner[:, first] * inner[:, second] * jnp.where(first == second, 0.5, 1.0).astype(y.dtype)[None]
        solution = weighted_least_squares(jnp.concatenate([unit, products], 1), y, w, self.ridge, **chance(samples))
        c = solution.coefficients[p:]
        if self.hessian != "diagonal":
            c = jnp.zeros((k, k), c.dtype).at[first, second].set(c).at[second, first].set(c)
        return solution.intercept, solution.coefficients[:p], c, solution.stderr[:p], solution.condition

    def _by_slopes(
        self, samples: Samples, unit: Array, inner: Array, directions: Array | None, slopes: Array, y: Array, w: Array
    ) -> tuple[Array, ...]:
        seen = slopes if directions is None else jnp.dot(slopes, directions, precision="highest")
        share = w / jnp.sum(w)
        offsets, changes = (values - dot(share, values)[None] for values in (inner, seen))
        weighted = w[:, None] * offsets
        if self.hessian == "diagonal":
            c, condition = _diagonal_hessian(jnp.sum(weighted * offsets, 0), jnp.sum(weighted * changes, 0), self.ridge)
            bend = inner * c[None]
        else:
            square, mixed = (jnp.dot(weighted.T, other, precision="highest") for other in (offsets, changes))
            c, condition = _symmetric_hessian(square, mixed + mixed.T, self.ridge)
            bend = jnp.dot(inner, c, precision="highest")
        rest = slopes - (bend if directions is None else jnp.dot(bend, directions.T, precision="highest"))
        b, stderr = weighted_mean(rest, w, samples)
        curved = jnp.sum(bend * inner, 1) / 2
        a = jnp.sum(w * (y - dot(unit, b) - curved)) / jnp.sum(w)
        return a, b, c, stderr, condition


def _diagonal_hessian(squares: Array, mixed: Array, ridge: float) -> tuple[Array, Array]:
    """The coefficients of least squares of each slope on its own coordinate; and the condition, 1 or infinite."""
    is_open = squares > 0
    c = jnp.where(is_open, mixed / jnp.where(is_open, squares + ridge, jnp.ones_like(squares)), jnp.zeros_like(mixed))
    return c, jnp.where(jnp.all(is_open), jnp.ones((), c.dtype), jnp.full((), jnp.inf, c.dtype))


def _symmetric_hessian(square: Array, twice: Array, ridge: float) -> tuple[Array, Array]:
    r"""The symmetric H of least squares, :math:`HS + SH = M + M^\top`, and the condition number of its rows.

    S is the sum of :math:`w \delta\delta^\top`, M that of :math:`w \delta \nabla f^\top`; the ridge adds to the
    eigenvalues of S. The second solution, of what the first leaves, has the derivative of the equation.
    """
    eigenvalues, vectors = jnp.linalg.eigh(jax.lax.stop_gradient(square))
    pairs = eigenvalues[:, None] + eigenvalues[None] + 2 * jax.lax.stop_gradient(jnp.asarray(ridge, square.dtype))
    noise = len(pairs) * float(jnp.finfo(pairs.dtype).eps) * eigenvalues[-1]
    is_open = pairs > noise
    square = square + ridge * jnp.eye(len(square), dtype=square.dtype)

    def solved(right: Array) -> Array:
        inner = vectors.T @ right @ vectors
        inner = jnp.where(is_open, inner / jnp.where(is_open, pairs, jnp.ones_like(pairs)), jnp.zeros_like(inner))
        return vectors @ inner @ vectors.T

    with jax.default_matmul_precision("highest"):
        first = jax.lax.stop_gradient(solved(twice))
        hessian = first + solved(twice - first @ square - square @ first)
    smallest = jnp.where(eigenvalues[0] > noise, eigenvalues[0], jnp.zeros_like(noise))
    return hessian, jnp.sqrt(eigenvalues[-1] / smallest)


@dataclasses.dataclass(frozen=True)
class Additive:
    r"""Additive models :math:`a + \sum_j s_j(z_j)` with piecewise linear :math:`s_j`, in closed form.

    Attributes:
      num_knots: how many times each s may bend; the knots are at equally spaced quantiles of the samples.
      ridge: λ >= 0 in the units of the weights; the intercept is not penalised.
    """

    num_knots: int = 4
    ridge: float = 0.0

    needs_ends: ClassVar[bool] = False

    def __post_init__(self) -> None:
        checks.positive_integer("num_knots", self.num_knots)
        checks.non_negative("ridge", self.ridge)

    def needs_slopes(self, loss: Loss) -> bool:
        require(self, loss, "squared_error")
        return False

    def num_coefficients(self, loss: Loss, coordinates: int) -> int:
        return coordinates * (1 + self.num_knots) + 1 if is_zero(self.ridge) else 2

    def fitted(self, samples: Samples, loss: Loss) -> LocalModel:
        z, y, w = wide(samples)
        levels = jnp.arange(1, self.num_knots + 1, dtype=z.dtype) / (self.num_knots + 1)
        knots = jax.lax.stop_gradient(jnp.quantile(z, levels, axis=0)).T
        is_inside = (knots > jnp.min(z, 0)[:, None]) & (knots < jnp.max(z, 0)[:, None])
        bent = jnp.where(is_inside[None], hinges(z[:, :, None], knots[None]), jnp.zeros_like(z[:, :, None]))
        design = jnp.concatenate([z, bent.reshape(len(z), -1)], 1)
        solution = weighted_least_squares(design, y, w, self.ridge, **chance(samples))
        p = z.shape[1]
        linear = linear_part(samples, solution.intercept, solution.coefficients[:p], solution.stderr[:p])
        surrogate = AdditiveModel(**linear, knots=knots, bends=solution.coefficients[p:].reshape(p, self.num_knots))
        predicted = solution.intercept + dot(design, solution.coefficients)
        return evidence(samples, surrogate, predicted, solution.condition)
