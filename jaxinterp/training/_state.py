"""The state of a training run."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from jaxinterp import checks
from jaxinterp.typing import Array, Key, PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a step of training depends on, besides its batch.

    Attributes:
      step: number of updates made, an int32 scalar.
      params: parameters.
      gates: one tree of gates for each gate configuration (see `jaxinterp.sparsity`); may be empty.
      state: what else the network keeps, such as running statistics.
      opt_state: of the two optimisers, of the parameters and of the gates.
      key: the random key of the run; a step folds its number into it.
    """

    step: Array
    params: PyTree
    gates: tuple
    state: PyTree
    opt_state: tuple
    key: Key


@dataclasses.dataclass(frozen=True)
class Optimizers:
    """The optimiser of the parameters and that of the gates, which are not decayed and not scheduled."""

    params: optax.GradientTransformation
    gates: optax.GradientTransformation


def initial_state(optimizers: Optimizers, key: Key, params: PyTree, state: PyTree, gates: tuple = ()) -> TrainState:
    """Returns the state before the first step; copies the arrays, for a step gives up those of the state it takes."""
    checks.key("initial_state", key)
    params, state, gates = jax.tree.map(jnp.array, (params, state, gates))
    opt_state = (optimizers.params.init(params), optimizers.gates.init(gates))
    return TrainState(jnp.zeros((), jnp.int32), params, gates, state, opt_state, key)
