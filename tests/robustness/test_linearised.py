"""Linearised probabilities: closed forms and SciPy for linear functions, the properties of every estimator."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from jaxinterp.derivatives import orthant
from jaxinterp.robustness import mmse, monte_carlo, multivariate_sigmoid, softmax, taylor
from tests.robustness.scores import (
    DTYPE,
    POINTS,
    TOLERANCE,
    X64,
    B,
    W,
    curved,
    curved_in_numpy,
    curved_tree,
    linear,
    margins,
    normal_cdf,
    own_noise,
    probability,
    survival,
    two_classes,
)

# The multivariate sigmoid


@pytest.mark.numerics
@pytest.mark.parametrize("z", [[0.0], [1.3], [-2.0, 0.5], [30.0, 1.0, -3.0], list(np.linspace(-4, 4, 9)), [-80.0, 0.0]])
def test_the_multivariate_sigmoid_and_its_gradient(z):
    """1/(1 + Σ e⁻ᶻ) with the gradient p² e⁻ᶻ; also where it is e⁻⁸⁰."""
    z = np.array(z)
    p = 1 / (1 + np.exp(-z).sum())
    got, slope = jax.jit(jax.value_and_grad(multivariate_sigmoid))(jnp.asarray(z, DTYPE))
    assert got.dtype == DTYPE
    rtol = 1e-12 if X64 else 2e-5  # 80 is rounded to 4e-6
    np.testing.assert_allclose(got, p, rtol=rtol)
    np.testing.assert_allclose(slope, p**2 * np.exp(-z), rtol=rtol, atol=1e-60 if X64 else 1e-37)
    np.testing.assert_allclose(got, scipy.special.softmax(np.append(-z, 0))[-1], rtol=rtol)


def test_the_multivariate_sigmoid_is_not_the_normal_cdf():
    """In one dimension 0.117 away from Φ at most, as its documentation says, and blind to the correlation."""
    z = np.linspace(-6, 6, 2401)
    got = jax.vmap(multivariate_sigmoid)(jnp.asarray(z, DTYPE)[:, None])
    assert np.abs(np.asarray(got) - scipy.stats.norm.cdf(z)).max() == pytest.approx(0.1174, abs=1e-4)
    pair = jnp.array([0.3, 0.4])
    assert multivariate_sigmoid(pair, jnp.eye(2)) == multivariate_sigmoid(pair, jnp.ones((2, 2)))


def test_the_multivariate_sigmoid_of_what_is_not_finite():
    """An infinite margin is a class that never wins, a margin of minus infinity one that always does."""
    inf = np.inf
    assert float(multivariate_sigmoid(jnp.array([inf, 1.0]))) == pytest.approx(scipy.special.expit(1.0), rel=1e-6)
    assert float(multivariate_sigmoid(jnp.array([inf, inf]))) == 1
    assert float(multivariate_sigmoid(jnp.array([-inf, 1.0]))) == 0
    assert float(multivariate_sigmoid(jnp.array([-2000.0, 1.0]))) == 0
    assert np.isnan(multivariate_sigmoid(jnp.array([np.nan, 1.0])))
    assert np.isnan(multivariate_sigmoid(jnp.array([inf, np.nan])))
    np.testing.assert_allclose(jax.grad(multivariate_sigmoid)(jnp.array([inf, 0.0])), [0, 0.25], rtol=1e-6)


# Taylor


@pytest.mark.numerics
@pytest.mark.parametrize("point", range(6))
@pytest.mark.parametrize("sigma", [0.1, 2.0])
def test_what_the_cdf_of_taylor_is_given(point, sigma):
    """The points predict several classes, so the order of the other classes counts."""
    x = POINTS[point]
    z, cosines = margins(W @ x + B, W, sigma)
    got_z, got_cosines = (
        jax.jit(taylor(linear, cdf=take))(jnp.asarray(x, DTYPE), stddev=sigma).probability
        for take in (lambda z, r: z, lambda z, r: r)
    )
    np.testing.assert_allclose(got_z, z, rtol=TOLERANCE, atol=TOLERANCE * z.max())
    np.testing.assert_allclose(got_cosines, cosines, rtol=0, atol=TOLERANCE)


def test_the_points_predict_several_classes():
    assert len(set(np.argmax(POINTS @ W.T + B, 1))) >= 3


@pytest.mark.numerics
@pytest.mark.parametrize("sigma", [0.4, 1.5])
def test_taylor_with_the_normal_cdf_is_exact_for_a_linear_function(sigma):
    """Against the frequency under NumPy's noise: 4 standard errors of 200 000 samples fail for one seed in 15 000."""
    x = POINTS[0]
    z, cosines = (
        np.asarray(taylor(linear, cdf=take)(jnp.asarray(x, DTYPE), stddev=sigma).probability, np.float64)
        for take in (lambda z, r: z, lambda z, r: r)
    )
    noise = np.random.default_rng(1).normal(size=(200_000, 20))
    survived = np.argmax((x + sigma * noise) @ W.T + B, 1) == np.argmax(W @ x + B)
    p, stderr = survived.mean(), survived.std() / len(survived) ** 0.5
    assert 0.1 < p < 0.995
    assert abs(normal_cdf(z, cosines + 1e-9 * np.eye(4)) - p) < 4 * stderr + 1e-5
    assert abs(probability(taylor(linear)(jnp.asarray(x, DTYPE), stddev=sigma)) - p) > 10 * stderr  # a proxy only


@pytest.mark.numerics
@pytest.mark.parametrize("sigma", [0.2, 1.0, 5.0])
@pytest.mark.parametrize("x", [1.3, -0.4])
def test_taylor_of_two_classes(x, sigma):
    """The margin 2|x| has a gradient of length 2: Φ(|x|/σ), and the logistic function for the default."""
    point = jnp.asarray([x], DTYPE)
    exact = taylor(two_classes, cdf=lambda z, _: jax.scipy.stats.norm.cdf(z[0]))
    assert probability(exact(point, stddev=sigma)) == pytest.approx(scipy.stats.norm.cdf(abs(x) / sigma), rel=1e-6)
    default = taylor(two_classes)(point, stddev=sigma)
    assert probability(default) == pytest.approx(scipy.special.expit(abs(x) / sigma), rel=TOLERANCE)
    assert float(default.stderr) == 0
    assert int(default.num_samples) == 0
    assert (default.probability.dtype, default.num_samples.dtype) == (DTYPE, jnp.int32)


@pytest.mark.numerics
@pytest.mark.parametrize("seed", range(4))
def test_taylor_of_a_curved_function_of_a_pytree(seed):
    flat, sigma = np.random.default_rng(seed).normal(size=3), 0.7
    got = jax.jit(taylor(curved))(curved_tree(flat), stddev=sigma)
    assert probability(got) == pytest.approx(survival(*curved_in_numpy(flat), sigma), rel=10 * TOLERANCE)


def test_taylor_with_noise_on_some_arguments():
    """Scores [ab, c, 0]: with respect to a and c the margins have the gradients (b, -1) and (b, 0)."""
    f = lambda a, b, c: jnp.stack([a * b, c, jnp.zeros_like(a)])  # noqa: E731
    a, b, c = 2.0, 1.5, 1.0
    jacobian = {(0, 2): [[b, 0], [0, 1], [0, 0]], (1,): [[a], [0], [0]], (2, 0): [[0, b], [1, 0], [0, 0]]}
    scores = np.array([a * b, c, 0])
    for argnums, rows in jacobian.items():
        got = taylor(f, argnums)(jnp.asarray(a), jnp.asarray(b), jnp.asarray(c), stddev=0.8)
        assert probability(got) == pytest.approx(survival(scores, np.array(rows, float), 0.8), rel=1e-5)
    single = taylor(f, 1)(jnp.asarray(a), jnp.asarray(b), jnp.asarray(c), stddev=0.8)
    assert probability(single) == pytest.approx(survival(scores, np.array(jacobian[(1,)], float), 0.8), rel=1e-5)


@pytest.mark.numerics
def test_the_gradient_of_taylor():
    """In the input and in σ, against central differences of the float64 formula."""
    flat, sigma, h = np.array([0.3, -0.8, 0.5]), 0.7, 1e-5
    estimate = lambda x, s: taylor(curved)(x, stddev=s).probability  # noqa: E731
    by_x, by_sigma = jax.jit(jax.grad(estimate, (0, 1)))(curved_tree(flat), jnp.asarray(sigma, DTYPE))
    p = lambda x, s: survival(*curved_in_numpy(x), s)  # noqa: E731
    wanted = [(p(flat + h * e, sigma) - p(flat - h * e, sigma)) / (2 * h) for e in np.eye(3)]
    tolerance = {"rtol": 1e-7, "atol": 1e-9} if X64 else {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(np.append(by_x["u"], by_x["v"]), wanted, **tolerance)
    np.testing.assert_allclose(by_sigma, (p(flat, sigma + h) - p(flat, sigma - h)) / (2 * h), **tolerance)


def test_taylor_of_a_class_that_keeps_its_distance():
    """Scores (x, x - 3, -x): the second class never wins, and the other gives σ(x/σ), with all its derivatives."""
    f = lambda x: jnp.stack([x[0], x[0] - 3, -x[0]])  # noqa: E731
    p = lambda x: taylor(f)(x, stddev=2.0).probability  # noqa: E731
    wanted = scipy.special.expit(0.5)
    assert float(p(jnp.array([1.0]))) == pytest.approx(wanted, rel=1e-6)
    np.testing.assert_allclose(jax.grad(p)(jnp.array([1.0])), [wanted * (1 - wanted) / 2], rtol=1e-5)


@pytest.mark.numerics
def test_robustness_falls_with_the_noise():
    sigmas = jnp.asarray(np.geomspace(0.05, 20, 12), DTYPE)
    x = jnp.asarray(POINTS[1], DTYPE)
    p = jax.vmap(lambda s: taylor(linear)(x, stddev=s).probability)(sigmas)
    assert np.all(np.diff(p) < 0)
    t = jax.vmap(lambda s: softmax(linear)(x, temperature=s).probability)(sigmas)
    assert np.all(np.diff(t) < 0)


# Softmax


@pytest.mark.numerics
@pytest.mark.parametrize("temperature", [0.2, 1.0, 7.0])
@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_softmax(temperature, shift):
    scores = W @ POINTS[2] + B
    got = jax.jit(softmax(lambda x: x + jnp.asarray(shift, x.dtype)))(
        jnp.asarray(scores, DTYPE), temperature=temperature
    )
    wanted = scipy.special.softmax(scores / temperature).max()
    assert probability(got) == pytest.approx(wanted, rel=1e-10 if X64 else 1e-5 + 6e-8 * shift / temperature)
    assert float(got.stderr) == 0
    assert int(got.num_samples) == 0
    assert (got.probability.dtype, got.num_samples.dtype) == (DTYPE, jnp.int32)


@pytest.mark.numerics
@pytest.mark.parametrize("sigma", [0.3, 2.0])
def test_softmax_is_taylor_where_all_margins_are_equally_steep(sigma):
    """Orthogonal rows of length 3: every margin has a gradient of length 3√2."""
    rows = 3 * np.linalg.qr(np.random.default_rng(3).normal(size=(6, 6)))[0][:4]
    f = lambda x: jnp.dot(jnp.asarray(rows, x.dtype), x, precision="highest")  # noqa: E731
    for x in np.random.default_rng(4).normal(size=(3, 6)):
        wanted = scipy.special.softmax(rows @ x / (sigma * 3 * 2**0.5)).max()
        point = jnp.asarray(x, DTYPE)
        assert probability(taylor(f)(point, stddev=sigma)) == pytest.approx(wanted, rel=5 * TOLERANCE)
        got = softmax(f)(point, temperature=sigma * 3 * 2**0.5)
        assert probability(got) == pytest.approx(wanted, rel=5 * TOLERANCE)


@pytest.mark.numerics
def test_the_gradient_of_softmax():
    """∂pₜ/∂fᵢ = pₜ(δₜᵢ - pᵢ)/T and ∂pₜ/∂T = -pₜ(fₜ - Σpᵢfᵢ)/T²."""
    scores, temperature = np.array([0.5, 2.0, 1.4]), 0.8
    estimate = lambda x, t: softmax(lambda v: v)(x, temperature=t).probability  # noqa: E731
    by_x, by_t = jax.grad(estimate, (0, 1))(jnp.asarray(scores, DTYPE), jnp.asarray(temperature, DTYPE))
    p = scipy.special.softmax(scores / temperature)
    rtol = 1e-12 if X64 else 1e-5
    np.testing.assert_allclose(by_x, p[1] * (np.eye(3)[1] - p) / temperature, rtol=rtol)
    np.testing.assert_allclose(by_t, -p[1] * (scores[1] - p @ scores) / temperature**2, rtol=rtol)


def test_keys_decide_the_samples():
    run = jax.jit(functools.partial(monte_carlo(linear, num_samples=99), stddev=0.9))
    x = jnp.asarray(POINTS[3], DTYPE)
    keys = jax.random.split(jax.random.key(0), 5)
    first = [probability(run(key, x)) for key in keys]
    assert first == [probability(run(key, x)) for key in jax.random.split(jax.random.key(0), 5)]
    assert len(set(first)) > 1


# Compiled, mapped, in other dtypes


METHODS = {
    "taylor": lambda x, s: taylor(linear)(x, stddev=s),
    "softmax": lambda x, s: softmax(linear)(x, temperature=s),
    "monte_carlo": lambda x, s: monte_carlo(linear, num_samples=64)(jax.random.key(2), x, stddev=s),
}


@pytest.mark.numerics
@pytest.mark.parametrize("name", METHODS)
def test_a_compiled_batch_is_a_loop(name):
    sigmas = np.array([0.3, 0.6, 1.0, 2.0, 3.0, 0.5])
    batch = jax.jit(jax.vmap(METHODS[name]))(jnp.asarray(POINTS, DTYPE), jnp.asarray(sigmas, DTYPE))
    single = jax.jit(METHODS[name])
    alone = [single(jnp.asarray(x, DTYPE), s) for x, s in zip(POINTS[:5], sigmas[:5], strict=True)]
    alone.append(METHODS[name](jnp.asarray(POINTS[5], DTYPE), sigmas[5]))
    for field in ("probability", "stderr", "num_samples"):
        got, wanted = getattr(batch, field), [getattr(one, field) for one in alone]
        assert got.shape == (6,)
        np.testing.assert_allclose(got, wanted, rtol=10 * TOLERANCE)
    assert np.ptp(batch.probability) > 0.1


@pytest.mark.parametrize("name", METHODS)
def test_scores_of_bfloat16(name):
    """Eight bits of the input are left; the estimates differ by what that moves them."""
    x = POINTS[0]
    half = METHODS[name](jnp.asarray(x, jnp.bfloat16), 0.9).probability
    assert float(half) == pytest.approx(probability(METHODS[name](jnp.asarray(x, jnp.float32), 0.9)), abs=0.03)


# What is not finite


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("method", [taylor, softmax])
def test_a_score_that_is_nan_makes_the_estimate_nan(method, place):
    """Whether it is the first, the last, or the class that would be predicted without it."""
    f = lambda x: jnp.stack([x[0], x[0] + x[1], 2 * x[1]]).at[place].multiply(jnp.nan)  # noqa: E731
    scale = {"stddev": 0.5} if method is taylor else {"temperature": 0.5}
    assert np.isnan(method(f)(jnp.array([1.0, 0.3]), **scale).probability)


def test_a_gradient_that_is_nan_makes_taylor_nan():
    """√ at 0 has a value and no slope: 0/0 for a zero cotangent."""
    f = lambda x: jnp.stack([x[0], jnp.sqrt(jnp.sum(x[1:] ** 2))])  # noqa: E731
    x = jnp.array([1.0, 0.0, 0.0])
    assert np.isnan(taylor(f)(x, stddev=0.5).probability)
    assert np.isfinite(softmax(f)(x, temperature=0.5).probability)


def test_a_nan_counts_as_changed():
    """NaN above 1 and the prediction of 0 above -2: what survives is Φ(1) - Φ(-2). Of a clean NaN nothing is known."""
    f = lambda x: jnp.where(x[0] > 1, jnp.nan, jnp.stack([x[0] + 2, jnp.zeros(())]))  # noqa: E731
    run = jax.jit(monte_carlo(f, num_samples=20_000, chunk_size=None))
    estimate = run(jax.random.key(3), jnp.array([0.0]), stddev=1.0)
    wanted = scipy.stats.norm.cdf(1) - scipy.stats.norm.cdf(-2)
    assert abs(probability(estimate) - wanted) < 4 * float(estimate.stderr)
    one = lambda x: f(x).at[1].set(0.0)  # noqa: E731
    for unknown in (run, monte_carlo(one)):
        estimate = unknown(jax.random.key(3), jnp.array([3.0]), stddev=1.0)
        assert np.isnan(estimate.probability)
        assert np.isnan(estimate.stderr)


def test_a_class_that_is_ruled_out():
    """A score of minus infinity is a number that can be compared: the two other classes decide."""
    f = lambda x: jnp.stack([x[0], -x[0], jnp.full((), -jnp.inf, x.dtype)])  # noqa: E731
    x = jnp.asarray([0.5], DTYPE)
    assert probability(taylor(f)(x, stddev=1.0)) == pytest.approx(scipy.special.expit(0.5), rel=1e-6)
    assert probability(softmax(f)(x, temperature=1.0)) == pytest.approx(scipy.special.expit(1.0), rel=1e-6)
    estimate = monte_carlo(f, num_samples=5000)(jax.random.key(0), x, stddev=1.0)
    assert probability(estimate) == pytest.approx(scipy.stats.norm.cdf(0.5), abs=4 * (0.21 / 5000) ** 0.5)


# What is refused


def call(method, f, x, scale, argnums=0):
    if method == "softmax":
        return softmax(f)(x, temperature=scale)
    if method == "taylor":
        return taylor(f, argnums)(x, stddev=scale)
    return monte_carlo(f, argnums, num_samples=3)(jax.random.key(0), x, stddev=scale)


ALL = ["monte_carlo", "taylor", "softmax"]


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("scale", [-0.1, np.nan, np.inf])
def test_a_scale_that_is_refused(method, scale):
    name = "temperature" if method == "softmax" else "stddev"
    with pytest.raises(ValueError, match=rf"`{name}` must be finite and >= 0; got {scale}"):
        call(method, two_classes, jnp.ones(1), scale)


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("scale", [-0.1, np.nan, np.inf])
def test_a_scale_that_is_refused_is_nan_inside_jit(method, scale):
    """A negative σ would be a plausible number, the probability of another class."""
    got = jax.jit(lambda x, s: call(method, two_classes, x, s))(jnp.ones(1), scale)
    assert np.isnan(got.probability)


def test_a_temperature_for_each_class_is_refused():
    """An array would divide the margins one by one, in an order that no caller can know."""
    with pytest.raises(ValueError, match="`temperature` of `softmax` must be one number"):
        softmax(two_classes)(jnp.ones(1), temperature=jnp.array([1.0, 2.0]))


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize(
    ("f", "shape"), [(jnp.sum, r"\(\)"), (lambda x: x[:1], r"\(1,\)"), (lambda x: jnp.stack([x, x]), r"\(2, 3\)")]
)
def test_a_function_that_does_not_return_scores(method, f, shape):
    with pytest.raises(TypeError, match=rf"^`{method}` needs a function that returns the scores .* shape {shape}\."):
        call(method, f, jnp.ones(3), 0.5)


@pytest.mark.parametrize("method", ALL)
def test_scores_that_are_integers(method):
    with pytest.raises(TypeError, match=rf"^`{method}` needs real class scores, but the function returned dtype int"):
        call(method, lambda x: jnp.argsort(x), jnp.ones(3), 0.5)


@pytest.mark.parametrize("method", ["monte_carlo", "taylor"])
def test_an_input_that_cannot_carry_noise(method):
    with pytest.raises(TypeError, match=rf"^`{method}` needs floating-point arrays, but its input has dtype int32"):
        call(method, lambda x: x.astype(float), jnp.ones(3, jnp.int32), 0.5)
    with pytest.raises(ValueError, match=rf"^`{method}` was built with argnums=1, but .* called with 1 argument"):
        call(method, two_classes, jnp.ones(1), 0.5, 1)


def test_counts_that_are_refused():
    for name in ("num_samples", "chunk_size"):
        with pytest.raises(ValueError, match=f"`{name}` must be at least 1; got 0"):
            monte_carlo(two_classes, **{name: 0})
        with pytest.raises(TypeError, match=rf"`{name}` must be a Python integer >= 1, .* got 2\.0"):
            monte_carlo(two_classes, **{name: 2.0})


def test_keys_and_shapes_that_are_refused():
    run = monte_carlo(two_classes, num_samples=3)
    with pytest.raises(TypeError, match=r"`monte_carlo` takes a random key as its first argument; write `jax\.random"):
        run(0, jnp.ones(1), stddev=0.1)
    with pytest.raises(TypeError, match=r"Got \(2,\) keys: map over them with `jax\.vmap`"):
        run(jax.random.split(jax.random.key(0)), jnp.ones(1), stddev=0.1)
    with pytest.raises(ValueError, match=r"`stddev` of shape \(3,\) does not broadcast to the input of shape \(1,\)"):
        run(jax.random.key(0), jnp.ones(1), stddev=jnp.ones(3))
    with pytest.raises(TypeError, match="stddev"):
        run(jax.random.key(0), jnp.ones(1))
    for noise in ({}, {"stddev": 1.0, "factor": jnp.eye(1)}):
        with pytest.raises(TypeError, match="needs the noise: either `stddev=` or `factor=`"):
            taylor(two_classes)(jnp.ones(1), **noise)
    with pytest.raises(TypeError, match="temperature"):
        softmax(two_classes)(jnp.ones(1))


# Noise of any covariance, the normal CDF, MMSE


@pytest.mark.numerics
def test_noise_of_any_covariance():
    """A prefix of σ and a factor: z and the cosines with the gradients in the coordinates of the noise."""
    x, rng = POINTS[0], np.random.default_rng(2)
    sigma, factor = rng.uniform(0.2, 2, 20), rng.normal(size=(20, 7))
    both = lambda z, r: jnp.concatenate([z, r.reshape(-1)])  # noqa: E731
    for noise, matrix in [({"stddev": sigma}, np.diag(sigma)), ({"factor": factor}, factor)]:
        z, cosines = margins(W @ x + B, W @ matrix, 1.0)
        given = {name: jnp.asarray(value, DTYPE) for name, value in noise.items()}
        got = np.asarray(jax.jit(taylor(linear, cdf=both))(jnp.asarray(x, DTYPE), **given).probability)
        np.testing.assert_allclose(got[:4], z, rtol=5 * TOLERANCE, atol=5 * TOLERANCE * np.abs(z).max())
        np.testing.assert_allclose(got[4:].reshape(4, 4), cosines, rtol=0, atol=10 * TOLERANCE)


@pytest.mark.numerics
def test_taylor_with_our_normal_cdf_is_exact_for_a_linear_function():
    x, sigma = POINTS[0], 0.8
    z, cosines = margins(W @ x + B, W, sigma)
    cdf = functools.partial(orthant(), jax.random.key(1))
    found = jax.jit(taylor(linear, cdf=cdf))(jnp.asarray(x, DTYPE), stddev=sigma)
    assert probability(found) == pytest.approx(normal_cdf(z, cosines), abs=1e-4)
    assert 0 < float(found.stderr) < 1e-3
    assert int(found.num_samples) > 9000


@pytest.mark.numerics
def test_mmse_is_taylor_of_the_mean_margins():
    """With the samples of the documentation; of a linear function it is Taylor, whatever the samples."""
    x, sigma, n = np.array([0.3, -0.8, 0.5]), 0.4, 6
    noise = np.concatenate([own_noise(3, n, (2,)), own_noise(3, n, (1, 1), 1)[:, 0]], 1)
    both = [curved_in_numpy(x + sigma * e) for e in noise]
    t = int(np.argmax(curved_in_numpy(x)[0]))
    scores, jacobian = (np.mean([pair[i] for pair in both], axis=0) for i in range(2))
    gaps = [(scores[t] - scores[i]) / np.linalg.norm(jacobian[t] - jacobian[i]) for i in range(3) if i != t]
    wanted = 1 / (1 + np.exp(-np.array(gaps) / sigma).sum())
    run = jax.jit(mmse(curved, num_samples=n, chunk_size=4))
    got = run(jax.random.key(3), curved_tree(x), stddev=sigma)
    assert probability(got) == pytest.approx(wanted, rel=20 * TOLERANCE)
    point = jnp.asarray(POINTS[1], DTYPE)
    same = mmse(linear, num_samples=2)(jax.random.key(0), point, stddev=0.9)
    assert probability(same) == pytest.approx(probability(taylor(linear)(point, stddev=0.9)), abs=0.5)
    nothing = mmse(curved, num_samples=1)(jax.random.key(0), curved_tree(x), stddev=1e-6)
    assert probability(nothing) == pytest.approx(
        probability(taylor(curved)(curved_tree(x), stddev=1e-6)), rel=1e-3, abs=1e-3
    )


def test_more_classes_than_a_normal_cdf_takes():
    """The 200 nearest of 299 other classes; the others take away at most the sum of their chances."""
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(300, 10)) / 3
    f = lambda x: jnp.dot(jnp.asarray(rows, x.dtype), x, precision="highest")  # noqa: E731
    x = 3 * rows[7] / np.linalg.norm(rows[7])
    take = lambda z, r: jnp.stack([jnp.max(z), jnp.asarray(z.shape[0], z.dtype)])  # noqa: E731
    found = taylor(f, cdf=take, chunk_size=7)(jnp.asarray(x, DTYPE), stddev=0.5)
    z = np.sort(margins(rows @ x, rows, 0.5)[0])
    np.testing.assert_allclose(found.probability, [z[199], 200], rtol=1e-4)
    np.testing.assert_allclose(np.asarray(found.remainder)[0], scipy.stats.norm.cdf(-z[200:]).sum(), rtol=1e-3)
