"""The shape of a function around a point: Hessian norms and normalised curvature."""

from jaxinterp.geometry._curvature import Curvature as Curvature
from jaxinterp.geometry._curvature import curvature as curvature
from jaxinterp.geometry._curvature import hessian_norm as hessian_norm
