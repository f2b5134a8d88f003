"""Quadrature on the unit interval: nodes in [0, 1] and positive weights that sum to one."""

import dataclasses
from collections.abc import Callable

import numpy as np

from jaxinterp import checks


@dataclasses.dataclass(frozen=True)
class Quadrature:
    r"""A rule :math:`\int_0^1 g(t)\,dt \approx \sum_i w_i\, g(t_i)`.

    Attributes:
      nodes: t, float64 [n], ascending in [0, 1].
      weights: w, float64 [n], positive, sum 1.
    """

    nodes: np.ndarray
    weights: np.ndarray


QuadratureRule = Callable[[int], Quadrature]
"""Takes the number of nodes."""


def gauss_legendre(num_steps: int) -> Quadrature:
    """Gauss-Legendre: exact for polynomials of degree 2n - 1, the best choice for smooth functions.

    >>> rule = gauss_legendre(3)
    >>> round(float(rule.weights @ rule.nodes**5), 12) == round(1 / 6, 12)
    True
    """
    nodes, weights = np.polynomial.legendre.leggauss(checks.positive_integer("num_steps", num_steps))
    return Quadrature((nodes + 1) / 2, weights / 2)


def midpoint(num_steps: int) -> Quadrature:
    """Midpoint rule: nodes (i + 1/2)/n, equal weights; error O(n⁻²), robust where the function has kinks.

    >>> midpoint(2).nodes.tolist()
    [0.25, 0.75]
    """
    n = checks.positive_integer("num_steps", num_steps)
    return Quadrature((np.arange(n) + 0.5) / n, np.full(n, 1 / n))


def trapezoid(num_steps: int) -> Quadrature:
    """Trapezoidal rule: nodes i/(n - 1) with both ends included, half weight at the ends; error O(n⁻²).

    Raises:
      ValueError: for fewer than two nodes.

    >>> trapezoid(3).weights.tolist()
    [0.25, 0.5, 0.25]
    """
    n = checks.positive_integer("num_steps", num_steps)
    if n < 2:
        raise ValueError(f"`trapezoid` needs both ends of the interval, so at least 2 nodes; got {n}.")
    weights = np.full(n, 1 / (n - 1))
    weights[[0, -1]] /= 2
    return Quadrature(np.linspace(0.0, 1.0, n), weights)
