"""Robustness: how likely a prediction survives noise, how little changes it, and what can be certified."""

from jaxinterp.robustness._attacks import Attack as Attack
from jaxinterp.robustness._attacks import boundary_distance as boundary_distance
from jaxinterp.robustness._attacks import deepfool as deepfool
from jaxinterp.robustness._attacks import fgsm as fgsm
from jaxinterp.robustness._attacks import pgd as pgd
from jaxinterp.robustness._certificates import Certificate as Certificate
from jaxinterp.robustness._certificates import clopper_pearson_lower as clopper_pearson_lower
from jaxinterp.robustness._certificates import lipschitz_certificate as lipschitz_certificate
from jaxinterp.robustness._certificates import smoothing_certificate as smoothing_certificate
from jaxinterp.robustness._events import Event as Event
from jaxinterp.robustness._events import Robustness as Robustness
from jaxinterp.robustness._events import same_prediction as same_prediction
from jaxinterp.robustness._events import within as within
from jaxinterp.robustness._importance import RareRobustness as RareRobustness
from jaxinterp.robustness._importance import importance as importance
from jaxinterp.robustness._linearised import mmse as mmse
from jaxinterp.robustness._linearised import multivariate_sigmoid as multivariate_sigmoid
from jaxinterp.robustness._linearised import softmax as softmax
from jaxinterp.robustness._linearised import taylor as taylor
from jaxinterp.robustness._monte_carlo import monte_carlo as monte_carlo
from jaxinterp.robustness._uses import ClassRobustness as ClassRobustness
from jaxinterp.robustness._uses import by_class as by_class
from jaxinterp.robustness._uses import fragility as fragility
