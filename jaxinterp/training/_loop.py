"""The loop around the step."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxinterp import checks, tree
from jaxinterp.training._state import TrainState
from jaxinterp.training._step import Step
from jaxinterp.typing import Array


@dataclasses.dataclass(frozen=True)
class Callback:
    """What is to be done every `every` steps and after the last one.

    Attributes:
      every: number of steps.
      call: takes the step, the state after it and the step's metrics (arrays on the device: reading them waits). The
        state's arrays are given up by the next step; copy what is to be kept.
    """

    every: int
    call: Callable[[int, TrainState, dict[str, Array]], None]


class DivergenceError(ArithmeticError):
    """The loss or the parameters are NaN or infinite."""


def fit(
    step: Step,
    state: TrainState,
    batch: Callable[[int], Any],
    num_steps: int,
    callbacks: Sequence[Callback] = (),
) -> TrainState:
    """Runs `step` until `num_steps` updates have been made in all, those before a resumption included.

    Args:
      step: `(state, batch) -> (state, metrics)`.
      state: where to begin; its arrays are given up.
      batch: `number of the step -> (x, y)`.
      num_steps: total number of updates.
      callbacks: called in their order.

    Returns:
      The last state.
    """
    checks.positive_integer("num_steps", num_steps)
    for done in range(int(state.step) + 1, num_steps + 1):
        state, metrics = step(state, batch(done - 1))
        for callback in callbacks:
            if done % callback.every == 0 or done == num_steps:
                callback.call(done, state, metrics)
    return state


def require_finite(step: int, metrics: dict[str, Array], state: TrainState | None = None) -> dict[str, float]:
    """Returns the metrics as floats.

    Raises:
      DivergenceError: if one is not finite, or one of the state's parameters, gates or statistics, which are from
        after the update and the metrics from before; such a state is worthless and must not be saved.
    """
    values = {name: float(value) for name, value in metrics.items()}
    bad = [f"{name} = {value}" for name, value in values.items() if not np.isfinite(value)]
    if state is not None and not tree.all_finite((state.params, state.gates, state.state)):
        bad.append("the parameters are not finite")
    if bad:
        raise DivergenceError(
            f"Training diverged: after step {step}, {', '.join(bad)}. Lower the learning rate or the weights of the "
            "penalties; checkpoints, if any, are from before."
        )
    return values
