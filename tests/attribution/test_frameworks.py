"""One network written in Flax NNX, Flax Linen and Equinox: the same weights, so the same explanations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from jaxinterp import attribution, interpreters, models
from jaxinterp.attribution import lrp_rules
from tests.attribution.networks import IMAGE, assert_close, conv, max_pool, random

pytestmark = [pytest.mark.core, pytest.mark.numerics]

WEIGHTS = {
    "conv_0": (random((3, 3, 2, 6), 1, 0.5), random((6,), 2)),
    "conv_1": (random((3, 3, 6, 5), 3, 0.4), random((5,), 4)),
    "head": (random((5, 3), 5), random((3,), 6)),
}
"""Kernels as Flax has them, and biases."""


def plain(x):
    """The network as a function of one image, without a library."""
    h = max_pool(jax.nn.relu(conv(x, WEIGHTS["conv_0"][0]) + WEIGHTS["conv_0"][1].reshape(1, 1, -1)))
    h = jax.nn.gelu(conv(h, WEIGHTS["conv_1"][0]) + WEIGHTS["conv_1"][1].reshape(1, 1, -1))
    return jnp.dot(jnp.mean(h, (0, 1)), WEIGHTS["head"][0], precision="highest") + WEIGHTS["head"][1]


class InNnx(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.conv_0, self.conv_1 = nnx.Conv(2, 6, (3, 3), rngs=rngs), nnx.Conv(6, 5, (3, 3), rngs=rngs)
        self.head = nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.max_pool(nnx.relu(self.conv_0(x)), (2, 2), (2, 2))
        return self.head(jnp.mean(nnx.gelu(self.conv_1(x)), (1, 2)))


class InLinen(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.max_pool(linen.relu(linen.Conv(6, (3, 3), name="conv_0")(x)), (2, 2), (2, 2))
        x = linen.gelu(linen.Conv(5, (3, 3), name="conv_1")(x))
        return linen.Dense(3, name="head")(jnp.mean(x, (1, 2)))


def in_nnx():
    net = models.as_function(InNnx())
    params = {name: {"kernel": kernel, "bias": bias} for name, (kernel, bias) in WEIGHTS.items()}
    return lambda x: net.apply(params, net.state, x)


def in_linen():
    params = {name: {"kernel": kernel, "bias": bias} for name, (kernel, bias) in WEIGHTS.items()}
    net = models.as_function(InLinen(), {"params": params})
    return lambda x: net.apply(net.params, net.state, x)


def in_equinox(channel_axis=-1):
    """Channels come first there, inside at least."""
    eqx = pytest.importorskip("equinox")
    key = jax.random.key(0)
    convs = [eqx.nn.Conv2d(2, 6, 3, padding=1, key=key), eqx.nn.Conv2d(6, 5, 3, padding=1, key=jax.random.clone(key))]
    for i, name in enumerate(("conv_0", "conv_1")):
        kernel, bias = WEIGHTS[name]
        new = kernel.transpose(3, 2, 0, 1), bias.reshape(-1, 1, 1)
        convs[i] = eqx.tree_at(lambda layer: (layer.weight, layer.bias), convs[i], new)
    head = eqx.nn.Linear(5, 3, key=jax.random.clone(key))
    head = eqx.tree_at(lambda layer: (layer.weight, layer.bias), head, (WEIGHTS["head"][0].T, WEIGHTS["head"][1]))
    pool = eqx.nn.MaxPool2d(2, 2)

    def apply(x):
        h = pool(jax.nn.relu(convs[0](jnp.moveaxis(x, channel_axis, 0))))
        return head(jnp.mean(jax.nn.gelu(convs[1](h)), (1, 2)))

    return apply


LIBRARIES = {"nnx": in_nnx, "linen": in_linen, "equinox": in_equinox}


def one_logit(logits, x):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # as the libraries need it
        return logits(x)[1]


def with_gain(logits, x):
    """A function of several arrays: what two of them contribute is their product."""
    return one_logit(logits, x["image"] * x["gain"])


def terms(f):
    """The full gradient as what can be compared: sites have other names, and axes another order."""

    def at(x):
        full = interpreters.full_gradient(f)(x)
        totals = jnp.stack([jnp.sum(term) for term in full.terms().values()])
        return full.input_gradient, jnp.sort(totals)

    return at


METHODS = {
    "full_gradient": terms,
    "lrp": attribution.lrp,
    "lrp gamma": functools.partial(attribution.lrp, composite=lrp_rules.uniform(lrp_rules.gamma())),
    "lrp box": functools.partial(attribution.lrp, composite=lrp_rules.epsilon_gamma_box(-4.0, 4.0)),
    "deep_lift": attribution.deep_lift,
    "guided_backprop": attribution.guided_backprop,
    "deconvolution": attribution.deconvolution,
    "grad_cam": functools.partial(attribution.grad_cam, activation=jnp.tanh),
    "ablation_cam": functools.partial(attribution.ablation_cam, activation=jnp.tanh),
    "full_grad": attribution.full_grad,
}
OF_IMAGES = ["grad_cam", "ablation_cam", "full_grad"]
OF_TREES = ["full_gradient", "lrp", "deep_lift", "guided_backprop", "deconvolution"]


@functools.cache
def expected(name, apply, x=None):
    x = {"image": IMAGE, "gain": random((8, 8, 1), 7)} if apply is with_gain else IMAGE
    return jax.jit(METHODS[name](functools.partial(apply, plain)))(x)


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_networks_are_one(library):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        assert_close(jax.jit(LIBRARIES[library]())(IMAGE), plain(IMAGE), 1e-6)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", METHODS)
def test_an_explanation_does_not_depend_on_the_library(library, name):
    if library == "equinox" and name in OF_IMAGES:
        method = METHODS[name](functools.partial(one_logit, in_equinox(channel_axis=0)), channel_axis=-3)
        got = jnp.moveaxis(jax.jit(method)(jnp.moveaxis(IMAGE, -1, 0)), 0, -1)
    else:
        got = jax.jit(METHODS[name](functools.partial(one_logit, LIBRARIES[library]())))(IMAGE)
    tolerance = 2e-4 if name == "full_grad" else 2e-5  # terms that are rounding errors are scaled up, too
    assert_close(got, expected(name, one_logit), 1e-9 if IMAGE.dtype == jnp.float64 else tolerance)
    assert np.abs(jax.tree.leaves(got)[0]).max() > 0


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", OF_TREES)
def test_nor_does_one_of_a_tree_of_inputs(library, name):
    x = {"image": IMAGE, "gain": random((8, 8, 1), 7)}
    got = jax.jit(METHODS[name](functools.partial(with_gain, LIBRARIES[library]())))(x)
    assert_close(got, expected(name, with_gain), 1e-9 if IMAGE.dtype == jnp.float64 else 2e-5)


class NormalisedInNnx(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.conv_0, self.norm = nnx.Conv(2, 6, (3, 3), rngs=rngs), nnx.BatchNorm(6, rngs=rngs)
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(jnp.mean(nnx.relu(self.norm(self.conv_0(x))), (1, 2)))


class NormalisedInLinen(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.BatchNorm(use_running_average=True, name="norm")(linen.Conv(6, (3, 3), name="conv_0")(x))
        return linen.Dense(3, name="head")(jnp.mean(linen.relu(x), (1, 2)))


@pytest.mark.parametrize("library", ["nnx", "linen"])
@pytest.mark.parametrize("name", ["lrp", "lrp gamma", "deep_lift", "guided_backprop", "grad_cam"])
def test_nor_does_batch_normalisation(library, name):
    """Against a plain function in which it is merged into the convolution."""
    kernel, bias = WEIGHTS["conv_0"]
    scale, shift, mean = (random((6,), seed) for seed in (10, 11, 12))
    variance, head = jnp.abs(random((6,), 13)) + 0.5, (random((6, 3), 14), random((3,), 15))
    params = {
        "conv_0": {"kernel": kernel, "bias": bias},
        "norm": {"scale": scale, "bias": shift},
        "head": {"kernel": head[0], "bias": head[1]},
    }
    statistics = {"norm": {"mean": mean, "var": variance}}
    if library == "nnx":
        net = models.as_function(NormalisedInNnx())
        f = functools.partial(one_logit, lambda x: net.apply(params, statistics, x))
    else:
        net = models.as_function(NormalisedInLinen(), {"params": params, "batch_stats": statistics})
        f = functools.partial(one_logit, lambda x: net.apply(net.params, net.state, x))
    factor = scale / jnp.sqrt(variance + 1e-5)

    def merged(x):
        z = conv(x, kernel * factor.reshape(1, 1, 1, -1)) + ((bias - mean) * factor + shift).reshape(1, 1, -1)
        return (jnp.dot(jnp.mean(jax.nn.relu(z), (0, 1)), head[0], precision="highest") + head[1])[1]

    got, wanted = (jax.jit(METHODS[name](g))(IMAGE) for g in (f, merged))
    assert_close(got, wanted, 1e-9 if IMAGE.dtype == jnp.float64 else 5e-5)


PROJECTIONS = {name: random((8, 2, 4), 20 + i, 0.5) for i, name in enumerate(("query", "key", "value"))}
OUT = random((2, 4, 8), 23, 0.5)
TOKENS = random((5, 8), 24)


def plain_attention(x):
    q, k, v = (jnp.einsum("td,dhk->thk", x, w, precision="highest") for w in PROJECTIONS.values())
    weights = jax.nn.softmax(jnp.einsum("thk,shk->hts", q, k, precision="highest") / 2.0, axis=-1)
    return jnp.einsum("hts,shk,hkd->td", weights, v, OUT, precision="highest")


def nnx_attention():
    net = models.as_function(nnx.MultiHeadAttention(2, 8, use_bias=False, decode=False, rngs=nnx.Rngs(0)))
    params = {name: {"kernel": kernel} for name, kernel in PROJECTIONS.items()} | {"out": {"kernel": OUT}}
    return lambda x: net.apply(params, net.state, x)


def linen_attention():
    params = {name: {"kernel": kernel} for name, kernel in PROJECTIONS.items()} | {"out": {"kernel": OUT}}
    net = models.as_function(linen.MultiHeadAttention(2, use_bias=False), {"params": params})
    return lambda x: net.apply(net.params, net.state, x)


def equinox_attention():
    eqx = pytest.importorskip("equinox")
    net = eqx.nn.MultiheadAttention(2, 8, key=jax.random.key(0))
    places = (net.query_proj, net.key_proj, net.value_proj, net.output_proj)
    weights = [*(w.reshape(8, 8).T for w in PROJECTIONS.values()), OUT.reshape(8, 8).T]
    for i, weight in enumerate(weights):
        assert places[i].weight.shape == weight.shape
    net = eqx.tree_at(
        lambda n: [p.weight for p in (n.query_proj, n.key_proj, n.value_proj, n.output_proj)], net, weights
    )
    return lambda x: net(x, x, x)


ATTENTION = {"nnx": nnx_attention, "linen": linen_attention, "equinox": equinox_attention}


def energy(attention, x):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return jnp.sum(jnp.square(attention(x)))


@functools.cache
def attended():
    """By LRP, DeepLIFT and the gradient, of the plain function; attention weights count as constants for the first."""
    f = functools.partial(energy, plain_attention)
    return explained(f, TOKENS)


def explained(f, x):
    @jax.jit
    def all_three(x):
        return attribution.lrp(f)(x), attribution.deep_lift(f)(x), interpreters.full_gradient(f)(x).input_gradient

    return all_three(x)


@pytest.mark.parametrize("library", ATTENTION)
def test_nor_does_attention(library):
    """Flax NNX computes it in float32 whatever the precision of its inputs."""
    f = functools.partial(energy, ATTENTION[library]())
    tolerance = 2e-5 if TOKENS.dtype == jnp.float32 else 1e-9 if library != "nnx" else 1e-5
    got = explained(f, TOKENS)
    assert_close(got, attended(), tolerance)
    np.testing.assert_allclose(jnp.sum(got[0]), f(TOKENS), rtol=1e-4)
