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
from jaxinterp.local._surrogates import AdditiveModel, LocalModel, QuadraticModel
from jaxinterp.typing import Array


@dataclasses.dataclass(frozen=True)
class Quadratic:
    r"""Quadratic models :math:`a + \langle b, \delta\rangle + \tfrac12\delta^\top H\delta`, δ = z - z₀, in closed form.

    Gradient matching regresses ∇f on δ. A low rank r means :math:`H = V C V^\top` with the r leading left singular
    vectors V of :math:`\sum_i w_i (\nabla f_i - \overline{\nabla f})\,\delta_i^\top`: for Gaussian noise, up to the
    variance, the mean Hessian (Stein, 1981), and for a quadratic f of that rank the range of its Hessian.

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
            return 2 if self.hessian == "diagonal" else coordinates + 1
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
        if self.hessian == "diagonal":
            fits = jax.vmap(lambda s, u: weighted_least_squares(u[:, None], s, w, self.ridge), (1, 1))(seen, inner)
            c = fits.coefficients[:, 0]
            bend = inner * c[None]
        else:
            fits = jax.vmap(lambda s: weighted_least_squares(inner, s, w, self.ridge), 1)(seen)
            c = (fits.coefficients + fits.coefficients.T) / 2
            bend = jnp.dot(inner, c, precision="highest")
        rest = slopes - (bend if directions is None else jnp.dot(bend, directions.T, precision="highest"))
        b, stderr = weighted_mean(rest, w, samples)
        curved = jnp.sum(bend * inner, 1) / 2
        a = jnp.sum(w * (y - dot(unit, b) - curved)) / jnp.sum(w)
        return a, b, c, stderr, jnp.max(fits.condition)


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
        bent = jax.nn.relu(z[:, :, None] - knots[None]) - jax.nn.relu(-knots)[None]
        design = jnp.concatenate([z, bent.reshape(len(z), -1)], 1)
        solution = weighted_least_squares(design, y, w, self.ridge, **chance(samples))
        p = z.shape[1]
        linear = linear_part(samples, solution.intercept, solution.coefficients[:p], solution.stderr[:p])
        surrogate = AdditiveModel(**linear, knots=knots, bends=solution.coefficients[p:].reshape(p, self.num_knots))
        predicted = solution.intercept + dot(design, solution.coefficients)
        return evidence(samples, surrogate, predicted, solution.condition)
