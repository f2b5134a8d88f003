"""The residual network against NumPy, and against the trained PyTorch network whose weights it takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinterp import models

pytestmark = pytest.mark.usefixtures("standard_promotion")

X64 = jax.config.jax_enable_x64
FLOAT, TOLERANCE = (np.float64, 1e-11) if X64 else (np.float32, 2e-5)
WIDTHS = (3, 5, 6)


def torch_weights(seed=0, *, widths=WIDTHS, blocks=2, channels=2, num_classes=4):
    """A state dictionary as PyTorch has it, with random values."""
    rng = np.random.default_rng(seed)
    weights = {}

    def conv_and_norm(conv, norm, before, after):
        weights[f"{conv}.weight"] = rng.normal(size=(after, before, 3, 3)) / np.sqrt(9 * before)
        weights[f"{norm}.weight"], weights[f"{norm}.bias"] = rng.uniform(0.5, 1.5, after), rng.normal(size=after)
        weights[f"{norm}.running_mean"] = rng.normal(size=after)
        weights[f"{norm}.running_var"] = rng.uniform(0.5, 2, after)

    conv_and_norm("conv1", "bn1", channels, widths[0])
    before = widths[0]
    for stage, width in enumerate(widths, start=1):
        for b in range(blocks):
            conv_and_norm(f"layer{stage}.{b}.conv1", f"layer{stage}.{b}.bn1", before, width)
            conv_and_norm(f"layer{stage}.{b}.conv2", f"layer{stage}.{b}.bn2", width, width)
            before = width
    weights["linear.weight"] = rng.normal(size=(num_classes, before))
    weights["linear.bias"] = rng.normal(size=num_classes)
    return {name: value.astype(np.float32) for name, value in weights.items()}


def convolution(x, kernel, stride):
    """PyTorch's `conv2d` of one image [c, h, w] with a kernel [out, c, 3, 3] and padding 1."""
    rows, columns = ((n - 1) // stride + 1 for n in x.shape[1:])
    x = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    out = np.zeros((len(kernel), rows, columns))
    for i in range(rows):
        for j in range(columns):
            window = x[:, i * stride : i * stride + 3, j * stride : j * stride + 3]
            out[:, i, j] = np.tensordot(kernel, window, axes=3)
    return out


def by_hand(weights, image, *, widths=WIDTHS, blocks=2, activation=lambda h: np.maximum(h, 0)):
    """The logits of one image [h, w, c] as He et al. describe the network, in float64 and in PyTorch's layout."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}

    def norm(x, name):
        mean, var, scale, bias = (
            w[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / np.sqrt(var + 1e-5) * scale + bias

    x = activation(norm(convolution(image.astype(np.float64).transpose(2, 0, 1), w["conv1.weight"], 1), "bn1"))
    for stage, width in enumerate(widths, start=1):
        for b in range(blocks):
            name, stride = f"layer{stage}.{b}", 2 if stage > 1 and b == 0 else 1
            y = activation(norm(convolution(x, w[f"{name}.conv1.weight"], stride), f"{name}.bn1"))
            y = norm(convolution(y, w[f"{name}.conv2.weight"], 1), f"{name}.bn2")
            shortcut, before = np.zeros_like(y), (width - len(x)) // 2
            shortcut[before : before + len(x)] = x[:, ::stride, ::stride]
            x = activation(y + shortcut)
    return w["linear.weight"] @ x.mean((1, 2)) + w["linear.bias"]


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("shape", [(8, 8, 2), (7, 9, 2)])
def test_it_is_the_network_written_by_hand(shape):
    weights = torch_weights()
    net = models.as_function(models.resnet_from_torch(weights))
    params, state = jax.tree.map(lambda a: jnp.asarray(a, FLOAT), (net.params, net.state))
    image = np.random.default_rng(1).normal(size=shape).astype(FLOAT)
    wanted = by_hand(weights, image)
    logits = net.apply(params, state, jnp.asarray(image))
    assert logits.dtype == FLOAT
    np.testing.assert_allclose(logits, wanted, rtol=TOLERANCE, atol=TOLERANCE * np.abs(wanted).max())


@pytest.mark.core
def test_resnet_20_has_its_known_number_of_parameters():
    model = nnx.eval_shape(lambda: models.ResNet((32, 32, 3), rngs=nnx.Rngs(0)))
    # 3x3 convolutions: the first, 6 of 16x16, then per stage one that widens and five that do not; two numbers per
    # channel of the 19 normalisations; the dense layer. He et al. give 0.27 million.
    kernels = 9 * (3 * 16 + 6 * 16**2 + 16 * 32 + 5 * 32**2 + 32 * 64 + 5 * 64**2)
    assert (
        sum(a.size for a in jax.tree.leaves(nnx.state(model, nnx.Param)))
        == kernels + 2 * (7 * 16 + 6 * 32 + 6 * 64) + 650
        == 269_722
    )
    assert model.num_blocks == 9


@pytest.mark.core
def test_depth_widths_and_classes_can_be_chosen(key):
    model = models.ResNet(
        (6, 6, 2), widths=(2, 4), blocks_per_stage=1, num_classes=3, activation=jnp.tanh, rngs=nnx.Rngs(0)
    )
    net = models.as_function(model)
    assert net.apply(net.params, net.state, jax.random.normal(key, (6, 6, 2))).shape == (3,)
    assert set(net.params) == {"conv", "norm", "blocks_0", "blocks_1", "head"}
    kernels = [net.params[f"blocks_{i}"][f"conv_{j}"]["kernel"].shape[2:] for i in range(2) for j in range(2)]
    assert kernels == [(2, 2), (2, 2), (2, 4), (4, 4)]


@pytest.mark.core
def test_the_activation_of_the_taken_weights_can_be_chosen():
    weights = torch_weights(widths=(2, 4), blocks=1)
    image = np.random.default_rng(1).normal(size=(6, 6, 2)).astype(np.float32)
    net = models.as_function(models.resnet_from_torch(weights, activation=nnx.softplus))
    wanted = by_hand(weights, image, widths=(2, 4), blocks=1, activation=lambda h: np.logaddexp(h, 0))
    np.testing.assert_allclose(net.apply(net.params, net.state, image), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.core
@pytest.mark.numerics
def test_weights_of_double_precision_are_taken_too():
    weights = {name: value.astype(np.float64) for name, value in torch_weights(widths=(2, 4), blocks=1).items()}
    net = models.as_function(models.resnet_from_torch(weights))
    image = np.random.default_rng(1).normal(size=(6, 6, 2)).astype(np.float32)
    wanted = by_hand(weights, image, widths=(2, 4), blocks=1)
    np.testing.assert_allclose(net.apply(net.params, net.state, image), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.core
def test_the_counters_of_pytorch_are_no_weights(key):
    weights = torch_weights(widths=(2, 4), blocks=1)
    counters = {f"{name[:-13]}.num_batches_tracked": np.array(7) for name in weights if name.endswith(".running_mean")}
    image = jax.random.normal(key, (6, 6, 2))
    logits = []
    for given in (weights, weights | counters):
        net = models.as_function(models.resnet_from_torch(given))
        logits.append(net.apply(net.params, net.state, image))
    np.testing.assert_array_equal(*logits)


@pytest.mark.core
@pytest.mark.parametrize("name", sorted(torch_weights(blocks=1, widths=(2,))))
def test_a_missing_array_is_named(name):
    weights = torch_weights(blocks=1, widths=(2,))
    del weights[name]
    with pytest.raises(ValueError, match=rf"CIFAR ResNet.*'{name}'"):
        models.resnet_from_torch(weights)


@pytest.mark.core
@pytest.mark.parametrize("name", ["bn1.bias", "layer2.0.conv1.weight", "layer1.0.bn2.running_var", "linear.bias"])
@pytest.mark.parametrize("change", ["longer", "other rank", "nan", "inf"])
def test_a_wrong_array_is_named(name, change):
    weights = torch_weights(blocks=1, widths=(2, 4))
    value = weights[name].copy()
    if change == "longer":
        value = np.concatenate([value, value])
    elif change == "other rank":
        value = value[None]
    else:
        value.flat[-1] = np.nan if change == "nan" else -np.inf
    with pytest.raises(ValueError, match=rf"The array '{name}' must (hold finite|have the shape)"):
        models.resnet_from_torch(weights | {name: value})


@pytest.mark.core
@pytest.mark.parametrize("name", ["conv1.weight", "layer1.0.conv2.weight", "linear.weight"])
@pytest.mark.parametrize("value", [np.float32(1), np.ones(3, np.float32), np.full((2, 2, 3, 3), np.nan, np.float32)])
def test_the_arrays_that_tell_the_widths_are_checked_too(name, value):
    with pytest.raises(ValueError, match=f"'{name}'"):
        models.resnet_from_torch(torch_weights(blocks=1, widths=(2, 4)) | {name: value})


@pytest.mark.core
@pytest.mark.parametrize("weights", [{}, {"fc.weight": np.ones((2, 2))}, {"layer_norm.weight": np.ones(2)}])
def test_other_weights_are_refused(weights):
    with pytest.raises(ValueError, match=r"The weights of a CIFAR ResNet need the array"):
        models.resnet_from_torch(weights)


@pytest.mark.core
def test_weights_without_stages_are_refused():
    weights = {name: value for name, value in torch_weights().items() if not name.startswith("layer")}
    with pytest.raises(ValueError, match=r"need the array 'layer1.0.conv2.weight'"):
        models.resnet_from_torch(weights)


@pytest.mark.core
def test_a_missing_stage_is_named():
    weights = {name: value for name, value in torch_weights().items() if not name.startswith("layer2")}
    with pytest.raises(ValueError, match="layer2"):
        models.resnet_from_torch(weights)


@pytest.mark.core
@pytest.mark.parametrize(
    "name", ["layer2.0.shortcut.0.weight", "layer2.0.downsample.0.weight", "layer1.0.conv3.weight"]
)
def test_weights_that_the_network_has_no_place_for_are_refused(name):
    """With projections in the shortcuts it is another function; to leave them out silently would be wrong."""
    weights = torch_weights(blocks=1, widths=(2, 4))
    with pytest.raises(ValueError, match=name):
        models.resnet_from_torch(weights | {name: np.ones((4, 2, 1, 1), np.float32)})


@pytest.mark.core
@pytest.mark.parametrize("deeper", ["layer1", "layer2"])
def test_stages_of_unequal_depth_are_refused(deeper):
    weights = torch_weights(blocks=1, widths=(2, 4))
    more = {name: value for name, value in torch_weights(blocks=2, widths=(2, 4)).items() if name.startswith(deeper)}
    with pytest.raises(ValueError, match=r"layer[12]\.1\."):
        models.resnet_from_torch(more | weights)


@pytest.mark.core
def test_training_moves_all_statistics_by_a_tenth(key):
    model = models.ResNet((6, 6, 2), widths=(2, 4), blocks_per_stage=1, num_classes=3, rngs=nnx.Rngs(0))
    net = models.as_training_function(model)
    x = np.random.default_rng(0).normal(size=(5, 6, 6, 2)).astype(np.float32)
    in_shortcut = lambda path: any(getattr(entry, "key", None) == "shortcut" for entry in path)  # noqa: E731
    olds = [net.state, jax.tree.map_with_path(lambda path, a: a if in_shortcut(path) else a + 1, net.state)]
    new = [jax.jit(net.apply)(net.params, old, key, x)[1] for old in olds]
    assert len(jax.tree.leaves(new[0])) == 2 * 5 + 2
    # The batch is normalised by itself, so the second run differs by what is left of the old statistics alone.
    for path, change in jax.tree.leaves_with_path(jax.tree.map(lambda a, b: b - a, *new)):
        np.testing.assert_allclose(change, 0.0 if in_shortcut(path) else 0.9, atol=1e-5)
    kernel = np.asarray(net.params["conv"]["kernel"], np.float64).transpose(3, 2, 0, 1)
    hidden = np.stack([convolution(image.transpose(2, 0, 1), kernel, 1) for image in x])
    np.testing.assert_allclose(new[0]["norm"]["mean"], 0.1 * hidden.mean((0, 2, 3)), atol=1e-5)
    np.testing.assert_allclose(new[0]["norm"]["var"], 0.9 + 0.1 * hidden.var((0, 2, 3)), rtol=1e-4)


@pytest.fixture(scope="module")
def trained(shared):
    with np.load(shared / "data" / "cifar10_resnet20_torch_state.npz") as weights:
        return models.as_function(models.resnet_from_torch(weights))


def test_the_trained_network_gives_the_logits_of_pytorch(trained, golden):
    wanted = golden("resnet20")
    images = np.concatenate([wanted["x"], np.zeros((1, 32, 32, 3), np.float32)])
    logits = jax.jit(jax.vmap(trained.apply, (None, None, 0)))(trained.params, trained.state, images)
    np.testing.assert_allclose(logits[:16], wanted["logits"], atol=1e-4)
    np.testing.assert_allclose(logits[16], wanted["logits_zero_input"], atol=1e-4)
    np.testing.assert_array_equal(logits[:16].argmax(1), wanted["pred"])


def test_the_trained_network_is_as_accurate_as_documented(trained, shared):
    with np.load(shared / "data" / "cifar10_jpeg.npz") as archive:
        images, labels = archive["x_test"], archive["y_test"]
    x = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    logits = jax.jit(jax.vmap(trained.apply, (None, None, 0)))
    correct = 0
    for i in range(0, 2000, 250):
        chunk = logits(trained.params, trained.state, x[i : i + 250].astype(np.float32))
        correct += int((chunk.argmax(1) == labels[i : i + 250]).sum())
    assert abs(correct - 1627) <= 1  # 81.35 % of 2000; one image may lie on a boundary
