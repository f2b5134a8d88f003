"""Events as margins: none is negative where the event holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import local, robustness


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


@pytest.mark.parametrize("method", [robustness.taylor, robustness.monte_carlo, robustness.importance])
def test_an_event_returns_margins(method):
    lin = lambda x: jnp.stack([x[0], -x[0]])  # noqa: E731
    leading = () if method is robustness.taylor else (jax.random.key(0),)
    for event in (lambda clean, noisy: jnp.argmax(clean) == jnp.argmax(noisy), lambda clean, noisy: (clean, noisy)):
        with pytest.raises(TypeError, match=f"`event` of `{method.__name__}` must return margins"):
            method(lin, event=event)(*leading, jnp.ones(1), stddev=1.0)
    with pytest.raises(TypeError, match=f"`event` of `{method.__name__}` must be a function; got 'within'"):
        method(lin, event="within")(*leading, jnp.ones(1), stddev=1.0)


def test_noise_that_is_no_perturbation():
    lin = lambda x: jnp.stack([x[0], -x[0]])  # noqa: E731
    run = lambda drawn: robustness.monte_carlo(lin, neighbourhood=lambda key, x: drawn)(jax.random.key(0), jnp.ones(1))  # noqa: E731
    with pytest.raises(TypeError, match=r"must return a `local.Perturbation`"):
        run(jnp.ones(1))
    with pytest.raises(ValueError, match=r"`neighbourhood` of `monte_carlo` must have shape \(1,\)"):
        run(local.Perturbation(jnp.ones((2, 1)), jnp.ones(1), jnp.ones(1)))


def test_what_is_no_number():
    lin = lambda x: jnp.stack([x[0], -x[0]])  # noqa: E731
    for wrong in ("a", 1j):
        with pytest.raises(TypeError, match="`stddev` must be a real number"):
            robustness.taylor(lin)(jnp.ones(1), stddev=wrong)
    with pytest.raises(TypeError, match="returns one array; it returned tuple"):
        robustness.taylor(lambda x: (lin(x), x))(jnp.ones(1), stddev=1.0)
    with pytest.raises(TypeError, match="both came"):
        robustness.taylor(lin)(jnp.ones(1), stddev=1.0, factor=jnp.eye(1))


def test_ties_are_kept_and_masked_classes_do_not_matter():
    tied = lambda x: jnp.stack([x[0], x[0]])  # noqa: E731
    assert float(robustness.taylor(tied)(jnp.ones(1), stddev=1.0).probability) == 1.0
    masked = lambda x: jnp.stack([x[0], -x[0], -jnp.inf + 0 * x[0]])  # noqa: E731
    lin = lambda x: jnp.stack([x[0], -x[0]])  # noqa: E731
    both = [robustness.mmse(f)(jax.random.key(0), jnp.ones(1), stddev=1.0).probability for f in (lin, masked)]
    assert float(both[0]) == pytest.approx(float(both[1]), rel=1e-6)
