"""Weights of the samples of a neighbourhood: functions `(perturbation, x) -> scalar`."""

from collections.abc import Callable

import jax.numpy as jnp

from jaxinterp import tree
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
    kernel_width: float, distance: Callable[[Perturbation, PyTree], Array] = coordinate_distance
) -> Weight:
    r"""The weight :math:`\exp(-d^2 / 2w^2)` of LIME as its package and captum compute it.

    Beware: other code (that of Han et al., 2022) writes :math:`\exp(-d^2 / w^2)`; the same width is then another
    kernel.

    Args:
      kernel_width: w > 0, in the units of the distance.
      distance: d, a function `(perturbation, x) -> scalar`.

    Raises:
      ValueError: if the width is not positive.

    >>> p = Perturbation(jnp.zeros(2), jnp.zeros(2), jnp.array([1.0, 0.0]))
    >>> round(float(exponential_weight(1.0)(p, jnp.zeros(2))), 4)
    0.6065
    """
    if not kernel_width > 0:
        raise ValueError(f"`kernel_width` must be positive; got {kernel_width}.")

    def weight(perturbation: Perturbation, x: PyTree) -> Array:
        return jnp.exp(-((distance(perturbation, x) / kernel_width) ** 2) / 2)

    return weight
