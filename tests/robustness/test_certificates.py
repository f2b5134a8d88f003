"""Certificates are never violated: exact radii of linear classifiers, SciPy, and random changes inside."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import strategies as st

from jaxinterp import robustness
from tests.robustness.scores import DTYPE, POINTS, B, W, linear, two_classes


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("n", [1, 20, 1000, 100_000])
@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_the_lower_bound_of_clopper_and_pearson(n, alpha):
    """The quantile of a beta distribution; not above it, which would not be a bound."""
    k = np.unique(np.round(np.linspace(0, n, 15)).astype(int))
    got = np.asarray(jax.vmap(lambda c: robustness.clopper_pearson_lower(c, n, alpha))(jnp.asarray(k)), np.float64)
    wanted = np.where(k == 0, 0.0, scipy.stats.beta.ppf(alpha, np.maximum(k, 1), n - k + 1))
    np.testing.assert_allclose(got, wanted, rtol=1e-9 if jax.config.jax_enable_x64 else 1e-6, atol=1e-12)
    assert np.all(got <= wanted)


@functools.cache
def smoothed():
    certify = robustness.smoothing_certificate(linear, num_samples=2000, alpha=0.01)
    return jax.jit(functools.partial(certify, stddev=0.7))


def true_radius(x, label):
    """A linear classifier, smoothed, has its own boundaries: the distance to the nearest one of two classes at most."""
    scores = W @ x + B
    return min((scores[label] - scores[i]) / np.linalg.norm(W[label] - W[i]) for i in range(5) if i != label)


@pytest.mark.parametrize("point", range(6))
def test_the_smoothed_classifier_keeps_its_promise(point):
    """With confidence 0.99 for each of six points: this key holds."""
    x = POINTS[point]
    found = smoothed()(jax.random.key(point), jnp.asarray(x, DTYPE))
    noise = np.random.default_rng(point).normal(size=(20_000, 20))
    if int(found.label) < 0:
        assert float(found.radius) == 0
        return
    rng = np.random.default_rng(7)
    for _ in range(5):
        change = rng.normal(size=20)
        change *= float(found.radius) / np.linalg.norm(change)
        votes = np.argmax((x + change + 0.7 * noise) @ W.T + B, 1)
        assert np.bincount(votes).argmax() == int(found.label)
    wanted = 0.7 * scipy.stats.norm.ppf(float(found.lower))
    assert float(found.radius) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.core
def test_two_classes_have_the_radius_of_their_distance():
    certify = jax.jit(robustness.smoothing_certificate(two_classes, num_samples=50_000, chunk_size=5000))
    found = certify(jax.random.key(0), jnp.array([-1.2]), stddev=1.0)
    assert int(found.label) == 1
    assert 1.15 < float(found.radius) <= 1.2
    torn = certify(jax.random.key(0), jnp.array([0.0]), stddev=1.0)
    assert (int(torn.label), float(torn.radius)) == (-1, 0)


@pytest.mark.core
@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(st.integers(0, 2**31))
def test_nothing_inside_the_lipschitz_radius_changes_the_prediction(seed):
    """A tanh network, whose Lipschitz constant is at most the product of its spectral norms: 400 changes for each."""
    rng = np.random.default_rng(seed)
    inner, outer, x = rng.normal(size=(6, 4)), rng.normal(size=(3, 6)), rng.normal(size=4)
    f = lambda x: outer.astype(np.float32) @ jnp.tanh(inner.astype(np.float32) @ x)  # noqa: E731
    bound = np.linalg.norm(inner, 2) * np.linalg.norm(outer, 2)
    radius = float(robustness.lipschitz_certificate(f)(jnp.asarray(x, jnp.float32), lipschitz=bound))
    changes = rng.normal(size=(400, 4))
    changes *= radius * rng.uniform(0.5, 1, (400, 1)) / np.linalg.norm(changes, axis=1, keepdims=True)
    clean = np.argmax(outer @ np.tanh(inner @ x))
    assert np.all(np.argmax(np.tanh((x + changes) @ inner.T) @ outer.T, 1) == clean)


@pytest.mark.core
def test_the_lipschitz_radius_of_a_linear_classifier_is_its_distance():
    x = POINTS[2]
    scores = W @ x + B
    t = scores.argmax()
    norms = [np.linalg.norm(W[t] - W[i]) for i in range(5) if i != t]
    certify = robustness.lipschitz_certificate(linear)
    got = certify(jnp.asarray(x, DTYPE), lipschitz=jnp.asarray(norms, DTYPE))
    assert float(got) == pytest.approx(true_radius(x, t), rel=1e-5)
    one = certify(jnp.asarray(x, DTYPE), lipschitz=np.linalg.norm(W, 2))
    assert 0 < float(one) < float(got)
    constant = robustness.lipschitz_certificate(lambda x: jnp.array([1.0, 0.0]) + 0 * x[0])
    assert np.isinf(constant(jnp.ones(1), lipschitz=0.0))


def test_what_is_refused():
    with pytest.raises(ValueError, match="`alpha` must be between 0 and 1"):
        robustness.smoothing_certificate(linear, alpha=0.0)
    with pytest.raises(ValueError, match="`stddev` of `smoothing_certificate` must be one number"):
        robustness.smoothing_certificate(two_classes)(jax.random.key(0), jnp.ones(1), stddev=jnp.ones(1))
    with pytest.raises(ValueError, match=r"`lipschitz` must be one number or 1; got shape \(3,\)"):
        robustness.lipschitz_certificate(two_classes)(jnp.ones(1), lipschitz=jnp.ones(3))


def test_low_precision_does_not_lengthen_a_radius():
    """σ is what was drawn, 0.36914 for 0.37 in bfloat16; margins are subtracted in float32."""
    certify = jax.jit(robustness.smoothing_certificate(two_classes, num_samples=500))
    found = certify(jax.random.key(0), jnp.array([4.0], jnp.bfloat16), stddev=0.37)
    wanted = float(jnp.bfloat16(0.37)) * scipy.stats.norm.ppf(float(found.lower))
    assert float(found.radius) == pytest.approx(wanted, rel=1e-5)
    scores = jnp.array([1.0, -0.005859], jnp.bfloat16)
    radius = robustness.lipschitz_certificate(lambda x: scores + 0 * x[0])(jnp.ones(1, jnp.bfloat16), lipschitz=[1.0])
    assert float(radius) <= float(scores[0]) - float(scores[1])


def test_counts_that_cannot_be():
    for successes, trials, alpha in ((11, 10, 0.05), (-1, 10, 0.05), (1, 10, 2.0), (1, 10, float("nan"))):
        with pytest.raises(ValueError, match="must be"):
            robustness.clopper_pearson_lower(jnp.asarray(successes), trials, alpha)
    traced = jax.jit(lambda k: robustness.clopper_pearson_lower(k, 10, 0.05))
    assert np.isnan(traced(11))
    assert np.isnan(traced(-1))
    with pytest.raises(TypeError, match="`successes` must be integers"):
        robustness.clopper_pearson_lower(jnp.asarray(3.0), 10, 0.05)
