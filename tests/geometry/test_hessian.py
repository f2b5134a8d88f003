"""Estimates of Hessians against dense ones, for inputs and for parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import derivatives, geometry

X64 = jax.config.jax_enable_x64
DTYPE = jnp.float64 if X64 else jnp.float32
RNG = np.random.default_rng(2)
PARAMS = {"w": jnp.asarray(RNG.normal(size=(4, 5)), DTYPE), "v": jnp.asarray(RNG.normal(size=5), DTYPE)}
X = jnp.asarray(RNG.normal(size=(6, 4)), DTYPE)


def loss(params, x):
    """Of a small network over six rows."""
    hidden = jnp.tanh(jnp.dot(x, params["w"], precision="highest"))
    return jnp.mean((jnp.dot(hidden, params["v"], precision="highest") - 1.0) ** 2)


@pytest.fixture(scope="module")
def dense():
    flat, unravel = jax.flatten_util.ravel_pytree(PARAMS)
    return np.asarray(jax.hessian(lambda p: loss(unravel(p), X))(flat), np.float64)


@pytest.mark.core
def test_trace_and_norm_of_a_loss(dense):
    key = jax.random.key(0)
    for sketched in (True, False):
        found = jax.jit(geometry.hessian_trace(loss, num_products=60, sketched=sketched))(
            jax.random.clone(key), PARAMS, X
        )
        assert abs(float(found.mean) - np.trace(dense)) < 5 * float(found.stderr) + 1e-3
    norm = jax.jit(geometry.hessian_frobenius_norm(loss, num_samples=200))(jax.random.clone(key), PARAMS, X)
    assert abs(float(norm.mean) - np.linalg.norm(dense)) < 5 * float(norm.stderr)


def test_sharpest_directions_of_a_loss(dense):
    found = jax.jit(geometry.hessian_eigenpairs(loss, 3, num_iterations=25))(jax.random.key(1), PARAMS, X)
    values = np.linalg.eigvalsh(dense)
    largest = values[np.argsort(-np.abs(values))[:3]]
    np.testing.assert_allclose(found.values, largest, rtol=1e-8 if X64 else 1e-3)
    assert found.vectors["w"].shape == (3, 4, 5)


def test_the_spectrum_of_a_loss(dense):
    found = jax.jit(geometry.hessian_density(loss, num_samples=20, num_iterations=20))(jax.random.key(2), PARAMS, X)
    squares = found.trace_of(jnp.square)
    assert abs(float(squares.mean) - np.sum(dense**2)) < 5 * float(squares.stderr)
    assert found.dimension == 25


def test_the_spectrum_of_gauss_newton():
    """The same estimators take any symmetric operator: here one that has no negative eigenvalues."""
    model = lambda params: jnp.dot(jnp.tanh(jnp.dot(X, params["w"])), params["v"])  # noqa: E731
    product = derivatives.gauss_newton(model, lambda z: jnp.mean((z - 1.0) ** 2))
    found = derivatives.eigenpairs(lambda v: product(PARAMS, vector=v), 6)(jax.random.key(3), PARAMS)
    assert np.all(np.asarray(found.values) > -1e-5)


def test_an_input_and_errors_that_name_the_method():
    quartic = lambda x: jnp.sum(x**4) / 12  # noqa: E731
    x = jnp.asarray([1.0, 2.0, 3.0])
    assert float(geometry.hessian_trace(quartic)(jax.random.key(0), x).mean) == pytest.approx(14, rel=1e-4)
    with pytest.raises(TypeError, match="`hessian_trace` takes a random key"):
        geometry.hessian_trace(quartic)(x, x)
    with pytest.raises(TypeError, match="`hessian_density` needs floating-point arrays"):
        geometry.hessian_density(quartic)(jax.random.key(0), jnp.ones(2, int))
    with pytest.raises(ValueError, match="6 products or more"):
        geometry.hessian_trace(quartic, num_products=2)
