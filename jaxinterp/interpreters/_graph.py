"""A program as a flat list of numbered equations: calls opened, sites named, dependence on the input known."""

import collections
import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp.interpreters import _ir
from jaxinterp.typing import Array, PyTree

CALLS = ("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint")
"""Primitives that only call a program: they are opened."""

CUSTOM = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")
"""Primitives that call a program with a derivative of its own: they stay closed, so that the derivative stays so."""


RESHAPING = _ir.names("reshape squeeze expand_dims transpose broadcast_in_dim copy copy_p convert_element_type")


@dataclasses.dataclass(frozen=True, order=True)
class Site:
    """The address of an intermediate of a program.

    Attributes:
      path: the scopes around the equation that computes it, joined by "/": the module path in Flax, or what
        `jax.named_scope` says.
      primitive: the name of the equation's primitive, such as `dot_general`.
      occurrence: which of the equations with this path and primitive, in the order of execution.
      output: which output, for an equation that has several.

    >>> str(Site("blocks_0/attn", "dot_general", 1))
    'blocks_0/attn:dot_general#1'
    """

    path: str
    primitive: str
    occurrence: int = 0
    output: int = 0

    def __str__(self) -> str:
        output = f".{self.output}" if self.output else ""
        return f"{self.path}:{self.primitive}#{self.occurrence}{output}"

    @staticmethod
    def parse(text: str) -> "Site":
        """Reads the form that `str` writes.

        >>> Site.parse("head:add#0") == Site("head", "add")
        True
        """
        match = re.fullmatch(r"(?P<path>[^:]*):(?P<primitive>[\w-]+)#(?P<occurrence>\d+)(\.(?P<output>\d+))?", text)
        if match is None:
            raise ValueError(f"A site is written `path:primitive#occurrence`, such as `head:add#0`; got {text!r}.")
        return Site(match["path"], match["primitive"], int(match["occurrence"]), int(match["output"] or 0))


@dataclasses.dataclass(frozen=True)
class Node:
    """One equation of a `Graph`.

    Attributes:
      equation: as the trace has it.
      inputs: the numbers of the variables it reads; literals are variables too.
      outputs: the numbers of the variables it writes.
      path: the scopes around it.
      occurrence: which of the nodes with this path and primitive it is.
      caller: the innermost call around it of which the place in the user's code is known.
    """

    equation: _ir.Equation
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    path: str
    occurrence: int
    caller: _ir.Equation | None = None

    @property
    def name(self) -> str:
        """The name of the primitive."""
        return self.equation.primitive.name

    @property
    def params(self) -> dict:
        """The parameters of the equation."""
        return self.equation.params

    def shapes(self) -> list[jax.ShapeDtypeStruct]:
        """The shapes and dtypes of its inputs and then of its outputs."""
        return _ir.shapes(self.equation)

    def site(self, output: int = 0) -> Site:
        """The address of one output."""
        return Site(self.path, self.name, self.occurrence, output)

    def __call__(self, *operands: Array) -> list:
        """Applies the primitive."""
        return _ir.bind(self.equation, list(operands))


@dataclasses.dataclass(frozen=True)
class Graph:
    """A traced function of one flat list of arrays, opened down to its primitives.

    Attributes:
      nodes: in an order in which they can be run.
      inputs: the numbers of the input variables.
      outputs: the numbers of the output variables.
      constants: what is known beforehand: literals and what the function closed over.
      literals: which constants are numbers written into the program.
      avals: shape and dtype of every variable.
      dependent: the variables that depend on the chosen inputs in any way.
      active: those that have a derivative with respect to them: floating-point, and not stopped.
      out_tree: the structure of what the function returns.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    constants: dict[int, Any]
    literals: frozenset[int]
    avals: dict[int, Any]
    dependent: frozenset[int]
    active: frozenset[int]
    out_tree: Any

    def literal(self, v: int) -> np.ndarray | None:
        """The number written into the program that a variable holds, spread or converted; `None` if there is none."""
        producers = self.producers
        while v in producers and producers[v].name in ("broadcast_in_dim", "reshape", "convert_element_type"):
            v = producers[v].inputs[0]
        return np.asarray(self.constants[v]) if v in self.literals else None

    @functools.cached_property
    def producers(self) -> dict[int, Node]:
        """The node that writes each variable."""
        return {v: node for node in self.nodes for v in node.outputs}

    def uses(self) -> collections.Counter:
        """How often each variable is read, the outputs of the program included."""
        return collections.Counter([v for node in self.nodes for v in node.inputs] + list(self.outputs))

    def dependent_inputs(self, node: Node) -> tuple[int, ...]:
        """The distinct variables that depend on the input that a node reads."""
        return tuple(dict.fromkeys(v for v in node.inputs if v in self.dependent))

    def copies(self) -> frozenset[int]:
        """The inputs, and the variables that are one of them in another shape or dtype."""
        same = set(self.inputs)
        for node in self.nodes:
            if node.name in RESHAPING and node.inputs[0] in same:
                same.update(node.outputs)
        return frozenset(same)

    def unflatten(self, values: dict[int, Any]) -> PyTree:
        """What the function returns, from the values of all variables."""
        return jax.tree.unflatten(self.out_tree, [values[v] for v in self.outputs])

    def start(self, arrays: Sequence) -> dict[int, Any]:
        """The values of the inputs, and of all variables that do not depend on them."""
        values = {**self.constants, **dict(zip(self.inputs, arrays, strict=True))}
        for node in self.nodes:
            if not self.dependent_inputs(node):
                values.update(zip(node.outputs, node(*[values[v] for v in node.inputs]), strict=True))
        return values

    def detached(self, stopped: Iterable[int]) -> "Graph":
        """The same program, with some variables counted as constants under differentiation."""
        dependent, active = _dependence(self.nodes, self.inputs, self.avals, frozenset(stopped))
        return dataclasses.replace(self, dependent=dependent, active=active)

    def unstopped(self) -> "Graph":
        """The same program, with what `jax.lax.stop_gradient` stopped counted as active: its value does depend on x."""
        dependent, active = _dependence(self.nodes, self.inputs, self.avals, stops=())
        return dataclasses.replace(self, dependent=dependent, active=active)

    def evaluate(self, arrays: Sequence, visit: Callable[[Node, list], list] | None = None) -> dict[int, Any]:
        """The values of all variables; `visit` may stand in for the application of each node."""
        values = {**self.constants, **dict(zip(self.inputs, arrays, strict=True))}
        for node in self.nodes:
            operands = [values[v] for v in node.inputs]
            outputs = node(*operands) if visit is None else visit(node, operands)
            values.update(zip(node.outputs, outputs, strict=True))
        return values


def graph(f: Callable[..., PyTree], *args: PyTree, opened: Sequence[str] = CALLS) -> tuple[Graph, list]:
    """Traces `f` at `args`, all of whose leaves count as inputs; also returns those leaves, in order.

    The calls whose primitives are named `opened` are written out.
    """
    program = _ir.trace(f, *args)
    return _built(program.jaxpr, jax.tree.structure(program.out_shape), opened), jax.tree.leaves(args)


def called(node: Node) -> Graph | None:
    """The program inside a node with a derivative of its own, or `None` for any other node."""
    inner = _ir.inner_program(node.equation, CUSTOM)
    return None if inner is None else _built(inner, None)


def _built(jaxpr: Any, out_tree: Any, opened: Sequence[str] = CALLS) -> Graph:
    body, constants = _ir.opened(jaxpr)
    builder = _Builder(opened)
    closed_over = [builder.constant(v.aval, c) for v, c in zip(body.constvars, constants, strict=True)]
    inputs = [builder.variable(v.aval) for v in body.invars]
    outputs = builder.open(body, closed_over, inputs, ())
    dependent, active = _dependence(builder.nodes, inputs, builder.avals)
    return Graph(
        tuple(builder.nodes),
        tuple(inputs),
        tuple(outputs),
        builder.constants,
        frozenset(builder.literals),
        builder.avals,
        dependent,
        active,
        out_tree,
    )


class _Builder:
    """Numbers the variables of a jaxpr and of those it calls."""

    def __init__(self, opened: Sequence[str]) -> None:
        self._opened = opened
        self.nodes: list[Node] = []
        self.avals: dict[int, Any] = {}
        self.constants: dict[int, Any] = {}
        self.literals: set[int] = set()
        self._occurrences: collections.Counter = collections.Counter()

    def variable(self, aval: Any) -> int:
        self.avals[len(self.avals)] = aval
        return len(self.avals) - 1

    def constant(self, aval: Any, value: Any) -> int:
        number = self.variable(aval)
        self.constants[number] = _ir.constant(value)
        return number

    def open(self, jaxpr: Any, constants: Sequence, inputs: Sequence, path: tuple, caller: Any = None) -> list[int]:
        """Appends the equations of a jaxpr, its variables renamed; returns its outputs."""
        numbers = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *inputs), strict=True))

        def read(atom: Any) -> int:
            if not _ir.is_literal(atom):
                return numbers[atom]
            number = self.constant(atom.aval, atom.val)
            self.literals.add(number)
            return number

        for equation in jaxpr.eqns:
            operands = [read(atom) for atom in equation.invars]
            where = _ir.scopes(equation, path)
            inner = _ir.inner_program(equation, self._opened)
            if inner is None:
                outputs: Sequence[int] = self._append(equation, operands, "/".join(where), caller)
            else:
                body, values = _ir.opened(inner)
                closed_over = [self.constant(v.aval, c) for v, c in zip(body.constvars, values, strict=True)]
                outputs = self.open(body, closed_over, operands, where, equation if _ir.source(equation) else caller)
            numbers.update(zip(equation.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _append(self, equation: _ir.Equation, operands: list[int], path: str, caller: Any) -> tuple[int, ...]:
        outputs = tuple(self.variable(v.aval) for v in equation.outvars)
        kind = (path, equation.primitive.name)
        self.nodes.append(Node(equation, tuple(operands), outputs, path, self._occurrences[kind], caller))
        self._occurrences[kind] += 1
        return outputs


def _dependence(
    nodes: Iterable[Node],
    inputs: Iterable[int],
    avals: dict,
    stopped: frozenset[int] = frozenset(),
    stops: tuple[str, ...] = ("stop_gradient",),
) -> tuple[frozenset[int], frozenset[int]]:
    def differentiable(v: int) -> bool:
        return jnp.issubdtype(avals[v].dtype, jnp.inexact)

    dependent, active = set(inputs), {v for v in inputs if differentiable(v)}
    for node in nodes:
        if not dependent.isdisjoint(node.inputs):
            dependent.update(node.outputs)
        if node.name not in stops and not active.isdisjoint(node.inputs):
            active.update(v for v in node.outputs if differentiable(v) and v not in stopped)
    return frozenset(dependent), frozenset(active)
