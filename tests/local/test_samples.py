"""Samples: a function over a neighbourhood, against the same samples drawn one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.tree
from jax.flatten_util import ravel_pytree

from jaxinterp import local

pytestmark = [pytest.mark.core, pytest.mark.numerics]

W = jnp.array([2.0, -1.0])
X = {"u": jnp.array([1.0, -0.5]), "v": jnp.asarray(0.3)}


def f(w, x):
    return jnp.sum(jnp.sin(w * x["u"])) + x["v"] ** 2 * x["u"][0]


def flat(t):
    return np.asarray(ravel_pytree(t)[0], np.float64)


@pytest.mark.parametrize("chunk_size", [3, None])
def test_every_sample_is_drawn_by_its_number(chunk_size):
    weight = local.exponential_weight(0.7)
    sampled = local.samples(
        f, 1, neighbourhood=local.gaussian, num_samples=7, weight=weight, slopes=True, ends=True, chunk_size=chunk_size
    )
    found = jax.jit(sampled)(jax.random.key(3), W, X, stddev=0.4)
    draw = jax.jit(lambda i: local.gaussian(jax.random.fold_in(jax.random.key(3), i), X, stddev=0.4).point)
    for i in range(7):
        point = draw(i)
        np.testing.assert_allclose(found.offsets[i], flat(point) - flat(X), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.coordinates[i], flat(point), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.values[i], f(W, point), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.derivatives()[i], flat(jax.grad(f, 1)(W, point)), rtol=1e-4, atol=1e-6)
        square = np.sum((flat(point) - flat(X)) ** 2)
        np.testing.assert_allclose(found.weights[i], np.exp(-square / (2 * 0.7**2)), rtol=1e-5)
    at_x, at_zero = found.ends()
    np.testing.assert_allclose(at_x, f(W, X), rtol=1e-6)
    np.testing.assert_allclose(at_zero, 0, atol=1e-7)
    assert (found.fixed, found.cluster) == (0, 1)
    assert jax.tree.structure(found.unravel(found.offsets[0])) == jax.tree.structure(X)


def test_slopes_are_derivatives_by_the_coordinates():
    """Of a mask: (x - b)·∇f, summed over the entries of a feature."""
    x, baseline, groups = jnp.array([1.0, -2.0, 0.5]), jnp.array([0.3, 0.1, 0.2]), jnp.array([0, 1, 1])
    g = lambda x: jnp.sum(jnp.sin(x)) * x[0]  # noqa: E731
    sampled = local.samples(g, neighbourhood=local.all_masks(num_groups=2), slopes=True, ends=True)
    found = sampled(jax.random.key(0), x, baseline=baseline, groups=groups)
    np.testing.assert_array_equal(found.coordinates, [[0, 0], [1, 0], [0, 1], [1, 1]])
    for mask, value, slope in zip(found.coordinates, found.values, found.derivatives(), strict=True):
        point = jnp.where(mask[groups] == 1, x, baseline)
        by_entry = np.asarray((x - baseline) * jax.grad(g)(point))
        np.testing.assert_allclose(value, g(point), rtol=1e-5)
        np.testing.assert_allclose(slope, [by_entry[0], by_entry[1] + by_entry[2]], rtol=1e-5)
    np.testing.assert_allclose(found.ends(), [g(x), g(baseline)], rtol=1e-6)
    assert found.fixed == 4


def test_a_background_is_averaged_at_every_sample():
    x, rows = jnp.array([1.0, -2.0]), jnp.array([[0.5, 0.1], [-1.0, 2.0], [0.0, 3.0]])
    g = lambda x: x[0] * x[1] ** 2  # noqa: E731
    sampled = local.samples(g, neighbourhood=local.all_masks(), ends=True)
    found = jax.jit(sampled)(jax.random.key(0), x, background=rows)
    expected = [np.mean([g(jnp.where(mask == 1, x, row)) for row in rows]) for mask in found.coordinates]
    np.testing.assert_allclose(found.values, expected, rtol=1e-5)
    np.testing.assert_allclose(found.ends(), [expected[3], expected[0]], rtol=1e-5)


def test_the_weight_of_a_design_is_a_factor():
    design = local.coalitions(10)
    plain, halved = (
        local.samples(lambda x: jnp.sum(x), neighbourhood=design, weight=weight)(jax.random.key(1), jnp.ones(5))
        for weight in (local.uniform_weight, lambda perturbation, x: jnp.float32(0.5))
    )
    np.testing.assert_allclose(halved.weights, plain.weights / 2, rtol=1e-6)
    assert float(plain.weights.sum()) == pytest.approx(1, rel=1e-5)
    assert (plain.fixed, plain.cluster) == (design.fixed(jnp.ones(5)), 2)


def test_a_model_of_ones_own():
    """A tree of scikit-learn finds where a step is."""
    step = lambda x: jnp.where(x[1] > 0.25, 3.0, -1.0)  # noqa: E731
    sampled = local.samples(step, neighbourhood=local.box, num_samples=300)
    found = jax.jit(sampled)(jax.random.key(2), jnp.zeros(3), radius=1.0)
    stump = sklearn.tree.DecisionTreeRegressor(max_depth=1).fit(found.coordinates, found.values, found.weights)
    assert stump.tree_.feature[0] == 1
    assert stump.tree_.threshold[0] == pytest.approx(0.25, abs=0.03)


def test_inputs_of_bfloat16():
    x = jnp.array([1.0, 2.0], jnp.bfloat16)
    sampled = local.samples(jnp.sum, neighbourhood=local.gaussian, num_samples=4, slopes=True, ends=True)
    found = sampled(jax.random.key(4), x, stddev=0.5)
    assert found.weights.dtype == jnp.float32
    assert found.offsets.dtype == found.values.dtype == jnp.bfloat16
    assert found.unravel(jnp.zeros(2, jnp.float32)).dtype == jnp.bfloat16


def test_what_was_not_asked_for_is_missing():
    found = local.samples(f, 1, neighbourhood=local.gaussian, num_samples=2)(jax.random.key(5), W, X, stddev=0.4)
    with pytest.raises(ValueError, match=r"ask for it with `samples\(..., ends=True\)`"):
        found.ends()
    with pytest.raises(ValueError, match=r"ask for them with `samples\(..., slopes=True\)`"):
        found.derivatives()


def test_bad_options_are_refused():
    with pytest.raises(TypeError, match="`samples` needs `num_samples` for a neighbourhood that is sampled"):
        local.samples(jnp.sum, neighbourhood=local.gaussian)
    with pytest.raises(TypeError, match="`samples` got `num_samples`, but the design of its neighbourhood has its own"):
        local.samples(jnp.sum, neighbourhood=local.one_hot(), num_samples=3)
    with pytest.raises(TypeError, match=r"`neighbourhood` of `samples` must be a function or a `local.Design`"):
        local.samples(jnp.sum, neighbourhood="gaussian", num_samples=3)
    with pytest.raises(TypeError, match="`weight` of `samples` must be a function; got 'lime'"):
        local.samples(jnp.sum, neighbourhood=local.gaussian, num_samples=3, weight="lime")
    with pytest.raises(ValueError, match="`num_samples` must be at least 1; got 0"):
        local.samples(jnp.sum, neighbourhood=local.gaussian, num_samples=0)
    with pytest.raises(ValueError, match="`chunk_size` must be at least 1; got 0"):
        local.samples(jnp.sum, neighbourhood=local.gaussian, num_samples=3, chunk_size=0)
    sampled = local.samples(lambda x: x, neighbourhood=local.gaussian, num_samples=3)
    with pytest.raises(TypeError, match="`samples` needs a function that returns a scalar"):
        sampled(jax.random.key(0), jnp.ones(2), stddev=1.0)
    with pytest.raises(TypeError, match="`samples` takes a random key as its first argument"):
        sampled(0, jnp.ones(2), stddev=1.0)
