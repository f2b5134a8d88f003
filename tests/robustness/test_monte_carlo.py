"""The frequency of survival against loops over the same samples and closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxinterp import local
from jaxinterp.derivatives import orthant
from jaxinterp.robustness import monte_carlo, taylor, within
from tests.robustness.scores import (
    DTYPE,
    POINTS,
    B,
    W,
    curved,
    curved_in_numpy,
    linear,
    own_noise,
    probability,
    two_classes,
)


@pytest.mark.numerics
@pytest.mark.parametrize("chunk_size", [1, 7, 64, None])
def test_monte_carlo_is_the_frequency_among_its_own_samples(chunk_size):
    """No margin of these samples is close enough to 0 for a rounding error to matter."""
    n, sigma, x = 150, 0.9, POINTS[3]
    scores = (x + sigma * own_noise(5, n, (20,))) @ W.T + B
    assert np.diff(np.sort(scores, 1)[:, -2:], axis=1).min() > 1e-4
    p = np.mean(np.argmax(scores, 1) == np.argmax(W @ x + B))
    assert 0.1 < p < 0.9
    run = jax.jit(monte_carlo(linear, num_samples=n, chunk_size=chunk_size))
    got = run(jax.random.key(5), jnp.asarray(x, DTYPE), stddev=sigma)
    assert probability(got) == pytest.approx(p, rel=1e-5)
    assert float(got.stderr) == pytest.approx((p * (1 - p) / n) ** 0.5, rel=1e-5)
    assert int(got.num_samples) == n
    assert (got.probability.dtype, got.num_samples.dtype) == (DTYPE, jnp.int32)


@pytest.mark.numerics
def test_monte_carlo_with_noise_of_several_sizes():
    """A pytree prefix of σ, and two of three arguments with noise; the last stays as it is."""
    f = lambda a, c, b: curved({"u": a, "v": b["v"]}) + c  # noqa: E731
    a, v, c, n = np.array([0.2, -0.5]), np.array([[0.3]]), np.array([0.1, 0.0, -0.1]), 200
    run = jax.jit(monte_carlo(f, (0, 2), num_samples=n))
    args = (jnp.asarray(a, DTYPE), jnp.asarray(c, DTYPE), {"v": jnp.asarray(v, DTYPE)})
    sigma_a = np.array([0.6, 0.0])
    got = run(jax.random.key(8), *args, stddev=(jnp.asarray(sigma_a, DTYPE), 1.2))
    points = np.concatenate([a + sigma_a * own_noise(8, n, (2,)), 0.3 + 1.2 * own_noise(8, n, (1, 1), 1)[:, 0]], 1)
    scores = np.array([curved_in_numpy(point)[0] + c for point in points])
    clean = curved_in_numpy(np.append(a, v))[0] + c
    assert probability(got) == pytest.approx(np.mean(scores.argmax(1) == clean.argmax()), rel=1e-5)
    assert 0.1 < probability(got) < 0.9


@pytest.mark.parametrize("sigma", [0.3, 1.0, 4.0])
def test_monte_carlo_of_two_classes(sigma):
    """Φ(|x|/σ); 4 standard errors of three cases fail for one key in 5000."""
    estimate = jax.jit(monte_carlo(two_classes, num_samples=20_000, chunk_size=5000))(
        jax.random.key(1), jnp.array([-0.6]), stddev=sigma
    )
    assert abs(probability(estimate) - scipy.stats.norm.cdf(0.6 / sigma)) < 4 * float(estimate.stderr)
    assert float(estimate.stderr) < 0.004


def test_monte_carlo_without_noise():
    estimate = monte_carlo(two_classes, num_samples=13, chunk_size=4)(jax.random.key(0), jnp.array([1.0]), stddev=0.0)
    assert probability(estimate) == 1
    assert float(estimate.stderr) == 0


def test_monte_carlo_compares_with_the_prediction_and_not_with_a_label():
    """A class that leads everywhere is always predicted, a lead at the clean point alone never survives."""
    always = lambda x: jnp.stack([x[0], x[0] + 1])  # noqa: E731
    never = lambda x: jnp.stack([jnp.where(x[0] == 1, 2.0, 0.0), jnp.ones(())])  # noqa: E731
    x = jnp.ones(1, jnp.float32)
    for f, p in [(always, 1), (never, 0)]:
        estimate = monte_carlo(f, num_samples=50)(jax.random.key(0), x, stddev=3.0)
        assert probability(estimate) == p
        assert float(estimate.stderr) == 0


# Other noise, other events


def test_monte_carlo_in_a_ball():
    """The share of a ball above a plane, in three dimensions (2 - 3h + h³)/4 below the height -h."""
    run = jax.jit(monte_carlo(two_classes, num_samples=20_000, chunk_size=None, neighbourhood=local.ball))
    got = run(jax.random.key(1), jnp.array([0.6, 0.0, 0.0]), radius=1.5)
    h = 0.4
    assert abs(probability(got) - (1 - (2 - 3 * h + h**3) / 4)) < 4 * float(got.stderr)


def test_monte_carlo_with_the_covariance_of_a_factor():
    factor = np.array([[1.0, 0.0], [0.8, 0.6]])
    both = lambda x: jnp.stack([jnp.zeros(()), -1 - x[0], -1 - x[1]])  # noqa: E731
    noise = {"neighbourhood": local.correlated_gaussian, "num_samples": 20_000, "chunk_size": None}
    got = jax.jit(monte_carlo(both, **noise))(jax.random.key(0), jnp.zeros(2), factor=jnp.asarray(factor, DTYPE))
    wanted = scipy.stats.multivariate_normal.cdf([1, 1], [0, 0], factor @ factor.T)
    assert abs(probability(got) - wanted) < 4 * float(got.stderr)


def test_a_regression_within_a_tolerance():
    """|a·ε| <= δ: the same for `monte_carlo` and, in closed form, for `taylor` with the normal CDF."""
    slope, delta, sigma = np.array([3.0, -4.0]), 2.0, 0.3
    f = lambda x: jnp.vdot(jnp.asarray(slope, x.dtype), x) + 7  # noqa: E731
    wanted = 1 - 2 * scipy.stats.norm.cdf(-delta / (5 * sigma))
    run = jax.jit(monte_carlo(f, num_samples=20_000, chunk_size=None, event=within(delta)))
    got = run(jax.random.key(2), jnp.ones(2), stddev=sigma)
    assert abs(probability(got) - wanted) < 4 * float(got.stderr)
    cdf = functools.partial(orthant(), jax.random.key(0))
    exact = jax.jit(taylor(f, cdf=cdf, event=within(delta)))(jnp.ones(2), stddev=sigma)
    assert probability(exact) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("precision", [0.05, 0.01])
def test_it_stops_as_soon_as_it_knows_enough(precision):
    run = jax.jit(monte_carlo(two_classes, num_samples=50_000, chunk_size=50, precision=precision))
    got = run(jax.random.key(1), jnp.array([0.5]), stddev=1.0)
    assert float(got.stderr) < precision
    share = probability(got)
    assert int(got.num_samples) == pytest.approx(share * (1 - share) / precision**2, rel=0.1, abs=51)
    assert abs(share - scipy.stats.norm.cdf(0.5)) < 4 * precision
    sure = run(jax.random.key(1), jnp.array([50.0]), stddev=1.0)
    assert (probability(sure), float(sure.stderr)) == (1, 0)
    assert 50 <= int(sure.num_samples) <= 50 + 2 / precision
    all_of_them = jax.jit(monte_carlo(two_classes, num_samples=70, chunk_size=50, precision=1e-6))
    assert int(all_of_them(jax.random.key(1), jnp.array([0.5]), stddev=1.0).num_samples) == 70


def test_what_is_refused():
    with pytest.raises(ValueError, match="`precision` must be positive; got 0"):
        monte_carlo(two_classes, precision=0.0)
    with pytest.raises(ValueError, match="`tolerance` must be finite and >= 0"):
        within(-1.0)
    with pytest.raises(TypeError, match="`within` needs a function that returns a scalar"):
        monte_carlo(two_classes, event=within(1.0))(jax.random.key(0), jnp.ones(1), stddev=1.0)
    with pytest.raises(ValueError, match=r"`factor` of `correlated_gaussian` must have a row for each of the 1"):
        monte_carlo(two_classes, neighbourhood=local.correlated_gaussian)(
            jax.random.key(0), jnp.ones(1), factor=jnp.eye(2)
        )
