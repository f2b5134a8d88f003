"""What networks cost: counted by hand, and by XLA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinterp import models, sparsity

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("standard_promotion")]


def test_a_network_counted_by_hand():
    net = models.as_function(models.ResNet((8, 8, 3), widths=(4, 6), blocks_per_stage=1, rngs=nnx.Rngs(0)))
    x = jnp.ones((8, 8, 3))
    found = sparsity.cost_by_parameter(net.apply)(net.params, net.state, x)
    by_hand = {
        "conv/kernel": 64 * 27 * 4,
        "blocks_0/conv_0/kernel": 64 * 36 * 4,
        "blocks_0/conv_1/kernel": 64 * 36 * 4,
        "blocks_1/conv_0/kernel": 16 * 36 * 6,
        "blocks_1/conv_1/kernel": 16 * 54 * 6,
        "head/kernel": 6 * 10,
    }
    assert {name: c.multiply_adds for name, c in found.items() if c.multiply_adds} == by_hand
    total = sparsity.cost(net.apply)(net.params, net.state, x)
    assert total.multiply_adds == total.multiply_adds_kept == sum(by_hand.values())
    assert total.parameters == total.kept == sum(a.size for a in jax.tree.leaves(net.params))


def test_dense_layers_as_xla_counts_them():
    f = lambda params, x: jnp.tanh(x @ params["a"]) @ params["b"]  # noqa: E731
    params, x = {"a": jnp.ones((30, 40)), "b": jnp.ones((40, 20))}, jnp.ones((7, 30))
    counted = jax.jit(f).lower(params, x).compile().cost_analysis()["flops"]
    assert 2 * sparsity.cost(f)(params, x).multiply_adds == pytest.approx(counted, rel=0.02)


def test_masks_save_their_share_of_a_kernel():
    net = models.as_function(models.ConvNet((8, 8, 1), widths=(4, 6), num_classes=3, rngs=nnx.Rngs(0)))
    x, rng = jnp.ones((8, 8, 1)), np.random.default_rng(0)
    gates = sparsity.attach(net.params)
    masks = [jax.tree.map(lambda g: jnp.asarray(rng.integers(0, 2, g.shape), g.dtype), gates) for _ in range(2)]
    whole = sparsity.cost_by_parameter(net.apply)(net.params, net.state, x)
    found = sparsity.cost_by_parameter(net.apply)(net.params, net.state, x, masks=masks)
    counts = sparsity.count_by_parameter(net.params, *masks)
    for name, c in found.items():
        assert (c.parameters, c.multiply_adds) == (whole[name].parameters, whole[name].multiply_adds)
        assert c.kept == (counts[name].kept if name in counts else c.parameters)
        assert c.multiply_adds_kept * c.parameters == c.multiply_adds * c.kept


def test_a_smaller_network_costs_what_its_masks_left():
    """Cut out or masked, the count is one."""
    net = models.as_function(models.MLP((6,), widths=(8, 10), num_classes=3, rngs=nnx.Rngs(0)))
    x = jnp.ones(6)
    coupling = sparsity.couple(net.apply)(net.params, net.state, x)
    keep = np.arange(len(coupling)) % 2 == 0
    small = coupling.shrink(net.params, keep)
    masked = sparsity.cost(net.apply)(net.params, net.state, x, masks=[coupling.masks(keep)])
    cut = sparsity.cost(net.apply)(small, net.state, x)
    assert (masked.kept, masked.multiply_adds_kept) == (cut.parameters, cut.multiply_adds)


@pytest.mark.parametrize(
    ("f", "multiply_adds"),
    [
        (lambda w, x: jnp.broadcast_to(w, (7, 4, 6)) @ x[:6], 7 * 4 * 6),
        (lambda w, x: sum(part @ x[:6] for part in jnp.split(w, 2)), 24),
        (lambda w, x: (w * jnp.tril(jnp.ones((4, 6)))) @ x[:6], 24),
        (lambda w, x: (w / jnp.linalg.norm(w)) @ x[:6], 24),
        (lambda w, x: jax.nn.softmax(w) @ x[:6], 24),
        (lambda w, x: jax.nn.softmax(w[0]) @ x[:6], 6),
        (lambda w, x: w[1] * x[:6] + w.sum(), 0),
    ],
)
def test_kernels_that_something_happens_to_before(f, multiply_adds):
    assert sparsity.cost(f)(jnp.ones((4, 6)), jnp.ones(9)).multiply_adds == multiply_adds


def test_loops_are_refused():
    def f(w, x):
        return jax.lax.scan(lambda carry, _: (jnp.tanh(w @ carry), None), x, None, 3)[0]

    with pytest.raises(NotImplementedError, match="of a `scan`"):
        sparsity.cost(f)(jnp.ones((3, 3)), jnp.ones(3))


@pytest.mark.parametrize(
    ("network", "kernel"),
    [(models.LowCurvatureConvNet, "blocks_0/conv/kernel"), (models.LowCurvatureResNet, "stem/conv/kernel")],
)
def test_what_is_made_of_parameters_alone_is_free(network, kernel):
    """The norms of spectral convolutions are found by a loop over the kernel, once for all examples."""
    net = models.as_function(network((8, 8, 1), widths=(4, 6), num_classes=3, rngs=nnx.Rngs(0)))
    found = sparsity.cost_by_parameter(net.apply)(net.params, net.state, jnp.ones((8, 8, 1)))
    assert found[kernel].multiply_adds == 64 * found[kernel].parameters


def test_a_kernel_made_of_several_parameters_is_refused():
    params = {"down": jnp.ones((5, 2)), "up": jnp.ones((2, 5)), "whole": jnp.ones((5, 5))}
    f = lambda params, x: (params["down"] @ params["up"]) @ x  # noqa: E731
    with pytest.raises(NotImplementedError, match="made of several parameters"):
        sparsity.cost(f)(params, jnp.ones(5))
    adapted = lambda params, x: (params["whole"] + params["down"] @ params["up"]) @ x  # noqa: E731
    assert sparsity.cost(adapted)(params, jnp.ones(5)).multiply_adds == 25


def test_what_is_added_to_data_is_no_kernel():
    """Learned positions."""
    params = {"positions": jnp.ones((5, 4)), "kernel": jnp.ones((4, 6))}
    f = lambda params, x: jnp.tanh(x + params["positions"]) @ params["kernel"]  # noqa: E731
    found = sparsity.cost_by_parameter(f)(params, jnp.ones((5, 4)))
    assert (found["positions"].multiply_adds, found["kernel"].multiply_adds) == (0, 5 * 4 * 6)
    scaled = lambda params, x: (x * params["positions"]) @ params["kernel"]  # noqa: E731
    with pytest.raises(NotImplementedError, match="two factors that both were multiplied by parameters"):
        sparsity.cost(scaled)(params, jnp.ones((5, 4)))


def test_a_loop_over_stacked_parameters_is_refused():
    def f(params, x):
        return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, jnp.stack(params))[0]

    with pytest.raises(NotImplementedError, match="of a `scan`"):
        sparsity.cost(f)([jnp.ones((4, 4)), jnp.ones((4, 4))], jnp.ones(4))


def test_refusals():
    with pytest.raises(TypeError, match="takes a function"):
        sparsity.cost("net")(jnp.ones(3))
    with pytest.raises(TypeError, match="floating-point"):
        sparsity.cost(lambda p: p)(jnp.ones(3, jnp.int32))
    with pytest.raises(ValueError, match="must have the structure of the parameters"):
        sparsity.cost(lambda p, x: x @ p["a"])({"a": jnp.ones((3, 2))}, jnp.ones(3), masks=[{}])
