"""What the propagation methods share: a backward pass through the parts of a program, by the rules of the method."""

import math
from collections.abc import Callable

import jax

from jaxinterp import interpreters
from jaxinterp.interpreters import Backward, Graph, Group, Node, Rules
from jaxinterp.typing import PyTree, ScalarFn

CHOICES = "max min reduce_max reduce_min reduce_window_max reduce_window_min cummax cummin sort argsort top_k clamp"
SELECTING = frozenset(CHOICES.split())
"""Primitives that pass some of their inputs on: their derivative is the choice that they made."""


AFFINE = ("add", "sub", "add_any", "mul", "div", "neg", "convert_element_type", "copy", "copy_p", "reduce_precision")


def cores(program: Graph, groups: tuple[Group, ...]) -> tuple[Group, ...]:
    """The same groups, each activation apart from others of the same array and from affine maps right around it."""
    parts = []
    for group in groups:
        if group.kind != "activation":
            parts.append(group)
            continue
        for nodes in _connected(group.nodes):
            first, last = _curved(program, nodes, group.inputs[0])
            around = [(nodes[:first], "affine"), (nodes[first:last], "activation"), (nodes[last:], "affine")]
            parts += [_part(program, group, part, kind == "activation") for part, kind in around if part]
    return tuple(parts)


def _connected(nodes: tuple[Node, ...]) -> list[tuple[Node, ...]]:
    """Sets of nodes that do not read each other's results."""
    found: list[tuple[Node, ...]] = []
    for node in nodes:
        read = {id(part) for part in found if any(not set(node.inputs).isdisjoint(n.outputs) for n in part)}
        joined = tuple(n for part in found if id(part) in read for n in part)
        found = [*(part for part in found if id(part) not in read), (*joined, node)]
    return found


def _curved(program: Graph, nodes: tuple[Node, ...], source: int) -> tuple[int, int]:
    """Where the nodes begin and end that are more than an affine map of the source or of the result."""

    def is_affine(node: Node) -> bool:
        alone = len(program.dependent_inputs(node)) == 1
        return node.name in AFFINE and alone and interpreters.is_linear(node, program)

    first, last = 0, len(nodes)
    while first < last and is_affine(nodes[first]) and sum(source in node.inputs for node in nodes) == 1:
        source, first = nodes[first].outputs[0], first + 1
    while last > first and is_affine(nodes[last - 1]):
        last -= 1
    return first, last


def _part(program: Graph, whole: Group, nodes: tuple[Node, ...], is_curved: bool) -> Group:
    inside = {v for node in nodes for v in node.outputs}
    inputs = dict.fromkeys(v for node in nodes for v in program.dependent_inputs(node) if v not in inside)
    others = [node for node in whole.nodes if inside.isdisjoint(node.outputs)]
    read = {v for node in others for v in node.inputs}.union(whole.outputs)
    outputs = tuple(v for node in nodes for v in node.outputs if v in read)
    return Group("activation" if is_curved else "affine", nodes, tuple(inputs), outputs)


def checked_rules(method: str, rules: Rules) -> Rules:
    """Returns `rules` if it is a table of the method; `TypeError` otherwise."""
    if not isinstance(rules, Rules) or rules.method != method:
        got = f"one of `{rules.method}`" if isinstance(rules, Rules) else repr(rules)
        raise TypeError(f"`rules` of `{method}` must be `attribution.rules.{method}` or a copy of it; got {got}.")
    return rules


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
