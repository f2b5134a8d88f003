"""SmoothGrad, its square and VarGrad against a loop over their own samples, and against closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.attribution import smooth_grad, square_grad, var_grad, with_stderr

X64 = jax.config.jax_enable_x64
TOLERANCE = 1e-7 if X64 else 1e-4
"""Also in float64 the noise is drawn in float32, and its last digit depends on what the compiler fuses."""
X = {"u": jnp.array([0.4, -0.9]), "v": jnp.array([[1.2]])}
W = np.array([1.5, 0.7])


def f(x):
    return jnp.sum(jnp.sin(jnp.asarray(W, x["u"].dtype) * x["u"])) * jnp.sum(x["v"] ** 2)


def gradient(u, v):
    """∇f at many points, in float64: u [n, 2] and v [n]."""
    return W * np.cos(W * u) * v[:, None] ** 2, 2 * v * np.sin(W * u).sum(1)


def noisy_gradients(seed, n, sigma_u, sigma_v):
    """The gradients at the samples as the documentation defines them: leaf j of sample i is drawn from key/i/j."""

    def noise(i, j, shape):
        return jax.random.normal(jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), i), j), shape, jnp.float32)

    u = np.stack([np.asarray(noise(i, 0, (2,)), np.float64) for i in range(n)]) * sigma_u + np.asarray(X["u"], float)
    v = np.array([float(noise(i, 1, (1, 1))[0, 0]) for i in range(n)]) * sigma_v + float(X["v"][0, 0])
    return gradient(u, v)


def mean_square(values, axis=None):
    return np.mean(values**2, axis)


def assert_close(got, by_u, by_v, tolerance=TOLERANCE):
    np.testing.assert_allclose(got["u"], by_u, rtol=tolerance, atol=tolerance)
    assert got["v"].shape == (1, 1)
    assert float(got["v"][0, 0]) == pytest.approx(float(by_v), rel=tolerance, abs=tolerance)


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("stddev", [0.3, {"u": 0.5, "v": 0.2}, {"u": jnp.array([0.5, 0.0]), "v": 0}])
def test_they_are_statistics_over_their_own_samples(stddev):
    sigma_u, sigma_v = (stddev["u"], stddev["v"]) if isinstance(stddev, dict) else (stddev, stddev)
    by_u, by_v = noisy_gradients(1, 11, np.asarray(sigma_u, float), sigma_v)
    for method, statistic in [(smooth_grad, np.mean), (square_grad, mean_square), (var_grad, np.var)]:
        got = jax.jit(method(f, num_samples=11))(jax.random.key(1), X, stddev=stddev)
        assert_close(got, statistic(by_u, 0), statistic(by_v))


@pytest.mark.core
@pytest.mark.numerics
def test_the_estimates_over_their_own_samples():
    """Mean and standard error; for the variance, of the squared deviations from the mean of all samples."""
    gradients = noisy_gradients(1, 11, 0.3, 0.3)
    for method in (smooth_grad, square_grad, var_grad):
        by_u, by_v = gradients
        if method is var_grad:
            by_u, by_v = by_u - by_u.mean(0), by_v - by_v.mean()
        if method is not smooth_grad:
            by_u, by_v = by_u**2, by_v**2
        built = method(f, num_samples=11, chunk_size=4)
        estimate = jax.jit(with_stderr(built))(jax.random.key(1), X, stddev=0.3)
        assert_close(estimate.mean, by_u.mean(0), by_v.mean())
        assert_close(estimate.stderr, by_u.std(0, ddof=1) / 11**0.5, by_v.std(ddof=1) / 11**0.5)
        assert int(estimate.num_samples) == 11
        alone = jax.jit(built)(jax.random.key(1), X, stddev=0.3)
        assert_close(estimate.mean, alone["u"], alone["v"][0, 0])


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("method", [smooth_grad, square_grad, var_grad])
@pytest.mark.parametrize("chunk_size", [1, 3, 7])
def test_chunks_do_not_change_the_map(method, chunk_size):
    got, whole = (
        jax.jit(functools.partial(method(f, num_samples=7, chunk_size=c), stddev=0.5))(jax.random.key(2), X)
        for c in (chunk_size, None)
    )
    assert_close(got, whole["u"], whole["v"][0, 0])


@pytest.mark.core
def test_without_noise_there_is_nothing_to_average():
    by_u, by_v = gradient(np.asarray(X["u"], float)[None], np.asarray(X["v"], float)[0])
    assert_close(jax.jit(smooth_grad(f, num_samples=3))(jax.random.key(0), X, stddev=0.0), by_u[0], by_v[0])
    assert_close(jax.jit(square_grad(f, num_samples=3))(jax.random.key(0), X, stddev=0.0), by_u[0] ** 2, by_v[0] ** 2)
    assert_close(jax.jit(var_grad(f, num_samples=3))(jax.random.key(0), X, stddev=0.0), [0, 0], 0)


SIGMA = 0.6


@functools.cache
def many(method):
    """Mean and standard error from 20 000 samples for Σ sin(wx) + 1000x₀, compiled."""
    curve = lambda x: jnp.sum(jnp.sin(jnp.asarray(W, x.dtype) * x)) + 1000 * x[0]  # noqa: E731
    run = jax.jit(with_stderr(method(curve, num_samples=20_000, chunk_size=5000)))
    estimate = run(jax.random.key(3), X["u"], stddev=SIGMA)
    return np.asarray(estimate.mean, np.float64), np.asarray(estimate.stderr, np.float64)


def test_smooth_grad_is_the_gradient_of_the_smoothed_function():
    """E ∂ sin(wx') = w cos(wx) e^(-w²σ²/2); 4 standard errors of two entries fail for one key in 8000."""
    x = np.asarray(X["u"], np.float64)
    mean, stderr = many(smooth_grad)
    smoothed = W * np.cos(W * x) * np.exp(-((W * SIGMA) ** 2) / 2) + [1000, 0]
    assert np.all(np.abs(mean - smoothed) < 4 * stderr + [2e-4, 0])  # 1000 is rounded to 6e-5 in float32
    assert np.all(np.abs(W * np.cos(W * x) + [1000, 0] - smoothed) > 10 * stderr)


def test_square_grad_is_the_square_of_the_mean_and_the_variance():
    """The two closed forms of the neighbouring tests added; 4 standard errors, as above."""
    x = np.asarray(X["u"], np.float64)
    smoothed = W * np.cos(W * x) * np.exp(-((W * SIGMA) ** 2) / 2)
    second = W**2 * (1 + np.cos(2 * W * x) * np.exp(-2 * (W * SIGMA) ** 2)) / 2
    mean, stderr = many(square_grad)
    assert np.all(np.abs(mean - second - 2 * np.array([1000, 0]) * smoothed - [1e6, 0]) < 4 * stderr)
    assert stderr[1] < 0.01 * second[1]


@pytest.mark.core
def test_square_grad_of_a_linear_function_is_the_square_of_its_slope():
    explain = jax.jit(square_grad(lambda x: jnp.vdot(jnp.array([3.0, -2.0]), x), num_samples=5))
    np.testing.assert_allclose(explain(jax.random.key(0), jnp.ones(2), stddev=2.0), [9.0, 4.0], rtol=1e-6)


def test_var_grad_is_the_variance_of_the_gradient():
    """w²[(1 + cos(2wx) e^(-2w²σ²))/2 - cos²(wx) e^(-w²σ²)], unharmed by a mean of 1000; 4 standard errors, as above."""
    x = np.asarray(X["u"], np.float64)
    second = (1 + np.cos(2 * W * x) * np.exp(-2 * (W * SIGMA) ** 2)) / 2
    variance = W**2 * (second - np.cos(W * x) ** 2 * np.exp(-((W * SIGMA) ** 2)))
    mean, stderr = many(var_grad)
    assert np.all(stderr < 0.02 * variance)
    assert np.all(np.abs(mean - variance) < 4 * stderr)


@pytest.mark.core
def test_noise_is_added_to_every_argument_that_is_explained():
    """For f = ab the gradients are the other argument with its noise: b + σ_b ε and a + σ_a ε."""
    product = lambda a, b, c: a * b + c  # noqa: E731
    args = (jnp.asarray(2.0), jnp.asarray(-1.0), jnp.asarray(7.0))
    both = jax.jit(var_grad(product, (1, 0), num_samples=4000, chunk_size=None))
    by_b, by_a = both(jax.random.key(4), *args, stddev=(0.5, 0.1))
    assert float(by_a) == pytest.approx(0.25, rel=0.09)  # 4 standard errors of a variance, √(2/4000)
    assert float(by_b) == pytest.approx(0.01, rel=0.09)
    assert float(var_grad(product, num_samples=10)(jax.random.key(4), *args, stddev=0.5)) < 1e-12


@pytest.mark.core
def test_smooth_grad_is_differentiable():
    """In the parameter a of Σ a²x³: the derivative of the mean of 3a²x'² is 2/a of it."""
    explain = functools.partial(smooth_grad(lambda a, x: jnp.sum(a**2 * x**3), 1, num_samples=9), stddev=0.2)
    x = jnp.array([1.0, -2.0])
    slope = jax.jit(jax.jacobian(explain, 1))(jax.random.key(5), 2.0, x)
    np.testing.assert_allclose(slope, jax.jit(explain)(jax.random.key(5), 2.0, x), rtol=1e-5)


@pytest.mark.core
@pytest.mark.parametrize("method", [smooth_grad, square_grad, var_grad])
def test_what_is_refused(method):
    name = method.__name__
    with pytest.raises(ValueError, match="`num_samples` must be at least 1; got 0"):
        method(f, num_samples=0)
    with pytest.raises(ValueError, match="`chunk_size` must be at least 1; got 0"):
        method(f, chunk_size=0)
    with pytest.raises(ValueError, match=r"`stddev` must be finite and >= 0; got -0.1"):
        method(f)(jax.random.key(0), X, stddev=-0.1)
    with pytest.raises(ValueError, match=r"`stddev` of shape \(3,\) does not broadcast to the input\['u'\]"):
        method(f)(jax.random.key(0), X, stddev=jnp.ones(3))
    with pytest.raises(TypeError, match="stddev"):
        method(f)(jax.random.key(0), X)
    with pytest.raises(TypeError, match=f"^`{name}` needs floating-point arrays"):
        method(jnp.sum)(jax.random.key(0), jnp.arange(3), stddev=0.1)
    with pytest.raises(TypeError, match=f"^`{name}` needs a function that returns a scalar"):
        method(jnp.sin)(jax.random.key(0), jnp.ones(3), stddev=0.1)


@pytest.mark.core
def test_one_sample_has_no_variance():
    with pytest.raises(ValueError, match="`var_grad` needs num_samples >= 2: one sample has no variance"):
        var_grad(f, num_samples=1)
    estimate = with_stderr(smooth_grad(f, num_samples=1))(jax.random.key(0), X, stddev=0.1)
    assert float(estimate.stderr["v"][0, 0]) == np.inf
