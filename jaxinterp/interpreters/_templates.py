"""Finding a known function inside a program: by the equality of programs, so that what is found is certain."""

import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp import checks
from jaxinterp.interpreters._curves import FUNCTIONS, PRIMITIVES, Curve, power
from jaxinterp.interpreters._graph import CALLS, CUSTOM, Graph, Node, graph
from jaxinterp.typing import Array, PyTree

MOVING_BINARY = ("add", "sub", "mul", "max", "min")


def canonical(f: Callable[..., PyTree], *args: PyTree) -> tuple[Graph, list[Array]]:
    """The program of f in fewer primitives: calls opened, quotients and products of two moving arrays written out.

    The products are computed at the highest precision. Functions with a derivative of their own count by their values.
    """
    with jax.default_matmul_precision("highest"):
        opened, leaves = graph(f, *args, opened=(*CALLS, *CUSTOM))

        def rewritten(*arrays: Array) -> list[Array]:
            values = opened.evaluate(arrays, lambda node, operands: _simpler(opened, node, operands))
            return [values[v] for v in opened.outputs]

        return graph(rewritten, *leaves)[0], leaves


def _simpler(program: Graph, node: Node, operands: list) -> list:
    moving = [v in program.dependent for v in node.inputs]
    if not any(moving):
        return node(*operands)
    match node.name:
        case "div" if moving[1]:
            shape = node.shapes()[-1].shape
            numerator, inverse = operands[0], jax.lax.integer_pow(operands[1], -1)
            return [jnp.broadcast_to(numerator, shape) * jnp.broadcast_to(inverse, shape)]
        case "square":
            return [jax.lax.integer_pow(operands[0], 2)]
        case "clamp":
            low, x, high = operands
            return [jnp.minimum(jnp.maximum(x, low), high)]
        case "abs":
            return [jnp.maximum(operands[0], -operands[0])]
        case "pow" if not moving[1]:
            exponents = _closed_over(program, node.inputs[1])
            if exponents is not None and len(set(exponents.flat)) == 1 and float(exponents.flat[0]).is_integer():
                return [jax.lax.integer_pow(operands[0], int(exponents.flat[0]))]
            return [jnp.exp(operands[1].astype(operands[0].dtype) * jnp.log(operands[0]))]
        case "select_n" if not moving[0]:
            return node(operands[0], *[a if m else _finite(a) for a, m in zip(operands[1:], moving[1:], strict=True)])
        case "reduce_max" | "reduce_min":
            return [_by_halves(node, operands[0])]
        case "reduce_window_max" | "reduce_window_min" if set(node.params["base_dilation"]) == {1}:
            return [_by_offsets(node, operands[0])]
        case "dot_general" if all(moving):
            return [_product_of_moving(node, *operands)]
        case name if name in MOVING_BINARY:
            shape = node.shapes()[-1].shape
            return node(*[jnp.broadcast_to(a, shape) if m else a for a, m in zip(operands, moving, strict=True)])
    return node(*operands)


def large(dtype: jnp.dtype) -> float:
    """What stands for infinity: sums of a few of it are finite."""
    return float(jnp.finfo(dtype).max) / 8


def _finite(x: Array) -> Array:
    """Infinite entries as very large ones: masks add minus infinity, and intervals need a middle."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    return jnp.clip(x, -large(x.dtype), large(x.dtype))


def _closed_over(program: Graph, v: int) -> np.ndarray | None:
    """The array that a variable holds, spread or converted, if the function closes over it and it is not traced."""
    while v in program.producers and program.producers[v].name in ("broadcast_in_dim", "convert_element_type"):
        v = program.producers[v].inputs[0]
    return checks.concrete(program.constants[v]) if v in program.constants else None


def _by_halves(node: Node, x: Array) -> Array:
    """The greatest (smallest) along some axes as elementwise ones."""
    pick = jnp.maximum if node.name == "reduce_max" else jnp.minimum
    axes = node.params["axes"]
    x = jnp.moveaxis(x, axes, range(len(axes))).reshape(-1, *node.shapes()[-1].shape)
    while len(x) > 1:
        half = len(x) // 2
        x = jnp.concatenate([pick(x[:half], x[half : 2 * half]), x[2 * half :]])
    return x[0]


def _by_offsets(node: Node, x: Array) -> Array:
    """The greatest (smallest) in windows as elementwise ones of shifted arrays."""
    p, is_max = node.params, node.name == "reduce_window_max"
    pick, worst = (jnp.maximum, -jnp.inf) if is_max else (jnp.minimum, jnp.inf)
    x = jax.lax.pad(x, jnp.asarray(worst, x.dtype), [(*pads, 0) for pads in p["padding"]])
    shape = node.shapes()[-1].shape
    parts = []
    for offset in itertools.product(*map(range, p["window_dimensions"])):
        start = [i * dilation for i, dilation in zip(offset, p["window_dilation"], strict=True)]
        stop = [a + (n - 1) * step + 1 for a, n, step in zip(start, shape, p["window_strides"], strict=True)]
        parts.append(jax.lax.slice(x, start, stop, p["window_strides"]))
    return functools.reduce(pick, parts)


def _product_of_moving(node: Node, a: Array, b: Array) -> Array:
    """A product of two arrays as a sum of elementwise products."""
    (contracted_a, contracted_b), (batch_a, batch_b) = node.params["dimension_numbers"]

    def arranged(array: Array, contracted: tuple, batch: tuple) -> tuple[Array, int, int]:
        free = [axis for axis in range(array.ndim) if axis not in contracted and axis not in batch]
        return jnp.transpose(array, (*batch, *free, *contracted)), len(free), len(contracted)

    left, free_left, count = arranged(a, contracted_a, batch_a)
    right, free_right, _ = arranged(b, contracted_b, batch_b)
    start = len(batch_a)
    left = jnp.expand_dims(left, range(start + free_left, start + free_left + free_right))
    right = jnp.expand_dims(right, range(start, start + free_left))
    shape = jnp.broadcast_shapes(left.shape, right.shape)
    product = jnp.broadcast_to(left, shape) * jnp.broadcast_to(right, shape)
    dtype = node.shapes()[-1].dtype
    return jnp.sum(product, axis=tuple(range(len(shape) - count, len(shape)))).astype(dtype)


def curves(program: Graph) -> dict[int, tuple[int, Curve]]:
    """The variables that are a known function of one other: from which, and which function.

    Only those whose equations are used by nothing else; the largest first.
    """
    found: dict[int, tuple[int, Curve]] = {}
    templates = _templates(tuple(sorted({str(aval.dtype) for v, aval in program.avals.items() if v in program.active})))
    for node in program.nodes:
        if len(node.outputs) != 1 or node.outputs[0] not in program.dependent:
            continue
        for template, curve in templates:
            if template.producers[_same(template, template.outputs[0])].name != node.name:
                continue
            source = _source(template, program, node.outputs[0])
            if source is not None:
                found[node.outputs[0]] = (source, curve)
                break
        else:
            if node.name in PRIMITIVES:
                found[node.outputs[0]] = (node.inputs[0], PRIMITIVES[node.name])
            elif node.name == "integer_pow":
                found[node.outputs[0]] = (node.inputs[0], power(node.params["y"]))
    return found


@functools.cache
def _templates(dtypes: tuple[str, ...]) -> list[tuple[Graph, Curve]]:
    return [(canonical(f, jax.ShapeDtypeStruct((), dtype))[0], curve) for dtype in dtypes for f, curve in FUNCTIONS]


def _same(program: Graph, v: int) -> int:
    """The variable of which this one is a copy."""
    while v in program.producers:
        node = program.producers[v]
        before, after = node.shapes()[0], node.shapes()[-1]
        if node.name not in ("broadcast_in_dim", "copy", "copy_p", "convert_element_type") or before != after:
            return v
        v = node.inputs[0]
    return v


def _source(template: Graph, program: Graph, out: int) -> int | None:
    """The variable of which `out` is what the template computes; `None` if it is something else."""
    bound: dict[int, int] = {}

    def matches(t: int, v: int) -> bool:
        t, v = _same(template, t), _same(program, v)
        if t in bound:
            return bound[t] == v
        if t in template.inputs:
            bound[t] = v
            return v in program.dependent
        number, other = template.literal(t), program.literal(v)
        if number is not None or other is not None:
            return number is not None and other is not None and other.size == 1 and bool(np.all(number == other))
        a, b = template.producers.get(t), program.producers.get(v)
        if a is None or b is None or a.name != b.name or a.params.get("y") != b.params.get("y"):
            return False
        if a.params.get("new_dtype") != b.params.get("new_dtype") or len(a.inputs) != len(b.inputs):
            return False
        bound[t] = v
        return all(map(matches, a.inputs, b.inputs))

    if not matches(template.outputs[0], out):
        return None
    source = bound[template.inputs[0]]
    same_shape = program.avals[source].shape == program.avals[out].shape
    return source if same_shape else None
