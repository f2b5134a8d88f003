"""Derivatives between places of a program: as matrices, or pushed forward in chunks so that no matrix is kept."""

import math
from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp.interpreters._curves import Curve
from jaxinterp.interpreters._graph import Graph, Node
from jaxinterp.typing import Array, PyTree

CHUNK = 64

Known = dict[int, tuple[int, Curve]]
"""The variables that are a known function of one other."""


def read_by(known: Known, node: Node) -> tuple[int, ...]:
    """The variables that a node reads; of a known function the one it is a function of."""
    out = node.outputs[0] if node.outputs else None
    return (known[out][0],) if out in known else node.inputs


def needed(program: Graph, known: Known) -> list[Node]:
    """The nodes that the result needs, in order, without the inside of known functions."""
    wanted, order = set(program.outputs), []
    for node in reversed(program.nodes):
        if wanted.isdisjoint(node.outputs) or not program.dependent_inputs(node):
            continue
        order.append(node)
        wanted.update(read_by(known, node))
    return order[::-1]


class Stream:
    """The derivatives at the centre of some variables with respect to others.

    Args:
      program: in few primitives.
      known: its known functions.
      order: the nodes that are evaluated.
      values: of all variables, at the centre.
      sources: the variables to which something is added.
      targets: the variables that are looked at.

    Attributes:
      reached: those of the targets that depend on a source, in order.
    """

    def __init__(
        self,
        program: Graph,
        known: Known,
        order: Sequence[Node],
        values: dict[int, Array],
        sources: Sequence[int],
        targets: Iterable[int],
    ) -> None:
        self.program, self.known, self.values, self.sources = program, known, values, tuple(sources)
        after, self._nodes = set[int](), list[Node]()
        for node in order:
            stops = node.name == "stop_gradient" or node.outputs[0] not in program.active
            moves = not stops and not after.isdisjoint(read_by(known, node))
            if moves or not set(self.sources).isdisjoint(node.outputs):
                after.update(node.outputs)
                self._nodes.append(node)
        self.reached = [v for v in dict.fromkeys(targets) if v in after]

    def push(self, added: Sequence[Array]) -> list[Array]:
        """The derivative of what is reached along one direction, which has a part for each source."""
        tangents: dict[int, Array] = {}
        extra = dict(zip(self.sources, added, strict=True))
        for node in self._nodes:
            tangents.update(self._pushed(node, tangents))
            for v in extra.keys() & set(node.outputs):
                tangents[v] = tangents[v] + extra[v] if v in tangents else extra[v]
        return [tangents[v] for v in self.reached]

    def _pushed(self, node: Node, tangents: dict[int, Array]) -> dict[int, Array]:
        out = node.outputs[0]
        if out in self.known:
            origin, curve = self.known[out]
            return {out: curve.first(self.values[origin]) * tangents[origin]} if origin in tangents else {}
        moving = [i for i, v in enumerate(node.inputs) if v in tangents]
        if not moving:
            return {}
        operands = [self.values[v] for v in node.inputs]
        given = tuple(tangents[node.inputs[i]].astype(operands[i].dtype) for i in moving)
        results = jax.jvp(_in_some(node, operands, moving), tuple(operands[i] for i in moving), given)[1]
        return dict(zip(node.outputs, results, strict=True))

    def matrices(self) -> dict[int, Array]:
        """The derivatives of what is reached with respect to all entries of all sources, [entries, *shape]."""
        shapes = [self.program.avals[v] for v in self.sources]
        sizes = [math.prod(shape.shape) for shape in shapes]
        whole = jnp.eye(sum(sizes), dtype=jnp.result_type(*(shape.dtype for shape in shapes)))
        parts = jnp.split(whole, np.cumsum(sizes)[:-1].tolist(), 1)
        rows = [part.reshape(-1, *shape.shape).astype(shape.dtype) for part, shape in zip(parts, shapes, strict=True)]
        return dict(zip(self.reached, jax.vmap(lambda *added: self.push(added))(*rows), strict=True))

    def reduced(
        self,
        consume: Callable[[PyTree, Array, list[Array]], tuple[PyTree, PyTree]],
        initial: PyTree,
    ) -> tuple[PyTree, PyTree]:
        """Runs over the derivatives with respect to all entries of a single source, a chunk at a time.

        Args:
          consume: `(carried, indices, tangents) -> (carried, rows)` with the entries of the source in a chunk [chunk],
            and the derivatives of what is reached with respect to each, [chunk, *shape]. Beyond the last entry they are
            zero.
          initial: what is carried at first.

        Returns:
          What is carried in the end, and the rows of all entries.
        """
        (source,) = self.sources
        value = self.values[source]
        count, chunk = value.size, min(CHUNK, value.size)

        def step(carried: PyTree, start: Array) -> tuple[PyTree, PyTree]:
            indices = start + jnp.arange(chunk, dtype=jnp.int32)
            rows = jax.nn.one_hot(indices, count, dtype=value.dtype).reshape(chunk, *value.shape)
            return consume(carried, jnp.minimum(indices, count - 1), jax.vmap(lambda row: self.push([row]))(rows))

        starts = jnp.arange(0, count, chunk, dtype=jnp.int32)
        carried, rows = jax.lax.scan(step, initial, starts)
        return carried, jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:count], rows)


def _in_some(node: Node, operands: list[Array], moving: list[int]) -> Callable[..., list[Array]]:
    """A node as a function of some of its operands."""

    def at(*given: Array) -> list[Array]:
        filled = dict(zip(moving, given, strict=True))
        return node(*[filled.get(i, operand) for i, operand in enumerate(operands)])

    return at
