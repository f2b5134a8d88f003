"""Average-case robustness: how likely a prediction survives noise."""

from jaxinterp.robustness._average_case import Robustness as Robustness
from jaxinterp.robustness._average_case import monte_carlo as monte_carlo
from jaxinterp.robustness._average_case import multivariate_sigmoid as multivariate_sigmoid
from jaxinterp.robustness._average_case import softmax as softmax
from jaxinterp.robustness._average_case import taylor as taylor
