"""Whether an explanation finds a function of its class again, and how models do in each other's neighbourhoods."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import local

pytestmark = [pytest.mark.core, pytest.mark.numerics]

X64 = jax.config.jax_enable_x64
EXACT = 1e-9 if X64 else 2e-4
W = jnp.array([1.0, -2.0, 3.0])
X = jnp.array([0.5, -1.0, 2.0])
COMPLETE = local.Linear("anchored", complete=True)
ADDITIVE = {
    "gradient": local.Instance(local.gaussian, {"stddev": 0.01}, "gradient_matching", num_samples=5),
    "c_lime": local.Instance(local.gaussian, {"stddev": 0.5}, num_samples=50),
    "box": local.Instance(local.box, {"radius": 0.5}, num_samples=50),
}
MASKING = {
    "integrated gradients": local.Instance(local.scaling, {}, "gradient_matching", num_samples=5),
    "lime": local.Instance(local.binary_mask, weight=local.exponential_weight(2.0), num_samples=50),
    "shap": local.Instance(local.all_masks(), model=COMPLETE, weight=local.shapley_weight),
    "kernel_shap": local.Instance(local.coalitions(6), model=COMPLETE),
    "occlusion": local.Instance(local.one_hot(), model=local.Linear("anchored")),
}
LINEAR = local.LinearModel(W, jnp.asarray(0.5, W.dtype), jnp.zeros_like(W), jnp.zeros_like(W))


def l1(a, b):
    return float(jnp.sum(jnp.abs(a - b)) / jnp.sum(jnp.abs(b)))


@pytest.mark.parametrize("name", [*ADDITIVE, *MASKING])
def test_a_linear_function_is_found_by_noise_and_times_the_input_by_masks(name):
    found = jax.jit(local.recovery(LINEAR, (ADDITIVE | MASKING)[name]))(jax.random.key(0), X)
    assert float(found.of_coordinates) < EXACT
    assert float(found.r_squared) > 1 - EXACT
    if name in ADDITIVE:
        assert float(found.of_parameters) < EXACT
    else:
        assert float(found.of_parameters) == pytest.approx(l1(W * X, W), rel=1e-3)


def test_binary_inputs_are_recovered_by_masks_too():
    found = local.recovery(LINEAR, MASKING["shap"])(jax.random.key(0), jnp.ones(3))
    assert float(found.of_parameters) < EXACT


def test_a_logistic_function_is_found_by_logistic_models_alone():
    truth = local.LogisticModel(W, jnp.asarray(0.5, W.dtype), jnp.zeros_like(W), jnp.zeros_like(W))
    instance = local.Instance(local.gaussian, {"stddev": 0.5}, "cross_entropy", local.Logistic(), num_samples=60)
    x = jnp.array([0.1, 0.2, 0.3])
    assert float(local.recovery(truth, instance)(jax.random.key(0), x).of_parameters) < (1e-6 if X64 else 5e-3)
    assert float(local.recovery(truth, ADDITIVE["c_lime"])(jax.random.key(1), x).of_parameters) > 0.1


def test_coordinates_of_groups_are_no_parameters():
    instance = local.Instance(
        local.all_masks(num_groups=2), {"groups": jnp.array([0, 0, 1])}, model=COMPLETE, weight=local.shapley_weight
    )
    found = local.recovery(LINEAR, instance)(jax.random.key(0), X)
    assert np.isnan(float(found.of_parameters))
    assert float(found.of_coordinates) < EXACT


def test_a_linear_function_has_a_free_lunch():
    table = jax.jit(local.no_free_lunch(LINEAR, instances=ADDITIVE | MASKING))(jax.random.key(0), X)
    count = len(ADDITIVE | MASKING)
    assert table.error.shape == table.relative.shape == (count, count)
    assert np.max(table.relative) < (1e-12 if X64 else 1e-4)


def test_a_ramp_fitted_on_one_side_fails_on_the_other():
    """f = relu, fitted exactly to the right of 0: at -c it errs by c²."""
    right = local.Instance(local.box, {"radius": 0.5}, num_samples=40)
    left = local.Instance(lambda key, x, c: local.Perturbation(x - c, x - c, x), {"c": 3.0}, num_samples=3)
    table = local.no_free_lunch(lambda x: jax.nn.relu(x[0]), instances={"right": right, "left": left})
    found = table(jax.random.key(0), jnp.array([1.0]))
    assert float(found.error[0, 0]) < EXACT
    assert float(found.error[0, 1]) == pytest.approx(4.0, rel=1e-3)


def test_the_table_is_the_mean_over_fresh_samples_by_hand():
    f = lambda x: jnp.sin(x[0]) * x[1]  # noqa: E731
    near = local.Instance(local.gaussian, {"stddev": 0.1}, "gradient_matching", num_samples=30)
    masks = local.Instance(local.all_masks(), weight=local.exponential_weight(1.0))
    x, key = jnp.array([0.7, 1.5]), jax.random.key(3)
    found = local.no_free_lunch(f, instances={"near": near, "masks": masks})(key, x)
    slope = near.fit(f)(jax.random.fold_in(key, 0), x)
    z = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], float)
    weights = np.exp(-(2 - z.sum(1)) / 2)
    points = z * np.asarray(x, float)
    errors = [(float(f(jnp.asarray(p, x.dtype))) - float(slope(jnp.asarray(p, x.dtype)))) ** 2 for p in points]
    assert float(found.error[0, 1]) == pytest.approx(np.average(errors, weights=weights), rel=1e-4)
    assert found.variance.shape == (2,)


def test_batches_of_tables_have_relative_errors_too():
    table = local.no_free_lunch(lambda x: jnp.sin(jnp.sum(x)), instances={"c_lime": ADDITIVE["c_lime"]})
    found = jax.vmap(table)(jax.random.split(jax.random.key(0), 4), jnp.linspace(0.0, 1.0, 12).reshape(4, 3))
    assert found.relative.shape == (4, 1, 1)


def test_there_must_be_an_instance():
    with pytest.raises(ValueError, match="`no_free_lunch` needs at least one instance"):
        local.no_free_lunch(jnp.sum, instances={})
    with pytest.raises(TypeError, match="`fit` needs `num_samples`"):
        local.no_free_lunch(jnp.sum, instances={"a": local.Instance(local.gaussian)})
