"""Programs that are as fast inside a loop as outside it."""

import math
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
    into that layout; those in the bodies of `shard_map` and `pmap`, and those with an `out_sharding`, stay as they are.
    Values are the same up to the order of the sums; elsewhere than on a CPU the compiler is free to choose other
    layouts again.

    Where the window has more positions than what it slides over, the two change places, on every backend: the gradient
    by the kernel of a strided convolution's transpose (in every second derivative) slides the activations over
    cotangents spread out with zeros, which takes 10 to 30 times as long on a CPU as sliding the cotangents, spread out,
    over the activations. So does a 3×3 kernel over a 2×2 map. On accelerators this was not measured.

    Negative padding becomes a crop beforehand: up to jax 0.10, XLA's CPU compiler reads outside of the array for some.

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
    if _is_other(equation):
        return [_convolution(equation, *operands)]
    if _ir.contains_inside(equation, _is_other):
        return _ir.bind(equation, operands, **_ir.rewritten_inside(equation, _canonical))
    return None


def _convolution(equation: _ir.Equation, inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    params, is_reversed = equation.params, _has_large_window(equation)
    if is_reversed:
        params, inputs, kernel = _exchanged(params, inputs, kernel)
    params, inputs = _cropped(params, inputs)
    if inputs.size == 0:
        return jax.lax.full_like(_ir.shapes(equation)[-1], 0)
    result = _channels_last(params, inputs, kernel)
    return jax.lax.rev(result, params["dimension_numbers"].out_spec[2:]) if is_reversed else result


def _is_other(equation: _ir.Equation) -> bool:
    """Whether the equation is a convolution that `_canonical` writes in another way."""
    if equation.primitive is not jax.lax.conv_general_dilated_p:
        return False
    if equation.params.get("out_sharding") is not None:  # which names the axes of the result
        return False
    numbers = equation.params["dimension_numbers"]
    if numbers != _fast_layout(len(numbers.lhs_spec)) or _has_large_window(equation):
        return True
    return any(low < 0 or high < 0 for low, high in equation.params["padding"])


def _has_large_window(equation: _ir.Equation) -> bool:
    """Whether the inputs are smaller than the window that slides over them, so that exchanging both saves products."""
    params = equation.params
    if params["feature_group_count"] != 1 or params["batch_group_count"] != 1:
        return False
    inputs, kernel, _ = _ir.shapes(equation)
    places, window = (params["dimension_numbers"][i][2:] for i in (0, 1))
    is_dense = all(stride == 1 for stride in params["window_strides"])
    return is_dense and 0 < math.prod(inputs.shape[i] for i in places) < math.prod(kernel.shape[i] for i in window)


def _exchanged(params: dict, inputs: jax.Array, kernel: jax.Array) -> tuple[dict, jax.Array, jax.Array]:
    r"""The convolution whose result is the same but for the order of its positions, which is the opposite one.

    :math:`\sum_w L_{o + w - p} R_w = \sum_v R_{v - o + p} L_v`, in which o counts backwards.
    """
    numbers, precision, padding = params["dimension_numbers"], params["precision"], []
    for i, (low, high) in enumerate(params["padding"]):
        last = (inputs.shape[numbers.lhs_spec[2 + i]] - 1) * params["lhs_dilation"][i]
        last -= (kernel.shape[numbers.rhs_spec[2 + i]] - 1) * params["rhs_dilation"][i]
        padding.append((last + high, last + low))  # the last position of the result, less the old padding
    batch, channels, *spatial = numbers.out_spec
    exchanged = {
        **params,
        "padding": tuple(padding),
        "precision": precision[::-1] if isinstance(precision, tuple) else precision,
        "lhs_dilation": params["rhs_dilation"],
        "rhs_dilation": params["lhs_dilation"],
        "dimension_numbers": jax.lax.ConvDimensionNumbers(
            numbers.rhs_spec, numbers.lhs_spec, (channels, batch, *spatial)
        ),
    }
    return exchanged, kernel, inputs


def _fast_layout(rank: int) -> jax.lax.ConvDimensionNumbers:
    spatial = tuple(range(1, rank - 1))
    kernel = (rank - 1, rank - 2, *range(rank - 2))
    return jax.lax.ConvDimensionNumbers((0, rank - 1, *spatial), kernel, (0, rank - 1, *spatial))


def _cropped(params: dict, inputs: jax.Array) -> tuple[dict, jax.Array]:
    """The same convolution without negative padding: the entries that it would take away are left out before."""
    padding = list(params["padding"])
    axes = params["dimension_numbers"].lhs_spec[2:]
    for i, (axis, step) in enumerate(zip(axes, params["lhs_dilation"], strict=True)):
        before, after = (max(0, -(edge // step)) for edge in padding[i])
        padding[i] = (padding[i][0] + before * step, padding[i][1] + after * step)
        first, last = (min(edge, inputs.shape[axis]) for edge in (before, inputs.shape[axis] - after))
        inputs = jax.lax.slice_in_dim(inputs, first, max(first, last), axis=axis)
    return {**params, "padding": tuple(padding)}, inputs


def _channels_last(params: dict, inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    numbers = params["dimension_numbers"]
    batch, channels, *spatial = numbers.lhs_spec
    out, into, *window = numbers.rhs_spec
    params = {**params, "dimension_numbers": _fast_layout(inputs.ndim)}
    result = jax.lax.conv_general_dilated_p.bind(
        inputs.transpose(batch, *spatial, channels), kernel.transpose(*window, into, out), **params
    )
    batch, channels, *spatial = numbers.out_spec
    position = {axis: i for i, axis in enumerate((batch, *spatial, channels))}
    return result.transpose(*(position[axis] for axis in range(result.ndim)))
