"""The models that are fitted to a neighbourhood, as functions of its coordinates."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxinterp import tree
from jaxinterp.typing import Array, PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LinearModel:
    r"""The function :math:`g(z) = \text{intercept} + \langle\text{slope}, z - \text{anchor}\rangle`.

    Attributes:
      slope: the coefficients, in the structure of the coordinates z.
      intercept: g(anchor), a scalar.
      anchor: the coordinates of the point around which the model holds.
      stderr: the standard error of the slope, in its structure; 0 where no sampling was involved.
    """

    slope: PyTree
    intercept: Array
    anchor: PyTree
    stderr: PyTree

    def linear(self, coordinates: PyTree) -> Array:
        """The intercept plus the slope times the offset from the anchor."""
        shift = tree.vdot(self.slope, tree.sub(coordinates, self.anchor))
        return self.intercept + shift.astype(self.intercept.dtype)

    def __call__(self, coordinates: PyTree) -> Array:
        """Evaluates g."""
        return self.linear(coordinates)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LogisticModel(LinearModel):
    r"""The function :math:`g(z) = \sigma(\text{intercept} + \langle\text{slope}, z - \text{anchor}\rangle)`.

    The attributes are those of `LinearModel`, before the logistic function σ.
    """

    def __call__(self, coordinates: PyTree) -> Array:
        """Evaluates g."""
        return jax.nn.sigmoid(self.linear(coordinates))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class QuadraticModel(LinearModel):
    r"""A linear model plus :math:`\tfrac12 \delta^\top V C V^\top \delta` with δ = z - anchor, flat.

    Attributes:
      slope: as in `LinearModel`.
      intercept: as in `LinearModel`.
      anchor: as in `LinearModel`.
      stderr: as in `LinearModel`.
      curvature: C, a matrix, or its diagonal.
      directions: V, [coordinates, rank]; `None` stands for the identity.
    """

    curvature: Array
    directions: Array | None

    def __call__(self, coordinates: PyTree) -> Array:
        """Evaluates g."""
        offset = ravel_pytree(tree.sub(coordinates, self.anchor))[0].astype(self.curvature.dtype)
        if self.directions is not None:
            offset = jnp.dot(offset, self.directions, precision="highest")
        if self.curvature.ndim == 1:
            bend = jnp.sum(self.curvature * offset**2) / 2
        else:
            bend = jnp.dot(offset, jnp.dot(self.curvature, offset, precision="highest"), precision="highest") / 2
        return self.linear(coordinates) + bend.astype(self.intercept.dtype)

    def hessian(self) -> Array:
        """V C Vᵀ, the matrix of second derivatives in the flat coordinates."""
        if self.curvature.ndim == 1:
            return jnp.diag(self.curvature)
        if self.directions is None:
            return self.curvature
        half = jnp.dot(self.directions, self.curvature, precision="highest")
        return jnp.dot(half, self.directions.T, precision="highest")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class AdditiveModel(LinearModel):
    r"""A sum of piecewise linear functions: a linear model plus :math:`\sum_{jk} h_{jk}\,s(\delta_j, t_{jk})`.

    With :math:`s(\delta, t) = \max(\delta - t, 0)` for t > 0 and :math:`\max(t - \delta, 0)` for others, which is 0 at
    the anchor, so the slope is that there.

    Attributes:
      slope: as in `LinearModel`.
      intercept: as in `LinearModel`.
      anchor: as in `LinearModel`.
      stderr: as in `LinearModel`.
      knots: t, [coordinates, knots], relative to the anchor.
      bends: h, by how much the slope changes there, [coordinates, knots].
    """

    knots: Array
    bends: Array

    def effects(self, coordinates: PyTree) -> PyTree:
        """What each coordinate contributes to g(z) - g(anchor), in the structure of the coordinates."""
        offset, unravel = ravel_pytree(tree.sub(coordinates, self.anchor))
        wide = offset.astype(self.knots.dtype)
        bent = hinges(wide[:, None], self.knots)
        slope = ravel_pytree(self.slope)[0].astype(wide.dtype)
        return unravel((slope * wide + jnp.sum(self.bends * bent, 1)).astype(offset.dtype))

    def __call__(self, coordinates: PyTree) -> Array:
        """Evaluates g."""
        effects = self.effects(coordinates)
        return self.intercept + tree.vdot(effects, tree.ones_like(effects)).astype(self.intercept.dtype)


def hinges(offset: Array, knots: Array) -> Array:
    """Functions of an offset that are 0 at the anchor and as far as their knot, and have the slope ±1 beyond."""
    return jax.nn.relu(jnp.where(knots > 0, offset - knots, knots - offset))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LocalModel:
    """A fitted model, with what tells how far to trust it.

    Attributes:
      surrogate: the model itself, a `LinearModel` or one of its kind.
      r_squared: the weighted share of the variance of f over the samples that it explains: 1 for a perfect model, NaN
        where f is constant up to rounding.
      effective_samples: (Σw)² / Σw², the number of equally weighted samples that would tell as much.
      condition: the condition number of the fit; large where the samples hardly tell some coefficients apart, and
        infinite where they do not (then the shortest solution is taken). 1 for an average of gradients.
      residual: of an iterative fit, by how much the optimum is missed, relative; 0 for closed forms.
      num_iterations: of an iterative fit; 0 for closed forms.
    """

    surrogate: LinearModel
    r_squared: Array
    effective_samples: Array
    condition: Array
    residual: Array
    num_iterations: Array

    @property
    def slope(self) -> PyTree:
        """The coefficients of the surrogate."""
        return self.surrogate.slope

    @property
    def intercept(self) -> Array:
        """The intercept of the surrogate, at its anchor."""
        return self.surrogate.intercept

    @property
    def anchor(self) -> PyTree:
        """The coordinates of x."""
        return self.surrogate.anchor

    @property
    def stderr(self) -> PyTree:
        """The standard error of the slope."""
        return self.surrogate.stderr

    def __call__(self, coordinates: PyTree) -> Array:
        """Evaluates the surrogate."""
        return self.surrogate(coordinates)
