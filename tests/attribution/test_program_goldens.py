"""The ResNet-20 on 16 images: methods that read the program, against captum, zennit and FullGrad in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import attribution, heads, interpreters
from jaxinterp.attribution import lrp_rules
from jaxinterp.attribution._full_grad import to_unit_range

X64 = jax.config.jax_enable_x64
DTYPE = jnp.float64 if X64 else jnp.float32

pytestmark = [pytest.mark.numerics, pytest.mark.usefixtures("optimized")]


@pytest.fixture(scope="module")
def full(golden):
    return golden("resnet20_fullgrad")


@pytest.fixture(scope="module")
def logit(logits):
    return heads.logit(logits)


PROPAGATION = {
    "guided_backprop": (attribution.guided_backprop, 2e-7),
    "deconvolution": (attribution.deconvolution, 1e-6),
    "deeplift_rescale_zero": (attribution.deep_lift, 6e-6),
    "lrp_epsilon_plus": (attribution.lrp, 1e-5),
    "guided_gradcam_layer3": (
        lambda f: attribution.guided_grad_cam(f, site="blocks_8", resize=attribution.nearest),
        3e-7,
    ),
}


@pytest.mark.parametrize("name", PROPAGATION)
def test_propagation(name, logit, resnet, explained, assert_golden):
    method, floor = PROPAGATION[name]
    maps = explained(method(logit), resnet)
    assert_golden(maps, resnet[name], floor)
    if name == "deeplift_rescale_zero":
        change = resnet["logits"][np.arange(16), resnet["pred"]] - resnet["logits_zero_input"][resnet["pred"]]
        gaps = maps.sum((1, 2, 3)) - change.astype(np.float64)
        np.testing.assert_allclose(gaps, resnet["deeplift_rescale_zero_delta"], atol=4e-6 if X64 else 1e-4)


def test_lrp_epsilon(logit, resnet, explained, assert_golden):
    """Some pre-activations are within 1e-6 of zero: in float32 the torch code deviates by 3e-4 too."""
    method = attribution.lrp(logit, composite=lrp_rules.uniform(lrp_rules.epsilon(1e-6)))
    assert_golden(explained(method, resnet), resnet["lrp_epsilon1e-6"], 4e-3)


@pytest.mark.parametrize(("name", "site"), [("raw", "blocks_8"), ("relu", None)])
def test_grad_cam(name, site, logit, resnet, explained, assert_golden):
    """The last block is also the site that is taken without being named."""
    activation = jax.nn.relu if name == "relu" else lambda heat: heat
    method = attribution.grad_cam(logit, site=site, activation=activation, resize=attribution.nearest)
    maps = explained(method, resnet)
    assert np.ptp(maps.reshape(16, 8, 4, 8, 4, 3), axis=(2, 4, 5)).max() == 0
    assert_golden(maps[:, ::4, ::4, 0], resnet[f"gradcam_layer3_{name}"], 3e-7)


def test_grad_cam_of_the_full_grad_code(logit, full, explained, assert_golden):
    """Before batch normalisation and residual sum, with a ReLU of the features."""

    def combine(features, gradient):
        return jnp.tensordot(jax.nn.relu(features), jnp.mean(gradient, (0, 1)), 1, precision="highest")

    method = attribution.class_activation_map(logit, combine=combine, site="blocks_8/conv_1")
    assert_golden(explained(method, full)[..., 0], full["idiap_gradcam"], 4e-7)


@pytest.mark.parametrize("name", ["full_grad", "simple_full_grad"])
def test_full_grad(name, logit, full, explained, assert_golden):
    maps = explained(getattr(attribution, name)(logit), full)
    assert np.ptp(maps, axis=-1).max() == 0
    wanted = full["fullgrad_saliency" if name == "full_grad" else "simple_fullgrad_saliency"]
    assert_golden(maps[..., 0], wanted, 2e-7 if name == "full_grad" else 3e-7)


def test_smooth_full_grad(logit, full, assert_golden):
    """With the golden noise. The original sums, where we average, and sums the input's term over channels before ψ."""

    @jax.jit
    def terms(x, y):
        decomposition = interpreters.full_gradient(logit)(x, y)
        of_input = jnp.sum(decomposition.input_gradient * x, -1, keepdims=True)
        return of_input, [term[0] for term in decomposition.terms().values() if term.ndim == 4]

    noise = full["smooth_fullgrad_std"].astype(np.float64) * full["smooth_fullgrad_noise_std_normal"]
    points = jnp.asarray(full["x"][:4] + noise, DTYPE)
    for i, label in enumerate(full["pred"][:4]):
        samples = [terms(x, jnp.asarray(label)) for x in points[:, i]]
        of_input, of_sites = jax.tree.map(lambda *parts: sum(parts), *samples)
        maps = [attribution.align_corners(to_unit_range(term), (32, 32)) for term in (of_input, *of_sites)]
        saliency = sum(np.asarray(one, np.float64).sum(-1) for one in maps)
        assert_golden(saliency, full["smooth_fullgrad_saliency"][i], 1e-4)


def in_order(f, decomposition):
    """The sites of a decomposition as they are executed."""
    sites = interpreters.sites(f)(jnp.zeros((32, 32, 3), DTYPE), 0)
    ordered = [site for site in sites if site in decomposition.offsets]
    assert len(ordered) == len(decomposition.offsets)
    return ordered


def torch_name(site):
    """What the golden arrays call the module at a site."""
    block, _, part = site.path.partition("/")
    if not block.startswith("blocks_"):
        return {"norm": "bn1", "head": "linear", "": "relu"}[block]
    stage, position = divmod(int(block.removeprefix("blocks_")), 3)
    number = int(part.removeprefix("norm_")) if part else site.occurrence
    return f"layer{stage + 1}.{position}.{'bn' if part else 'relu'}{number + 1}"


def test_the_full_gradient_layer_by_layer(logit, full, explained, assert_golden):
    decomposition = explained(interpreters.full_gradient(logit), full)
    sites, terms = in_order(logit, decomposition), decomposition.terms()
    assert [torch_name(site) for site in sites] == list(full["layer_names"])
    assert_golden(decomposition.input_gradient, full["input_grad"], 6e-7)
    of_input = np.sum(decomposition.input_gradient * full["x"], (1, 2, 3))
    assert_golden(of_input, full["input_term_total"], 1e-6)
    totals = np.stack([np.asarray(terms[site], np.float64).reshape(16, -1).sum(1) for site in sites], 1)
    assert_golden(totals, full["biasgrad_total"], 1e-6)
    np.testing.assert_allclose(of_input + totals.sum(1), full["logit"], atol=2e-6 if X64 else 1e-4)
    for i, site in enumerate(sites):
        bias, offset = full[f"bias__{torch_name(site)}"], decomposition.offsets[site]
        assert_golden(offset, np.broadcast_to(bias, offset.shape), 1e-6)
        if i == 19:
            assert_golden(np.asarray(terms[site])[:, 0], full["biasgrad_19_linear"], 1e-6)
        else:
            assert_golden(np.asarray(terms[site], np.float64)[:, 0].sum(-1), full[f"biasgrad_chsum_{i:02d}"], 1e-6)


def softplus10(z):
    return jax.nn.softplus(10 * z) / 10


def test_the_full_gradient_of_a_smooth_network(trained_resnet, full, explained, assert_golden):
    """Batch norms and the implicit offsets of 19 softplus activations; without these a quarter of the logit is missing.

    The totals of a site are sums of up to 16 384 numbers, in float32 by torch as by us.
    """
    f = heads.logit(trained_resnet(activation=softplus10))
    decomposition = explained(interpreters.full_gradient(f), full, labels="softplus10_pred")
    sites, terms = in_order(f, decomposition), decomposition.terms()
    assert [torch_name(site) for site in sites] == list(full["softplus10_term_names"])
    assert_golden(decomposition.input_gradient, full["softplus10_input_grad"], 1e-6)
    of_input = np.sum(decomposition.input_gradient * full["x"], (1, 2, 3))
    assert_golden(of_input, full["softplus10_input_term_total"], 1e-6)
    totals = np.stack([np.asarray(terms[site], np.float64).reshape(16, -1).sum(1) for site in sites], 1)
    assert_golden(totals, full["softplus10_term_total"], 1e-6)
    value = full["softplus10_logits"][np.arange(16), full["softplus10_pred"]]
    np.testing.assert_allclose(of_input + totals.sum(1), value, atol=4e-6 if X64 else 2e-4)
    implicit = [i for i, site in enumerate(sites) if "relu" in torch_name(site)]
    missing = full["softplus10_residual_without_implicit"]
    np.testing.assert_allclose(totals[:, implicit].sum(1), missing, atol=4e-6 if X64 else 2e-4)
