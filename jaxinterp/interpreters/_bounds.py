"""Bounds for the values of a program and its first two derivatives over a ball, by walking through it once.

What makes them tight: the derivatives at the centre are carried exactly, as dense matrices, and only how far they can
move is bounded. A program is a chain of local derivatives :math:`D_k`, and the product of two chains telescopes:

    J(x') - J(x) = Σ_k M_k(x) (D_k(x') - D_k(x)) J_k(x'),

with :math:`J_k` the Jacobian of what equation k reads and :math:`M_k` the derivative of the result with respect to what
it writes. :math:`M_k` is taken at the centre, so no product of norms over the depth appears; the changes of
:math:`D_k` follow from the ranges of the second derivative over the interval that its operand moves in.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxinterp import tree
from jaxinterp.interpreters import _ir
from jaxinterp.interpreters._enclosures import (
    Bend,
    Enclosure,
    choice,
    curve,
    elementwise,
    linear,
    node_choice,
    product,
    range_of_product,
)
from jaxinterp.interpreters._graph import Graph, Node
from jaxinterp.interpreters._linearity import is_linear
from jaxinterp.interpreters._operators import OPERATORS, Operator, with_infinity
from jaxinterp.interpreters._predicates import Predicate, predicate
from jaxinterp.interpreters._sharpening import anchored, linked, streamed
from jaxinterp.interpreters._streams import Known, Stream, needed, read_by
from jaxinterp.interpreters._templates import curves
from jaxinterp.typing import Array

MOST_ELEMENTS = 2**24
"""Of the matrices between nonlinear equations that are kept; beyond they are streamed, which compiles more slowly."""


@dataclasses.dataclass(frozen=True)
class Walk:
    """What a walk through a program found.

    Attributes:
      program: the program, in few primitives.
      known: its known functions.
      order: the nodes that were walked.
      values: of all variables, at the centre.
      output: the enclosure of what it returns.
      bends: its nonlinear equations, in order, by the variable that each writes.
      adjoints: of each nonlinear equation, the derivative of the output at the centre with respect to what is added to
        its result, [entries, *output shape]; empty without telescoping.
      links: of operands of nonlinear equations, and the output, the derivative with respect to what is added to the
        results of all nonlinear equations, [entries of all, *shape]; empty where that is too much to keep.
    """

    program: Graph
    known: Known
    order: list[Node]
    values: dict[int, Array]
    output: Enclosure
    bends: dict[int, Bend]
    adjoints: dict[int, Array]
    links: dict[int, Array]

    def stream(self, sources: Sequence[int], targets: Iterable[int]) -> Stream:
        """The derivatives of some variables with respect to others."""
        return Stream(self.program, self.known, self.order, self.values, sources, targets)


def walk(program: Graph, leaves: Sequence[Array], radius: Array, spread: Array, telescoping: bool) -> Walk:
    """Encloses a program over the ball of Euclidean `radius` around a point, no entry of which moves beyond `spread`.

    Args:
      program: with one output.
      leaves: the point, floating-point arrays.
      radius: a scalar, that may be infinite.
      spread: a scalar.
      telescoping: whether changes of the Jacobian are bounded by the telescoping sum, and not from layer to layer only.
    """
    program = program.unstopped()
    known = curves(program)
    order = needed(program, known)
    (out,) = program.outputs
    values = program.evaluate(leaves)
    nonlinear = [node for node in order if _bends(program, known, node)]
    targets = [*(v for node in nonlinear for v in read_by(known, node)), out]
    found = Walk(program, known, order, values, _constant(jnp.asarray(values[out])), {}, {}, {})
    if telescoping and nonlinear and _fit(program, [node.outputs[0] for node in nonlinear], targets):
        links = found.stream([node.outputs[0] for node in nonlinear], targets).matrices()
        found = dataclasses.replace(found, links=links)
    walker = _Walker(found, radius, targets if telescoping else ())
    walker.enter(leaves, spread)
    last = {v: i for i, node in enumerate(order) for v in read_by(known, node)}
    for i, node in enumerate(order):
        walker.step(node, i, last)
        for v in read_by(known, node):
            if last[v] == i and v != out:
                walker.found.pop(v, None)
    return dataclasses.replace(found, output=walker.sharpened(out), bends=walker.bends, adjoints=walker.all_adjoints())


def _fit(program: Graph, sources: Sequence[int], targets: Sequence[int]) -> bool:
    """Whether the derivatives of all targets with respect to all sources can be kept."""
    entries = sum(math.prod(program.avals[v].shape) for v in sources)
    largest = max(math.prod(aval.shape) for v, aval in program.avals.items() if v in program.active)
    kept = sum(math.prod(program.avals[v].shape) for v in set(targets))
    return entries * max(largest, kept) <= MOST_ELEMENTS


def _bends(program: Graph, known: dict, node: Node) -> bool:
    if node.outputs[0] in known or node.outputs[0] not in program.active or node.name == "stop_gradient":
        return node.outputs[0] in known
    is_choice = node.name == "select_n" and node.inputs[0] in program.dependent
    return is_choice or not is_linear(node, program)


def _constant(value: Array) -> Enclosure:
    dtype = tree.accumulator(value.dtype)
    return Enclosure(
        value, value.astype(dtype), None, jnp.zeros((4, *value.shape), dtype), jnp.zeros((3,), dtype), jnp.asarray(True)
    )


class _Walker:
    """Walks through a program node by node."""

    def __init__(self, walk: Walk, radius: Array, targets: Sequence[int]) -> None:
        self.walk = walk
        self.program = walk.program
        self.known = walk.known
        self.values = walk.values
        self.radius = radius
        self.found: dict[int, Enclosure] = {}
        self.predicates: dict[int, Predicate] = {}
        self.bends: dict[int, Bend] = {}
        self.adjoints: dict[int, Array] = {}
        self.targets = tuple(targets)
        self.changes: dict[int, tuple[Array, Array]] = {}

    def enter(self, leaves: Sequence[Array], spread: Array) -> None:
        """The input itself."""
        sizes = [leaf.size for leaf in leaves]
        start, total = 0, sum(sizes)
        for v, leaf, size in zip(self.program.inputs, leaves, sizes, strict=True):
            dtype = tree.accumulator(leaf.dtype)
            tangents = jnp.zeros((total, size), dtype).at[start : start + size].set(jnp.eye(size, dtype=dtype))
            ones, zeros = jnp.ones(leaf.shape, dtype), jnp.zeros(leaf.shape, dtype)
            rows = jnp.stack([jnp.broadcast_to(spread.astype(dtype), leaf.shape), ones, zeros, zeros])
            norms = jnp.asarray([1.0, 0.0, 0.0], dtype)
            tangent = tangents.reshape(total, *leaf.shape)
            self.found[v] = Enclosure(leaf, leaf.astype(dtype), tangent, rows, norms, jnp.asarray(True))
            start += size

    def read(self, v: int) -> Enclosure:
        """The enclosure of an array."""
        found = self.found.get(v)
        return _constant(jnp.asarray(self.values[v])) if found is None else found

    def middle(self, v: int) -> Array:
        """The middle of the interval of an array, in its own dtype."""
        value = self.values[v]
        return self.found[v].middle.astype(value.dtype) if v in self.found else value

    def step(self, node: Node, place: int, last: dict[int, int]) -> None:
        """Encloses what the node at a place in the order writes; `last` is where a variable is read last."""
        before = len(self.bends)
        self.enclose(node)
        if len(self.bends) > before and self.targets and not self.walk.links:
            (out,) = self.program.outputs
            self.telescope(node.outputs[0], [v for v in self.targets if v == out or last[v] > place])

    def enclose(self, node: Node) -> None:
        """Encloses what a node writes."""
        out = node.outputs[0]
        if out in self.known:
            source, known = self.known[out]
            operand = self.sharpened(source)
            ends = known.range(operand.low, operand.high)
            self.bend(node, *elementwise(self.values[out], ends, *curve(known, operand)))
            return
        if not jnp.issubdtype(self.program.avals[out].dtype, jnp.floating):
            self.predicates[out] = predicate(self.program, node, self.read, self.predicates, self.values)
            return
        moving = [v in self.program.dependent for v in node.inputs]
        if node.name == "stop_gradient":
            self.found[out] = self.read(node.inputs[0]).stopped()
        elif node.name == "mul" and all(moving):
            a, b = (self.sharpened(v) for v in node.inputs)
            self.bend(node, *elementwise(self.values[out], range_of_product(a, b), *product(a, b)))
        elif node.name in ("max", "min"):
            self.extreme(node)
        elif node.name == "select_n" and moving[0]:
            self.selected(node)
        elif self.is_operator(node):
            self.through(node)
        else:
            remedy = "; write loops out by `interpreters.unrolled`" if node.name in ("scan", "while") else ""
            where = f"`{node.name}` of `{node.site()}` ({_ir.source(node.equation)}){remedy}"
            raise NotImplementedError(f"Bounds know no rule for the primitive {where}.")

    def is_operator(self, node: Node) -> bool:
        floating = all(v not in self.program.dependent or v in self.program.active for v in node.inputs)
        return node.name in OPERATORS and floating and is_linear(node, self.program)

    def through(self, node: Node) -> None:
        """A linear node."""
        constants = {i: self.values[v] for i, v in enumerate(node.inputs) if v not in self.program.dependent}
        operands = [self.read(v) for v in node.inputs if v in self.program.dependent]
        middles = node(*[self.middle(v) for v in node.inputs])
        for output, v in enumerate(node.outputs):
            operator = Operator(node, constants, output)
            self.found[v] = linear(operator, operands, self.values[v], middles[output])

    def bend(self, node: Node, enclosure: Enclosure, bend: Bend) -> None:
        """Notes a nonlinear equation; what it keeps of its operands needs no tangents."""
        bare = [dataclasses.replace(p, operand=dataclasses.replace(p.operand, tangent=None)) for p in bend.partials]
        sources = [v for v in read_by(self.known, node) if v in self.program.active]
        self.bends[node.outputs[0]] = dataclasses.replace(bend, partials=tuple(bare), sources=tuple(sources))
        self.found[node.outputs[0]] = enclosure

    def telescope(self, source: int, targets: Iterable[int]) -> None:
        """Adds what a change of a nonlinear equation's derivative can do to the Jacobians of later variables."""
        stream = self.walk.stream([source], targets)
        changes, self.adjoints[source] = streamed(stream, self.bends[source], self.program.outputs[0])
        for v, (row, size) in changes.items():
            before = self.changes.get(v)
            self.changes[v] = (row, size) if before is None else (before[0] + row, before[1] + size)

    def sharpened(self, v: int) -> Enclosure:
        """The enclosure of an array, with what the derivatives at the centre say of it."""
        z = self.read(v)
        if v not in self.targets:
            return anchored(z, self.radius)
        if v in self.walk.links and self.bends:
            return anchored(z, self.radius, *linked(self.walk.links[v], list(self.bends.values())))
        nothing = (jnp.zeros(z.centre.shape, z.rows.dtype), jnp.zeros((), z.rows.dtype))
        return anchored(z, self.radius, *self.changes.get(v, nothing))

    def all_adjoints(self) -> dict[int, Array]:
        """The derivatives of the output with respect to what is added to each nonlinear equation's result."""
        (out,) = self.program.outputs
        if out not in self.walk.links:
            return self.adjoints
        sizes = [bend.rows.size for bend in self.bends.values()]
        parts = jnp.split(self.walk.links[out], np.cumsum(sizes)[:-1].tolist())
        return dict(zip(self.bends, parts, strict=True))

    def extreme(self, node: Node) -> None:
        """The greater or the smaller of two arrays."""
        a, b = (self.sharpened(v) for v in node.inputs)
        unstable = (a.low <= b.high) & (a.high >= b.low)
        pick = jnp.maximum if node.name == "max" else jnp.minimum
        ends = pick(a.low, b.low), pick(a.high, b.high)
        chosen = node_choice(node, [a.centre, b.centre])
        self.bend(
            node,
            *choice(
                self.values[node.outputs[0]],
                [a, b],
                chosen,
                lambda arrays: jnp.maximum(*arrays),
                unstable,
                ends,
                True,
            ),
        )

    def selected(self, node: Node) -> None:
        """One of several arrays, by a predicate that depends on the input."""
        which = self.predicates[node.inputs[0]]
        cases = [self.sharpened(v) for v in node.inputs[1:]]
        centre = self.values[node.outputs[0]]
        unstable = jnp.broadcast_to(~which.is_certain, centre.shape)
        lows, highs = [c.low for c in cases], [c.high for c in cases]
        low = jnp.where(unstable, jnp.min(jnp.stack(lows), 0), lax.select_n(which.centre, *lows))
        high = jnp.where(unstable, jnp.max(jnp.stack(highs), 0), lax.select_n(which.centre, *highs))
        ends = low, high
        taken = with_infinity(lambda arrays: node(which.centre, *[a.astype(centre.dtype) for a in arrays])[0])
        self.bend(
            node,
            *choice(
                centre,
                cases,
                taken,
                lambda arrays: jnp.max(jnp.stack(arrays), 0),
                unstable,
                ends,
                False,
            ),
        )
