"""Telling linear equations from nonlinear ones by the program of their derivative."""

import jax
import jax.numpy as jnp

from jaxinterp.interpreters._graph import Graph, Node, graph
from jaxinterp.interpreters._ir import names

LINEAR = names(
    """add add_any broadcast_in_dim concatenate convert_element_type copy copy_p cumsum dynamic_slice expand_dims gather
    imag name neg optimization_barrier pad real reduce_precision reduce_sum reduce_window_sum reshape rev
    sharding_constraint slice split squeeze stack sub tile transpose unstack"""
)
"""Primitives that are affine in all their floating-point inputs together."""

LOOPS = ("scan", "while", "cond")


def is_linear(node: Node, program: Graph) -> bool:
    """Whether the derivative of a node does not depend on its inputs: whether it is affine in those that are active.

    For primitives that are not in a table of common ones, the derivative is traced and asked which of its inputs it
    depends on; so this holds for primitives of other libraries too. Loops count as nonlinear.
    """
    if node.name in LINEAR:
        return True
    if node.name in LOOPS:
        return False
    moving = [v in program.active for v in node.inputs]
    match node.name:
        case "select_n":
            return not moving[0]
        case "mul" | "dot_general" | "conv_general_dilated":
            return sum(moving) == 1
        case "div":
            return not moving[1]
        case "integer_pow" if node.params["y"] == 1:  # as derivatives of squares are written
            return True
    return _has_constant_derivative(node, program, moving)


def _has_constant_derivative(node: Node, program: Graph, moving: list[bool]) -> bool:
    shapes = [jax.ShapeDtypeStruct(program.avals[v].shape, program.avals[v].dtype) for v in node.inputs]
    primals = [shape for shape, is_moving in zip(shapes, moving, strict=True) if is_moving]

    def tangents(primals: list, tangents: list, others: list) -> list:
        def of_moving(*inputs: jax.Array) -> list:
            chosen, rest = iter(inputs), iter(others)
            return node(*[next(chosen) if is_moving else next(rest) for is_moving in moving])

        outputs = jax.jvp(of_moving, tuple(primals), tuple(tangents))[1]
        return [t for t in outputs if jnp.issubdtype(t.dtype, jnp.inexact)]

    others = [shape for shape, is_moving in zip(shapes, moving, strict=True) if not is_moving]
    try:
        derivative, _ = graph(tangents, primals, primals, others)
    except (
        TypeError,
        ValueError,
        NotImplementedError,
    ):  # without a forward derivative, such as a `custom_vjp`: nothing is known
        return False
    reached = set(derivative.inputs[: len(primals)])
    for equation in derivative.nodes:
        if not reached.isdisjoint(equation.inputs):
            reached.update(equation.outputs)
    return reached.isdisjoint(derivative.outputs)
