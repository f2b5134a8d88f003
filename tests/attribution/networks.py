"""Small networks that the tests of this folder explain, and how maps are compared."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

X64 = jax.config.jax_enable_x64


def random(shape, seed=0, scale=1.0):
    """Normal numbers in the precision of the tests."""
    return jnp.asarray(scale * np.random.default_rng(seed).normal(size=shape), float)


def double(x):
    return np.asarray(x, np.float64)


def assert_close(got, wanted, tolerance=None):
    """Trees are equal up to `tolerance` times the largest entry of each leaf."""
    tolerance = tolerance or (1e-11 if X64 else 2e-5)
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert jnp.shape(a) == jnp.shape(b)
        np.testing.assert_allclose(double(a), double(b), rtol=0, atol=tolerance * max(np.max(np.abs(b)), 1e-30))


MLP = [
    (np.random.default_rng(i).normal(size=(out, into)), np.random.default_rng(9 + i).normal(size=out))
    for i, (into, out) in enumerate([(5, 8), (8, 6), (6, 3)])
]
"""Weights [out, in] and biases of three layers, in float64."""

POINTS = np.random.default_rng(20).normal(size=(4, 5))
"""Inputs of the network of these weights, of either sign."""


def mlp(activation=jax.nn.relu, bias=True):
    """The network of three layers: `(x, output=1)` -> one of its outputs."""

    def f(x, output=1):
        for i, (weight, offset) in enumerate(MLP):
            x = jnp.dot(jnp.asarray(weight, x.dtype), x, precision="highest")
            x = x + jnp.asarray(offset, x.dtype) if bias else x
            x = activation(x) if i < 2 else x
        return x[output]

    return f


def conv(x, kernel, stride=1, padding="SAME"):
    """A convolution of one image [*spatial, channels] with any number of spatial axes."""
    rank = x.ndim - 1
    spec = ("N" + "DHW"[-rank:] + "C", "DHW"[-rank:] + "IO", "N" + "DHW"[-rank:] + "C")
    return lax.conv_general_dilated(
        x[None], kernel.astype(x.dtype), (stride,) * rank, padding, dimension_numbers=spec, precision="highest"
    )[0]


def max_pool(x, size=2):
    window = (*(size,) * (x.ndim - 1), 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")


def dense(x, kernel):
    return jnp.dot(x, kernel.astype(x.dtype), precision="highest")


def along(vector, x):
    """A parameter per channel, ready to meet the features x."""
    return jnp.asarray(vector, x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


def conv_net(activation=jax.nn.relu, bias=1.0, pool=max_pool, output=1):
    """Two convolutions, pooling, a residual connection, the mean over positions and a dense layer, on [8, 8, 2].

    With `bias=0.0` it is positively homogeneous where the activation is. Its stages are named scopes.
    """
    kernels = [random(shape, i, 0.4) for i, shape in enumerate([(3, 3, 2, 10), (3, 3, 10, 12), (3, 3, 12, 12)])]
    biases = [bias * random((n,), 10 + i) for i, n in enumerate((10, 12, 12))]
    head = random((12, 3), 7)

    def f(x):
        with jax.named_scope("first"):
            x = conv(x, kernels[0])
            x = activation(x + along(biases[0], x) if bias else x)
        with jax.named_scope("pool"):
            x = pool(x)
        with jax.named_scope("second"):
            x = conv(x, kernels[1])
            x = activation(x + along(biases[1], x) if bias else x)
        with jax.named_scope("residual"):
            y = conv(x, kernels[2])
            x = activation(x + (y + along(biases[2], y) if bias else y))
        with jax.named_scope("mean"):
            x = jnp.mean(x, tuple(range(x.ndim - 1)))
        with jax.named_scope("head"):
            x = dense(x, head)
        return x[output]

    return f


IMAGE = random((8, 8, 2), 30)
"""An input of the convolutional network, of either sign."""


def same(v):
    return v


def halves(u, v):
    """A product of which each factor gets half."""
    return (lax.stop_gradient(u) * v + u * lax.stop_gradient(v)) / 2


NORMS = {
    "layer": lambda x, freeze: (x - x.mean(-1, keepdims=True)) * freeze(lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)),
    "fast layer": lambda x, freeze: (
        (x - x.mean(-1, keepdims=True))
        / freeze(jnp.sqrt((x * x).mean(-1, keepdims=True) - x.mean(-1, keepdims=True) ** 2 + 1e-5))
    ),
    "rms": lambda x, freeze: x * freeze(lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6)),
    "rms by division": lambda x, freeze: x / freeze(jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)),
}


MASKS = {
    "none": lambda scores, mask: scores,
    "chosen": lambda scores, mask: jnp.where(mask, scores, -jnp.inf),
    "added": lambda scores, mask: scores + jnp.where(mask, jnp.zeros_like(scores), -jnp.inf),
    "after tanh": lambda scores, mask: jnp.where(mask, 3.0 * jnp.tanh(scores), -jnp.inf),
    "finite": lambda scores, mask: jnp.where(mask, scores, -1e9),
}


def block(norm="layer", freeze=same, product=jnp.multiply, heads=2, mask="chosen"):
    """A transformer block without biases on [5, 8]: causal attention, SwiGLU, two residual connections.

    With `freeze=lax.stop_gradient` and `product=halves` its gradient times input is LRP-0 by definition.
    """
    width, size = 8, 8 // heads
    query, key, value, out = (random((width, width), seed, 0.4) for seed in range(4))
    up, gate, down = (random(shape, 5 + i, 0.4) for i, shape in enumerate([(8, 12), (8, 12), (12, 8)]))
    scale, readout = jnp.abs(random((width,), 8)), random((5, width), 9)
    normalise = NORMS[norm]

    def f(x):
        h = normalise(x, freeze) * along(scale, x)
        q, k, v = (dense(h, w).reshape(5, heads, size) for w in (query, key, value))
        scores = jnp.einsum("qhd,khd->hqk", q, k, precision="highest") / size**0.5
        scores = MASKS[mask](scores, jnp.tril(jnp.ones((1, 5, 5), bool)))
        weights = freeze(jax.nn.softmax(scores, axis=-1))
        x = x + dense(jnp.einsum("hqk,khd->qhd", weights, v, precision="highest").reshape(5, width), out)
        h = normalise(x, freeze) * along(scale, x)
        gated = dense(h, gate)
        gated = gated * freeze(jax.nn.sigmoid(gated)) if freeze is not same else jax.nn.silu(gated)
        x = x + dense(product(gated, dense(h, up)), down)
        return jnp.sum(x * readout)

    return f
