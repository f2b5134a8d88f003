"""A layer and the next one, for the tests of merging."""

import jax
import jax.numpy as jnp
import numpy as np

DTYPE = jnp.float64 if jax.config.jax_enable_x64 else jnp.float32


def layer(seed, inputs=20, units=30, outputs=4):
    """Incoming weights, biases and outgoing weights."""
    rng = np.random.default_rng(seed)
    shapes = ((inputs, units), (units,), (units, outputs))
    return tuple(jnp.asarray(rng.normal(size=shape), DTYPE) for shape in shapes)


def output(w, b, a, x, activation=jax.nn.relu):
    """What the next layer adds up."""
    return activation(x @ w + b[None]) @ a
