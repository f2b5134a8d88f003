"""Training: state, objective, step, loop and checkpoints."""

from jaxinterp.training._checkpoints import CheckpointError as CheckpointError
from jaxinterp.training._checkpoints import Checkpoints as Checkpoints
from jaxinterp.training._loop import Callback as Callback
from jaxinterp.training._loop import DivergenceError as DivergenceError
from jaxinterp.training._loop import fit as fit
from jaxinterp.training._loop import require_finite as require_finite
from jaxinterp.training._metrics import append_metrics as append_metrics
from jaxinterp.training._metrics import cut_back_metrics as cut_back_metrics
from jaxinterp.training._metrics import read_metrics as read_metrics
from jaxinterp.training._objective import GateRegulariser as GateRegulariser
from jaxinterp.training._objective import Objective as Objective
from jaxinterp.training._objective import WeightedPenalty as WeightedPenalty
from jaxinterp.training._objective import final_masks as final_masks
from jaxinterp.training._objective import final_params as final_params
from jaxinterp.training._objective import make_objective as make_objective
from jaxinterp.training._optimizers import adam as adam
from jaxinterp.training._optimizers import adamw as adamw
from jaxinterp.training._optimizers import sgd as sgd
from jaxinterp.training._state import Optimizers as Optimizers
from jaxinterp.training._state import TrainState as TrainState
from jaxinterp.training._state import initial_state as initial_state
from jaxinterp.training._step import make_evaluation as make_evaluation
from jaxinterp.training._step import make_step as make_step
