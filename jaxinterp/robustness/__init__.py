"""Robustness: how likely a prediction survives noise, how little changes it, and what can be certified."""

from jaxinterp.robustness._events import Event as Event
from jaxinterp.robustness._events import Robustness as Robustness
from jaxinterp.robustness._events import same_prediction as same_prediction
from jaxinterp.robustness._events import within as within
from jaxinterp.robustness._linearised import mmse as mmse
from jaxinterp.robustness._linearised import multivariate_sigmoid as multivariate_sigmoid
from jaxinterp.robustness._linearised import softmax as softmax
from jaxinterp.robustness._linearised import taylor as taylor
from jaxinterp.robustness._monte_carlo import monte_carlo as monte_carlo
