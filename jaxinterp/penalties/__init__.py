"""Penalties on the smoothness of a network, to be added to its training loss."""

from jaxinterp.penalties._gradient_norm import Penalty as Penalty
from jaxinterp.penalties._gradient_norm import input_gradient_norm as input_gradient_norm
from jaxinterp.penalties._low_curvature import activation_curvature as activation_curvature
from jaxinterp.penalties._low_curvature import normalisation_slope as normalisation_slope
