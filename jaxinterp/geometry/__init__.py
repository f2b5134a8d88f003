"""The shape of a function around a point: Hessian norms and normalised curvature."""

from jaxinterp.geometry._bounds import Bounds as Bounds
from jaxinterp.geometry._bounds import Bracket as Bracket
from jaxinterp.geometry._bounds import bounds as bounds
from jaxinterp.geometry._curvature import Curvature as Curvature
from jaxinterp.geometry._curvature import curvature as curvature
from jaxinterp.geometry._curvature import hessian_norm as hessian_norm
