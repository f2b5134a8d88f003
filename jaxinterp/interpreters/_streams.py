"""Derivatives between two places of a program, pushed forward in chunks so that no matrix of them is kept."""

from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp

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


class Stream:
    """The derivatives at the centre of some variables with respect to one.

    Args:
      program: in few primitives.
      known: its known functions.
      order: the nodes that are evaluated.
      values: of all variables, at the centre.
      source: the variable that is moved.
      targets: the variables that are looked at.

    Attributes:
      reached: those of the targets that depend on the source, in order.
    """

    def __init__(
        self,
        program: Graph,
        known: Known,
        order: Sequence[Node],
        values: dict[int, Array],
        source: int,
        targets: Iterable[int],
    ) -> None:
        self.program, self.known, self.values, self.source = program, known, values, source
        after, self._nodes = {source}, list[Node]()
        for node in order:
            stops = node.name == "stop_gradient" or node.outputs[0] not in program.active
            if not stops and source not in node.outputs and not after.isdisjoint(read_by(known, node)):
                after.update(node.outputs)
                self._nodes.append(node)
        self.reached = [v for v in dict.fromkeys(targets) if v in after]

    def push(self, tangent: Array) -> list[Array]:
        """The derivative of what is reached along one direction."""
        tangents = {self.source: tangent}
        for node in self._nodes:
            out = node.outputs[0]
            if out in self.known:
                origin, curve = self.known[out]
                tangents[out] = curve.first(self.values[origin]) * tangents[origin]
                continue
            moving = [i for i, v in enumerate(node.inputs) if v in tangents]
            operands = [self.values[v] for v in node.inputs]
            given = tuple(tangents[node.inputs[i]].astype(operands[i].dtype) for i in moving)
            results = jax.jvp(_in_some(node, operands, moving), tuple(operands[i] for i in moving), given)[1]
            tangents.update(zip(node.outputs, results, strict=True))
        return [tangents[v] for v in self.reached]

    def reduced(
        self,
        consume: Callable[[PyTree, Array, list[Array]], tuple[PyTree, PyTree]],
        initial: PyTree,
    ) -> tuple[PyTree, PyTree]:
        """Runs over the derivatives with respect to all entries of the source, a chunk at a time.

        Args:
          consume: `(carried, indices, tangents) -> (carried, rows)` with the entries of the source in a chunk [chunk],
            and the derivatives of what is reached with respect to each, [chunk, *shape]. Beyond the last entry they are
            zero.
          initial: what is carried at first.

        Returns:
          What is carried in the end, and the rows of all entries.
        """
        value = self.values[self.source]
        count, chunk = value.size, min(CHUNK, value.size)

        def step(carried: PyTree, start: Array) -> tuple[PyTree, PyTree]:
            indices = start + jnp.arange(chunk, dtype=jnp.int32)
            rows = jax.nn.one_hot(indices, count, dtype=value.dtype).reshape(chunk, *value.shape)
            return consume(carried, jnp.minimum(indices, count - 1), jax.vmap(self.push)(rows))

        starts = jnp.arange(0, count, chunk, dtype=jnp.int32)
        carried, rows = jax.lax.scan(step, initial, starts)
        return carried, jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:count], rows)


def _in_some(node: Node, operands: list[Array], moving: list[int]) -> Callable[..., list[Array]]:
    """A node as a function of some of its operands."""

    def at(*given: Array) -> list[Array]:
        filled = dict(zip(moving, given, strict=True))
        return node(*[filled.get(i, operand) for i, operand in enumerate(operands)])

    return at
