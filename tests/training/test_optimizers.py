"""The schedules of the optimisers, from the size of their updates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import training

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("standard_promotion")]


def sizes(optimizer, steps, params=0.0):
    """The magnitude of each update for a constant gradient of one."""
    value = jnp.asarray([params])
    state, out = optimizer.init(value), []
    for _ in range(steps):
        update, state = optimizer.update(jnp.ones(1), state, value)
        out.append(float(-update[0]))
    return np.array(out)


def test_adamw_falls_to_zero_along_a_cosine():
    got = sizes(training.adamw(0.1, num_steps=20), 21)
    wanted = 0.05 * (1 + np.cos(np.pi * np.arange(21) / 20))
    np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_adamw_decays_weights_by_the_rate():
    plain = sizes(training.adamw(0.1, num_steps=20), 1, params=2.0)[0]
    decayed = sizes(training.adamw(0.1, num_steps=20, weight_decay=0.5), 1, params=2.0)[0]
    assert decayed - plain == pytest.approx(0.1 * 0.5 * 2.0, rel=1e-5)


def test_sgd_drops_by_ten_twice():
    got = sizes(training.sgd(0.1, num_steps=16, momentum=0.0), 16)
    np.testing.assert_allclose(got, [0.1] * 12 + [0.01] * 2 + [0.001] * 2, rtol=1e-5)


def test_sgd_has_momentum_and_weight_decay():
    got = sizes(training.sgd(0.1, num_steps=100, momentum=0.5), 3)
    np.testing.assert_allclose(got, [0.1, 0.15, 0.175], rtol=1e-5)
    decayed = sizes(training.sgd(0.1, num_steps=100, momentum=0.0, weight_decay=0.5), 1, params=2.0)
    np.testing.assert_allclose(decayed, [0.1 * (1 + 0.5 * 2.0)], rtol=1e-5)


def test_adam_is_constant():
    np.testing.assert_allclose(sizes(training.adam(0.03), 10), 0.03, rtol=1e-4)


@pytest.mark.parametrize("make", [training.adamw, training.sgd])
def test_the_length_must_be_positive(make):
    with pytest.raises(ValueError, match="num_steps"):
        make(0.1, num_steps=0)


def test_scalars_are_not_decayed():
    """Such as log β of an activation."""
    params = {"kernel": jnp.full(2, 2.0), "log_beta": jnp.asarray(2.0)}
    for optimizer in (
        training.adamw(0.1, num_steps=9, weight_decay=0.5),
        training.sgd(0.1, num_steps=9, weight_decay=0.5),
    ):
        updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
        assert float(updates["log_beta"]) == 0
        assert np.all(updates["kernel"] < 0)
