"""How good an explanation is: axioms and fidelity."""

from jaxinterp.evaluation._axioms import Completeness as Completeness
from jaxinterp.evaluation._axioms import completeness_gap as completeness_gap
from jaxinterp.evaluation._fidelity import local_r_squared as local_r_squared
