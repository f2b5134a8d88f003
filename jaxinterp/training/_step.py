"""One update, and one evaluation."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxinterp import interpreters, sparsity
from jaxinterp.training._objective import Objective
from jaxinterp.training._state import Optimizers, TrainState
from jaxinterp.typing import Array, PyTree

Step = Callable[[TrainState, tuple[Array, Array]], tuple[TrainState, dict[str, Array]]]
"""`(state, (x, y)) -> (new_state, metrics)`."""


def make_step(objective: Objective, optimizers: Optimizers) -> Step:
    """Returns the compiled step; it gives up the arrays of the state it takes (donation).

    The step's randomness is `fold_in(state.key, state.step)`, so it is a function of the state and the batch. The
    convolutions of its gradient are rewritten by `interpreters.loop_safe`.
    """

    def step(state: TrainState, batch: tuple[Array, Array]) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(state.key, state.step)
        gradient = interpreters.loop_safe(jax.value_and_grad(objective, argnums=(0, 1), has_aux=True))
        (_, (network_state, metrics)), slopes = gradient(state.params, state.gates, state.state, key, batch)
        updates, params_state = optimizers.params.update(slopes[0], state.opt_state[0], state.params)
        gate_updates, gates_state = optimizers.gates.update(slopes[1], state.opt_state[1], state.gates)
        new_state = dataclasses.replace(
            state,
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            gates=sparsity.project(optax.apply_updates(state.gates, gate_updates)),
            state=network_state,
            opt_state=(params_state, gates_state),
        )
        return new_state, metrics

    return jax.jit(step, donate_argnums=0)


def make_evaluation(
    apply: Callable[..., Array], *, batch_size: int = 256
) -> Callable[[PyTree, PyTree, np.ndarray, np.ndarray], dict[str, float]]:
    """Returns `(params, state, x, y) -> {"loss": ..., "accuracy": ...}` over a whole split.

    Args:
      apply: `(params, state, x) -> logits` for one example, in evaluation mode.
      batch_size: examples per compiled call.
    """

    @jax.jit
    def sums(params: PyTree, state: PyTree, x: Array, y: Array) -> tuple[Array, Array]:
        logits = jax.vmap(apply, (None, None, 0))(params, state, x)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        return jnp.sum(loss), jnp.sum(jnp.argmax(logits, -1) == y)

    def evaluate(params: PyTree, state: PyTree, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
        starts = range(0, len(y), batch_size)
        parts = [sums(params, state, x[i : i + batch_size], y[i : i + batch_size]) for i in starts]
        loss, correct = (sum(float(part[j]) for part in parts) / len(y) for j in (0, 1))
        return {"loss": loss, "accuracy": correct}

    return evaluate
