"""Steepness and linearity on functions whose extremes are known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import geometry

X64 = jax.config.jax_enable_x64
DTYPE = jnp.float64 if X64 else jnp.float32
RNG = np.random.default_rng(5)
MATRIX = jnp.asarray(RNG.normal(size=(6, 4)), DTYPE)


@pytest.mark.core
def test_the_norm_of_a_jacobian():
    f = lambda x: {"a": jnp.tanh(jnp.dot(MATRIX, x["u"])), "b": x["v"] * x["u"][0]}  # noqa: E731
    x = {"u": jnp.asarray(RNG.normal(size=4), DTYPE), "v": jnp.asarray(0.7, DTYPE)}
    found = jax.jit(geometry.jacobian_norm(f, tolerance=1e-6))(jax.random.key(0), x)
    flat, unravel = jax.flatten_util.ravel_pytree(x)
    dense = jax.jacobian(lambda v: jax.flatten_util.ravel_pytree(f(unravel(v)))[0])(flat)
    truth = np.linalg.norm(np.asarray(dense, np.float64), 2)
    assert float(found.value) == pytest.approx(truth, rel=1e-6 if X64 else 1e-4)
    assert float(found.residual) < 1e-3


def test_the_norm_of_a_gradient():
    f = lambda x: jnp.sum(jnp.sin(x))  # noqa: E731
    x = jnp.asarray([0.1, 0.2, 0.3])
    found = geometry.jacobian_norm(f)(jax.random.key(0), x)
    assert float(found.value) == pytest.approx(float(jnp.linalg.norm(jnp.cos(x))), rel=1e-5)


@pytest.mark.core
def test_the_steepest_point_of_a_ball():
    """‖∇f‖ = 2‖x‖ is largest farthest from the origin; and the search stays below the certified bound."""
    x = jnp.asarray([1.0, 2.0, 2.0])
    f = lambda x: jnp.vdot(x, x)  # noqa: E731
    found = jax.jit(functools.partial(geometry.local_lipschitz(f), radius=0.5))(jax.random.key(0), x)
    assert float(found.value) == pytest.approx(7.0, rel=1e-3)
    upper = geometry.bounds(f)(x, radius=0.5).lipschitz.upper
    assert float(found.value) <= float(upper) * (1 + 1e-5)
    assert float(upper) == pytest.approx(7.0, rel=1e-3)


def test_the_gap_to_the_tangent():
    """Of a quadratic function it is r²/2 times the largest eigenvalue, a bound that `bounds` reproduces."""
    hessian = jnp.asarray(np.diag([4.0, 1.0, -2.0]), DTYPE)
    f = lambda x: 0.5 * jnp.vdot(x, jnp.dot(hessian, x)) + x[0]  # noqa: E731
    x = jnp.asarray([1.0, -1.0, 0.5], DTYPE)
    found = geometry.local_linearity(f, num_steps=60)(jax.random.key(0), x, radius=0.3)
    assert float(found.value) == pytest.approx(0.5 * 4 * 0.09, rel=0.02)
    below = geometry.local_linearity(lambda x: -f(x), num_restarts=2)(jax.random.key(1), x, radius=0.3)
    assert float(below.value) == pytest.approx(0.5 * 4 * 0.09, rel=0.02)
    linear = geometry.local_linearity(lambda x: 3 * x[0])(jax.random.key(0), x, radius=0.3)
    assert float(linear.value) < 1e-5


def test_the_gradient_under_noise():
    """∇f = 2x: the change is 2σ‖ε‖ over 2‖x‖, whose mean is known."""
    x = jnp.asarray([3.0, 4.0])
    found = geometry.gradient_change(lambda x: jnp.vdot(x, x), num_samples=2000)(jax.random.key(0), x, stddev=0.5)
    assert abs(float(found.mean) - 0.5 * (np.pi / 2) ** 0.5 / 5) < 4 * float(found.stderr)


def test_what_is_refused():
    f = lambda x: jnp.vdot(x, x)  # noqa: E731
    with pytest.raises(ValueError, match="`norm` must be one of"):
        geometry.local_lipschitz(f, norm="l1")
    with pytest.raises(ValueError, match="`num_restarts` of `local_linearity` must be 2 or more"):
        geometry.local_linearity(f, num_restarts=1)
    with pytest.raises(ValueError, match="`radius` must be finite and >= 0"):
        geometry.local_linearity(f)(jax.random.key(0), jnp.ones(2), radius=-1.0)
    with pytest.raises(TypeError, match="`local_lipschitz` takes a random key"):
        geometry.local_lipschitz(f)(0, jnp.ones(2), radius=1.0)
