"""The tri-state ReLU, by which gates learn widths and depths, and the complexity that they pay for."""

import functools
import operator

import jax
import jax.numpy as jnp

from jaxinterp.typing import Array, PyTree


def tri_state_relu(x: Array, width: Array, depth: Array) -> Array:
    r"""An activation that gates can switch off, or turn into the identity: w x where x >= 0, w d x elsewhere.

    w = 0 removes a unit, w = 1 and d = 0 is ReLU, w = d = 1 the identity, which lets the layer be merged with the next.
    Pass `threshold(gates)`, whose gradients go through.

    Args:
      x: pre-activations.
      width: w, which broadcasts to x: one for each unit or feature map.
      depth: d, which broadcasts to x: one for the layer.

    Source: Srinivas & Babu (2016, Learning Neural Network Architectures using Backpropagation).

    >>> tri_state_relu(jnp.array([-2.0, 3.0]), jnp.ones(2), jnp.ones(2)).tolist()
    [-2.0, 3.0]
    """
    return jnp.broadcast_to(width, x.shape) * jnp.where(x >= 0, x, jnp.broadcast_to(depth, x.shape) * x)


def complexity_penalty(widths: PyTree, depths: PyTree) -> Array:
    r"""Number of units in layers that keep a nonlinearity: :math:`\sum_i \mathbb 1[d_i < 1/2]\sum_j w_{ij}`.

    The indicator counts as a constant when it is differentiated.

    Args:
      widths: the gates of the units, a pytree of one array for each layer.
      depths: the gates of the layers, of the same structure.

    >>> float(complexity_penalty([jnp.ones(3), jnp.ones(5)], [jnp.array(0.1), jnp.array(0.9)]))
    3.0
    """
    parts = jax.tree.map(lambda w, d: jnp.sum(w) * jnp.all(d < 0.5).astype(w.dtype), widths, depths)
    return functools.reduce(operator.add, jax.tree.leaves(parts), jnp.zeros(()))
