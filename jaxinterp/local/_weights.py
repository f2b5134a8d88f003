"""Weights of the samples of a neighbourhood: functions `(perturbation, x) -> scalar`."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxinterp import checks, tree
from jaxinterp.local._neighbourhoods import Perturbation
from jaxinterp.typing import Array, PyTree

Weight = Callable[[Perturbation, PyTree], Array]
"""`(perturbation, x) -> scalar`."""


def uniform_weight(perturbation: Perturbation, x: PyTree) -> Array:
    """Every sample counts the same.

    >>> p = Perturbation(jnp.zeros(2), jnp.zeros(2), jnp.ones(2))
    >>> float(uniform_weight(p, jnp.ones(2)))
    1.0
    """
    del x
    return jnp.ones((), tree.squared_norm(perturbation.coordinates).dtype)


def coordinate_distance(perturbation: Perturbation, x: PyTree) -> Array:
    """Euclidean distance in the coordinates of the local model; for masks the root of the number removed."""
    del x
    return tree.norm(tree.sub(perturbation.coordinates, perturbation.anchor))


def input_distance(perturbation: Perturbation, x: PyTree) -> Array:
    """Euclidean distance between the perturbed and the given input."""
    return tree.norm(tree.sub(perturbation.point, x))


def exponential_weight(
    kernel_width: float,
    distance: Callable[[Perturbation, PyTree], Array] = coordinate_distance,
    *,
    convention: Literal["lime", "lfa"] = "lime",
) -> Weight:
    r"""The weight :math:`\exp(-d^2 / 2w^2)` of LIME as its package and captum compute it.

    Han et al. (2022) write :math:`\exp(-d^2 / w^2)`, the convention "lfa": the same width is then another kernel.

    Args:
      kernel_width: w > 0, in the units of the distance.
      distance: d, a function `(perturbation, x) -> scalar`.
      convention: "lime" or "lfa".

    Raises:
      ValueError: if the width is not positive.

    >>> p = Perturbation(jnp.zeros(2), jnp.zeros(2), jnp.array([1.0, 0.0]))
    >>> round(float(exponential_weight(1.0)(p, jnp.zeros(2))), 4)
    0.6065
    """
    known = checks.concrete(kernel_width)
    if known is not None and not known > 0:
        raise ValueError(f"`kernel_width` must be positive; got {kernel_width}.")

    checks.one_of("convention", convention, ("lime", "lfa"))
    factor = 2 if convention == "lime" else 1

    def weight(perturbation: Perturbation, x: PyTree) -> Array:
        return jnp.exp(-((distance(perturbation, x) / kernel_width) ** 2) / factor)

    return weight


def shapley_weight(perturbation: Perturbation, x: PyTree) -> Array:
    r"""The Shapley kernel :math:`\pi(z) = \frac{d - 1}{\binom dk k (d - k)}` of a mask z with k of d features kept.

    It is infinite for k = 0 and k = d; the weight returned there is 0, since the model it is made for, anchored and
    complete, has the values of f at both.

    Source: Lundberg & Lee (2017).

    >>> p = Perturbation(jnp.zeros(3), jnp.array([1.0, 0.0, 0.0]), jnp.ones(3))
    >>> round(float(shapley_weight(p, jnp.ones(3))), 4)
    0.3333
    """
    del x
    mask = ravel_pytree(perturbation.coordinates)[0]
    mask = mask.astype(tree.accumulator(mask.dtype))
    d = mask.size
    k = jnp.sum(mask)
    is_inside = (k > 0) & (k < d)
    inner = jnp.where(is_inside, k, jnp.ones_like(k))
    log_choices = (
        jax.lax.lgamma(jnp.asarray(d + 1.0, k.dtype)) - jax.lax.lgamma(inner + 1) - jax.lax.lgamma(d - inner + 1)
    )
    weight = (d - 1) / (jnp.exp(log_choices) * inner * jnp.maximum(d - inner, 1))
    return jnp.where(is_inside, weight, jnp.zeros_like(weight))
