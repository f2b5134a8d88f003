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
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import lax

from jaxinterp import tree
from jaxinterp.interpreters import _ir
from jaxinterp.interpreters._enclosures import (
    INPUT,
    Bend,
    Enclosure,
    Predicate,
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
from jaxinterp.interpreters._operators import Operator, with_infinity
from jaxinterp.interpreters._sharpening import anchored, sharpened
from jaxinterp.interpreters._templates import canonical, curves
from jaxinterp.typing import Array, PyTree

COMPARISONS = ("gt", "ge", "lt", "le", "eq", "ne")


@dataclasses.dataclass(frozen=True)
class Walk:
    """What a walk through a program found.

    Attributes:
      program: the program, in few primitives.
      output: what it returns.
      bends: its nonlinear equations by slot, in order.
      writes: the variable that each writes.
      is_complete: whether the derivatives between nonlinear equations were kept.
    """

    program: Graph
    output: Enclosure
    bends: dict[int, Bend]
    writes: dict[int, int]
    is_complete: bool


def walk(f: Callable[[PyTree], Array], x: PyTree, radius: Array, spread: Array, max_elements: int) -> Walk:
    """Encloses f over the ball of Euclidean `radius` around x, no entry of which moves by more than `spread`.

    Args:
      f: a function of x that returns one array.
      x: a pytree of floating-point arrays.
      radius: a scalar, that may be infinite.
      spread: a scalar.
      max_elements: of the derivatives between nonlinear equations that are kept together; beyond it they are bounded by
        products of norms.
    """
    program, leaves = canonical(f, x)
    program = program.unstopped()
    known = curves(program)
    order = _needed(program, known)
    units = [math.prod(program.avals[v].shape) for node in order for v in node.outputs if _bends(program, known, node)]
    is_complete = sum(units) ** 2 <= 2 * max_elements
    walker = _Walker(program, known, radius, is_complete)
    walker.enter(leaves, spread)
    last = {v: i for i, node in enumerate(order) for v in _read(known, node)}
    for i, node in enumerate(order):
        walker.step(node)
        for v in _read(known, node):
            if last[v] == i and v not in program.outputs:
                walker.found.pop(v, None)
    (out,) = program.outputs
    return Walk(program, walker.sharpened(walker.read(out)), walker.bends, walker.writes, is_complete)


def _read(known: dict, node: Node) -> tuple[int, ...]:
    out = node.outputs[0] if node.outputs else None
    return (known[out][0],) if out in known else node.inputs


def _needed(program: Graph, known: dict) -> list[Node]:
    """The nodes that the result needs, in order, without the inside of known functions."""
    wanted, order = set(program.outputs), []
    for node in reversed(program.nodes):
        if wanted.isdisjoint(node.outputs) or not program.dependent_inputs(node):
            continue
        order.append(node)
        wanted.update(_read(known, node))
    return order[::-1]


def _bends(program: Graph, known: dict, node: Node) -> bool:
    if node.outputs[0] in known:
        return True
    return node.outputs[0] in program.active and node.name != "stop_gradient" and not is_linear(node, program)


def _constant(value: Array) -> Enclosure:
    dtype = tree.accumulator(value.dtype)
    return Enclosure(value, value.astype(dtype), {}, jnp.zeros((4, *value.shape), dtype), jnp.zeros((3,), dtype), True)


def _certain(value: Array) -> Predicate:
    return Predicate(value, jnp.ones(jnp.shape(value), bool))


class _Walker:
    """Walks through a program node by node."""

    def __init__(self, program: Graph, known: dict, radius: Array, is_complete: bool) -> None:
        self.program = program
        self.known = known
        self.radius = radius
        self.is_complete = is_complete
        self.values: dict[int, Array] = {}
        self.found: dict[int, Enclosure] = {}
        self.predicates: dict[int, Predicate] = {}
        self.bends: dict[int, Bend] = {}
        self.writes: dict[int, int] = {}

    def enter(self, leaves: Sequence[Array], spread: Array) -> None:
        """The input itself."""
        self.values = self.program.start(leaves)
        sizes = [leaf.size for leaf in leaves]
        start, total = 0, sum(sizes)
        for v, leaf, size in zip(self.program.inputs, leaves, sizes, strict=True):
            dtype = tree.accumulator(leaf.dtype)
            tangents = jnp.zeros((total, size), dtype).at[start : start + size].set(jnp.eye(size, dtype=dtype))
            ones, zeros = jnp.ones(leaf.shape, dtype), jnp.zeros(leaf.shape, dtype)
            rows = jnp.stack([jnp.broadcast_to(spread.astype(dtype), leaf.shape), ones, zeros, zeros])
            norms = jnp.asarray([1.0, 0.0, 0.0], dtype)
            identity = {INPUT: tangents.reshape(total, *leaf.shape)}
            self.found[v] = Enclosure(leaf, leaf.astype(dtype), identity, rows, norms, True)
            start += size

    def read(self, v: int) -> Enclosure:
        """The enclosure of an array."""
        found = self.found.get(v)
        return _constant(jnp.asarray(self.values[v])) if found is None else found

    def step(self, node: Node) -> None:
        """Encloses what a node writes."""
        out = node.outputs[0]
        if out in self.known:
            source, known = self.known[out]
            operand = self.sharpened(self.read(source))
            ends = known.range(operand.low, operand.high)
            self.bend(out, *elementwise(known.value(operand.centre), ends, *curve(known, operand)))
            return
        if not jnp.issubdtype(self.program.avals[out].dtype, jnp.floating):
            self.predicates[out] = self.predicate(node)
            return
        moving = [v in self.program.dependent for v in node.inputs]
        if node.name == "stop_gradient":
            held = self.read(node.inputs[0])
            rows = held.rows.at[1:].set(0)
            self.found[out] = Enclosure(held.centre, held.middle, {}, rows, jnp.zeros_like(held.norms), False)
        elif node.name == "mul" and all(moving):
            a, b = (self.sharpened(self.read(v)) for v in node.inputs)
            self.bend(out, *elementwise(a.centre * b.centre, range_of_product(a, b), *product(a, b)))
        elif node.name in ("max", "min"):
            self.extreme(node)
        elif node.name == "select_n" and moving[0]:
            self.selected(node)
        elif self.is_operator(node):
            self.through(node)
        else:
            raise NotImplementedError(
                f"Bounds know no rule for the primitive `{node.name}` of `{node.site()}` ({_ir.source(node.equation)})."
            )

    def is_operator(self, node: Node) -> bool:
        floating = all(v not in self.program.dependent or v in self.program.active for v in node.inputs)
        return floating and is_linear(node, self.program)

    def through(self, node: Node) -> None:
        """A linear node."""
        constants = {i: self.values[v] for i, v in enumerate(node.inputs) if v not in self.program.dependent}
        operands = [self.read(v) for v in node.inputs if v in self.program.dependent]
        given = [self.read(v) if v in self.program.dependent else None for v in node.inputs]
        centres = node(*[self.values[v] if z is None else z.centre for v, z in zip(node.inputs, given, strict=True)])
        middles = node(
            *[
                self.values[v] if z is None else z.middle.astype(z.centre.dtype)
                for v, z in zip(node.inputs, given, strict=True)
            ]
        )
        for output, v in enumerate(node.outputs):
            self.found[v] = linear(Operator(node, constants, output), operands, centres[output], middles[output])

    def bend(self, out: int, enclosure: Enclosure, bend: Bend) -> None:
        """Notes a nonlinear equation, and gives what may be added to its result a slot."""
        slot = len(self.bends) + 1
        if self.is_complete:
            size = enclosure.centre.size
            unit = jnp.eye(size, dtype=enclosure.rows.dtype).reshape(size, *enclosure.centre.shape)
            enclosure = dataclasses.replace(enclosure, tangents={**enclosure.tangents, slot: unit})
        else:
            bare = [dataclasses.replace(p, operand=dataclasses.replace(p.operand, tangents={})) for p in bend.partials]
            bend = dataclasses.replace(bend, partials=tuple(bare), candidates=None)
        self.bends[slot] = bend
        self.writes[slot] = out
        self.found[out] = enclosure

    def sharpened(self, z: Enclosure) -> Enclosure:
        """The same enclosure with what the derivatives at the centre say."""
        return sharpened(z, self.bends, self.radius) if self.is_complete or not self.bends else anchored(z, self.radius)

    def predicate(self, node: Node) -> Predicate:
        """A comparison, or a combination of comparisons."""
        if node.name in COMPARISONS:
            a, b = (self.read(v) for v in node.inputs)
            apart = (a.low > b.high) | (a.high < b.low)
            same = node.inputs[0] == node.inputs[1]
            return Predicate(node(a.centre, b.centre)[0], jnp.ones_like(apart) if same else apart)
        if node.name == "is_finite":
            a = self.read(node.inputs[0])
            return Predicate(node(a.centre)[0], jnp.isfinite(a.rows[0]))
        if node.name in ("and", "or", "not", "broadcast_in_dim", "reshape", "squeeze", "expand_dims", "transpose"):
            parts = [self.predicates.get(v) or _certain(self.values[v]) for v in node.inputs]
            certain = [p.is_certain for p in parts]
            together = certain[0] & certain[1] if len(parts) == 2 else certain[0]
            is_certain = together if node.name in ("and", "or", "not") else node(together)[0]
            return Predicate(node(*[p.centre for p in parts])[0], is_certain)
        raise NotImplementedError(
            f"Bounds know no rule for the primitive `{node.name}` of `{node.site()}`, which takes the input to dtype "
            f"{self.program.avals[node.outputs[0]].dtype} ({_ir.source(node.equation)})."
        )

    def extreme(self, node: Node) -> None:
        """The greater or the smaller of two arrays."""
        a, b = (self.sharpened(self.read(v)) for v in node.inputs)
        unstable = (a.low <= b.high) & (a.high >= b.low)
        pick = jnp.maximum if node.name == "max" else jnp.minimum
        ends = pick(a.low, b.low), pick(a.high, b.high)
        chosen = node_choice(node, [a.centre, b.centre])
        self.bend(
            node.outputs[0],
            *choice(
                node(a.centre, b.centre)[0],
                [a, b],
                chosen,
                lambda arrays: jnp.maximum(*arrays),
                lambda weight: [(a, weight), (b, weight)],
                unstable,
                ends,
            ),
        )

    def selected(self, node: Node) -> None:
        """One of several arrays, by a predicate that depends on the input."""
        which = self.predicates[node.inputs[0]]
        cases = [self.sharpened(self.read(v)) for v in node.inputs[1:]]
        centre = node(which.centre, *[c.centre for c in cases])[0]
        unstable = jnp.broadcast_to(~which.is_certain, centre.shape)
        lows, highs = [c.low for c in cases], [c.high for c in cases]
        low = jnp.where(unstable, jnp.min(jnp.stack(lows), 0), lax.select_n(which.centre, *lows))
        high = jnp.where(unstable, jnp.max(jnp.stack(highs), 0), lax.select_n(which.centre, *highs))
        ends = low, high
        taken = with_infinity(lambda arrays: node(which.centre, *[a.astype(centre.dtype) for a in arrays])[0])
        self.bend(
            node.outputs[0],
            *choice(
                centre,
                cases,
                taken,
                lambda arrays: jnp.max(jnp.stack(arrays), 0),
                lambda weight: [(c, weight) for c in cases],
                unstable,
                ends,
            ),
        )
