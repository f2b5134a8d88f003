"""Predictions with random gates against the sum over all masks."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import sparsity

DTYPE = jnp.float64 if jax.config.jax_enable_x64 else jnp.float32
pytestmark = [pytest.mark.core, pytest.mark.numerics]


def logits(params, x):
    return jnp.tanh(x @ params["in"]) @ params["out"]


def network():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), DTYPE)  # noqa: E731
    params = {"in": draw(3, 4), "out": 3 * draw(4, 3)}
    return params, {"in": None, "out": jnp.asarray([[0.5], [0.9], [0.2], [1.0]], DTYPE)}, draw(3)


def test_against_all_masks():
    params, gates, x = network()
    total, single = np.zeros(3), 0.0
    for bits in itertools.product((0.0, 1.0), repeat=4):
        weight = np.prod([g if bit else 1 - g for bit, g in zip(bits, np.ravel(gates["out"]), strict=True)])
        mask = {"in": None, "out": jnp.asarray(bits, DTYPE)[:, None]}
        p = np.asarray(jax.nn.softmax(logits(sparsity.apply(params, mask), x)), float)
        total, single = total + weight * p, single - weight * np.sum(p * np.log(p))
    entropy = -np.sum(total * np.log(total))
    found = sparsity.predictive(logits, num_samples=4000, chunk_size=500)(jax.random.key(0), params, gates, x)
    assert np.all(np.abs(found.probabilities - total) < 4 * found.stderr)
    assert 0 < np.max(found.stderr) < 0.02
    assert float(found.entropy) == pytest.approx(entropy, abs=0.03)
    assert float(found.mutual_information) == pytest.approx(entropy - single, abs=0.03)
    assert entropy - single > 0.1


def test_open_gates_leave_no_doubt():
    """The plain prediction, without error and without disagreement, under `jit` and `vmap` too."""
    params, gates, x = network()
    opened = jax.tree.map(jnp.ones_like, gates)
    predict = jax.jit(jax.vmap(sparsity.predictive(logits, num_samples=3), (None, None, None, 0)))
    found = predict(jax.random.key(0), params, opened, jnp.stack([x, 2 * x]))
    expected = jax.nn.softmax(jax.vmap(logits, (None, 0))(params, jnp.stack([x, 2 * x])))
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)
    np.testing.assert_allclose(found.stderr, 0.0, atol=1e-7)
    np.testing.assert_allclose(found.mutual_information, 0.0, atol=1e-6)


def test_certain_classes_have_no_entropy():
    """Probabilities that are exactly zero are no NaN."""
    f = lambda params, x: params * x  # noqa: E731
    found = sparsity.predictive(f, num_samples=2)(
        jax.random.key(0), jnp.asarray([0.0, 1e6], DTYPE), jnp.ones(2, DTYPE), jnp.ones(2, DTYPE)
    )
    assert float(found.entropy) == float(found.mutual_information) == 0

    def entropy(params):
        drawn = sparsity.predictive(f, num_samples=2)
        return drawn(jax.random.key(0), params, jnp.ones(2, DTYPE), jnp.ones(2, DTYPE)).entropy

    assert jnp.all(jnp.isfinite(jax.grad(entropy)(jnp.asarray([0.0, 1e6], DTYPE))))


def test_refusals():
    with pytest.raises(TypeError, match="`f` of `predictive` must be a function"):
        sparsity.predictive("net")
    with pytest.raises(ValueError, match="num_samples"):
        sparsity.predictive(logits, num_samples=0)
