"""Weights of samples against their formulas and the weights of captum."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import local, tree

X64 = jax.config.jax_enable_x64
X = {"u": jnp.array([1.0, -2.0]), "v": jnp.asarray(3.0)}
SAMPLE = local.Perturbation(
    point={"u": jnp.array([1.0, 0.0]), "v": jnp.asarray(-1.0)},  # distance √(0 + 4 + 16) from X
    coordinates=jnp.array([1.0, 0.0, 0.0, 1.0]),
    anchor=jnp.ones(4),  # distance √2
)


@pytest.mark.core
def test_distances():
    assert float(local.coordinate_distance(SAMPLE, X)) == pytest.approx(np.sqrt(2), rel=1e-6)
    assert float(local.input_distance(SAMPLE, X)) == pytest.approx(np.sqrt(20), rel=1e-6)


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("width", [0.5, 1.0, 3.0])
@pytest.mark.parametrize(
    ("distance", "square"), [(local.coordinate_distance, 2), (local.input_distance, 20)], ids=["coordinates", "input"]
)
def test_the_exponential_weight(width, distance, square):
    """exp(-d²/2w²), with the factor 2."""
    weight = local.exponential_weight(width, distance)
    for value in (weight(SAMPLE, X), jax.jit(weight)(SAMPLE, X)):
        assert value.shape == ()
        assert float(value) == pytest.approx(np.exp(-square / (2 * width**2)), rel=1e-5)


@pytest.mark.core
def test_the_distance_of_the_coordinates_is_the_default():
    assert float(local.exponential_weight(1.0)(SAMPLE, X)) == pytest.approx(np.exp(-1), rel=1e-6)


@pytest.mark.core
def test_the_point_itself_weighs_one_and_has_a_gradient():
    weight = local.exponential_weight(1.0, local.input_distance)

    def at(point):
        return weight(local.Perturbation(point, point, X), X)

    value, gradient = jax.value_and_grad(at)(X)
    assert float(value) == 1
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(gradient))


@pytest.mark.core
def test_every_sample_counts_the_same():
    far = local.Perturbation(SAMPLE.point, 100 * SAMPLE.coordinates, SAMPLE.anchor)
    for sample in (SAMPLE, far):
        assert float(local.uniform_weight(sample, X)) == 1
        assert local.uniform_weight(sample, X).shape == ()


@pytest.mark.core
def test_weights_of_bfloat16_are_float32():
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (SAMPLE, X))
    for weight in (local.uniform_weight, local.exponential_weight(1.0)):
        assert weight(*half).dtype == jnp.float32


@pytest.mark.core
@pytest.mark.parametrize("width", [0.0, -1.0, np.nan])
def test_the_width_is_positive(width):
    with pytest.raises(ValueError, match=f"`kernel_width` must be positive; got {width}"):
        local.exponential_weight(width)


@pytest.mark.numerics
def test_the_weights_of_captum(golden):
    arrays = golden("shap_lime")
    x, masks = (jnp.asarray(arrays[name], float) for name in ("x", "lime_masks"))
    weight = local.exponential_weight(float(arrays["lime_kernel_width"]), local.input_distance)

    def of_mask(x, mask):
        return weight(local.Perturbation(mask * x, mask, jnp.ones_like(mask)), x)

    got = jax.jit(jax.vmap(jax.vmap(of_mask, (None, 0))))(x, masks)
    np.testing.assert_allclose(got, arrays["lime_weights_euclid_kw1"], rtol=1e-5)


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize(("convention", "factor"), [("lime", 2), ("lfa", 1)])
def test_the_two_conventions_of_the_width(convention, factor):
    weight = local.exponential_weight(1.5, convention=convention)
    assert float(weight(SAMPLE, X)) == pytest.approx(np.exp(-2 / (factor * 1.5**2)), rel=1e-5)
    same = local.exponential_weight(1.5 * np.sqrt(factor / 2))
    assert float(weight(SAMPLE, X)) == pytest.approx(float(same(SAMPLE, X)), rel=1e-5)


@pytest.mark.core
def test_other_conventions_are_refused():
    with pytest.raises(ValueError, match="`convention` must be one of 'lime', 'lfa'; got 'captum'"):
        local.exponential_weight(1.0, convention="captum")


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("d", [2, 3, 6])
def test_the_shapley_kernel(d):
    masks = np.array(list(itertools.product([0.0, 1.0], repeat=d)))
    expected = [
        0 if k in (0, d) else (d - 1) / (math.comb(d, k) * k * (d - k)) for k in masks.sum(1).astype(int).tolist()
    ]
    x = jnp.ones(d)
    got = jax.jit(jax.vmap(lambda mask: local.shapley_weight(local.Perturbation(x, mask, x), x)))
    np.testing.assert_allclose(got(jnp.asarray(masks, float)), expected, rtol=1e-5)


@pytest.mark.core
@pytest.mark.numerics
def test_the_shapley_kernel_of_many_features_and_of_trees():
    mask = {"u": jnp.ones(100).at[:30].set(0), "v": jnp.zeros(50)}
    sample = local.Perturbation(mask, mask, tree.ones_like(mask))
    exact = 149 / (70 * 80) / math.comb(150, 70)
    assert float(local.shapley_weight(sample, mask)) == pytest.approx(exact if X64 else 0, rel=1e-6, abs=1e-37)
    one = {"u": jnp.zeros(100).at[7].set(1), "v": jnp.zeros(50)}
    sample = local.Perturbation(one, one, tree.ones_like(one))
    assert float(local.shapley_weight(sample, one)) == pytest.approx(1 / 150, rel=1e-4)


@pytest.mark.core
def test_one_feature_has_no_shapley_kernel():
    x = jnp.ones(1)
    for mask in (x, jnp.zeros(1)):
        assert float(local.shapley_weight(local.Perturbation(x, mask, x), x)) == 0
    half = x.astype(jnp.bfloat16)
    assert local.shapley_weight(local.Perturbation(half, half, half), half).dtype == jnp.float32
