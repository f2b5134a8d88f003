"""Published attributions of four tabular models by captum, and exact Shapley values by shap."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import attribution, derivatives, local

X64 = jax.config.jax_enable_x64
DTYPE = jnp.float64 if X64 else jnp.float32
LINEAR = [pytest.param(name, marks=pytest.mark.slow) for name in ("heloc_logistic", "who_linear")]
MODELS = ["heloc_ffnnA", "who_ffnnA", *LINEAR]
ROWS = 10
PUBLISHED = 1000  # samples behind each published estimate
OURS = 20_000

pytestmark = pytest.mark.numerics


@pytest.fixture(scope="module")
def tables(golden):
    return golden("lfa_tabular")


@pytest.fixture(scope="module")
def small(golden):
    return golden("shap_lime")


def model(tables, name):
    """The single output: after the sigmoid for the classifiers."""
    count = 1 if f"{name}__w__linear.weight" in tables else 3
    names = ["linear"] if count == 1 else [f"linear{i + 1}" for i in range(3)]
    layers = [tuple(jnp.asarray(tables[f"{name}__w__{n}.{part}"], DTYPE) for part in ("weight", "bias")) for n in names]
    inner = jax.nn.relu if name.startswith("heloc") else jnp.tanh
    last = jax.nn.sigmoid if name.startswith("heloc") else lambda z: z

    def f(x):
        for w, b in layers[:-1]:
            x = inner(jnp.dot(w, x, precision="highest") + b)
        return last(jnp.dot(layers[-1][0], x, precision="highest") + layers[-1][1])[0]

    return f


def inputs(tables, name, count=100):
    return jnp.asarray(tables[f"{name.split('_')[0]}_x"][:count], DTYPE)


def assert_published(tables, name, kind, got):
    """To 1e-5 of the largest magnitude; the published arrays are captum's in float32."""
    wanted = np.asarray(tables[f"{name}__published_{kind}"], np.float64)
    assert got.shape == wanted.shape
    error = np.max(np.abs(np.asarray(got, np.float64) - wanted)) / np.max(np.abs(wanted))
    assert error < 1e-5, error


def over_rows(method, x, **arguments):
    return jax.jit(jax.vmap(functools.partial(method, **arguments)))(x)


def keyed(method, x, **arguments):
    keys = jax.vmap(jax.random.key)(jnp.arange(len(x)))
    return jax.jit(jax.vmap(functools.partial(method, **arguments)))(keys, x)


@pytest.mark.parametrize("name", MODELS)
def test_outputs(tables, name):
    got = over_rows(model(tables, name), inputs(tables, name))
    np.testing.assert_allclose(got, tables[f"{name}__output"], rtol=0, atol=1e-5)


METHODS = {
    "vg": attribution.gradient,
    "gxi": attribution.gradient_times_input,
    "oc": attribution.feature_ablation,
    "ig": functools.partial(attribution.integrated_gradients, num_steps=PUBLISHED, chunk_size=None),
}


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("name", MODELS)
def test_methods_are_as_published(tables, name, kind):
    assert_published(tables, name, kind, over_rows(METHODS[kind](model(tables, name)), inputs(tables, name)))


@pytest.mark.parametrize("name", MODELS)
def test_occlusion_by_windows_of_one_is_as_published(tables, name):
    method = attribution.occlusion(model(tables, name), window=(1,), stride=(1,))
    assert_published(tables, name, "oc", over_rows(method, inputs(tables, name)))


def straight(num_steps):
    """The nodes of a quadrature on the segment from 0 to x as a design: `local.scaling` without chance."""
    rule = derivatives.gauss_legendre(num_steps)

    def draw(key, index, x):
        removing = local.masks("straight", x)
        mask = jnp.full_like(x, 1) * jnp.asarray(rule.nodes, x.dtype)[index]
        weight = jnp.asarray(rule.weights, x.dtype)[index]
        return local.Perturbation(
            removing.point(mask), mask, removing.all_kept, removing.function, removing.mask_of, weight
        )

    return local.Design(draw, lambda x: num_steps, lambda x: num_steps)


FITS = {
    "vg": (
        {"neighbourhood": local.gaussian, "loss": "gradient_matching", "num_samples": 2},
        {"stddev": 0.0},
    ),
    "gxi": ({"neighbourhood": local.scaling, "loss": "gradient_matching", "num_samples": 2}, {"low": 1.0}),
    "oc": ({"neighbourhood": local.one_hot(), "model": local.Linear("anchored")}, {}),
    "ig": ({"neighbourhood": straight(PUBLISHED), "loss": "gradient_matching"}, {}),
}


@pytest.mark.parametrize("kind", FITS)
@pytest.mark.parametrize("name", MODELS)
def test_instances_of_local_function_approximation_are_as_published(tables, name, kind):
    """The slope of the best linear model, for the neighbourhood and the loss in the table of `local.fit`."""
    options, arguments = FITS[kind]
    fit = local.fit(model(tables, name), **options)
    assert_published(tables, name, kind, keyed(fit, inputs(tables, name), **arguments).slope)


def assert_within_errors(published, estimate, error, rounding=2e-6):
    """5 pooled standard errors; `error` is that of the published estimate."""
    pooled = np.sqrt(np.asarray(estimate.stderr, np.float64) ** 2 + np.asarray(error, np.float64) ** 2)
    deviation = np.abs(np.asarray(estimate.mean, np.float64) - published)
    assert np.all(deviation < 5 * pooled + rounding), np.max(deviation / (pooled + rounding / 5))


def scaled(estimate):
    """The error of as many samples as were published, from many more, which have seen the rare kinks."""
    return np.asarray(estimate.stderr) * np.sqrt(OURS / PUBLISHED)


@pytest.mark.parametrize("name", MODELS)
def test_published_smooth_grad_is_within_its_error(tables, name):
    x = inputs(tables, name, ROWS)
    build = functools.partial(attribution.smooth_grad, model(tables, name), chunk_size=1000)
    estimate = keyed(attribution.with_stderr(build(num_samples=OURS)), x, stddev=0.1)
    assert_within_errors(tables[f"{name}__published_sg"][:ROWS], estimate, scaled(estimate))


def captum_lime(f, num_samples):
    fit = local.fit(
        f,
        neighbourhood=local.binary_mask,
        num_samples=num_samples,
        weight=local.exponential_weight(1.0, local.input_distance),
    )
    return lambda key, x: derivatives.Estimate((found := fit(key, x)).slope, found.stderr, num_samples)


@pytest.mark.parametrize("name", MODELS)
def test_published_lime_is_within_its_error(tables, name):
    """Captum measures the distance in the input."""
    x, f = inputs(tables, name, ROWS), model(tables, name)
    estimate = keyed(captum_lime(f, OURS), x)
    error = keyed(captum_lime(f, PUBLISHED), x).stderr
    assert_within_errors(tables[f"{name}__published_lime"][:ROWS], estimate, error)


def independent(key, x):
    """The masks of captum's KernelSHAP: sizes by their share of the kernel, and no pairs."""
    size_key, order_key = jax.random.split(key)
    d = x.size
    sizes = np.arange(1, d)
    size = jax.random.choice(size_key, jnp.asarray(sizes), p=jnp.asarray(1 / (sizes * (d - sizes)), x.dtype))
    keep = jax.random.permutation(order_key, jnp.arange(d)) < size
    removing = local.masks("independent", x)
    mask = keep.astype(x.dtype)
    return local.Perturbation(removing.point(mask), mask, removing.all_kept, removing.function, removing.mask_of)


@pytest.mark.parametrize("name", MODELS)
def test_published_kernel_shap_is_within_its_error(tables, name):
    """The error of 1000 masks without pairs, which is larger than that of `kernel_shap`."""
    x, f = inputs(tables, name, ROWS), model(tables, name)
    estimate = keyed(attribution.with_stderr(attribution.kernel_shap(f, num_samples=OURS, chunk_size=None)), x)
    fit = local.fit(f, neighbourhood=independent, num_samples=PUBLISHED, model=local.Linear("anchored", complete=True))
    assert_within_errors(tables[f"{name}__published_ks"][:ROWS], estimate, keyed(fit, x).stderr)


@pytest.mark.parametrize("name", MODELS)
def test_sampled_shapley_values_agree_with_each_other(tables, name):
    """Two methods of this package, at the published points."""
    x, f = inputs(tables, name, ROWS), model(tables, name)
    orders = keyed(attribution.with_stderr(attribution.sampling_shapley(f, num_permutations=500, chunk_size=50)), x)
    pairs = keyed(attribution.with_stderr(attribution.kernel_shap(f, num_samples=4000, chunk_size=None)), x)
    assert_within_errors(np.asarray(pairs.mean, np.float64), orders, pairs.stderr)
    change = jax.vmap(f)(x) - f(jnp.zeros_like(x[0]))
    for estimate in (orders, pairs):
        np.testing.assert_allclose(jnp.sum(estimate.mean, 1), change, rtol=0, atol=1e-12 if X64 else 5e-6)


@pytest.mark.parametrize("name", ["heloc_logistic", "who_linear"])
def test_integrated_gradients_of_a_scaled_segment_have_an_error_too(tables, name):
    """`local.scaling` draws the points of the segment: within 5 standard errors of the published values."""
    fit = local.fit(model(tables, name), neighbourhood=local.scaling, loss="gradient_matching", num_samples=4000)
    found = keyed(fit, inputs(tables, name, ROWS))
    estimate = derivatives.Estimate(found.slope, found.stderr, 4000)
    assert_within_errors(tables[f"{name}__published_ig"][:ROWS], estimate, 0.0, rounding=2e-5)


# The network of the shap package


def network(small, output):
    weights = [(jnp.asarray(small[f"W{i}"], DTYPE), jnp.asarray(small[f"b{i}"], DTYPE)) for i in range(3)]

    def f(x):
        for w, b in weights[:2]:
            x = jnp.tanh(jnp.dot(w, x, precision="highest") + b)
        return (jnp.dot(weights[2][0], x, precision="highest") + weights[2][1])[output]

    return f


def removal(small, given):
    if given == "zero":
        return {}
    if given == "nonzero":
        return {"baseline": jnp.asarray(small["baseline_nonzero"][0], DTYPE)}
    return {"background": jnp.asarray(small["background20"], DTYPE)}


@pytest.mark.parametrize("given", ["zero", "nonzero", "bg20"])
@pytest.mark.parametrize("output", [0, 1])
def test_exact_shapley_and_all_coalitions_are_those_of_shap(small, given, output):
    f, x = network(small, output), jnp.asarray(small["x"], DTYPE)
    tolerance = 1e-12 if X64 else 1e-5
    wanted, package = (small[f"{given}_{kind}"][..., output] for kind in ("shapley_exact", "shap_kernelexplainer"))
    exact = over_rows(attribution.exact_shapley(f), x, **removal(small, given))
    kernel = keyed(attribution.kernel_shap(f, num_samples=62), x, **removal(small, given))
    for got in (exact, kernel):
        for other in (wanted, package):
            np.testing.assert_allclose(got, other, rtol=0, atol=tolerance)
    removing = local.masks("test", x[0], **removal(small, given))
    empty = removing.function(f)(jnp.zeros_like(x[0]))
    np.testing.assert_allclose(empty, small[f"{given}_expected_value"][output], rtol=0, atol=tolerance)


@pytest.mark.parametrize("given", ["zero", "nonzero", "bg20"])
@pytest.mark.parametrize("name", ["shapley_taylor", "faith_shap"])
def test_interactions_add_up_to_the_coalition_values(small, given, name):
    """The golden array has feature 0 as its highest bit; single features are what Shapley-Taylor keeps."""
    f, x = network(small, 0), jnp.asarray(small["x"], DTYPE)
    values = small[f"{given}_coalition_values"][..., 0]
    found = over_rows(getattr(attribution, name)(f), x, **removal(small, given))
    total = jnp.sum(found.main, 1) + jnp.sum(found.pairs, (1, 2)) / 2
    np.testing.assert_allclose(total, values[:, -1] - values[:, 0], rtol=0, atol=1e-12 if X64 else 2e-5)
    if name == "shapley_taylor":
        single = values[:, [32, 16, 8, 4, 2, 1]] - values[:, :1]
        np.testing.assert_allclose(found.main, single, rtol=0, atol=1e-12 if X64 else 2e-5)


@pytest.mark.parametrize("method", ["kernel_shap", "sampling_shapley"])
def test_sampled_estimates_find_the_exact_values(small, method):
    build = {
        "kernel_shap": functools.partial(attribution.kernel_shap, num_samples=40),
        "sampling_shapley": functools.partial(attribution.sampling_shapley, num_permutations=200, chunk_size=None),
    }[method]
    explain = attribution.with_stderr(build(network(small, 1)))
    estimate = keyed(explain, jnp.asarray(small["x"], DTYPE), **removal(small, "bg20"))
    assert_within_errors(small["bg20_shapley_exact"][..., 1], estimate, 0.0)
