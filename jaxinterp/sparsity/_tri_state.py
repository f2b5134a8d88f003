"""The tri-state ReLU, by which gates learn widths and depths, and the complexity that they pay for."""

import functools
import operator

import jax
import jax.numpy as jnp

from jaxinterp import checks
from jaxinterp.typing import Array, PyTree


def tri_state_relu(x: Array, width: Array, depth: Array) -> Array:
    r"""An activation that gates can switch off, or turn into the identity: w x where x >= 0, w d x elsewhere.

    w = 0 removes a unit, w = 1 and d = 0 is ReLU, w = d = 1 the identity: `merge_linear_layers` then makes one layer
    of two. Pass `threshold(gates)`, whose gradients go through.

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


def merge_linear_layers(
    kernel: Array, bias: Array, next_kernel: Array, next_bias: Array, *, width: Array | float = 1.0
) -> tuple[Array, Array]:
    r"""The one dense layer that two are with nothing but `width` between them, as where a depth gate is 1.

    :math:`(w \odot (xK + b))K' + b' = x\,(K\,\mathrm{diag}(w)\,K') + (w \odot b)K' + b'`.

    Args:
      kernel: K, [inputs, units].
      bias: b, [units].
      next_kernel: K', [units, outputs].
      next_bias: b', [outputs].
      width: w, the gates of the units, [units] or one number.

    Returns:
      The kernel [inputs, outputs] and the bias [outputs].

    Raises:
      TypeError: if the arrays are not floating-point.
      ValueError: if the shapes do not fit.

    Source: Srinivas & Babu (2016, Learning Neural Network Architectures using Backpropagation).

    >>> kernel, bias = merge_linear_layers(jnp.ones((3, 2)), jnp.ones(2), jnp.ones((2, 4)), jnp.zeros(4))
    >>> kernel.shape, bias.tolist()
    ((3, 4), [2.0, 2.0, 2.0, 2.0])
    """
    given = tuple(map(jnp.asarray, (kernel, bias, next_kernel, next_bias)))
    kernel, bias, next_kernel, next_bias = checks.floating("merge_linear_layers", given)
    shapes = [array.shape for array in given]
    units, outputs = bias.shape, next_bias.shape
    are_layers = (kernel.ndim, bias.ndim, next_kernel.ndim, next_bias.ndim) == (2, 1, 2, 1)
    fits = are_layers and kernel.shape[1:] == units and next_kernel.shape == units + outputs
    if not fits or jnp.shape(width) not in ((), units):
        raise ValueError(
            "`merge_linear_layers` needs a kernel [inputs, units] with a bias [units], one [units, outputs] with a "
            f"bias [outputs], and a width for each unit or one for all; got shapes {shapes} and {jnp.shape(width)}."
        )
    gated = next_kernel * jnp.broadcast_to(jnp.asarray(width, next_kernel.dtype), units)[:, None]
    return (
        jnp.matmul(kernel, gated, precision="highest"),
        jnp.matmul(bias, gated, precision="highest") + next_bias,
    )
