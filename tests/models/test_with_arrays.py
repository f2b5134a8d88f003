"""Networks rebuilt from smaller arrays: they compute, print and train as if made so."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

from jaxinterp import models, sparsity

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("standard_promotion")]

NETWORKS = {
    "MLP": lambda: models.MLP((8, 8, 1), widths=(9, 6), num_classes=3, rngs=nnx.Rngs(0)),
    "ConvNet": lambda: models.ConvNet((8, 8, 1), widths=(4, 6), num_classes=3, batch_norm=True, rngs=nnx.Rngs(0)),
    "VGG": lambda: models.VGG((8, 8, 1), widths=(4, 6), depths=(1, 1), num_classes=3, rngs=nnx.Rngs(0)),
    "tied": lambda: models.ResNet((8, 8, 1), widths=(6,), blocks_per_stage=1, num_classes=3, rngs=nnx.Rngs(0)),
}


def shrunk(model):
    net = models.as_function(model)
    coupling = sparsity.couple(net.apply, (0, 1))(net.params, net.state, jnp.ones((8, 8, 1)))
    return net, coupling.shrink((net.params, net.state), np.arange(len(coupling)) % 3 > 0)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_smaller_network_is_one(name):
    model = NETWORKS[name]()
    before = jax.tree.map(jnp.array, nnx.state(model))
    net, (params, state) = shrunk(model)
    small = models.with_arrays(model, params, state)
    x = jax.random.normal(jax.random.key(0), (5, 8, 8, 1))
    small.eval()
    np.testing.assert_allclose(small(x), jax.vmap(net.apply, (None, None, 0))(params, state, x), atol=1e-6)
    again = models.as_function(small)
    jax.tree.map(np.testing.assert_array_equal, (again.params, again.state), (params, state))
    for _, node in nnx.iter_graph(small):
        if isinstance(node, nnx.Linear | nnx.Conv):
            assert node.kernel[...].shape[-2:] == (node.in_features, node.out_features)
        if isinstance(node, nnx.BatchNorm):
            assert node.num_features == node.mean[...].size
    small.train()
    optimizer = nnx.Optimizer(small, optax.sgd(0.01), wrt=nnx.Param)
    loss = lambda network: jnp.mean((network(x) - 1) ** 2)  # noqa: E731
    first, slopes = nnx.value_and_grad(loss)(small)
    optimizer.update(small, slopes)
    assert float(loss(small)) < float(first)
    after = nnx.state(model)
    jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(after), jax.tree.leaves(before))


def test_the_mode_stays():
    model = models.ConvNet((8, 8, 1), widths=(4,), num_classes=3, batch_norm=True, rngs=nnx.Rngs(0))
    net = models.as_function(model)
    for mode in (model.eval, model.train):
        mode()
        copy = models.with_arrays(model, net.params, net.state)
        assert copy.blocks_0.norm.use_running_average == model.blocks_0.norm.use_running_average


def test_refusals():
    model = models.MLP((4,), widths=(3,), num_classes=2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="needs values for head/kernel"):
        models.with_arrays(model, {"dense_0": models.as_function(model).params["dense_0"], "head": {"bias": 0}}, {})
    params = models.as_function(model).params
    with pytest.raises(ValueError, match="has no place for tail/kernel"):
        models.with_arrays(model, {**params, "tail": {"kernel": jnp.ones(2)}}, {})
    with pytest.raises(TypeError, match="needs a Flax NNX module; got Dense"):
        models.with_arrays(linen.Dense(3), {}, {})
