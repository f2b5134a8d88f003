"""Unbiased gradients against sums over all masks, where straight-through is wrong."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import sparsity

GATES = {"a": jnp.array([0.2, 0.7]), "b": jnp.asarray(0.5)}


def loss(mask):
    return (mask["a"][0] - 0.2) ** 2 + 3 * mask["a"][1] * mask["b"] - jnp.sin(2 * mask["b"] + mask["a"][0])


def exact(gates):
    """The expected loss, by all eight masks."""
    total = 0.0
    for m in itertools.product((0.0, 1.0), repeat=3):
        k = jnp.concatenate([gates["a"], gates["b"][None]])
        chance = jnp.prod(jnp.where(jnp.asarray(m) > 0, k, 1 - k))
        total = total + chance * loss({"a": jnp.asarray(m[:2]), "b": jnp.asarray(m[2])})
    return total


@pytest.mark.core
@pytest.mark.parametrize("method", ["arm", "reinforce"])
def test_the_mean_is_that_of_all_masks(method):
    value, truth = jax.value_and_grad(exact)(GATES)
    estimate = jax.jit(sparsity.unbiased_gradient(loss, num_samples=4000, method=method))
    found_value, found = estimate(jax.random.key(0), GATES)
    assert abs(float(found_value - value)) < 0.1
    for name in GATES:
        gap = np.abs(np.asarray(found.mean[name] - truth[name]))
        assert np.all(gap <= 4 * np.asarray(found.stderr[name]))
        assert np.all(np.asarray(found.stderr[name]) < 0.1)


def test_straight_through_is_biased():
    """Of (m - a)²: 2(k - a) on average, where 1 - 2a is true."""
    k, a = jnp.full(20_000, 0.3), 0.2
    straight = jax.grad(lambda k: jnp.sum((sparsity.sample(jax.random.key(0), k) - a) ** 2))(k)
    assert float(jnp.mean(straight)) == pytest.approx(2 * (0.3 - a), abs=0.02)
    _, found = sparsity.unbiased_gradient(lambda m: (m - a) ** 2, num_samples=500)(jax.random.key(1), jnp.asarray(0.3))
    assert abs(float(found.mean) - (1 - 2 * a)) < 4 * float(found.stderr) + 1e-6


def test_gates_at_their_ends_are_finite():
    _, found = sparsity.unbiased_gradient(jnp.sum)(jax.random.key(0), jnp.array([0.0, 1.0]))
    assert np.all(np.isfinite(found.mean))


def test_what_is_refused():
    with pytest.raises(ValueError, match="`method` must be one of"):
        sparsity.unbiased_gradient(loss, method="st")
    with pytest.raises(ValueError, match="needs 2 samples or more"):
        sparsity.unbiased_gradient(loss, num_samples=1)
    with pytest.raises(TypeError, match="unbiased_gradient"):
        sparsity.unbiased_gradient(loss)(0, GATES)


@pytest.mark.parametrize("method", ["arm", "reinforce"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_gates_that_are_closed_or_open_have_finite_gradients(dtype, method):
    """Also where 1 - 1e-6 is 1."""
    estimate = sparsity.unbiased_gradient(lambda m: jnp.sum(m.astype(jnp.float32)), method=method)
    found = jax.jit(estimate)(jax.random.key(0), jnp.asarray([0.0, 1.0], dtype))[1]
    assert np.all(np.isfinite(np.asarray(found.mean, np.float32)))
