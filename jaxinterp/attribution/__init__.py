"""Attributions: how much each entry of the input contributes to a scalar output."""

from jaxinterp.attribution._gradient import gradient as gradient
from jaxinterp.attribution._gradient import gradient_times_input as gradient_times_input
from jaxinterp.attribution._integrated import integrated_gradients as integrated_gradients
from jaxinterp.attribution._lime import lime as lime
from jaxinterp.attribution._occlusion import occlusion as occlusion
from jaxinterp.attribution._smooth import smooth_grad as smooth_grad
from jaxinterp.attribution._smooth import var_grad as var_grad
from jaxinterp.attribution._stochastic import with_stderr as with_stderr
