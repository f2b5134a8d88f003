"""Events as margins: none is negative where the event holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import robustness


@pytest.mark.core
def test_the_prediction_stays_where_no_margin_is_negative():
    rng = np.random.default_rng(0)
    for _ in range(50):
        clean, noisy = rng.normal(size=(2, 4))
        margins = np.asarray(robustness.same_prediction(jnp.asarray(clean), jnp.asarray(noisy)))
        assert margins.shape == (3,)
        assert np.all(margins >= 0) == (clean.argmax() == noisy.argmax())
        wanted = [noisy[clean.argmax()] - noisy[i] for i in range(4) if i != clean.argmax()]
        np.testing.assert_allclose(margins, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.core
def test_a_value_within_a_tolerance():
    margins = robustness.within(0.5)
    for change, holds in [(0.4, True), (-0.4, True), (0.6, False), (-0.6, False)]:
        assert bool(jnp.all(margins(jnp.asarray(1.0), jnp.asarray(1.0 + change)) >= 0)) == holds
    slope = jax.grad(lambda v: jnp.sum(margins(jnp.asarray(1.0), v) * jnp.array([1.0, 3.0])))(jnp.asarray(1.2))
    assert float(slope) == pytest.approx(2)


def test_an_event_of_ones_own():
    """That the first score stays above a threshold, whatever is predicted."""
    event = lambda clean, noisy: noisy[:1] - 0.5  # noqa: E731
    run = robustness.taylor(lambda x: 2 * x, event=event)
    found = run(jnp.array([1.0, 9.0]), stddev=0.5)
    assert float(found.probability) == pytest.approx(1 / (1 + np.exp(-1.5)), rel=1e-5)
