"""Programs that are as fast inside a loop as outside it."""

from collections.abc import Callable

import jax

from jaxinterp.interpreters import _ir
from jaxinterp.typing import PyTree


def loop_safe(f: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """The same function with its convolutions written in the one layout that is fast inside a loop.

    On a CPU, XLA brings a convolution to its fast layout (channels last, kernels height-width-in-out) in the entry
    computation only, not in the body of a loop (`lax.scan`, `lax.map`, `lax.while_loop`; jax-ml/jax#12868). The
    transpose of a convolution is never in that layout, so a gradient in a loop runs 7 to 27 times slower. Here every
    convolution of the traced program, those of its inner programs included, is surrounded by explicit transpositions
    into that layout (the bodies of `shard_map` and `pmap` stay as they are). Values are the same up to the order of the
    sums; elsewhere than on a CPU the compiler chooses its layouts as before.

    Apply it to the function that the loop runs, derivatives included: `loop_safe(jax.grad(f))`, not
    `jax.grad(loop_safe(f))`, for differentiation brings in new convolutions.

    Args:
      f: any JAX function of arrays.

    Returns:
      A function of the same arguments. Each call traces `f` once.

    >>> import jax.numpy as jnp
    >>> def f(kernel, image):
    ...     return jnp.sum(jax.lax.conv(image, kernel, (1, 1), "SAME") ** 2)
    >>> image, kernel = jnp.ones((1, 3, 8, 8)), jnp.ones((4, 3, 3, 3))
    >>> in_loop = jax.lax.map(loop_safe(lambda x: jax.grad(f, 1)(kernel, x)), jnp.stack([image, -image]))
    >>> bool(jnp.allclose(in_loop[0], jax.grad(f, 1)(kernel, image)))
    True
    """

    def safe(*args: PyTree) -> PyTree:
        program = _ir.trace(f, *args)
        return program.interpret(_canonical, *args)

    return safe


def _canonical(equation: _ir.Equation, operands: list) -> list | None:
    if _is_slow(equation):
        return [_channels_last(equation, *operands)]
    if _ir.contains_inside(equation, _is_slow):
        return _ir.bind(equation, operands, **_ir.rewritten_inside(equation, _canonical))
    return None


def _is_slow(equation: _ir.Equation) -> bool:
    if equation.primitive is not jax.lax.conv_general_dilated_p:
        return False
    numbers = equation.params["dimension_numbers"]
    return numbers != _fast_layout(len(numbers.lhs_spec))


def _fast_layout(rank: int) -> jax.lax.ConvDimensionNumbers:
    spatial = tuple(range(1, rank - 1))
    kernel = (rank - 1, rank - 2, *range(rank - 2))
    return jax.lax.ConvDimensionNumbers((0, rank - 1, *spatial), kernel, (0, rank - 1, *spatial))


def _channels_last(equation: _ir.Equation, inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    numbers = equation.params["dimension_numbers"]
    batch, channels, *spatial = numbers.lhs_spec
    out, into, *window = numbers.rhs_spec
    params = {**equation.params, "dimension_numbers": _fast_layout(inputs.ndim)}
    result = equation.primitive.bind(
        inputs.transpose(batch, *spatial, channels), kernel.transpose(*window, into, out), **params
    )
    batch, channels, *spatial = numbers.out_spec
    position = {axis: i for i, axis in enumerate((batch, *spatial, channels))}
    return result.transpose(*(position[axis] for axis in range(result.ndim)))
