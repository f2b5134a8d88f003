"""Channels chosen in a whole network: what remains computes what is said, and the layers make up for each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinterp import models, sparsity

pytestmark = pytest.mark.usefixtures("standard_promotion")


def images(count, shape=(8, 8, 2)):
    return jnp.asarray(np.random.default_rng(0).normal(size=(count, *shape)), jnp.float32)


def made(network, **options):
    model = network((8, 8, 2), num_classes=4, rngs=nnx.Rngs(0), **options)
    net = models.as_function(model)
    noisy = lambda leaf: leaf + 0.1 * jnp.cos(jnp.arange(leaf.size, dtype=leaf.dtype)).reshape(leaf.shape)  # noqa: E731
    return net, (noisy_tree(net.params, noisy), noisy_tree(net.state, noisy))


def noisy_tree(tree, noisy):
    """Normalisations that do something."""
    return jax.tree.map(noisy, tree)


NETWORKS = {
    "ConvNet": (models.ConvNet, {"widths": (6, 8), "batch_norm": True}),
    "VGG": (models.VGG, {"widths": (4, 6), "depths": (1, 2)}),
    "ResNet": (models.ResNet, {"widths": (4, 6), "blocks_per_stage": 1}),
    "MLP": (models.MLP, {"widths": (12, 9)}),
}


@pytest.mark.core
@pytest.mark.parametrize("name", NETWORKS)
def test_the_smaller_network_computes_what_the_arguments_do(name):
    network, options = NETWORKS[name]
    net, (params, state) = made(network, **options)
    x = images(100)
    found = sparsity.select_channels(net.apply, (0, 1), kept=0.5, num_positions=16)(params, state, x)
    assert 0 < found.kept.sum() < len(found.kept)
    assert all(0.3 < part <= 1 for part in found.explained.values())
    forward = jax.vmap(net.apply, (None, None, 0))
    expected = forward(*found.arguments, x)
    np.testing.assert_allclose(forward(*found.shrunk(), x), expected, atol=1e-5)
    assert float(jnp.max(jnp.abs(expected - forward(params, state, x)))) > 1e-4


@pytest.mark.core
def test_one_hidden_layer_is_what_select_units_chooses():
    """And all that is explained is the part of the outputs that is still there."""
    rng = np.random.default_rng(1)
    params = {
        "in": jnp.asarray(rng.normal(size=(5, 12)), jnp.float32),
        "out": jnp.asarray(rng.normal(size=(12, 3)), jnp.float32),
    }
    x = jnp.asarray(rng.normal(size=(40, 5)), jnp.float32)
    f = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]  # noqa: E731
    found = sparsity.select_channels(f, kept=1 / 3)(params, x)
    hidden = jax.nn.relu(x @ params["in"])
    expected = sparsity.select_units(hidden, params["out"], num_kept=4)
    assert set(np.flatnonzero(found.kept)) == set(expected.kept.tolist())
    np.testing.assert_allclose(found.arguments["out"][expected.kept], expected.weights, atol=2e-4)
    outputs, before = f(found.arguments, x), f(params, x)
    assert found.explained["out"] == pytest.approx(
        1 - float(jnp.sum((outputs - before) ** 2) / jnp.sum(before**2)), abs=1e-4
    )


def test_nothing_is_lost_with_duplicated_channels():
    """Each channel of a convolution occurs twice; the half of them is as good, whatever the order of the layers."""
    net, (params, state) = made(models.ConvNet, widths=(6, 8), batch_norm=False)
    kernel, bias = params["blocks_0"]["conv"]["kernel"], params["blocks_0"]["conv"]["bias"]
    params["blocks_0"]["conv"]["kernel"] = kernel.at[..., 3:].set(kernel[..., :3])
    params["blocks_0"]["conv"]["bias"] = bias.at[3:].set(bias[:3])
    x = images(24)
    expected = jax.vmap(net.apply, (None, None, 0))(params, state, x)
    reader = "0/blocks_1/conv/kernel"
    for order in ("asymmetric", "sequential", "independent"):
        found = sparsity.select_channels(net.apply, (0, 1), kept={reader: 0.5}, order=order)(params, state, x)
        assert found.explained[reader] == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(jax.vmap(net.apply, (None, None, 0))(*found.shrunk(), x), expected, atol=1e-3)


def test_later_layers_make_up_for_earlier_ones():
    """Of three layers pruned, the outputs are nearest with the asymmetric targets, and far without new weights."""
    net, (params, state) = made(models.MLP, widths=(24, 24, 24))
    x = images(200)
    forward = jax.vmap(net.apply, (None, None, 0))
    before = forward(params, state, x)

    def gap(scores=None, **options):
        found = sparsity.select_channels(net.apply, (0, 1), kept=0.4, **options)(params, state, x, scores=scores)
        return float(jnp.mean((forward(*found.arguments, x) - before) ** 2))

    anything = jax.tree.map(lambda p: jnp.asarray(np.random.default_rng(p.size).uniform(size=p.shape)), params)
    scores = (anything, jax.tree.map(lambda _: None, state))
    asymmetric, independent = gap(), gap(order="independent")
    assert asymmetric < independent
    assert asymmetric < gap(scores=scores) < gap(scores=scores, reweight=False)


def test_scores_choose_the_channels():
    """The highest of each layer, by what writes them; the weights are solved for all the same."""
    net, (params, _) = made(models.MLP, widths=(10, 8))
    scores = jax.tree.map(jnp.abs, params)
    found = sparsity.select_channels(net.apply, kept=0.5)(params, {}, images(200), scores=scores)
    for layer, width in (("dense_0", 10), ("dense_1", 8)):
        sums = np.asarray(jnp.sum(scores[layer]["kernel"], 0))
        of_layer = [found.coupling.paths[c.written[0][0]].startswith(layer) for c in found.coupling.channels]
        wanted = np.argsort(-sums)[: width // 2]
        assert set(np.flatnonzero(found.kept[of_layer])) == set(wanted)
    assert set(found.explained) == {"dense_1/kernel", "head/kernel"}


def test_positions_do_not_matter_where_all_are_taken():
    net, (params, state) = made(models.ConvNet, widths=(4, 6), batch_norm=True)

    def select(**options):
        return sparsity.select_channels(net.apply, (0, 1), kept=0.5, **options)(params, state, images(12))

    some, other = select(num_positions=10_000, batch_size=5), select(num_positions=64, batch_size=12)
    np.testing.assert_array_equal(some.kept, other.kept)
    for a, b in zip(jax.tree.leaves(some.arguments), jax.tree.leaves(other.arguments), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.core
def test_a_kernel_that_reads_two_branches():
    """Each branch loses its share, and neither what was done for the other."""
    rng = np.random.default_rng(3)
    shapes = {"a": (5, 4), "b": (5, 10), "out": (14, 3)}
    params = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
    x = jnp.asarray(rng.normal(size=(60, 5)), jnp.float32)

    def f(p, x):
        return jnp.concatenate([jax.nn.relu(x @ p["a"]), jnp.tanh(x @ p["b"])], -1) @ p["out"]

    found = sparsity.select_channels(f, kept=0.5)(params, x)
    small = found.shrunk()
    assert {name: array.shape for name, array in small.items()} == {"a": (5, 2), "b": (5, 5), "out": (7, 3)}
    np.testing.assert_allclose(f(small, x), f(found.arguments, x), atol=1e-5)
    lost = jnp.sum((f(small, x) - f(params, x)) ** 2) / jnp.sum(f(params, x) ** 2)
    assert float(lost) < 0.5


def test_what_is_not_finite():
    f = lambda p, x: jnp.tanh(x @ p["in"]) @ p["out"]  # noqa: E731
    params, x = {"in": jnp.ones((3, 4)), "out": jnp.ones((4, 2))}, jnp.ones((5, 3))
    select = sparsity.select_channels(f, kept=0.5)
    with pytest.raises(ValueError, match="The examples at `out` of `select_channels` must be finite"):
        select(params, x.at[0, 0].set(jnp.nan))
    with pytest.raises(ValueError, match="The scores of `select_channels` must be finite"):
        select(params, x, scores={"in": params["in"].at[0, 0].set(jnp.nan), "out": None})
    nothing = select({**params, "out": jnp.zeros((4, 2))}, x, scores=params)
    assert nothing.explained["out"] == 1


def test_refusals():
    f = lambda p, x: jnp.tanh(x @ p["in"]) @ p["out"]  # noqa: E731
    params, x = {"in": jnp.ones((3, 4)), "out": jnp.ones((4, 2))}, jnp.ones((5, 3))
    for kept in (0.0, 1.5, {"out": -1.0}):
        with pytest.raises(ValueError, match="`kept` must be a fraction"):
            sparsity.select_channels(f, kept=kept)
    with pytest.raises(ValueError, match=r"'in', which read no channels.*those that do are 'out'"):
        sparsity.select_channels(f, kept={"in": 0.5})(params, x)
    with pytest.raises(ValueError, match="examples along the first axis"):
        sparsity.select_channels(f, kept=0.5)(params, x[:0])
    with pytest.raises(ValueError, match="order"):
        sparsity.select_channels(f, kept=0.5, order="backwards")
    for name, value in (("ridge", -1.0), ("batch_size", 0), ("num_positions", 0)):
        with pytest.raises(ValueError, match=f"`{name}`"):
            sparsity.select_channels(f, kept=0.5, **{name: value})
    with pytest.raises(TypeError, match="`f` of `select_channels` must be a function"):
        sparsity.select_channels("net", kept=0.5)
    with pytest.raises(ValueError, match="no channel that can be removed"):
        sparsity.select_channels(lambda p, x: x @ p["in"], kept=0.5)(params, x)
