"""The ResNet-20 on 16 images: attributions by captum and torch in float64, and LIME by captum on a small network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import attribution, derivatives, heads, local

X64 = jax.config.jax_enable_x64
DTYPE = jnp.float64 if X64 else jnp.float32

pytestmark = [pytest.mark.numerics, pytest.mark.usefixtures("optimized")]


@pytest.fixture(scope="module")
def gradients(logits, resnet):
    """The gradient of one logit at many points, in the order of the points."""
    one = jax.jit(jax.vmap(attribution.gradient(heads.logit(logits))))

    def at(x, labels):
        parts = [one(jnp.asarray(x[i : i + 16], DTYPE), jnp.asarray(labels[i : i + 16])) for i in range(0, len(x), 16)]
        return np.concatenate([np.asarray(part, np.float64) for part in parts])

    return at


def test_logits(logits, resnet):
    got = np.asarray(jax.jit(jax.vmap(logits))(jnp.asarray(resnet["x"], DTYPE)), np.float64)
    np.testing.assert_allclose(got, resnet["logits"], atol=1e-6 if X64 else 1e-4)
    np.testing.assert_array_equal(got.argmax(1), resnet["pred"])


def test_gradient(gradients, resnet, assert_golden):
    assert_golden(gradients(resnet["x"], resnet["pred"]), resnet["grad"], 6e-7)


def test_gradient_times_input(logits, resnet, explained, assert_golden):
    method = attribution.gradient_times_input(heads.logit(logits))
    assert_golden(explained(method, resnet), resnet["grad_x_input"], 8e-7)


RULES = {
    # captum's trapezoid weights sum to 63/64
    "gausslegendre64": (derivatives.gauss_legendre, 1),
    "riemann_middle64": (derivatives.midpoint, 1),
    "riemann_trapezoid64_captum": (derivatives.trapezoid, 63 / 64),
}


@pytest.mark.parametrize("rule", RULES)
def test_integrated_gradients(rule, logits, resnet, explained, assert_golden):
    """Captum keeps its weights in float32, which is 2e-9 here."""
    quadrature, factor = RULES[rule]
    method = attribution.integrated_gradients(heads.logit(logits), num_steps=64, quadrature=quadrature, chunk_size=16)
    count = 16 if rule == "gausslegendre64" else 4
    maps = factor * explained(method, resnet, count)
    assert_golden(maps, resnet[f"ig_{rule}"][:count], 7e-4)
    change = resnet["logits"][np.arange(16), resnet["pred"]] - resnet["logits_zero_input"][resnet["pred"]]
    gaps = maps.sum((1, 2, 3)) - change[:count]
    np.testing.assert_allclose(gaps, resnet[f"ig_{rule}_delta"][:count], atol=2e-5 if X64 else 0.02)


def test_occlusion(logits, resnet, explained, assert_golden):
    method = attribution.occlusion(heads.logit(logits), window=(4, 4, 3), stride=(2, 2, 1), chunk_size=25)
    assert_golden(explained(method, resnet, 4), resnet["occlusion_w4_s2"][:4], 2e-6)


def test_feature_ablation(logits, resnet, explained, assert_golden):
    """Patches of 4 by 4 over all channels."""
    groups = jnp.asarray(local.grid_groups((32, 32, 3), (8, 8, 1)))
    method = attribution.feature_ablation(heads.logit(logits), num_groups=64)
    maps = explained(method, resnet, 4, groups=groups)
    patches = maps.reshape(4, 8, 4, 8, 4, 3)
    assert np.ptp(patches, axis=(2, 4, 5)).max() == 0
    assert_golden(patches[:, :, 0, :, 0, 0], resnet["feature_ablation_4x4"][:4], 1e-6)


def test_the_statistics_of_the_gradient_under_the_golden_noise(gradients, resnet, assert_golden):
    """The formulas with the golden arrays as witnesses; the next test holds us to them."""
    noisy = (resnet["x"][:4, None] + resnet["smoothgrad_noise"].astype(DTYPE)).reshape(64, 32, 32, 3)
    sampled = gradients(noisy, np.repeat(resnet["pred"][:4], 16)).reshape(4, 16, 32, 32, 3)
    assert_golden(sampled.mean(1), resnet["smoothgrad"], 3e-5)
    assert_golden(sampled.var(1), resnet["vargrad"], 1e-4)
    assert_golden((sampled**2).mean(1), resnet["smoothgrad_squared"], 1e-4)


def test_the_smoothed_gradients_over_their_own_noise(logits, gradients, resnet):
    x, label, stddev = resnet["x"][0], resnet["pred"][0], float(resnet["smoothgrad_stdev"])
    keys = [jax.random.fold_in(jax.random.fold_in(jax.random.key(0), i), 0) for i in range(8)]
    noise = np.stack([np.asarray(jax.random.normal(k, x.shape, jnp.float32)) for k in keys])
    points = np.asarray(x, DTYPE) + np.asarray(stddev, DTYPE) * noise.astype(DTYPE)
    sampled = gradients(points, np.repeat(label, 8))
    for method, wanted in [
        (attribution.smooth_grad, sampled.mean(0)),
        (attribution.square_grad, (sampled**2).mean(0)),
        (attribution.var_grad, sampled.var(0)),
    ]:
        explain = jax.jit(method(heads.logit(logits), num_samples=8, chunk_size=4))
        got = explain(jax.random.key(0), jnp.asarray(x, DTYPE), jnp.asarray(label), stddev=stddev)
        # A ReLU may flip for noise that differs in the last digit of float32.
        assert np.max(np.abs(np.asarray(got, np.float64) - wanted)) < 3e-4 * np.max(np.abs(wanted))


@pytest.fixture(scope="module")
def small(golden):
    return golden("shap_lime")


def mlp(small, output):
    """The tanh network 6-12-8-2 of the LIME arrays: one of its outputs."""
    weights = [(jnp.asarray(small[f"W{i}"], DTYPE), jnp.asarray(small[f"b{i}"], DTYPE)) for i in range(3)]

    def f(x):
        for w, b in weights[:2]:
            x = jnp.tanh(jnp.dot(w, x, precision="highest") + b)
        return (jnp.dot(weights[2][0], x, precision="highest") + weights[2][1])[output]

    return f


@pytest.mark.parametrize("output", [0, 1])
def test_lime_on_all_masks(small, output):
    """Captum's kernel takes the distance in the input, and its 64 masks are all there are.

    Of 20 000 samples every mask occurs about 312 times. 4.5 standard errors of 48 coefficients fail for one key in
    3000.
    """
    fit = jax.jit(
        local.secant(
            mlp(small, output),
            neighbourhood=local.binary_mask,
            num_samples=20_000,
            weight=local.exponential_weight(float(small["lime_kernel_width"]), local.input_distance),
        )
    )
    for i, x in enumerate(small["x"]):
        model = fit(jax.random.key(i), jnp.asarray(x, DTYPE), baseline=0.0)
        wanted = small["lime_allmasks_linear_euclid_kw1_own_f64"][i, :, output]
        np.testing.assert_allclose(wanted, small["lime_allmasks_linear_euclid_kw1"][i, :, output], atol=2e-6)
        assert np.all(np.abs(np.asarray(model.slope, np.float64) - wanted) < 4.5 * np.asarray(model.stderr, np.float64))


CAPTUM = {"linear_euclid_kw1": (1.0, 0.0), "ridge1_euclid_kw1": (1.0, 1.0), "ridge0p01_euclid_kw2": (2.0, 0.01)}


@pytest.mark.parametrize("name", CAPTUM)
def test_the_least_squares_of_lime_on_the_masks_of_captum(small, name):
    width, ridge = CAPTUM[name]
    masks = small["lime_masks"].astype(np.float64)
    removed = (1 - masks) * small["x"][:, None]
    weights = np.exp(-np.sum(removed**2, -1) / (2 * width**2))
    if width == 1:
        np.testing.assert_allclose(weights, small["lime_weights_euclid_kw1"], rtol=1e-6)
    solve = jax.jit(jax.vmap(lambda *args: local.weighted_least_squares(*args, ridge).coefficients))
    for output in (0, 1):
        values = jax.vmap(jax.vmap(mlp(small, output)))(jnp.asarray(masks * small["x"][:, None], DTYPE))
        got = solve(jnp.asarray(masks, DTYPE), values, jnp.asarray(weights, DTYPE))
        wanted = small[f"lime_{name}_own_f64"][..., output]
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-13 if X64 else 3e-6)
