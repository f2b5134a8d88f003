"""Linear local models: the tangent, from the gradient, and the secant, from values in a neighbourhood."""

from collections.abc import Callable

import jax

from jaxinterp import tree
from jaxinterp.interpreters import restrict_scalar
from jaxinterp.local._classes import Linear
from jaxinterp.local._designs import Design
from jaxinterp.local._fit import fit
from jaxinterp.local._neighbourhoods import Neighbourhood
from jaxinterp.local._surrogates import LinearModel
from jaxinterp.local._weights import Weight, uniform_weight
from jaxinterp.typing import Key, PyTree, ScalarFn


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
    neighbourhood: Neighbourhood | Design,
    num_samples: int | None = None,
    weight: Weight = uniform_weight,
    ridge: float = 0.0,
    chunk_size: int | None = None,
) -> Callable[..., LinearModel]:
    r"""The best linear model over a neighbourhood: returns `(key, *args, **arrays) -> LinearModel`.

    The surrogate of `fit` with squared error and a `Linear` model, without the evidence.

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
    fitted = fit(
        f,
        argnums,
        neighbourhood=neighbourhood,
        model=Linear(ridge=ridge),
        num_samples=num_samples,
        weight=weight,
        chunk_size=chunk_size,
        name="secant",
    )

    def model(key: Key, *args: PyTree, **arrays: PyTree) -> LinearModel:
        return fitted(key, *args, **arrays).surrogate

    return model
