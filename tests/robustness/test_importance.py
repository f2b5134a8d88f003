"""Rare failures against closed forms, and the frequency of Monte Carlo where that can be had."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxinterp import robustness
from tests.robustness.scores import DTYPE, POINTS, B, W, linear, margins, normal_cdf, two_classes


@functools.cache
def compiled(f, **options):
    return jax.jit(robustness.importance(f, **options))


@pytest.mark.core
@pytest.mark.parametrize("distance", [0.2, 1.0, 3.0, 5.0, 8.0, 12.0])
def test_the_tail_of_one_margin(distance):
    found = compiled(two_classes)(jax.random.key(1), jnp.asarray([distance], DTYPE), stddev=1.0)
    wanted = scipy.stats.norm.cdf(-distance)
    assert abs(float(found.failure) - wanted) < 4 * float(found.stderr)
    assert float(found.stderr) < (0.02 if distance < 1 else 0.15 * wanted)
    assert float(found.probability) == pytest.approx(1 - wanted, abs=0.1)
    assert float(found.stderr) <= 5**0.5 * (wanted * (1 - wanted) / 1000) ** 0.5


def test_two_margins_in_twenty_dimensions():
    """A linear function of five classes: 1 - Φ_R(z), where the second margin counts."""
    x, sigma = POINTS[0], 0.25
    z, cosines = margins(W @ x + B, W, sigma)
    wanted = 1 - normal_cdf(z, cosines)
    assert 1e-6 < wanted < 0.05
    found = compiled(linear, num_samples=4000, num_margins=4)(jax.random.key(2), jnp.asarray(x, DTYPE), stddev=sigma)
    assert abs(float(found.failure) - wanted) < 4 * float(found.stderr)
    assert float(found.stderr) < 0.2 * (wanted / 4000) ** 0.5


def test_it_is_unbiased_whatever_the_shifts():
    """A bent margin, 300 keys: the mean within 4 of its standard errors, which those that are stated predict."""
    bent = lambda x: jnp.stack([2.5 + x[0] + 0.3 * x[1] ** 2 - 0.2 * x[0] * x[2], jnp.zeros_like(x[0])])  # noqa: E731
    noise = np.random.default_rng(0).normal(size=(4_000_000, 3))
    exact = np.mean(2.5 + noise[:, 0] + 0.3 * noise[:, 1] ** 2 - 0.2 * noise[:, 0] * noise[:, 2] < 0)
    run = jax.jit(jax.vmap(functools.partial(robustness.importance(bent, num_samples=200), stddev=1.0), (0, None)))
    found = run(jax.random.split(jax.random.key(0), 300), jnp.zeros(3, DTYPE))
    failures = np.asarray(found.failure)
    stderr = np.hypot(failures.std() / 300**0.5, (exact / len(noise)) ** 0.5)
    assert abs(failures.mean() - exact) < 4 * stderr
    assert 0.7 < np.sqrt(np.mean(np.asarray(found.stderr) ** 2)) / failures.std() < 1.4
    assert failures.std() < 0.5 * (exact / 200) ** 0.5, "half the error of Monte Carlo"


@pytest.mark.core
def test_rare_survivals_are_counted_instead():
    """A prediction at the tip of a region that noise nearly always leaves."""
    tip = lambda x: jnp.stack([0.01 - jnp.abs(x[0]) - 3 * jnp.tanh(10 * jnp.abs(x[1])), jnp.zeros(())])  # noqa: E731
    found = jax.jit(robustness.importance(tip))(jax.random.key(0), jnp.zeros(2), stddev=1.0)
    assert float(found.probability) < 0.02
    assert float(found.failure) == pytest.approx(1 - float(found.probability), abs=1e-6)


@pytest.mark.core
def test_within_a_tolerance_and_what_is_no_number():
    slope = lambda x: 3 * x["a"] + 4 * x["b"][0]  # noqa: E731
    x = {"a": jnp.asarray(1.0), "b": jnp.zeros(1)}
    found = jax.jit(robustness.importance(slope, event=robustness.within(8.0)))(jax.random.key(3), x, stddev=0.4)
    assert float(found.failure) == pytest.approx(2 * scipy.stats.norm.cdf(-4), rel=0.2)
    nan = lambda x: two_classes(x) * jnp.nan  # noqa: E731
    assert np.isnan(robustness.importance(nan, num_samples=10)(jax.random.key(0), jnp.ones(1), stddev=1.0).failure)
    constant = lambda x: jnp.stack([1 + 0 * x[0], 0 * x[0]])  # noqa: E731
    sure = robustness.importance(constant, num_samples=10)(jax.random.key(0), jnp.ones(1), stddev=1.0)
    assert (float(sure.failure), float(sure.stderr), float(sure.probability)) == (0, 0, 1)


def test_what_is_refused():
    with pytest.raises(ValueError, match="a pilot of two noisy copies or more"):
        robustness.importance(two_classes, num_pilot=1)
    with pytest.raises(ValueError, match="`stddev` must be finite and >= 0"):
        robustness.importance(two_classes)(jax.random.key(0), jnp.ones(1), stddev=-1.0)


@pytest.mark.core
def test_a_margin_that_noise_does_not_move():
    f = lambda x: jnp.stack([x[0], -x[0], x[0] - 10])  # noqa: E731
    found = jax.jit(robustness.importance(f))(jax.random.key(0), jnp.array([3.0]), stddev=1.0)
    assert float(found.failure) == pytest.approx(scipy.stats.norm.cdf(-3), rel=0.3)
    still = robustness.importance(f, num_samples=20)(jax.random.key(0), jnp.array([3.0]), stddev=0.0)
    assert float(still.probability) == 1


@pytest.mark.core
@pytest.mark.parametrize("columns", [3, 40])
def test_noise_of_a_covariance(columns):
    """One margin of slope w under noise of covariance AAᵀ, of low rank or full: Φ(-wᵀx / ‖Aᵀw‖)."""
    rng = np.random.default_rng(columns)
    factor, w, x = rng.normal(size=(20, columns)) / columns**0.5, rng.normal(size=20), rng.normal(size=20)
    x = x + w * (3.5 * np.linalg.norm(factor.T @ w) - w @ x) / (w @ w)
    f = lambda tree: jnp.stack([jnp.dot(jnp.asarray(w, DTYPE), tree["x"].ravel()), jnp.zeros((), DTYPE)])  # noqa: E731
    point = {"x": jnp.asarray(x.reshape(4, 5), DTYPE)}
    run = jax.jit(lambda key, a: robustness.importance(f)(key, point, factor=a))
    found = run(jax.random.key(4), jnp.asarray(factor, DTYPE))
    wanted = scipy.stats.norm.cdf(-3.5)
    assert abs(float(found.failure) - wanted) < 4 * float(found.stderr)
    assert float(found.stderr) < 0.15 * wanted
    with pytest.raises(TypeError, match="`importance` needs the noise: either `stddev=` or `factor=`; both came"):
        robustness.importance(f)(jax.random.key(4), point, stddev=1.0, factor=jnp.ones((20, 1)))


def test_noise_that_leads_to_nan_counts_as_failure():
    f = lambda x: jnp.stack([jnp.log(x[0]), jnp.full((), -5.0)])  # noqa: E731
    found = jax.jit(robustness.importance(f, num_samples=4000))(jax.random.key(1), jnp.array([1.0]), stddev=0.7)
    wanted = scipy.stats.norm.cdf((np.exp(-5) - 1) / 0.7)
    assert abs(float(found.failure) - wanted) < 4 * float(found.stderr)


def test_inputs_of_several_dtypes():
    x = {"u": jnp.asarray([3.0], jnp.float32), "v": jnp.zeros(2, jnp.bfloat16)}
    found = robustness.importance(lambda x: jnp.stack([x["u"][0], -x["u"][0]]))(jax.random.key(1), x, stddev=1.0)
    assert abs(float(found.failure) - scipy.stats.norm.cdf(-3.0)) < 4 * float(found.stderr)


@pytest.mark.core
@pytest.mark.parametrize("classes", [2, 6])
@pytest.mark.parametrize("chunk_size", [8, 16])
def test_a_masked_class_changes_nothing(classes, chunk_size):
    """Its logit is minus infinity, in the pilot as in the samples."""
    slopes = jnp.linspace(1, -1, classes, dtype=DTYPE)
    masked = lambda x: jnp.append(slopes * x[0], -jnp.inf).astype(DTYPE)  # noqa: E731
    found = robustness.importance(masked, chunk_size=chunk_size)(
        jax.random.key(3), jnp.asarray([4.0], DTYPE), stddev=1.0
    )
    wanted = scipy.stats.norm.cdf(-4)
    assert abs(float(found.failure) - wanted) < 4 * float(found.stderr)
    assert float(found.stderr) < 0.15 * wanted


@pytest.mark.core
def test_what_counts_is_not_differentiated():
    """Its weights have derivatives, but the event has none."""
    x, key = jnp.asarray([1.0], DTYPE), jax.random.key(0)
    counted = [
        lambda x, s: robustness.importance(two_classes, num_samples=20)(key, x, stddev=s).failure,
        lambda x, s: robustness.monte_carlo(two_classes, num_samples=20)(key, x, stddev=s).probability,
        lambda x, s: robustness.smoothing_certificate(two_classes, num_samples=20)(key, x, stddev=s).radius,
    ]
    for method in counted:
        with pytest.raises(TypeError, match="counts, so it has no derivative"):
            jax.jit(jax.grad(method))(x, 1.0)
        held = jax.grad(lambda x, method=method: jnp.sum(method(jax.lax.stop_gradient(x), 1.0) * x))
        assert np.isfinite(jax.jit(held)(x))
    for method in counted[:2]:
        with pytest.raises(TypeError, match="counts, so it has no derivative"):
            jax.grad(method, 1)(x, 1.0)
