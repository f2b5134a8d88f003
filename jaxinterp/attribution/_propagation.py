"""What the propagation methods share: a backward pass through the parts of a program, by the rules of the method."""

import math
from collections.abc import Callable

import jax

from jaxinterp import interpreters
from jaxinterp.interpreters import Backward, Graph, Group, Node, Rules
from jaxinterp.typing import PyTree, ScalarFn

SELECTING = interpreters.names(
    """reduce_max reduce_min reduce_window_max reduce_window_min max min sort cummax cummin top_k clamp argsort"""
)
"""Primitives that pass some of their inputs on: their derivative is the choice that they made."""


def pulled(
    program: Graph,
    groups: tuple[Group, ...],
    choose: Callable[[Group], Backward | None],
    x: PyTree,
    **options: Callable,
) -> PyTree:
    """The derivative of the program's scalar output at x, with the rules that `choose` gives the groups."""
    run = interpreters.with_backward(program, groups, choose, **options)
    leaves, structure = jax.tree.flatten(x)
    return jax.tree.unflatten(structure, jax.grad(run)(leaves))


def kept_or_missing(program: Graph, node: Node, rules: Rules) -> Backward | None:
    """The rule of a single equation where the method has no idea of its own: from the table, or its derivative.

    Raises:
      NotImplementedError: if the equation is nonlinear and the table has no rule for it.
    """
    if node.equation.primitive in rules:
        return rules[node.equation.primitive]
    if node.name in SELECTING or interpreters.is_linear(node, program):
        return None
    raise rules.missing(node)


def num_factors(node: Node) -> int:
    """How many numbers each entry of a `reduce_prod` multiplies."""
    shape = node.shapes()[0].shape
    return math.prod(shape[axis] for axis in node.params["axes"])


def traced(method: str, f: ScalarFn, argnums: int | tuple[int, ...], args: tuple) -> tuple[Graph, PyTree]:
    """The program of f as a function of x, and x."""
    g, x = interpreters.restrict_scalar(method, f, argnums, args)
    return interpreters.graph(g, x)[0], x
