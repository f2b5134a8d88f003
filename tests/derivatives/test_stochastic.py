"""Stochastic estimates of traces, diagonals and norms against the matrix, all sign vectors and the variance."""

import itertools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import strategies as st

from jaxinterp import derivatives, tree

N = 6
LIKE = {"a": jnp.zeros(2), "b": (jnp.zeros((2, 2)),)}


def random_matrix(seed, rows=N):
    return np.random.default_rng(seed).normal(size=(rows, N))


def symmetric(seed):
    a = random_matrix(seed)
    return a + a.T


def operator(matrix):
    """The matrix as an operator on trees like LIKE."""
    matrix = jnp.asarray(matrix, float)

    def product(v):
        flat = jnp.concatenate([v["a"], v["b"][0].ravel()])
        image = jnp.dot(matrix, flat, precision="highest")
        return {"a": image[:2], "b": (image[2:].reshape(2, 2),)}

    return product


def flat(t):
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(t)])


def probes(seed, n):
    """The signs of the samples as they are defined, [n, N]."""
    one = jax.jit(lambda i: tree.rademacher_like(jax.random.fold_in(jax.random.key(seed), i), LIKE))
    return np.stack([flat(one(i)) for i in range(n)])


# name: (estimator, the sample at signs v [n, N] as [n, ...], the exact value)
ESTIMATORS = {
    "trace": (derivatives.trace, lambda a, v: np.sum(v * (v @ a.T), 1), np.trace),
    "diagonal": (derivatives.diagonal, lambda a, v: v * (v @ a.T), np.diagonal),
    "squared_frobenius_norm": (
        derivatives.squared_frobenius_norm,
        lambda a, v: np.sum((v @ a.T) ** 2, 1),
        lambda a: np.sum(a**2),
    ),
}
ALL_SIGNS = np.array(list(itertools.product([-1.0, 1.0], repeat=N)))


def estimates(name, matrix, key, n, chunk_size=None):
    return ESTIMATORS[name][0](operator(matrix), num_samples=n, chunk_size=chunk_size)(key, LIKE)


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("chunk_size", [1, 3, 7, 10, None])
def test_the_estimate_is_the_mean_of_its_samples(name, chunk_size):
    """Also of an operator that is not symmetric: v·Av, and not v·Aᵀv, nor the norm of the symmetric part."""
    matrix = random_matrix(1)
    drawn = ESTIMATORS[name][1](matrix, probes(2, 10))
    got = jax.jit(lambda key: estimates(name, matrix, key, 10, chunk_size))(jax.random.key(2))
    tolerance = 1e-12 if jax.config.jax_enable_x64 else 1e-5
    np.testing.assert_allclose(flat(got.mean), np.ravel(drawn.mean(0)), rtol=tolerance, atol=10 * tolerance)
    expected = np.ravel(drawn.std(0, ddof=1) / np.sqrt(10))
    np.testing.assert_allclose(flat(got.stderr), expected, rtol=10 * tolerance, atol=10 * tolerance)
    assert int(got.num_samples) == 10


@pytest.mark.parametrize("name", ESTIMATORS)
def test_without_jit_and_under_vmap_the_same(name):
    matrix = symmetric(3)
    keys = jax.random.split(jax.random.key(4), 2)
    mapped = jax.jit(jax.vmap(lambda key: estimates(name, matrix, key, 5, 2).mean))(jax.random.clone(keys))
    single = estimates(name, matrix, keys[1], 5, 2).mean
    np.testing.assert_allclose(flat(single), flat(jax.tree.map(lambda a: a[1], mapped)), rtol=1e-5, atol=1e-5)
    assert np.any(flat(jax.tree.map(lambda a: a[0] - a[1], mapped)) != 0)


@pytest.mark.parametrize("name", ESTIMATORS)
@hypothesis.settings(max_examples=10, deadline=None)
@hypothesis.given(st.integers(0, 2**31))
def test_the_samples_are_unbiased_and_have_the_stated_variance(name, seed):
    """Over all 64 sign vectors, with the sample as the test above has established it."""
    matrix = symmetric(seed)
    _, sample, exact = ESTIMATORS[name]
    drawn = sample(matrix, ALL_SIGNS)
    np.testing.assert_allclose(drawn.mean(0), exact(matrix), rtol=1e-10, atol=1e-10)
    if name == "trace":
        variance = 2 * (np.sum(matrix**2) - np.sum(np.diagonal(matrix) ** 2))
        assert drawn.var() == pytest.approx(variance, rel=1e-10)


def test_the_variance_of_hutchinsons_estimate():
    """The standard error of 4000 samples against √(2(‖A‖² - Σ Aᵢᵢ²)/n); 5 standard deviations, one key in a million."""
    matrix = symmetric(5)
    drawn = ESTIMATORS["trace"][1](matrix, ALL_SIGNS)
    formula = 2 * (np.sum(matrix**2) - np.sum(np.diagonal(matrix) ** 2))
    got = jax.jit(lambda key: estimates("trace", matrix, key, 4000, 1000))(jax.random.key(6))
    kurtosis = np.mean((drawn - drawn.mean()) ** 4) / drawn.var() ** 2
    assert float(got.stderr) ** 2 * 4000 == pytest.approx(formula, rel=5 * np.sqrt((kurtosis - 1) / 4000))
    assert abs(float(got.mean) - np.trace(matrix)) < 5 * float(got.stderr)


def test_the_standard_error_covers_the_trace():
    """Of 500 estimates from 100 samples the share within 2 standard errors; right code fails for one key in a million.

    The share of the normal law is widened by one percent for the law of the samples, which is not normal.
    """
    matrix = symmetric(7)
    run = jax.jit(jax.vmap(lambda key: estimates("trace", matrix, key, 100)))
    got = run(jax.random.split(jax.random.key(8), 500))
    covered = int(np.sum(np.abs(np.asarray(got.mean, np.float64) - np.trace(matrix)) < 2 * np.asarray(got.stderr)))
    low, high = (scipy.stats.binom.ppf(q, 500, p) for q, p in [(5e-7, 0.9445), (1 - 5e-7, 0.9645)])
    assert low <= covered <= high


@pytest.mark.core
def test_exact_where_there_is_no_variance():
    """A diagonal operator has its trace, its diagonal and its norm in every sample."""
    entries = np.arange(1.0, N + 1)
    for name, value in [("trace", 21), ("diagonal", entries), ("squared_frobenius_norm", 91)]:
        got = estimates(name, np.diag(entries), jax.random.key(0), 3)
        np.testing.assert_allclose(flat(got.mean), value, rtol=1e-6)
        np.testing.assert_allclose(flat(got.stderr), 0, atol=1e-5)


@pytest.mark.core
def test_the_norm_of_a_rectangular_operator():
    matrix = random_matrix(9, rows=3)
    estimator = derivatives.squared_frobenius_norm(lambda v: jnp.asarray(matrix, float) @ v, num_samples=200)
    got = estimator(jax.random.key(1), jnp.zeros(N))
    drawn = np.sum((ALL_SIGNS @ matrix.T) ** 2, 1)
    assert drawn.mean() == pytest.approx(np.sum(matrix**2))
    assert abs(float(got.mean) - np.sum(matrix**2)) < 5 * drawn.std() / np.sqrt(200)


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("chunk_size", [2, None])
def test_the_estimates_are_differentiable(chunk_size):
    """The derivative of E[v·(A + tB)v] with respect to t is the same average for B."""
    a, b = symmetric(10), symmetric(11)

    def estimate(t):
        product = lambda v: tree.add(operator(a)(v), tree.scale(t, operator(b)(v)))  # noqa: E731
        return derivatives.trace(product, num_samples=5, chunk_size=chunk_size)(jax.random.key(3), LIKE).mean

    slope = jax.jit(jax.grad(estimate))(0.5)
    expected = ESTIMATORS["trace"][1](b, probes(3, 5)).mean()
    assert float(slope) == pytest.approx(expected, rel=1e-11 if jax.config.jax_enable_x64 else 1e-5)


@pytest.mark.core
@pytest.mark.parametrize("name", ESTIMATORS)
def test_vectors_of_bfloat16(name):
    like = jnp.zeros(1000, jnp.bfloat16)
    got = ESTIMATORS[name][0](lambda v: 2 * v, num_samples=2)(jax.random.key(0), like)
    expected = {"trace": 2000, "diagonal": np.full(1000, 2), "squared_frobenius_norm": 4000}[name]
    np.testing.assert_array_equal(np.asarray(got.mean, np.float64), expected)
    assert got.mean.dtype == (jnp.bfloat16 if name == "diagonal" else jnp.float32)


@pytest.mark.core
@pytest.mark.parametrize("name", ESTIMATORS)
def test_keys_and_counts_are_checked(name):
    estimator = ESTIMATORS[name][0]
    with pytest.raises(TypeError, match="takes a random key as its first argument"):
        estimator(lambda v: v, num_samples=2)(0, jnp.zeros(3))
    with pytest.raises(ValueError, match="`num_samples` must be at least 1; got 0"):
        estimator(lambda v: v, num_samples=0)
    with pytest.raises(ValueError, match="`chunk_size` must be at least 1; got 0"):
        estimator(lambda v: v, num_samples=2, chunk_size=0)


def quartic(w, x):
    return jnp.sum(w * x["u"] ** 4) + 3 * x["v"] ** 2 + 5 * jnp.sum(x["u"]) - 7 * x["v"]


POINT = (jnp.array([1.0, 2.0]), {"u": jnp.array([0.5, -1.0]), "v": jnp.asarray(2.0)})


@pytest.mark.core
@pytest.mark.parametrize("chunk_size", [1, 3, 10, None])
def test_the_laplacian_is_the_mean_of_second_differences(chunk_size):
    sigma = 0.5
    one = jax.jit(lambda i: tree.normal_like(jax.random.fold_in(jax.random.key(12), i), POINT[1]))
    w, u, v = (np.asarray(a, np.float64) for a in (POINT[0], POINT[1]["u"], POINT[1]["v"]))

    def value(du, dv):
        return np.sum(w * (u + du) ** 4) + 3 * (v + dv) ** 2 + 5 * np.sum(u + du) - 7 * (v + dv)

    drawn = []
    for i in range(10):
        noise = one(i)
        du, dv = sigma * np.asarray(noise["u"], np.float64), sigma * float(noise["v"])
        drawn.append((value(du, dv) + value(-du, -dv) - 2 * value(0, 0)) / sigma**2)
    estimator = derivatives.laplacian(quartic, 1, num_samples=10, chunk_size=chunk_size)
    got = jax.jit(lambda key: estimator(key, *POINT, stddev=sigma))(jax.random.key(12))
    assert float(got.mean) == pytest.approx(np.mean(drawn), rel=1e-4)
    assert float(got.stderr) == pytest.approx(np.std(drawn, ddof=1) / np.sqrt(10), rel=1e-3)


@pytest.mark.parametrize("sigma", [0.1, 1.0])
def test_the_laplacian_and_its_bias(sigma):
    """E = Σ w(12u² + 6σ²) + 6 exactly; 5 standard errors, which right code exceeds for one key in a million."""
    w, u = (np.asarray(a, np.float64) for a in (POINT[0], POINT[1]["u"]))
    estimator = derivatives.laplacian(quartic, 1, num_samples=4000, chunk_size=1000)
    got = jax.jit(lambda key, s: estimator(key, *POINT, stddev=s))(jax.random.key(13), sigma)
    expected = np.sum(w * (12 * u**2 + 6 * sigma**2)) + 6
    assert abs(float(got.mean) - expected) < 5 * float(got.stderr)
    assert float(got.stderr) < 0.1 * expected


@pytest.mark.core
def test_the_pairs_cancel_the_gradient():
    got = derivatives.laplacian(lambda x: 4 * x[0] - 8 * x[1], num_samples=5)(
        jax.random.key(0), jnp.array([1.0, 2.0]), stddev=0.25
    )
    assert abs(float(got.mean)) < 1e-3
    assert float(got.stderr) < 1e-3


def test_the_laplacian_of_several_arguments_is_the_sum():
    """For a quadratic the sample is Σ aᵢ εᵢ² over all arguments that are perturbed; here by replay."""
    quadratic = lambda x, y: 1.0 * x**2 + 10.0 * y**2  # noqa: E731
    args = jnp.asarray(0.3), jnp.asarray(-0.2)
    for argnums, factors in [(0, [1]), (1, [10]), ((0, 1), [1, 10]), ((1, 0), [10, 1])]:
        chosen = tuple(args[i] for i in argnums) if isinstance(argnums, tuple) else args[argnums]
        one = jax.jit(lambda i, c=chosen: tree.normal_like(jax.random.fold_in(jax.random.key(14), i), c))
        drawn = [2 * np.dot(factors, flat(one(i)) ** 2) for i in range(4)]
        got = derivatives.laplacian(quadratic, argnums, num_samples=4)(jax.random.key(14), *args, stddev=1.0)
        assert float(got.mean) == pytest.approx(np.mean(drawn), rel=1e-4)


@pytest.mark.core
def test_the_laplacian_refuses():
    x = jnp.ones(2)
    with pytest.raises(TypeError, match=r"`laplacian` needs a function that returns a scalar.* shape \(2,\)"):
        derivatives.laplacian(lambda x: x, num_samples=2)(jax.random.key(0), x, stddev=1.0)
    with pytest.raises(ValueError, match=r"`stddev` must be one number; got an array of shape \(2,\)"):
        derivatives.laplacian(lambda x: jnp.sum(x), num_samples=2)(jax.random.key(0), x, stddev=x)
    with pytest.raises(TypeError, match="`laplacian` needs floating-point arrays, but its input has dtype int"):
        derivatives.laplacian(jnp.sum, num_samples=2)(jax.random.key(0), jnp.arange(2), stddev=1.0)
    with pytest.raises(ValueError, match="`laplacian` was built with argnums=1"):
        derivatives.laplacian(jnp.sum, 1, num_samples=2)(jax.random.key(0), x, stddev=1.0)
    with pytest.raises(TypeError, match="stddev"):
        derivatives.laplacian(jnp.sum, num_samples=2)(jax.random.key(0), x)
