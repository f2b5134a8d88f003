"""The shape of a function around a point: curvature, steepness and linearity, estimated and certified."""

from jaxinterp.geometry._bounds import Bounds as Bounds
from jaxinterp.geometry._bounds import Bracket as Bracket
from jaxinterp.geometry._bounds import bounds as bounds
from jaxinterp.geometry._curvature import Curvature as Curvature
from jaxinterp.geometry._curvature import curvature as curvature
from jaxinterp.geometry._curvature import hessian_norm as hessian_norm
from jaxinterp.geometry._hessian import hessian_density as hessian_density
from jaxinterp.geometry._hessian import hessian_eigenpairs as hessian_eigenpairs
from jaxinterp.geometry._hessian import hessian_frobenius_norm as hessian_frobenius_norm
from jaxinterp.geometry._hessian import hessian_trace as hessian_trace
from jaxinterp.geometry._level_sets import LevelSetPoint as LevelSetPoint
from jaxinterp.geometry._level_sets import Simplex as Simplex
from jaxinterp.geometry._level_sets import level_distance as level_distance
from jaxinterp.geometry._level_sets import level_set_traversal as level_set_traversal
from jaxinterp.geometry._level_sets import simplex as simplex
from jaxinterp.geometry._linearity import Attained as Attained
from jaxinterp.geometry._linearity import gradient_change as gradient_change
from jaxinterp.geometry._linearity import jacobian_norm as jacobian_norm
from jaxinterp.geometry._linearity import local_linearity as local_linearity
from jaxinterp.geometry._linearity import local_lipschitz as local_lipschitz
