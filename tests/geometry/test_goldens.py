"""Curvature of a small network with dense Hessians, and of the softplus ResNet-20 by ARPACK, both in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import geometry, heads

X64 = jax.config.jax_enable_x64
DTYPE = jnp.float64 if X64 else jnp.float32

pytestmark = [pytest.mark.numerics, pytest.mark.usefixtures("optimized")]


def softplus(beta):
    return lambda z: jnp.logaddexp(beta * z, jnp.zeros_like(z)) / beta


@pytest.fixture(scope="module")
def arrays(golden):
    return golden("curvature")


@pytest.fixture(scope="module")
def small(arrays):
    """The MLP 20-16-16-3, and what depends on its head alone: a compiled curvature of one point, to the last digit."""
    weights = [(jnp.asarray(arrays[f"mlp_W{i}"], DTYPE), jnp.asarray(arrays[f"mlp_b{i}"], DTYPE)) for i in range(3)]

    def mlp(x):
        for w, b in weights[:2]:
            x = softplus(5.0)(jnp.dot(w, x, precision="highest") + b)
        return jnp.dot(weights[2][0], x, precision="highest") + weights[2][1]

    options = {"num_iterations": 20, "tolerance": 0.0}
    return {
        "logit": jax.jit(geometry.curvature(heads.logit(mlp), **options)),
        "cross_entropy": jax.jit(geometry.curvature(heads.cross_entropy(mlp), **options)),
    }


@pytest.mark.parametrize("head", ["logit", "cross_entropy"])
def test_the_small_network(head, small, arrays):
    tolerance = 1e-8 if X64 else 1e-4
    labels = [(i, k) for i in range(5) for k in (range(3) if head == "logit" else [arrays["mlp_pred"][i]])]
    for i, label in labels:
        hessian = arrays["mlp_hessian"][i, label] if head == "logit" else arrays["mlp_ce_hessian"][i]
        slope = arrays["mlp_grad"][i, label] if head == "logit" else arrays["mlp_ce_grad"][i]
        norm = arrays["mlp_spectral_norm"][i, label] if head == "logit" else arrays["mlp_ce_spectral_norm"][i]
        assert norm == pytest.approx(np.abs(np.linalg.eigvalsh(hessian)).max(), rel=1e-12)
        got = small[head](jax.random.key(0), jnp.asarray(arrays["mlp_x"][i], DTYPE), jnp.asarray(label))
        assert float(got.hessian_norm) == pytest.approx(norm, rel=tolerance)
        assert float(got.gradient_norm) == pytest.approx(np.linalg.norm(slope), rel=tolerance)
        assert float(got.normalised) == pytest.approx(norm / (np.linalg.norm(slope) + 1e-6), rel=tolerance)
        assert float(got.residual) < tolerance * norm


@pytest.fixture(scope="module")
def resnet(trained_resnet):
    apply = trained_resnet(activation=softplus(10.0))

    @functools.cache
    def measure(head):
        scalar = {"ce": heads.cross_entropy, "logit": heads.logit}[head](apply)
        return jax.jit(geometry.curvature(scalar, num_iterations=80, tolerance=1e-3))

    return measure


@pytest.mark.parametrize("head", ["ce", "logit"])
@pytest.mark.parametrize("image", [0, 1, 4])
def test_the_resnet(head, image, resnet, arrays):
    """The cross-entropy of image 0 is curved by 2e-6 only; image 4 has two eigenvalues within 1 %."""
    x, label = jnp.asarray(arrays["x"][image], DTYPE), jnp.asarray(arrays["pred"][image])
    got = resnet(head)(jax.random.key(image), x, label)
    norm, slope = arrays[f"{head}_hess_spectral_norm"][image], arrays[f"{head}_gradnorm"][image]
    assert float(got.residual) < 2e-3 * norm
    assert int(got.num_iterations) < 80
    assert float(got.hessian_norm) == pytest.approx(norm, rel=1e-3)
    assert float(got.gradient_norm) == pytest.approx(slope, rel=1e-6 if X64 else 1e-3)
    assert float(got.normalised) == pytest.approx(arrays[f"{head}_curvature"][image], rel=1e-3)
