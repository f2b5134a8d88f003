"""What a function looks like near a point: neighbourhoods, sample weights and local linear models."""

from jaxinterp.local._backgrounds import background_row as background_row
from jaxinterp.local._backgrounds import checked_background as checked_background
from jaxinterp.local._least_squares import LeastSquares as LeastSquares
from jaxinterp.local._least_squares import weighted_least_squares as weighted_least_squares
from jaxinterp.local._linear import LinearModel as LinearModel
from jaxinterp.local._linear import secant as secant
from jaxinterp.local._linear import tangent as tangent
from jaxinterp.local._neighbourhoods import Neighbourhood as Neighbourhood
from jaxinterp.local._neighbourhoods import Perturbation as Perturbation
from jaxinterp.local._neighbourhoods import along_segment as along_segment
from jaxinterp.local._neighbourhoods import binary_mask as binary_mask
from jaxinterp.local._neighbourhoods import feature_groups as feature_groups
from jaxinterp.local._neighbourhoods import gaussian as gaussian
from jaxinterp.local._neighbourhoods import grid_groups as grid_groups
from jaxinterp.local._neighbourhoods import masked as masked
from jaxinterp.local._neighbourhoods import segment as segment
from jaxinterp.local._neighbourhoods import spread_over as spread_over
from jaxinterp.local._weights import Weight as Weight
from jaxinterp.local._weights import coordinate_distance as coordinate_distance
from jaxinterp.local._weights import exponential_weight as exponential_weight
from jaxinterp.local._weights import input_distance as input_distance
from jaxinterp.local._weights import uniform_weight as uniform_weight
