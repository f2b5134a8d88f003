"""Linear local models: the tangent, from the gradient, and the secant, from values in a neighbourhood."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxinterp import batching, checks, interpreters, tree
from jaxinterp.interpreters import restrict_scalar
from jaxinterp.local._least_squares import weighted_least_squares
from jaxinterp.local._neighbourhoods import Neighbourhood
from jaxinterp.local._weights import Weight, uniform_weight
from jaxinterp.typing import Array, Key, PyTree, ScalarFn


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
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

    def __call__(self, coordinates: PyTree) -> Array:
        """Evaluates g."""
        shift = tree.vdot(self.slope, tree.sub(coordinates, self.anchor))
        return self.intercept + shift.astype(self.intercept.dtype)


def tangent(f: ScalarFn, argnums: int | tuple[int, ...] = 0) -> Callable[..., LinearModel]:
    r"""The first-order Taylor model: returns `(*args) -> LinearModel` with slope ∇f(x), intercept f(x), anchor x.

    It is the limit of `secant` over shrinking Gaussian neighbourhoods, the best linear model infinitesimally close
    to x.

    >>> model = tangent(lambda x: jnp.sum(x**2))(jnp.array([1.0, 2.0]))
    >>> model.slope.tolist(), float(model(jnp.array([1.0, 3.0])))
    ([2.0, 4.0], 9.0)
    """

    def fit(*args: PyTree) -> LinearModel:
        g, x = restrict_scalar("tangent", f, argnums, args)
        value, slope = jax.value_and_grad(g)(x)
        return LinearModel(slope, value, x, tree.zeros_like(slope))

    return fit


def secant(
    f: ScalarFn,
    argnums: int | tuple[int, ...] = 0,
    *,
    neighbourhood: Neighbourhood,
    num_samples: int,
    weight: Weight = uniform_weight,
    ridge: float = 0.0,
    chunk_size: int | None = None,
) -> Callable[..., LinearModel]:
    r"""The best linear model over a neighbourhood: returns `(key, *args, **arrays) -> LinearModel`.

    Minimises :math:`\sum_i w_i\,(f(x'_i) - a - \langle b, z_i - z_0\rangle)^2 + \lambda\|b\|^2` over samples
    :math:`x'_i` with coordinates :math:`z_i`, in closed form (see `local.weighted_least_squares`). For
    Gaussian noise and many samples the slope tends to that of the smoothed function, E∇f(x + σε) (C-LIME; Agarwal
    et al., 2021).

    Args:
      f: a scalar function.
      argnums: which arguments are perturbed.
      neighbourhood: `(key, x, **arrays) -> Perturbation`, for instance `local.gaussian`; the keyword arguments of the
        returned function go to it.
      num_samples: number of samples, more than the number of coordinates unless `ridge` > 0.
      weight: `(perturbation, x) -> scalar`, for instance `local.exponential_weight(1.0)`.
      ridge: λ >= 0 in the units of the weights; the intercept is not penalised.
      chunk_size: samples evaluated together; `None` evaluates all at once.

    Raises:
      ValueError: if there are too few samples to determine the coefficients.

    >>> from jaxinterp import local
    >>> fit = secant(lambda x: jnp.sum(3.0 * x), neighbourhood=local.gaussian, num_samples=20)
    >>> model = fit(jax.random.key(0), jnp.ones(2), stddev=0.1)
    >>> [round(float(b), 3) for b in model.slope], round(float(model.intercept), 3)
    ([3.0, 3.0], 6.0)
    """
    n = checks.positive_integer("num_samples", num_samples)
    batch = checks.optional_chunk_size(chunk_size) or n
    checks.non_negative("ridge", ridge)

    def fit(key: Key, *args: PyTree, **arrays: PyTree) -> LinearModel:
        g, x = restrict_scalar("secant", f, argnums, args)
        checks.key("secant", key)

        def draw(index: Array) -> tuple[Array, Array, Array]:
            perturbation = neighbourhood(jax.random.fold_in(key, index), x, **arrays)
            offset = ravel_pytree(tree.sub(perturbation.coordinates, perturbation.anchor))[0]
            return offset, g(perturbation.point), weight(perturbation, x)

        first = jax.eval_shape(lambda k: neighbourhood(k, x, **arrays), key)
        features = tree.size(first.coordinates)
        if ridge == 0 and n <= features:
            raise ValueError(
                f"`secant` cannot determine {features} coefficients and an intercept from num_samples={n}: "
                "take more samples, group the features, or set ridge > 0."
            )
        indices = jnp.arange(n, dtype=jnp.int32)
        design, targets, weights = batching.map_examples(interpreters.loop_safe(draw), batch_size=batch)(indices)
        dtype = tree.accumulator(jnp.result_type(design, targets))
        solution = weighted_least_squares(design.astype(dtype), targets.astype(dtype), weights.astype(dtype), ridge)
        anchor = neighbourhood(jax.random.fold_in(key, 0), x, **arrays).anchor  # the same for every sample
        unravel = ravel_pytree(anchor)[1]
        slope, stderr = (unravel(v.astype(design.dtype)) for v in (solution.coefficients, solution.stderr))
        return LinearModel(slope, solution.intercept.astype(targets.dtype), anchor, stderr)

    return fit
