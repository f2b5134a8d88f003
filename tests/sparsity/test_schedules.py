"""Schedules against their formulas, and their ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import sparsity

pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.mark.core
def test_cycles():
    """s(0) = s_i, s(ρT) = s_f, periodic; after the last cycle the target stays."""
    schedule = jax.jit(sparsity.cyclical(0.9, num_cycles=3, cycle_length=40, ramp=0.5, initial=0.1))
    steps = np.arange(200)
    values = np.asarray(jax.vmap(schedule)(jnp.asarray(steps)))
    within = np.minimum(1, (steps % 40) / 20)
    expected = np.where(steps >= 120, 0.9, 0.9 + (0.1 - 0.9) * (1 - within) ** 3)
    np.testing.assert_allclose(values, expected, atol=1e-7)
    assert values[20] == values[39] == values[199] == jnp.asarray(0.9)


def test_the_cubic_ends_exactly_at_the_target():
    schedule = sparsity.gradual(0.95, start=10, end=73, initial=0.2)
    assert float(schedule(0)) == pytest.approx(0.2)
    assert schedule(73) == schedule(1000) == jnp.asarray(0.95)
    assert float(schedule(72)) < 0.95
    steps = jnp.arange(10, 74)
    np.testing.assert_allclose(schedule(steps), 0.95 - 0.75 * (1 - (np.arange(64) / 63)) ** 3, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sparsity.one_shot(1.0, step=3), "`target` must be a fraction from 0 to below 1"),
        (lambda: sparsity.gradual(-0.1, end=3), "`target` must be a fraction from 0 to below 1"),
        (lambda: sparsity.gradual(0.5, start=3, end=3), "must satisfy 0 <= start < end"),
        (lambda: sparsity.cyclical(0.5, num_cycles=0, cycle_length=3), "`num_cycles`"),
        (lambda: sparsity.cyclical(0.5, num_cycles=1, cycle_length=3, ramp=0.0), "`ramp` of `cyclical`"),
        (lambda: sparsity.cyclical(0.5, num_cycles=1, cycle_length=3, initial=float("nan")), "`initial`"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
