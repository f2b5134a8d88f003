"""Classes of models: each finds its member that is nearest to the samples."""

import dataclasses
from typing import Any, ClassVar, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxinterp import checks, tree
from jaxinterp.local._lasso import lasso, least_angle
from jaxinterp.local._least_squares import LeastSquares, weighted_least_squares
from jaxinterp.local._logistic import logistic_regression
from jaxinterp.local._samples import Loss, Samples
from jaxinterp.local._surrogates import AdditiveModel, LinearModel, LocalModel, LogisticModel, QuadraticModel
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
      num_features: how many coefficients are not 0, selected by least-angle regression; `None` keeps all.
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
        _require(self, loss, "squared_error", "gradient_matching")
        is_plain = not self.complete and self.num_features is None and _is_zero(self.ridge)
        if loss == "gradient_matching" and not is_plain:
            raise ValueError('`complete`, `ridge` and `num_features` of `Linear` need the loss "squared_error".')
        return loss == "gradient_matching"

    def num_coefficients(self, loss: Loss, coordinates: int) -> int:
        if loss == "gradient_matching" or not _is_zero(self.ridge):
            return 1
        return min(self.num_features or coordinates, coordinates) + (self.intercept == "free") - self.complete

    def fitted(self, samples: Samples, loss: Loss) -> LocalModel:
        z, y, w = _wide(samples)
        anchor = ravel_pytree(samples.anchor)[0].astype(z.dtype)
        if loss == "gradient_matching":
            slope, stderr = _mean(samples.derivatives(), w, samples)
            free = jnp.sum(w * (y - _dot(z, slope))) / jnp.sum(w)
            solution = LeastSquares(free, slope, stderr, jnp.ones_like(free))
        elif self.complete:
            solution = self._complete(samples, z, y, w, anchor)
        elif self.num_features is not None:
            solution = self._selected(samples, z, y, w)
        elif self.intercept == "zero":
            solution = weighted_least_squares(z + anchor[None], y, w, self.ridge, intercept=False, **_chance(samples))
        elif self.intercept == "anchored":
            rise = y - samples.ends()[0].astype(y.dtype)
            solution = weighted_least_squares(z, rise, w, self.ridge, intercept=False, **_chance(samples))
        else:
            solution = weighted_least_squares(z, y, w, self.ridge, **_chance(samples))
        a, b = solution.intercept, solution.coefficients
        if self.intercept == "anchored":
            a = samples.ends()[0].astype(y.dtype)
        elif self.intercept == "zero":
            a = _dot(anchor, b)
        surrogate = LinearModel(**_common(samples, a, b, solution.stderr))
        return _evidence(samples, surrogate, a + _dot(z, b), solution.condition)

    def _selected(self, samples: Samples, z: Array, y: Array, w: Array) -> LeastSquares:
        """Least squares in the selected features; the others have the coefficient and the error 0."""
        count = min(self.num_features or z.shape[1], z.shape[1])
        chosen = jnp.argsort(-least_angle(*_moments(z, y, w), count))[:count]
        solution = weighted_least_squares(z[:, chosen], y, w, self.ridge, **_chance(samples))
        slope, stderr = (
            jnp.zeros(z.shape[1:], z.dtype).at[chosen].set(v) for v in (solution.coefficients, solution.stderr)
        )
        return LeastSquares(solution.intercept, slope, stderr, solution.condition)

    def _complete(self, samples: Samples, z: Array, y: Array, w: Array, anchor: Array) -> LeastSquares:
        """Least squares in the coefficients b with ⟨b, anchor⟩ = f(x) - f(0): b is one of them plus any orthogonal."""
        top, bottom = (value.astype(y.dtype) for value in samples.ends())
        total, rise = top - bottom, y - top
        length = jnp.sqrt(jnp.sum(anchor**2))
        one = anchor * (total / length**2)
        mirror = (anchor / length).at[0].add(jnp.where(anchor[0] < 0, -1.0, 1.0).astype(anchor.dtype))
        basis = jnp.eye(len(anchor), dtype=z.dtype) - 2 * jnp.outer(mirror, mirror) / jnp.sum(mirror**2)
        basis = basis[:, 1:]  # the first column is parallel to the anchor
        idle = jnp.where(anchor == 0, jnp.sqrt(jnp.sum(w)) / 2, jnp.zeros_like(anchor))
        solution = weighted_least_squares(
            jnp.dot(z, basis, precision="highest"),
            rise - _dot(z, one),
            w,
            self.ridge,
            intercept=False,
            basis=basis,
            prior=idle[:, None] * basis,
            **_chance(samples),
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
        _require(self, loss, "squared_error")
        return False

    def num_coefficients(self, loss: Loss, coordinates: int) -> int:
        return 2

    def fitted(self, samples: Samples, loss: Loss) -> LocalModel:
        z, y, w = _wide(samples)
        tolerance = 10 * float(jnp.finfo(z.dtype).eps) if self.tolerance is None else self.tolerance
        gram, cross = _moments(z, y, w)
        b, residual, count = lasso(gram, cross, self.penalty, tolerance=tolerance, max_sweeps=self.max_sweeps)
        a = jnp.sum(w * (y - _dot(z, b))) / jnp.sum(w)
        values = jnp.linalg.eigvalsh(gram)
        condition = jnp.sqrt(values[-1] / jnp.maximum(values[0], 0))
        surrogate = LinearModel(**_common(samples, a, b, jnp.full_like(b, jnp.nan)))
        return _evidence(samples, surrogate, a + _dot(z, b), condition, residual, count)


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
        _require(self, loss, "squared_error", "gradient_matching")
        return loss == "gradient_matching" or not isinstance(self.hessian, str)

    def num_coefficients(self, loss: Loss, coordinates: int) -> int:
        if loss == "gradient_matching":
            return 2 if self.hessian == "diagonal" else coordinates + 1
        if not _is_zero(self.ridge):
            return 2
        if self.hessian == "diagonal":
            return 2 * coordinates + 1
        rank = coordinates if self.hessian == "full" else min(int(self.hessian), coordinates)
        return coordinates + rank * (rank + 1) // 2 + 1

    def fitted(self, samples: Samples, loss: Loss) -> LocalModel:
        z, y, w = _wide(samples)
        scale = jnp.sqrt(jnp.sum(w[:, None] * z**2) / (jnp.sum(w) * z.shape[1]))
        scale = jnp.where(scale == 0, jnp.ones_like(scale), scale)
        unit = z / scale
        directions = None if isinstance(self.hessian, str) else self._directions(unit, samples, w)
        inner = unit if directions is None else jnp.dot(unit, directions, precision="highest")
        solve = self._by_slopes if loss == "gradient_matching" else self._by_values
        a, b, c, stderr, condition = solve(samples, unit, inner, directions, y, w, scale)
        bend = _dot(inner**2, c) if c.ndim == 1 else jnp.sum(jnp.dot(inner, c, precision="highest") * inner, 1)
        predicted = a + _dot(unit, b) + bend / 2
        common = _common(samples, a, b / scale, stderr / scale)
        return _evidence(
            samples, QuadraticModel(**common, curvature=c / scale**2, directions=directions), predicted, condition
        )

    def _directions(self, unit: Array, samples: Samples, w: Array) -> Array:
        slopes = samples.derivatives().astype(unit.dtype)
        share = (w / jnp.sum(w))[:, None]
        moment = jnp.dot((share * (slopes - jnp.sum(share * slopes, 0, keepdims=True))).T, unit, precision="highest")
        return jnp.linalg.svd(jax.lax.stop_gradient(moment))[0][:, : int(self.hessian)]

    def _by_values(
        self, samples: Samples, unit: Array, inner: Array, directions: Array | None, y: Array, w: Array, scale: Array
    ) -> tuple[Array, ...]:
        del directions, scale
        p, k = unit.shape[1], inner.shape[1]
        first, second = (np.arange(k),) * 2 if self.hessian == "diagonal" else np.triu_indices(k)
        products = inner[:, first] * inner[:, second] * jnp.where(first == second, 0.5, 1.0).astype(y.dtype)[None]
        solution = weighted_least_squares(jnp.concatenate([unit, products], 1), y, w, self.ridge, **_chance(samples))
        c = solution.coefficients[p:]
        if self.hessian != "diagonal":
            c = jnp.zeros((k, k), c.dtype).at[first, second].set(c).at[second, first].set(c)
        return solution.intercept, solution.coefficients[:p], c, solution.stderr[:p], solution.condition

    def _by_slopes(
        self, samples: Samples, unit: Array, inner: Array, directions: Array | None, y: Array, w: Array, scale: Array
    ) -> tuple[Array, ...]:
        slopes = samples.derivatives().astype(unit.dtype) * scale
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
        b, stderr = _mean(rest, w, samples)
        curved = jnp.sum(bend * inner, 1) / 2
        a = jnp.sum(w * (y - _dot(unit, b) - curved)) / jnp.sum(w)
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
        _require(self, loss, "squared_error")
        return False

    def num_coefficients(self, loss: Loss, coordinates: int) -> int:
        return coordinates * (1 + self.num_knots) + 1 if _is_zero(self.ridge) else 2

    def fitted(self, samples: Samples, loss: Loss) -> LocalModel:
        z, y, w = _wide(samples)
        levels = jnp.arange(1, self.num_knots + 1, dtype=z.dtype) / (self.num_knots + 1)
        knots = jax.lax.stop_gradient(jnp.quantile(z, levels, axis=0)).T
        bent = jax.nn.relu(z[:, :, None] - knots[None]) - jax.nn.relu(-knots)[None]
        design = jnp.concatenate([z, bent.reshape(len(z), -1)], 1)
        solution = weighted_least_squares(design, y, w, self.ridge, **_chance(samples))
        p = z.shape[1]
        common = _common(samples, solution.intercept, solution.coefficients[:p], solution.stderr[:p])
        surrogate = AdditiveModel(**common, knots=knots, bends=solution.coefficients[p:].reshape(p, self.num_knots))
        predicted = solution.intercept + _dot(design, solution.coefficients)
        return _evidence(samples, surrogate, predicted, solution.condition)


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
        _require(self, loss, "cross_entropy")
        return False

    def num_coefficients(self, loss: Loss, coordinates: int) -> int:
        return coordinates + 1 if _is_zero(self.ridge) else 2

    def fitted(self, samples: Samples, loss: Loss) -> LocalModel:
        z, y, w = _wide(samples)
        known = checks.concrete(y)
        if known is not None and (known.min() < 0 or known.max() > 1):
            raise ValueError(
                f"`Logistic` fits probabilities; the function has values from {known.min()} to {known.max()}."
            )
        y = jnp.where((y >= 0) & (y <= 1), y, jnp.full_like(y, jnp.nan))
        tolerance = 10 * float(jnp.finfo(z.dtype).eps) if self.tolerance is None else self.tolerance
        b, covariance, condition, residual, count = logistic_regression(
            z, y, w, self.ridge, tolerance=tolerance, max_steps=self.max_steps
        )
        surrogate = LogisticModel(**_common(samples, b[0], b[1:], jnp.sqrt(jnp.diag(covariance)[1:])))
        return _evidence(samples, surrogate, jax.nn.sigmoid(b[0] + _dot(z, b[1:])), condition, residual, count)


def _require(model: ModelClass, loss: Loss, *losses: Loss) -> None:
    checks.one_of("loss", loss, ("squared_error", "gradient_matching", "cross_entropy"))
    if loss not in losses:
        raise ValueError(
            f"`{type(model).__name__}` cannot be fitted by the loss {loss!r}; it takes {' or '.join(losses)}."
        )


def _is_zero(ridge: Any) -> bool:
    known = checks.concrete(ridge)
    return known is not None and bool(known == 0)


def _wide(samples: Samples) -> tuple[Array, Array, Array]:
    """Offsets, values and weights in one dtype of at least float32."""
    dtype = tree.accumulator(jnp.result_type(samples.offsets, samples.values))
    return samples.offsets.astype(dtype), samples.values.astype(dtype), samples.weights.astype(dtype)


def _dot(rows: Array, vector: Array) -> Array:
    return jnp.dot(rows, vector, precision="highest")


def _chance(samples: Samples) -> dict[str, Any]:
    return {"fixed": samples.fixed, "cluster": samples.cluster}


def _moments(z: Array, y: Array, w: Array) -> tuple[Array, Array]:
    """The weighted covariances of the coordinates with each other and with the values."""
    share = w / jnp.sum(w)
    centred = z - _dot(share, z)[None]
    scaled = share[:, None] * centred
    return jnp.dot(scaled.T, centred, precision="highest"), jnp.dot(scaled.T, y - _dot(share, y), precision="highest")


def _mean(rows: Array, w: Array, samples: Samples) -> tuple[Array, Array]:
    """The weighted mean of rows, and its standard error."""
    rows, share = rows.astype(w.dtype), w / jnp.sum(w)
    mean = _dot(share, rows)
    n = len(rows)
    if samples.fixed == n:
        return mean, jnp.zeros_like(mean)
    spread = jnp.sum((share[:, None] * (rows - mean[None])) ** 2, 0) * (n / max(n - 1, 1))
    return mean, jnp.sqrt(spread) if n > 1 else jnp.full_like(mean, jnp.inf)


def _common(samples: Samples, intercept: Array, slope: Array, stderr: Array) -> dict:
    return {
        "slope": samples.unravel(slope),
        "intercept": intercept.astype(samples.values.dtype),
        "anchor": samples.anchor,
        "stderr": samples.unravel(stderr),
    }


def _evidence(
    samples: Samples,
    surrogate: LinearModel,
    predicted: Array,
    condition: Array,
    residual: Array | None = None,
    num_iterations: Array | None = None,
) -> LocalModel:
    _, y, w = _wide(samples)
    share = w / jnp.sum(w)
    mean = _dot(share, y)
    variance, error = _dot(share, (y - mean) ** 2), _dot(share, (y - predicted) ** 2)
    is_constant = variance <= (4 * float(jnp.finfo(y.dtype).eps) * mean) ** 2
    explained = 1 - error / jnp.where(is_constant, jnp.ones_like(variance), variance)
    return LocalModel(
        surrogate,
        jnp.where(is_constant, jnp.full_like(explained, jnp.nan), explained),
        jnp.sum(w) ** 2 / jnp.sum(w**2),
        condition,
        jnp.zeros_like(mean) if residual is None else residual,
        jnp.zeros((), jnp.int32) if num_iterations is None else num_iterations,
    )
