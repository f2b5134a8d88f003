"""Equations of a program that are treated as one function."""

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax

from jaxinterp.interpreters._graph import Graph, Node
from jaxinterp.typing import Array

Kind = Literal["equation", "activation", "affine", "normaliser"]


@dataclasses.dataclass(frozen=True)
class Group:
    """Equations that are treated as one function.

    Attributes:
      kind: what they are.
      nodes: in order.
      inputs: the variables that depend on the explained input and come from outside; for all kinds but `equation`
        there is one.
      outputs: the variables read outside.
    """

    kind: Kind
    nodes: tuple[Node, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def apply(
        self, values: dict[int, Any], inputs: Sequence[Array], stopped: frozenset[int] = frozenset()
    ) -> list[Array]:
        """The outputs for given inputs, all else read from `values`; variables in `stopped` pass no derivative on."""
        inside = dict(zip(self.inputs, inputs, strict=True))
        for node in self.nodes:
            operands = [inside[v] if v in inside else values[v] for v in node.inputs]
            for v, out in zip(node.outputs, node(*operands), strict=True):
                inside[v] = jax.lax.stop_gradient(out) if v in stopped else out
        return [inside[v] for v in self.outputs]


Grouping = Callable[[Graph], tuple[Group, ...]]
"""Puts the equations that depend on the input into groups, in an order they can run in."""


def equations(graph: Graph) -> tuple[Group, ...]:
    """Every equation by itself."""
    return assembled(graph, [])


def grouped(graph: Graph, parts: Sequence[Group]) -> tuple[Group, ...]:
    """The given parts, and every other equation by itself."""
    return assembled(graph, [(part.kind, list(part.nodes)) for part in parts])


def assembled(graph: Graph, found: list[tuple[Kind, list[Node]]]) -> tuple[Group, ...]:
    """Some sets of nodes as groups, and every other equation by itself."""
    grouped = {id(node) for _, nodes in found for node in nodes}
    single = [node for node in graph.nodes if id(node) not in grouped and graph.dependent_inputs(node)]
    everything: list[tuple[Kind, list[Node]]] = [*found, *(("equation", [node]) for node in single)]
    position = {id(node): i for i, node in enumerate(graph.nodes)}
    everything.sort(key=lambda pair: position[id(pair[1][0])])
    uses = graph.uses()
    return tuple(_group(graph, kind, nodes, uses) for kind, nodes in everything)


def _group(graph: Graph, kind: Kind, nodes: Sequence[Node], uses: collections.Counter) -> Group:
    inside = {v for node in nodes for v in node.outputs}
    read = collections.Counter(v for node in nodes for v in node.inputs)
    inputs = dict.fromkeys(v for node in nodes for v in graph.dependent_inputs(node) if v not in inside)
    outputs = tuple(v for node in nodes for v in node.outputs if uses[v] > read[v])
    return Group(kind, tuple(nodes), tuple(inputs), outputs)
