"""Classes of linear models: each finds its member that is nearest to the samples."""

import dataclasses
from typing import ClassVar, Literal, Protocol

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxinterp import checks
from jaxinterp.local._evidence import chance, dot, evidence, is_zero, linear_part, moments, require, weighted_mean, wide
from jaxinterp.local._lasso import lasso, least_angle
from jaxinterp.local._least_squares import LeastSquares, condition_number, weighted_least_squares
from jaxinterp.local._logistic import logistic_regression
from jaxinterp.local._samples import Loss, Samples
from jaxinterp.local._surrogates import LinearModel, LocalModel, LogisticModel
from jaxinterp.typing import Array

Intercept = Literal["free", "anchored", "zero"]


class ModelClass(Protocol):
    """A class of models; the ones here are `Linear`, `SparseLinear`, `Quadratic`, `Additive` and `Logistic`.

    Attributes:
      needs_ends: whether f(x), or f at coordinates of zero, is needed.
    """

    @property
    def needs_ends(self) -> bool: ...

    def needs_slopes(self, loss: Loss) -> bool:
        """Whether derivatives of f are needed; `ValueError` if the class cannot be fitted by the loss."""
        ...

    def num_coefficients(self, loss: Loss, coordinates: int) -> int:
        """How many samples it takes at least."""
        ...

    def fitted(self, samples: Samples, loss: Loss) -> LocalModel:
        """The best model of the class."""
        ...


@dataclasses.dataclass(frozen=True)
class Linear:
    r"""Linear models :math:`a + \langle b, z - z_0\rangle`, in closed form.

    By squared error the weighted least squares, by gradient matching the weighted mean of ∇f.

    Attributes:
      intercept: a is "free"; or "anchored", the model equals f at x; or "zero", it is 0 at z = 0.
      complete: whether an anchored model also equals f at z = 0, so that ⟨b, z₀⟩ = f(x) - f(0): efficiency.
      ridge: λ >= 0 in the units of the weights; the intercept is not penalised.
      num_features: how many coefficients are not 0, selected by least-angle regression; `None` keeps all. The standard
        errors take the selection as given, and are 0 for the others.
    """

    intercept: Intercept = "free"
    complete: bool = False
    ridge: float = 0.0
    num_features: int | None = None

    def __post_init__(self) -> None:
        checks.one_of("intercept", self.intercept, ("free", "anchored", "zero"))
        checks.non_negative("ridge", self.ridge)
        if self.num_features is not None:
            checks.positive_integer("num_features", self.num_features)
        if self.complete and self.intercept != "anchored":
            raise ValueError(
                'A `complete` linear model is anchored: write `Linear(intercept="anchored", complete=True)`.'
            )
        if self.num_features is not None and self.intercept != "free":
            raise ValueError("`num_features` of `Linear` selects features beside a free intercept.")

    @property
    def needs_ends(self) -> bool:
        return self.intercept == "anchored"

    def needs_slopes(self, loss: Loss) -> bool:
        require(self, loss, "squared_error", "gradient_matching")
        is_plain = not self.complete and self.num_features is None and is_zero(self.ridge)
        if loss == "gradient_matching" and not is_plain:
            raise ValueError('`complete`, `ridge` and `num_features` of `Linear` need the loss "squared_error".')
        return loss == "gradient_matching"

    def num_coefficients(self, loss: Loss, coordinates: int) -> int:
        if loss == "gradient_matching" or not is_zero(self.ridge):
            return 1
        return min(self.num_features or coordinates, coordinates) + (self.intercept == "free") - self.complete

    def fitted(self, samples: Samples, loss: Loss) -> LocalModel:
        z, y, w = wide(samples)
        anchor = ravel_pytree(samples.anchor)[0].astype(z.dtype)
        if loss == "gradient_matching":
            slope, stderr = weighted_mean(samples.derivatives(), w, samples)
            free = jnp.sum(w * (y - dot(z, slope))) / jnp.sum(w)
            solution = LeastSquares(free, slope, stderr, jnp.ones_like(free))
        elif self.complete:
            solution = self._complete(samples, z, y, w, anchor)
        elif self.num_features is not None:
            solution = self._selected(samples, z, y, w)
        elif self.intercept == "zero":
            solution = weighted_least_squares(z + anchor[None], y, w, self.ridge, intercept=False, **chance(samples))
        elif self.intercept == "anchored":
            rise = y - samples.ends()[0].astype(y.dtype)
            solution = weighted_least_squares(z, rise, w, self.ridge, intercept=False, **chance(samples))
        else:
            solution = weighted_least_squares(z, y, w, self.ridge, **chance(samples))
        a, b = solution.intercept, solution.coefficients
        if self.intercept == "anchored":
            a = samples.ends()[0].astype(y.dtype)
        elif self.intercept == "zero":
            a = dot(anchor, b)
        surrogate = LinearModel(**linear_part(samples, a, b, solution.stderr))
        return evidence(samples, surrogate, a + dot(z, b), solution.condition)

    def _selected(self, samples: Samples, z: Array, y: Array, w: Array) -> LeastSquares:
        """Least squares in the selected features; the others have the coefficient and the error 0."""
        count = min(self.num_features or z.shape[1], z.shape[1])
        entered = least_angle(*moments(z, y, w), count)
        chosen = jnp.argsort(-entered)[:count]
        rows = z[:, chosen] * entered[chosen][None]  # fewer where the others depend on these
        solution = weighted_least_squares(rows, y, w, self.ridge, **chance(samples))
        slope, stderr = (
            jnp.zeros(z.shape[1:], z.dtype).at[chosen].set(v) for v in (solution.coefficients, solution.stderr)
        )
        return LeastSquares(solution.intercept, slope, stderr, solution.condition)

    def _complete(self, samples: Samples, z: Array, y: Array, w: Array, anchor: Array) -> LeastSquares:
        """Least squares in the coefficients b with ⟨b, anchor⟩ = f(x) - f(0): b is one of them plus any orthogonal."""
        top, bottom = (value.astype(y.dtype) for value in samples.ends())
        total, rise = top - bottom, y - top
        square = jnp.sum(anchor**2)
        is_void = square == 0  # nothing to be complete about; then all coefficients must be idle
        is_idle = (anchor == 0) & jnp.all(z == 0, 0)
        square = jnp.where(is_void, jnp.ones_like(square), square)
        total = jnp.where(is_void & ~jnp.all(is_idle), jnp.full_like(total, jnp.nan), total)
        one = anchor * (total / square)
        mirror = (anchor / jnp.sqrt(square)).at[0].add(jnp.where(anchor[0] < 0, -1.0, 1.0).astype(anchor.dtype))
        basis = jnp.eye(len(anchor), dtype=z.dtype) - 2 * jnp.outer(mirror, mirror) / jnp.sum(mirror**2)
        basis = basis[:, 1:]  # the first column is parallel to the anchor
        idle = jnp.where(is_idle, jnp.sqrt(jnp.sum(w)) / 2, jnp.zeros_like(anchor))
        solution = weighted_least_squares(
            jnp.dot(z, basis, precision="highest"),
            rise - dot(z, one),
            w,
            self.ridge,
            intercept=False,
            basis=basis,
            prior=idle[:, None] * basis,
            **chance(samples),
        )
        return dataclasses.replace(solution, coefficients=one + solution.coefficients)


@dataclasses.dataclass(frozen=True)
class SparseLinear:
    r"""Linear models by the lasso.

    Minimises :math:`\frac1{2\sum w}\sum_i w_i (f_i - a - \langle b, z_i - z_0\rangle)^2 + \alpha\|b\|_1`.

    Attributes:
      penalty: α >= 0, in the units of f times those of z. The intercept is not penalised.
      tolerance: of the optimality conditions, relative; `None` is 10 times the machine precision.
      max_sweeps: the most sweeps of coordinate descent.
    """

    penalty: float
    tolerance: float | None = None
    max_sweeps: int = 1000

    needs_ends: ClassVar[bool] = False

    def __post_init__(self) -> None:
        checks.non_negative("penalty", self.penalty)
        checks.positive_integer("max_sweeps", self.max_sweeps)

    def needs_slopes(self, loss: Loss) -> bool:
        require(self, loss, "squared_error")
        return False

    def num_coefficients(self, loss: Loss, coordinates: int) -> int:
        return 2

    def fitted(self, samples: Samples, loss: Loss) -> LocalModel:
        z, y, w = wide(samples)
        tolerance = 10 * float(jnp.finfo(z.dtype).eps) if self.tolerance is None else self.tolerance
        gram, cross = moments(z, y, w)
        b, residual, count = lasso(gram, cross, self.penalty, tolerance=tolerance, max_sweeps=self.max_sweeps)
        a = jnp.sum(w * (y - dot(z, b))) / jnp.sum(w)
        after = 0 * jax.lax.stop_gradient(b)[None]  # one decomposition after the other: docs/notes/batched-lapack.md
        condition = condition_number(jnp.sqrt(w)[:, None] * (z - dot(w / jnp.sum(w), z)[None]) + after)
        surrogate = LinearModel(**linear_part(samples, a, b, jnp.full_like(b, jnp.nan)))
        return evidence(samples, surrogate, a + dot(z, b), condition, residual, count)


@dataclasses.dataclass(frozen=True)
class Logistic:
    r"""Logistic models :math:`\sigma(a + \langle b, z - z_0\rangle)` of a probability f, by cross-entropy.

    Attributes:
      ridge: λ >= 0, of the penalty λ/2·‖b‖²; needed where a hyperplane separates probabilities of 0 and 1.
      tolerance: of the gradient, relative; `None` is 10 times the machine precision.
      max_steps: the most Newton steps.
    """

    ridge: float = 0.0
    tolerance: float | None = None
    max_steps: int = 100

    needs_ends: ClassVar[bool] = False

    def __post_init__(self) -> None:
        checks.non_negative("ridge", self.ridge)
        checks.positive_integer("max_steps", self.max_steps)

    def needs_slopes(self, loss: Loss) -> bool:
        require(self, loss, "cross_entropy")
        return False

    def num_coefficients(self, loss: Loss, coordinates: int) -> int:
        return coordinates + 1 if is_zero(self.ridge) else 2

    def fitted(self, samples: Samples, loss: Loss) -> LocalModel:
        z, y, w = wide(samples)
        known = checks.concrete(y)
        if known is not None and (known.min() < 0 or known.max() > 1):
            raise ValueError(
                f"`Logistic` fits probabilities; the function has values from {known.min()} to {known.max()}."
            )
        y = jnp.where((y >= 0) & (y <= 1), y, jnp.full_like(y, jnp.nan))
        tolerance = 10 * float(jnp.finfo(z.dtype).eps) if self.tolerance is None else self.tolerance
        b, covariance, condition, residual, count = logistic_regression(
            z, y, w, self.ridge, tolerance=tolerance, max_steps=self.max_steps, **chance(samples)
        )
        surrogate = LogisticModel(**linear_part(samples, b[0], b[1:], jnp.sqrt(jnp.diag(covariance)[1:])))
        return evidence(samples, surrogate, jax.nn.sigmoid(b[0] + dot(z, b[1:])), condition, residual, count)
