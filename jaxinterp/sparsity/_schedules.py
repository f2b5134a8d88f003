"""How sparse a network is after a number of updates: plain functions of the step, for any transformation."""

from collections.abc import Callable

import jax.numpy as jnp

from jaxinterp import checks
from jaxinterp.typing import Array

Schedule = Callable[[Array | int], Array]
"""`step -> sparsity`, the fraction that is removed after so many updates, in [0, 1)."""


def sparsity_level(name: str, value: float) -> float:
    """Returns `value` if it is a fraction that leaves something; `TypeError` or `ValueError` otherwise."""
    if not 0 <= checks.number(name, value) < 1:
        raise ValueError(f"`{name}` must be a fraction from 0 to below 1, of what is removed; got {value}.")
    return float(value)


def one_shot(target: float, *, step: int) -> Schedule:
    """Nothing is removed before `step`, and all at once there.

    >>> schedule = one_shot(0.9, step=10)
    >>> float(schedule(9)), round(float(schedule(10)), 4)
    (0.0, 0.9)
    """
    target = sparsity_level("target", target)
    checks.positive_integer("step", step)
    return lambda t: jnp.where(jnp.asarray(t) >= step, target, 0.0)


def gradual(target: float, *, end: int, start: int = 0, initial: float = 0.0) -> Schedule:
    r"""From the initial to the target sparsity along a cubic: :math:`s_f + (s_i - s_f)(1 - p)^3`.

    p rises linearly from 0 at `start` to 1 at `end`; there and after the target holds exactly.

    Source: Zhu & Gupta (2018).

    >>> schedule = gradual(0.8, end=100)
    >>> [round(float(schedule(t)), 4) for t in (0, 50, 100, 200)]
    [0.0, 0.7, 0.8, 0.8]
    """
    target, initial = sparsity_level("target", target), sparsity_level("initial", initial)
    if not 0 <= checks.number("start", start) < checks.number("end", end):
        raise ValueError(f"`start` and `end` of `gradual` must satisfy 0 <= start < end; got {start} and {end}.")

    def schedule(step: Array | int) -> Array:
        return _cubic((jnp.asarray(step) - start) / (end - start), initial, target)

    return schedule


def cyclical(
    target: float, *, num_cycles: int, cycle_length: int, ramp: float = 0.75, initial: float = 0.0
) -> Schedule:
    r"""A `gradual` schedule again and again, so that what was removed wrongly can come back.

    In each cycle of T steps the sparsity rises as in `gradual` during the first :math:`\rho T` of them and stays at the
    target for the rest; the next cycle starts from the initial sparsity. After the last cycle the target holds. To be
    used with `prune(..., regrow=True)`.

    Source: Srinivas, Kuzmin, Nagel, van Baalen, Skliar & Blankevoort (2022); the curve within a cycle is our reading.

    >>> schedule = cyclical(0.9, num_cycles=2, cycle_length=100)
    >>> [round(float(schedule(t)), 4) for t in (0, 75, 99, 100, 175, 200, 300)]
    [0.0, 0.9, 0.9, 0.0, 0.9, 0.9, 0.9]
    """
    target, initial = sparsity_level("target", target), sparsity_level("initial", initial)
    checks.positive_integer("num_cycles", num_cycles)
    checks.positive_integer("cycle_length", cycle_length)
    if not 0 < checks.number("ramp", ramp) <= 1:
        raise ValueError(f"`ramp` of `cyclical` must be a fraction of the cycle, above 0; got {ramp}.")

    def schedule(step: Array | int) -> Array:
        step = jnp.asarray(step)
        progress = (step % cycle_length) / (ramp * cycle_length)
        return _cubic(jnp.where(step >= num_cycles * cycle_length, 1.0, progress), initial, target)

    return schedule


def _cubic(progress: Array, initial: float, target: float) -> Array:
    progress = jnp.clip(progress, 0, 1)
    return jnp.where(progress >= 1, target, target + (initial - target) * (1 - progress) ** 3)
