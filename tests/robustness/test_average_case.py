"""Average-case robustness: closed forms and SciPy for linear functions, loops over the same samples for sampling."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from jaxinterp.robustness import monte_carlo, multivariate_sigmoid, softmax, taylor

X64 = jax.config.jax_enable_x64
DTYPE = jnp.float64 if X64 else jnp.float32
TOLERANCE = 1e-12 if X64 else 2e-6

RNG = np.random.default_rng(7)
W = RNG.normal(size=(5, 20)) / 4
B = RNG.normal(size=5) / 4
POINTS = RNG.normal(size=(6, 20))
INNER = RNG.normal(size=(4, 3))
OUTER = RNG.normal(size=(3, 4))


def linear(x):
    return jnp.dot(jnp.asarray(W, x.dtype), x, precision="highest") + jnp.asarray(B, x.dtype)


def two_classes(x):
    return jnp.stack([x[0], -x[0]])


def curved(x):
    """Three classes of a tanh network with 4 units, of a pytree with 3 numbers in two leaves."""
    flat = jnp.concatenate([x["u"], x["v"].reshape(-1)])
    hidden = jnp.tanh(jnp.dot(jnp.asarray(INNER, flat.dtype), flat, precision="highest"))
    return jnp.dot(jnp.asarray(OUTER, flat.dtype), hidden, precision="highest")


def curved_tree(flat):
    return {"u": jnp.asarray(flat[:2], DTYPE), "v": jnp.asarray(flat[2:], DTYPE).reshape(1, 1)}


def curved_in_numpy(flat):
    """Scores and Jacobian of `curved`."""
    hidden = np.tanh(INNER @ flat)
    return OUTER @ hidden, OUTER @ ((1 - hidden**2)[:, None] * INNER)


def margins(scores, jacobian, sigma):
    """z and the cosines by their definition, one class after the other."""
    t = int(np.argmax(scores))
    others = [i for i in range(len(scores)) if i != t]
    gradients = [jacobian[t] - jacobian[i] for i in others]
    z = [(scores[t] - scores[i]) / (sigma * np.linalg.norm(g)) for i, g in zip(others, gradients, strict=True)]
    cosines = [[g @ h / np.linalg.norm(g) / np.linalg.norm(h) for h in gradients] for g in gradients]
    return np.array(z), np.array(cosines)


def survival(scores, jacobian, sigma):
    """The Taylor estimate with the multivariate sigmoid."""
    return 1 / (1 + np.exp(-margins(scores, jacobian, sigma)[0]).sum())


def normal_cdf(z, cosines):
    """Φ_R(z) by SciPy, to 1e-7."""
    zero = np.zeros(len(z))
    return scipy.stats.multivariate_normal.cdf(
        z, zero, cosines, allow_singular=True, abseps=1e-7, releps=1e-7, maxpts=10**6, rng=0
    )


def probability(estimate):
    return float(estimate.probability)


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


# Monte Carlo


def own_noise(seed, n, shape, leaf=0):
    """The noise as the documentation defines it: leaf j of sample i is drawn from key/i/j, in float32."""
    key = jax.random.key(seed)
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(key, i), leaf))(jnp.arange(n))
    return np.asarray(jax.vmap(lambda k: jax.random.normal(k, shape, jnp.float32))(keys), np.float64)


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


@pytest.mark.parametrize("method", ["taylor", "softmax"])
def test_a_scale_for_each_class_is_refused(method):
    """An array would divide the margins one by one, in an order that no caller can know."""
    f = lambda x: jnp.stack([x[0], -x[0], jnp.zeros(())])  # noqa: E731
    name = "temperature" if method == "softmax" else "stddev"
    with pytest.raises((TypeError, ValueError), match=name):
        call(method, f, jnp.ones(1), jnp.array([1.0, 2.0]))


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
    for method in (run, taylor(two_classes)):
        with pytest.raises(TypeError, match="stddev"):
            method(jnp.ones(1))
    with pytest.raises(TypeError, match="temperature"):
        softmax(two_classes)(jnp.ones(1))
