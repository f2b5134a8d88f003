"""The fully connected network against the same network written in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinterp import models

pytestmark = pytest.mark.usefixtures("standard_promotion")

X64 = jax.config.jax_enable_x64
FLOAT, TOLERANCE = (np.float64, 1e-12) if X64 else (np.float32, 1e-5)


def cast(tree):
    return jax.tree.map(lambda a: jnp.asarray(a, FLOAT), tree)


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("widths", [(), (4,), (7, 4, 5)])
@pytest.mark.parametrize(
    ("options", "by_hand"),
    [({}, lambda h: np.logaddexp(h, 0)), ({"activation": jnp.tanh}, np.tanh)],
    ids=["softplus by default", "tanh"],
)
def test_it_is_the_network_written_by_hand(widths, options, by_hand):
    model = models.MLP((2, 3), widths=widths, num_classes=3, **options, rngs=nnx.Rngs(0))
    net = models.as_function(model)
    rng = np.random.default_rng(0)
    params = cast(jax.tree.map(lambda a: rng.normal(size=a.shape), net.params))
    x = rng.normal(size=(2, 3)).astype(FLOAT)
    h = np.asarray(x, np.float64).ravel()
    for i in range(len(widths)):
        layer = jax.tree.map(np.float64, params[f"dense_{i}"])
        h = by_hand(h @ layer["kernel"] + layer["bias"])
    wanted = h @ np.float64(params["head"]["kernel"]) + np.float64(params["head"]["bias"])
    logits = net.apply(params, net.state, jnp.asarray(x))
    assert logits.dtype == FLOAT
    np.testing.assert_allclose(logits, wanted, rtol=TOLERANCE, atol=10 * TOLERANCE)


@pytest.mark.core
def test_its_parameters_have_the_names_and_sizes_of_the_layers():
    net = models.as_function(models.MLP((4, 2), widths=(5, 6), num_classes=3, rngs=nnx.Rngs(0)))
    assert jax.tree.map(jnp.shape, net.params) == {
        "dense_0": {"kernel": (8, 5), "bias": (5,)},
        "dense_1": {"kernel": (5, 6), "bias": (6,)},
        "head": {"kernel": (6, 3), "bias": (3,)},
    }
    assert net.state == {}


@pytest.mark.core
def test_the_parameters_are_drawn_from_the_given_stream():
    kernels = [
        np.asarray(models.MLP((4,), widths=(8,), num_classes=3, rngs=nnx.Rngs(seed)).dense_0.kernel[...])
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.abs(kernels[0] - kernels[2]).min() > 0
