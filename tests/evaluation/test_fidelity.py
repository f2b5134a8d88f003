"""Local R² against a loop over its own samples, and against closed forms for linear and quadratic functions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import evaluation
from jaxinterp.local import LinearModel, tangent

X64 = jax.config.jax_enable_x64
DTYPE = jnp.float64 if X64 else jnp.float32
TOLERANCE = 1e-6 if X64 else 2e-5
"""Also in float64 the noise is drawn in float32, and its last digit depends on what the compiler fuses."""

RNG = np.random.default_rng(9)
X = np.array([0.4, -0.3, 0.8])
SLOPE = np.array([1.0, -2.0, 0.5])
HALF = RNG.normal(size=(3, 3)) / 2
A = HALF + HALF.T


def linear(x):
    return jnp.dot(jnp.asarray(SLOPE, x.dtype), x) + 2


def quadratic(x):
    matrix = jnp.asarray(A, x.dtype)
    return linear(x) + jnp.dot(x, jnp.dot(matrix, x, precision="highest")) / 2


def model(slope, intercept, anchor):
    return jax.tree.map(lambda a: jnp.asarray(a, DTYPE), LinearModel(slope, intercept, anchor, slope))


def own_noise(key, n, shape, leaf=0):
    """The noise as the documentation defines it: leaf j of sample i is drawn from key/i/j, in float32."""
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(key, i), leaf))(jnp.arange(n))
    return np.asarray(jax.vmap(lambda k: jax.random.normal(k, shape, jnp.float32))(keys), np.float64)


def local_r_squared(*args, **options):
    """The value alone; the standard error has a test of its own."""
    run = evaluation.local_r_squared(*args, **options)
    return lambda *at, **arrays: run(*at, **arrays).mean


def r_squared(values, predicted):
    return 1 - np.mean((values - predicted) ** 2) / np.var(values)


@pytest.mark.numerics
@pytest.mark.parametrize("chunk_size", [1, 7, 100, None])
@pytest.mark.parametrize("intercept", [0.0, 2.5])
def test_it_is_the_r_squared_over_its_own_samples(chunk_size, intercept):
    """Of a model with an anchor of its own, good or bad."""
    slope, anchor, sigma = np.array([0.8, -1.5, 0.0]), np.array([0.1, 0.0, 1.0]), np.array([0.5, 1.0, 0.2])
    points = X + sigma * own_noise(jax.random.key(4), 60, (3,))
    values = points @ SLOPE + 2 + np.einsum("ni,ij,nj->n", points, A, points) / 2
    wanted = r_squared(values, intercept + (points - anchor) @ slope)
    run = jax.jit(local_r_squared(quadratic, num_samples=60, chunk_size=chunk_size))
    got = run(
        jax.random.key(4), model(slope, intercept, anchor), jnp.asarray(X, DTYPE), stddev=jnp.asarray(sigma, DTYPE)
    )
    assert got.shape == ()
    assert got.dtype == DTYPE
    assert float(got) == pytest.approx(wanted, rel=TOLERANCE, abs=TOLERANCE)


@pytest.mark.numerics
def test_several_arguments_of_several_leaves():
    """The noise is on the second and the first argument, with a σ for each; the third stays as it is."""
    f = lambda a, b, c: jnp.sum(a["p"]) * jnp.sum(jnp.sin(b)) + c  # noqa: E731
    a, b, n = np.array([0.5, 0.7]), np.array([[0.3], [1.2]]), 50
    noise = [own_noise(jax.random.key(6), n, shape, leaf) for leaf, shape in enumerate([(2, 1), (2,)])]
    at_b, at_a = b + 0.4 * noise[0], a + 0.9 * noise[1]
    values = at_a.sum(1) * np.sin(at_b).sum((1, 2)) + 7
    predicted = 8 + 0.5 * (at_b - b).sum((1, 2)) + (at_a - a) @ [1.0, 0.8]
    linear_model = model((np.full((2, 1), 0.5), {"p": np.array([1.0, 0.8])}), 8.0, (b, {"p": a}))
    got = local_r_squared(f, (1, 0), num_samples=n)(
        jax.random.key(6), linear_model, {"p": jnp.asarray(a, DTYPE)}, jnp.asarray(b, DTYPE), jnp.asarray(7.0, DTYPE),
        stddev=(0.4, {"p": 0.9}),
    )  # fmt: skip
    assert float(got) == pytest.approx(r_squared(values, predicted), rel=TOLERANCE, abs=TOLERANCE)


@functools.cache
def many(offset, sigma):
    """32 estimates of the R² of a linear model for `quadratic`: slope of the tangent, intercept moved by `offset`."""
    guess = model(SLOPE + A @ X, X @ SLOPE + 2 + X @ A @ X / 2 + offset, X)
    run = functools.partial(local_r_squared(quadratic, num_samples=2000, chunk_size=500), stddev=sigma)
    run = jax.jit(jax.vmap(run, in_axes=(0, None, None)))
    got = np.asarray(run(jax.random.split(jax.random.key(1), 32), guess, jnp.asarray(X, DTYPE)), np.float64)
    return got.mean(), got.std(ddof=1) / 32**0.5


@pytest.mark.parametrize("sigma", [0.3, 1.5])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_the_tangent_of_a_quadratic_function(sigma, offset):
    """With H the Hessian and b the slope: the error is ½σ²εᵀHε - c, the variance σ²|b|² + ½σ⁴ tr H².

    4.5 standard errors, and 1/200 for the bias of the ratio.
    """
    b = SLOPE + A @ X
    trace, square = np.trace(A), np.trace(A @ A)
    error = sigma**4 * (2 * square + trace**2) / 4 - offset * sigma**2 * trace + offset**2
    wanted = 1 - error / (sigma**2 * b @ b + sigma**4 * square / 2)
    mean, stderr = many(offset, sigma)
    assert abs(mean - wanted) < 4.5 * stderr + abs(1 - wanted) / 200
    assert stderr < 0.03 * abs(1 - wanted)


@pytest.mark.numerics
@pytest.mark.parametrize("sigma", [0.01, 1.0, 30.0])
def test_a_perfect_model(sigma):
    x = jnp.asarray(X, DTYPE)
    got = local_r_squared(linear)(jax.random.key(0), tangent(linear)(x), x, stddev=sigma)
    assert float(got) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("offset", [0.0, 0.5, 3.0])
def test_a_constant_model(offset):
    """0 at the mean of the samples, and 1 - (V + c²)/V = -c²/V beside it."""
    noise = 0.7 * own_noise(jax.random.key(0), 200, (3,)) @ SLOPE
    guess = model(np.zeros(3), X @ SLOPE + 2 + noise.mean() + offset, X)
    got = local_r_squared(linear)(jax.random.key(0), guess, jnp.asarray(X, DTYPE), stddev=0.7)
    assert float(got) == pytest.approx(-(offset**2) / noise.var(), rel=1e-4, abs=1e-5)


@pytest.mark.numerics
def test_a_large_mean_does_not_drown_the_variance():
    """1000 ± 0.02: the square of the mean has 1e6, the variance 5e-4; the rounding of the values leaves 3e-5 of it."""
    f = lambda x: linear(x) + 1000  # noqa: E731
    x = jnp.asarray(X, DTYPE)
    got = local_r_squared(f)(jax.random.key(0), tangent(f)(x), x, stddev=0.01)
    assert float(got) == pytest.approx(1, abs=1e-5)


def test_the_standard_error_is_the_spread_over_keys():
    """400 estimates: their spread is known to 3.5 % (one standard deviation)."""
    guess = model(SLOPE + A @ X, X @ SLOPE + 2 + X @ A @ X / 2 + 0.3, X)
    run = functools.partial(evaluation.local_r_squared(quadratic, num_samples=400, chunk_size=None), stddev=1.0)
    found = jax.jit(jax.vmap(run, in_axes=(0, None, None)))(
        jax.random.split(jax.random.key(5), 400), guess, jnp.asarray(X, DTYPE)
    )
    assert float(jnp.mean(found.stderr)) == pytest.approx(float(jnp.std(found.mean)), rel=0.15)
    assert found.num_samples.tolist() == [400] * 400


@pytest.mark.parametrize("slope", [0.0, 1.0])
@pytest.mark.parametrize("name", ["constant", "without_noise"])
def test_a_constant_function_has_no_r_squared(name, slope):
    """For the right model and for a wrong one: a variance of 0 explains nothing."""
    f, sigma = {"constant": (lambda x: jnp.sum(x) * 0 + 3, 1.0), "without_noise": (quadratic, 0.0)}[name]
    x = jnp.asarray(X, DTYPE)
    guess = model(np.full(3, slope), f(x), X if slope == 0 else X + 1)
    assert np.isnan(local_r_squared(f)(jax.random.key(0), guess, x, stddev=sigma))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_seen(bad):
    """In the function at one of 200 samples, at the point itself, and in the model."""
    x, good = jnp.asarray(X, DTYPE), model(SLOPE, X @ SLOPE + 2, X)
    at_times = lambda x: jnp.where(x[0] > 2.4, jnp.asarray(bad, x.dtype), linear(x))  # noqa: E731
    assert 0 < np.mean(X[0] + own_noise(jax.random.key(0), 200, (3,))[:, 0] > 2.4) < 0.1
    assert not np.isfinite(local_r_squared(at_times)(jax.random.key(0), good, x, stddev=1.0))
    spoilt = x.at[1].set(bad)
    assert not np.isfinite(local_r_squared(linear)(jax.random.key(0), good, spoilt, stddev=1.0))
    for wrong in (model(SLOPE * [1, bad, 1], 1.0, X), model(SLOPE, bad, X)):
        assert not np.isfinite(local_r_squared(linear)(jax.random.key(0), wrong, x, stddev=1.0))


@pytest.mark.numerics
def test_a_compiled_batch_is_a_loop():
    points = jnp.asarray(np.random.default_rng(2).normal(size=(4, 3)), DTYPE)
    sigmas = jnp.asarray([0.1, 0.5, 1.0, 2.0], DTYPE)

    def one(key, x, sigma):
        return local_r_squared(quadratic, num_samples=30)(key, tangent(quadratic)(x), x, stddev=sigma)

    batch = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(3), 4), points, sigmas)
    keys = jax.random.split(jax.random.key(3), 4)
    single = jax.jit(one)
    alone = [float(single(k, x, s)) for k, x, s in zip(keys, points, sigmas, strict=True)]
    np.testing.assert_allclose(batch, alone, rtol=10 * TOLERANCE, atol=TOLERANCE)
    assert len(set(alone)) == 4


def test_the_key_decides_the_samples():
    x = jnp.asarray(X, DTYPE)
    guess = tangent(quadratic)(x)
    run = jax.jit(functools.partial(local_r_squared(quadratic, num_samples=20), stddev=1.0))
    first, again, other = (float(run(jax.random.key(seed), guess, x)) for seed in (0, 0, 1))
    assert first == again != other


def test_what_is_refused():
    x = jnp.asarray(X, DTYPE)
    guess = tangent(linear)(x)
    for name in ("num_samples", "chunk_size"):
        with pytest.raises(ValueError, match=f"`{name}` must be at least 1; got 0"):
            local_r_squared(linear, **{name: 0})(jax.random.key(0), guess, x, stddev=1.0)
    run = local_r_squared(linear)
    for bad in (-0.1, np.nan, np.inf):
        with pytest.raises(ValueError, match=rf"`stddev` must be finite and >= 0; got {bad}"):
            run(jax.random.key(0), guess, x, stddev=bad)
    with pytest.raises(ValueError, match=r"`stddev` of shape \(2,\) does not broadcast to the input of shape \(3,\)"):
        run(jax.random.key(0), guess, x, stddev=jnp.ones(2))
    with pytest.raises(TypeError, match="stddev"):
        run(jax.random.key(0), guess, x)
    with pytest.raises(TypeError, match=r"takes a random key as its first argument; write `jax\.random\.key\(seed\)`"):
        run(0, guess, x, stddev=1.0)
    with pytest.raises(TypeError, match=r"^`local_r_squared` needs floating-point arrays, .* has dtype int32"):
        run(jax.random.key(0), guess, jnp.ones(3, jnp.int32), stddev=1.0)
    with pytest.raises(TypeError, match=r"^`local_r_squared` needs a function that returns a scalar.*\(3,\)"):
        local_r_squared(jnp.sin)(jax.random.key(0), guess, x, stddev=1.0)
