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
    most = np.linalg.norm(np.asarray(params["head"]["kernel"]), 2) * {"VGG": 0.25, "ResNet": 0.5}.get(name, 1.0)
    slopes = [  # of the normalisations
        min(np.exp(p["log_gamma"]), np.max(np.abs(p["norm"]["scale"]) / np.sqrt(s["norm"]["var"] + 1e-5)))
        for p, s in normalisations(params, state)
    ]
    if name == "ResNet":  # the mean over 3 x 3 pixels is below 1/3, and each block averages its two branches
        (stem, *inner), most = slopes, most / 0.5 / 3
        for first, second in zip(inner[::2], inner[1::2], strict=True):
            stem *= (first * second + 1) / 2
        most *= stem
    else:  # each of the two poolings halves
        most *= np.prod(slopes)
    f = jax.jit(jax.vmap(jax.jacobian(lambda x: net.apply(params, state, x))))
    norms = np.linalg.norm(np.asarray(f(x)).reshape(12, 3, -1), 2, (1, 2))
    assert np.max(norms) <= most * (1 + 1e-3)
    assert np.max(norms) > 0.01 * most


def normalisations(params, state):
    """Parameters and statistics of the bounded normalisations, in the order of the network."""
    found = []
    for name in sorted(params, key=lambda n: (n != "stem", n)):
        if not isinstance(params[name], dict):
            continue
        if "log_gamma" in params[name]:
            found.append((params[name], state[name]))
        elif name != "norm":
            inside = {k: v for k, v in params[name].items() if isinstance(v, dict)}
            found += normalisations(inside, state.get(name, {}))
    return found


def test_a_residual_block_is_no_steeper_than_the_mean_of_its_branches():
    model = models.LowCurvatureResNet(
        (5, 5, 2), widths=(2,), blocks_per_stage=1, num_classes=2, gamma=0.7, rngs=nnx.Rngs(0)
    )
    block = models.as_function(model.blocks_0)
    matrix = jax.jacobian(lambda x: block.apply(block.params, block.state, x))(jnp.ones((5, 5, 2)))
    norm = np.linalg.norm(np.asarray(matrix).reshape(50, 50), 2)
    assert 0.3 < norm <= (0.7**2 + 1) / 2 + 1e-3


def test_the_bound_of_the_network_is_near_the_product_of_its_layers():
    model = NETWORKS["ConvNet"]()
    net = models.as_function(model)
    bounds = geometry.bounds(lambda x: net.apply(net.params, net.state, x))
    found = jax.jit(lambda x: bounds(x, radius=jnp.inf))(jnp.zeros((6, 6, 1)))
    product = np.linalg.norm(np.asarray(net.params["head"]["kernel"]), 2)  # the slopes of new normalisations are 1
    assert float(found.lipschitz.upper) <= product * 1.5  # a circular convolution bounds one with a stride
    assert np.isfinite(found.curvature.upper)


def test_the_sizes_of_vgg_11_and_resnet_18():
    """Eight convolutions; eight blocks of two, and one before."""
    vgg = nnx.eval_shape(lambda: models.LowCurvatureVGG((32, 32, 3), num_classes=10, rngs=nnx.Rngs(0)))
    resnet = nnx.eval_shape(lambda: models.LowCurvatureResNet((32, 32, 3), num_classes=10, rngs=nnx.Rngs(0)))
    for model, count in ((vgg, 8), (resnet, 17)):
        kernels = [a for _, a in nnx.to_flat_state(nnx.state(model, nnx.Param)) if a.ndim == 4]
        assert len(kernels) == count
        assert model.head.kernel.shape == (512, 10)


def test_what_is_refused():
    for network in (models.LowCurvatureConvNet, models.LowCurvatureVGG, models.LowCurvatureResNet):
        with pytest.raises(ValueError, match=f"`{network.__name__}` needs images of shape"):
            network((5,), num_classes=2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="`beta` of `CentredSoftplus` must be positive"):
        models.LowCurvatureConvNet((4, 4, 1), beta=-1.0, num_classes=2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="`widths` of a residual network must not fall"):
        models.LowCurvatureResNet((4, 4, 1), widths=(4, 2), num_classes=2, rngs=nnx.Rngs(0))
    for network in (models.ResNet, models.LowCurvatureResNet):
        with pytest.raises(ValueError, match=r"there must be one; got \(\)"):
            network((4, 4, 1), widths=(), num_classes=2, rngs=nnx.Rngs(0))
