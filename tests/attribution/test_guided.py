"""Guided backpropagation and deconvolution against NumPy, and against activations with their derivative by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from jaxinterp.attribution import deconvolution, gradient, guided_backprop, rules
from jaxinterp.interpreters import primitives
from tests.attribution.networks import (
    IMAGE,
    MLP,
    POINTS,
    X64,
    assert_close,
    block,
    conv_net,
    dense,
    mlp,
    random,
)

pytestmark = pytest.mark.numerics

BOTH = pytest.mark.parametrize("method", [guided_backprop, deconvolution])


def replaced(activation, method):
    """The activation with the backward rule of the method written out as a derivative of its own."""

    @jax.custom_vjp
    def f(z):
        return activation(z)

    def backward(z, g):
        slope = jax.vjp(activation, z)[1](jnp.ones_like(z))[0] if method is guided_backprop else 1.0
        return (jnp.maximum(g, 0) * slope,)

    f.defvjp(lambda z: (activation(z), z), backward)
    return f


def by_hand(x, output, method):
    """The signal of the network of three layers, in float64."""
    zs = [x]
    for weight, offset in MLP:
        zs.append(weight @ (np.maximum(zs[-1], 0) if len(zs) > 1 else zs[-1]) + offset)
    signal = MLP[2][0][output]
    for (weight, _), z in [(MLP[1], zs[2]), (MLP[0], zs[1])]:
        signal = np.maximum(signal, 0) * (1 if method is deconvolution else z > 0) @ weight
    return signal


@BOTH
def test_on_a_relu_network_it_is_its_formula(method):
    got = jax.jit(jax.vmap(method(mlp()), (0, None)), static_argnums=1)(jnp.asarray(POINTS, float), 2)
    for row, x in zip(got, POINTS, strict=True):
        assert_close(row, by_hand(x, 2, method))
    plain = jax.vmap(gradient(mlp()), (0, None))(jnp.asarray(POINTS, float), 2)
    assert np.abs(got - plain).max() > 0.1


RELUS = {
    "jax.nn.relu": jax.nn.relu,
    "nnx.relu": nnx.relu,
    "maximum": lambda z: jnp.maximum(z, 0),
    "maximum of arrays": lambda z: jnp.maximum(jnp.zeros_like(z), z),
    "where": lambda z: jnp.where(z > 0, z, 0),
    "select": lambda z: lax.select(z > 0, z, jnp.zeros_like(z)),
    "mask": lambda z: z * (z > 0).astype(z.dtype),
    "clip": lambda z: jnp.clip(z, 0),
    "where the other way": lambda z: jnp.where(z <= 0, jnp.zeros_like(z), z),
    "checkpointed": jax.checkpoint(jax.nn.relu),
}


@BOTH
@pytest.mark.parametrize("name", RELUS)
def test_a_relu_is_found_however_it_is_written(method, name):
    """Within the convolutional network, with a residual connection."""
    got = jax.jit(method(conv_net(RELUS[name])))(IMAGE)
    assert_close(got, jax.jit(gradient(conv_net(replaced(jax.nn.relu, method))))(IMAGE), None if X64 else 1e-4)


@BOTH
@pytest.mark.parametrize(
    "activation", [jax.nn.gelu, jax.nn.silu, jax.nn.softplus, jax.nn.elu, jnp.tanh, jax.nn.hard_swish, jnp.square]
)
def test_other_activations_have_their_derivative(method, activation):
    """The positive part of the signal times φ'(z); for deconvolution without φ'(z)."""
    got = jax.jit(method(conv_net(activation)))(IMAGE)
    assert_close(got, jax.jit(gradient(conv_net(replaced(activation, method))))(IMAGE), None if X64 else 1e-4)


def test_the_gelu_in_closed_form():
    """Of w·gelu(x) the map is max(w, 0) (Φ(x) + x φ(x))."""
    x, w = np.array([0.7, -1.3, 2.0]), np.array([2.0, -1.0, 3.0])
    cdf = np.array([jax.scipy.stats.norm.cdf(v) for v in x])
    slope = cdf + x * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)

    def f(x):
        return jnp.sum(jnp.asarray(w, x.dtype) * jax.nn.gelu(x, approximate=False))

    assert_close(guided_backprop(f)(jnp.asarray(x, float)), np.maximum(w, 0) * slope)
    assert_close(deconvolution(f)(jnp.asarray(x, float)), np.maximum(w, 0))


@BOTH
def test_linear_maps_around_an_activation_keep_their_derivative(method):
    """The scale before and the sign behind a ReLU are no part of it: the signal that arrives is what is cut."""
    x, scale = jnp.array([1.0, 2.0, -1.0]), jnp.array([2.0, 0.5, 1.0])
    mask = jnp.array([1.0, 1.0, 0.0]) if method is guided_backprop else jnp.ones(3)
    for f, wanted in [
        (lambda x: jnp.sum(-jax.nn.relu(x)), 0.0 * mask),
        (lambda x: jnp.sum(1.0 - jax.nn.relu(x)), 0.0 * mask),
        (lambda x: jnp.sum(jax.nn.relu(3.0 * x)), 3.0 * mask),
        (lambda x: jnp.sum(jax.nn.relu(scale * x) / 4.0), scale / 4 * mask),
        (lambda x: -jnp.sum(-jax.nn.relu(2.0 * x) / 5.0), 2 / 5 * mask),
        (lambda x: jnp.sum(jax.nn.relu(x) * -scale), 0.0 * mask),
    ]:
        np.testing.assert_allclose(method(f)(x), wanted, rtol=1e-6)


@BOTH
def test_activations_of_one_array_are_cut_apart(method):
    """The two halves of a concatenated ReLU, and two activations of which one is subtracted."""
    x, w = jnp.array([1.0, 2.0, -1.5]), jnp.array([2.0, -1.0, 3.0])
    relu, tanh = replaced(jax.nn.relu, method), replaced(jnp.tanh, method)

    def f(relu, tanh, x):
        both = jnp.concatenate([relu(x), relu(-x)])
        return jnp.vdot(jnp.concatenate([w, 2 * w[::-1]]), both) + jnp.vdot(w, tanh(x) - 2.0) - jnp.sum(relu(x) * 0.5)

    assert_close(method(lambda x: f(jax.nn.relu, jnp.tanh, x))(x), gradient(lambda x: f(relu, tanh, x))(x))


@BOTH
def test_products_normalisers_and_choices_have_their_ordinary_derivative(method):
    """Where there is no activation, it is the gradient."""

    def f(x):
        return jax.nn.softmax(x)[1] * jnp.max(x) + jnp.prod(x) + jnp.min(x) / jnp.sum(x) - jnp.sort(x)[2]

    x = jnp.asarray(POINTS[0], float)
    assert_close(*jax.jit(lambda x: (method(f)(x), gradient(f)(x)))(x))


@BOTH
def test_in_a_transformer_the_activation_of_the_gate_is_cut(method, monkeypatch):
    x = random((5, 8), 42)
    got = jax.jit(method(block()))(x)
    monkeypatch.setattr(jax.nn, "silu", replaced(jax.nn.silu, method))
    assert_close(got, jax.jit(gradient(block()))(x), None if X64 else 1e-4)


@BOTH
def test_inputs_are_trees_and_arguments(method):
    def f(scale, x):
        return jnp.sum(scale * jax.nn.relu(dense(x["image"], random((3, 4), 1)) * x["gain"]))

    def g(scale, x):
        return jnp.sum(scale * replaced(jax.nn.relu, method)(dense(x["image"], random((3, 4), 1)) * x["gain"]))

    args = jnp.asarray(1.5), {"image": random((2, 3), 2), "gain": jnp.asarray(-2.0)}
    for argnums in (0, 1, (1, 0)):
        assert_close(method(f, argnums)(*args), gradient(g, argnums)(*args))


@BOTH
def test_a_mapped_and_compiled_call_is_a_loop(method):
    explain, images = method(conv_net()), random((3, 8, 8, 2), 50)
    alone = jnp.stack([explain(images[0]), *map(jax.jit(explain), images[1:])])
    assert_close(jax.jit(jax.vmap(explain))(images), alone)


@BOTH
@pytest.mark.parametrize("name", ["scan", "cumprod", "atan2"])
def test_a_primitive_without_a_rule_is_named_with_its_place(method, name):
    f = {
        "scan": lambda x: lax.scan(lambda c, a: (c * a, None), x[0], x)[0],
        "cumprod": lambda x: lax.cumprod(x)[-1],
        "atan2": lambda x: lax.atan2(x[0], x[1]),
    }[name]
    message = rf"^`{method.__name__}` has no rule for the primitive `{name}`, used at .*test_guided\.py:\d+"
    with pytest.raises(NotImplementedError, match=message) as error:
        method(f)(jnp.array([0.4, 1.2, 0.9]))
    assert f"attribution.rules.{method.__name__}.define(" in str(error.value)


@BOTH
def test_a_rule_of_the_user_is_followed(method):
    table = getattr(rules, method.__name__).copy()
    table.define(primitives.cumprod)(lambda call: call.pull(call.cotangents))
    x = jnp.array([0.5, 4.0, 3.0])
    got = method(lambda x: lax.cumprod(jax.nn.relu(x))[-1], rules=table)(x)
    np.testing.assert_allclose(got, [12.0, 1.5, 2.0], rtol=1e-6)


def test_bad_calls_are_refused():
    for method in (guided_backprop, deconvolution):
        name = method.__name__
        with pytest.raises(TypeError, match=rf"^`{name}` needs floating-point arrays"):
            method(jnp.sum)(jnp.arange(3))
        with pytest.raises(TypeError, match=rf"^`{name}` needs a function that returns a scalar"):
            method(jnp.sin)(jnp.ones(3))
