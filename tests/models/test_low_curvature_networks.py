"""Low-curvature networks: they train, and their slopes are below those of their layers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxinterp import geometry, models

pytestmark = pytest.mark.usefixtures("standard_promotion")

NETWORKS = {
    "ConvNet": lambda: models.LowCurvatureConvNet((6, 6, 1), widths=(3, 4), num_classes=3, gamma=2.0, rngs=nnx.Rngs(0)),
    "VGG": lambda: models.LowCurvatureVGG(
        (6, 6, 1), widths=(3, 4), depths=(1, 2), num_classes=3, gamma=2.0, rngs=nnx.Rngs(0)
    ),
    "ResNet": lambda: models.LowCurvatureResNet(
        (6, 6, 1), widths=(3, 4), blocks_per_stage=1, num_classes=3, gamma=2.0, rngs=nnx.Rngs(0)
    ),
}


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_the_network_trains_and_is_bounded(name):
    """A few steps lower the loss; no slope between two inputs is above the product of the γ and the last norm."""
    model = NETWORKS[name]()
    train, net = models.as_training_function(model), models.as_function(model)
    x = jax.random.normal(jax.random.key(0), (12, 6, 6, 1))
    y = jnp.arange(12) % 3
    optimizer = optax.adam(3e-2)

    @jax.jit
    def step(params, state, opt_state):
        def loss(params):
            logits, new = train.apply(params, state, jax.random.key(1), x)
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y)), new

        (value, new), slope = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(slope, opt_state)
        return optax.apply_updates(params, updates), new, opt_state, value

    params, state, opt_state, values = net.params, net.state, optimizer.init(net.params), []
    for _ in range(40):
        params, state, opt_state, value = step(params, state, opt_state)
        values.append(float(value))
    assert values[-1] < 0.5 * values[0]
    most = np.linalg.norm(np.asarray(params["head"]["kernel"]), 2)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if "log_gamma" in str(path):
            most *= max(float(jnp.exp(leaf)), 1.0)
    f = jax.jit(jax.vmap(lambda x: net.apply(params, state, x)))
    slopes = jnp.linalg.norm(f(x) - f(x[::-1]), axis=1) / jnp.linalg.norm((x - x[::-1]).reshape(12, -1), axis=1)
    assert float(jnp.max(slopes)) <= most
    assert float(jnp.max(slopes)) > 0


def test_the_bound_of_the_network_is_near_the_product_of_its_layers():
    model = NETWORKS["ConvNet"]()
    net = models.as_function(model)
    bounds = geometry.bounds(lambda x: net.apply(net.params, net.state, x))
    found = jax.jit(lambda x: bounds(x, radius=jnp.inf))(jnp.zeros((6, 6, 1)))
    product = np.linalg.norm(np.asarray(net.params["head"]["kernel"]), 2)  # the slopes of new normalisations are 1
    assert float(found.lipschitz.upper) <= product * 1.5  # a circular convolution bounds one with a stride
    assert np.isfinite(found.curvature.upper)


def test_the_sizes_of_vgg_11_and_resnet_18():
    """Eight convolutions and eight blocks of two, by default, and one block before."""
    abstract = lambda make: nnx.eval_shape(make)  # noqa: E731
    vgg = abstract(lambda: models.LowCurvatureVGG((32, 32, 3), num_classes=10, rngs=nnx.Rngs(0)))
    resnet = abstract(lambda: models.LowCurvatureResNet((32, 32, 3), num_classes=10, rngs=nnx.Rngs(0)))
    kernels = lambda model: [  # noqa: E731
        leaf.shape for _, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param)) if leaf.ndim == 4
    ]
    assert sorted(shape[-1] for shape in kernels(vgg)) == [64, 128, 256, 256, 512, 512, 512, 512]
    assert len(kernels(resnet)) == 17
    assert vgg.head.kernel.shape == resnet.head.kernel.shape == (512, 10)


def test_what_is_refused():
    for network in (models.LowCurvatureConvNet, models.LowCurvatureVGG, models.LowCurvatureResNet, models.VGG):
        with pytest.raises(ValueError, match="needs images of shape"):
            network((5,), num_classes=2, rngs=nnx.Rngs(0))
