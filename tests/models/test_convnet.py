"""The convolutional network against the same network written in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinterp import models

pytestmark = pytest.mark.usefixtures("standard_promotion")

X64 = jax.config.jax_enable_x64
FLOAT, TOLERANCE = (np.float64, 1e-12) if X64 else (np.float32, 2e-5)


def build(input_shape=(7, 6, 2), *, batch_norm, **options):
    return models.ConvNet(input_shape, widths=(3, 4), num_classes=5, batch_norm=batch_norm, **options, rngs=nnx.Rngs(0))


def randomised(tree, seed):
    """Arrays of the same shapes; positive, so that they can be variances too."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda a: jnp.asarray(rng.uniform(0.2, 1, a.shape) if a.ndim == 1 else rng.normal(size=a.shape), FLOAT), tree
    )


def convolution(x, kernel, stride):
    """A 3x3 convolution of a batch [n, h, w, c] whose output has ceil(h / stride) rows; the odd zero row comes last."""
    pads = [max((-(-n // stride) - 1) * stride + 3 - n, 0) for n in x.shape[1:3]]
    x = np.pad(x, ((0, 0), *((p // 2, p - p // 2) for p in pads), (0, 0)))
    rows, columns = ((n - 3) // stride + 1 for n in x.shape[1:3])
    out = np.zeros((len(x), rows, columns, kernel.shape[-1]))
    for i in range(rows):
        for j in range(columns):
            window = x[:, i * stride : i * stride + 3, j * stride : j * stride + 3]
            out[:, i, j] = np.tensordot(window, kernel, axes=3)
    return out


def by_hand(params, state, x, *, training=False, activation=lambda h: np.logaddexp(h, 0)):
    """Logits and new running statistics of a batch, in float64."""
    params, state, x = jax.tree.map(np.float64, (params, state, x))
    new_state = {}
    for i in range(2):
        block = params[f"blocks_{i}"]
        x = convolution(x, block["conv"]["kernel"], stride=i + 1)
        if "norm" in block:
            old = state[f"blocks_{i}"]["norm"]
            batch = {"mean": x.mean((0, 1, 2)), "var": x.var((0, 1, 2))}
            new_state[f"blocks_{i}"] = {"norm": {name: 0.9 * old[name] + 0.1 * batch[name] for name in old}}
            used = batch if training else old
            x = (x - used["mean"]) / np.sqrt(used["var"] + 1e-5) * block["norm"]["scale"] + block["norm"]["bias"]
        else:
            x = x + block["conv"]["bias"]
        x = activation(x)
    return x.reshape(len(x), -1) @ params["head"]["kernel"] + params["head"]["bias"], new_state


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("input_shape", [(7, 6, 2), (4, 4, 1), (1, 5, 3)])
def test_it_is_the_network_written_by_hand(batch_norm, input_shape):
    net = models.as_function(build(input_shape, batch_norm=batch_norm))
    params, state = randomised(net.params, 0), randomised(net.state, 1)
    x = np.random.default_rng(2).normal(size=input_shape).astype(FLOAT)
    wanted, _ = by_hand(params, state, x[None])
    logits = net.apply(params, state, jnp.asarray(x))
    assert logits.dtype == FLOAT
    np.testing.assert_allclose(logits, wanted[0], rtol=TOLERANCE, atol=TOLERANCE * np.abs(wanted).max())


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("batch_norm", [False, True])
def test_in_training_the_batch_is_normalised_by_itself(batch_norm, key):
    net = models.as_training_function(build(batch_norm=batch_norm))
    params, state = randomised(net.params, 0), randomised(net.state, 1)
    x = np.random.default_rng(2).normal(size=(8, 7, 6, 2)).astype(FLOAT)
    wanted, wanted_state = by_hand(params, state, x, training=True)
    logits, new_state = net.apply(params, state, key, jnp.asarray(x))
    tolerance = max(TOLERANCE, 1e-12) * np.abs(wanted).max()
    np.testing.assert_allclose(logits, wanted, rtol=TOLERANCE, atol=tolerance)
    assert jax.tree.structure(new_state) == jax.tree.structure(wanted_state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE), new_state, wanted_state)


@pytest.mark.core
def test_its_parameters_have_the_names_and_sizes_of_the_layers():
    plain, normalised = (models.as_function(build(batch_norm=b)) for b in (False, True))
    head = {"kernel": (4 * 3 * 4, 5), "bias": (5,)}
    assert jax.tree.map(jnp.shape, plain.params) == {
        "blocks_0": {"conv": {"kernel": (3, 3, 2, 3), "bias": (3,)}},
        "blocks_1": {"conv": {"kernel": (3, 3, 3, 4), "bias": (4,)}},
        "head": head,
    }
    assert plain.state == {}
    assert jax.tree.map(jnp.shape, normalised.params) == {
        "blocks_0": {"conv": {"kernel": (3, 3, 2, 3)}, "norm": {"scale": (3,), "bias": (3,)}},
        "blocks_1": {"conv": {"kernel": (3, 3, 3, 4)}, "norm": {"scale": (4,), "bias": (4,)}},
        "head": head,
    }
    assert jax.tree.map(jnp.shape, normalised.state) == {
        f"blocks_{i}": {"norm": {"mean": (n,), "var": (n,)}} for i, n in enumerate((3, 4))
    }


@pytest.mark.core
def test_the_activation_can_be_chosen():
    net = models.as_function(build(batch_norm=False, activation=nnx.relu))
    x = np.random.default_rng(0).normal(size=(7, 6, 2)).astype(np.float32)
    wanted, _ = by_hand(net.params, net.state, x[None], activation=lambda h: np.maximum(h, 0))
    np.testing.assert_allclose(net.apply(net.params, net.state, x), wanted[0], rtol=1e-4, atol=1e-5)


@pytest.mark.core
@pytest.mark.parametrize("shape", [(64,), (8, 8), (2, 8, 8, 1)])
def test_other_data_than_images_are_refused(shape):
    with pytest.raises(ValueError, match=r"`ConvNet` needs images .* shape \(.*\); use `MLP`"):
        build(shape, batch_norm=False)
