"""Standard errors of stochastic methods: how often the interval holds the truth, and how fast it shrinks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import attribution
from jaxinterp.attribution import lime, smooth_grad, var_grad, with_stderr

REPEATS = 400
X, SIGMA = 0.4, 0.8


def f(x):
    return jnp.sum(jnp.sin(x))


@functools.cache
def truth(name):
    """The expectations for sin at X, by quadrature in float64."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    slopes, weights = np.cos(X + SIGMA * nodes), weights / weights.sum()
    mean = weights @ slopes
    return {"smooth_grad": mean, "var_grad": weights @ (slopes - mean) ** 2}[name]


@functools.cache
def repeated(name, num_samples):
    """Means and standard errors for 400 keys."""
    method = with_stderr(getattr(attribution, name)(f, num_samples=num_samples, chunk_size=None))
    run = jax.jit(jax.vmap(lambda key: method(key, jnp.full((1,), X), stddev=SIGMA)))
    estimate = run(jax.random.split(jax.random.key(7), REPEATS))
    assert np.all(np.asarray(estimate.num_samples) == num_samples)
    return np.asarray(estimate.mean, np.float64)[:, 0], np.asarray(estimate.stderr, np.float64)[:, 0]


@pytest.mark.core
def test_the_interval_of_smooth_grad_holds_the_truth():
    """Of 400 t-values with 255 degrees of freedom beyond 4 are 0.03 expected: more than one fails for one key in 2000.

    Within one standard error are 68 % (± 2.3 %, one standard deviation), so the interval is not too wide either.
    """
    mean, stderr = repeated("smooth_grad", 256)
    distance = np.abs(mean - truth("smooth_grad")) / stderr
    assert np.sum(distance > 4) <= 1
    assert 0.58 < np.mean(distance < 1) < 0.78


def test_the_interval_of_var_grad_holds_the_truth():
    """The variance over n is (n - 1)/n of the true one; its t-values have long tails, hence 1 % beyond 4."""
    mean, stderr = repeated("var_grad", 256)
    distance = np.abs(mean - truth("var_grad") * 255 / 256) / stderr
    assert np.sum(distance > 4) <= 4
    assert 0.58 < np.mean(distance < 1) < 0.78


@pytest.mark.core
@pytest.mark.parametrize("name", ["smooth_grad", "var_grad"])
def test_the_error_falls_like_the_root_of_the_samples(name):
    """16 times the samples, a quarter of the error; the spread of 400 means is known to 3.5 %, their ratio to 5 %."""
    (few, few_stderr), (more, more_stderr) = (repeated(name, n) for n in (256, 4096))
    assert np.sqrt(np.mean(few_stderr**2) / np.mean(more_stderr**2)) == pytest.approx(4, rel=0.05)
    assert few.std() / more.std() == pytest.approx(4, rel=0.2)
    assert np.sqrt(np.mean(more_stderr**2)) == pytest.approx(more.std(), rel=0.15)


@pytest.mark.core
@pytest.mark.parametrize("name", ["smooth_grad", "var_grad", "lime"])
def test_the_mean_is_the_map_of_the_method(name):
    arrays = {} if name == "lime" else {"stddev": 0.5}
    method = getattr(attribution, name)(lambda x: jnp.sum(x**3), num_samples=20)
    keys, x = jax.random.split(jax.random.key(1), 3), jnp.array([[1.0, 2.0], [0.0, -1.0], [3.0, 0.5]])
    maps = jax.jit(jax.vmap(functools.partial(method, **arrays)))(jax.random.clone(keys), x)
    estimate = jax.jit(jax.vmap(functools.partial(with_stderr(method), **arrays)))(keys, x)
    assert jax.tree.map(jnp.shape, estimate).mean == estimate.stderr.shape == x.shape
    assert estimate.num_samples.dtype == jnp.int32
    np.testing.assert_array_equal(estimate.num_samples, [20, 20, 20])
    np.testing.assert_allclose(estimate.mean, maps, rtol=1e-4, atol=1e-5)
    assert np.all(np.asarray(estimate.stderr) > 0)


DETERMINISTIC = ["gradient", "gradient_times_input", "integrated_gradients", "occlusion"]


@pytest.mark.core
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_deterministic_method_has_no_standard_error(name):
    with pytest.raises(TypeError, match=r"^`with_stderr` takes a stochastic method .* as it was built.*got <function"):
        with_stderr(getattr(attribution, name)(f))


@pytest.mark.core
@pytest.mark.parametrize("transformation", [jax.jit, jax.vmap, with_stderr, lambda method: method.attribute])
def test_a_transformed_method_is_refused(transformation):
    for build in (smooth_grad, var_grad, lime):
        transformed = transformation(build(f))
        with pytest.raises(TypeError, match=r"before `jax\.vmap` or `jax\.jit`; got .*with_stderr\(smooth_grad\(f"):
            with_stderr(transformed)
