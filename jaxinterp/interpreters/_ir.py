"""The only file that knows JAX's intermediate representation (the jaxpr).

What differs between the supported versions of JAX is settled here: a closed and an open jaxpr are two classes up to
0.10 and one class from 0.12 on; `Primitive.get_bind_params` returns a pair up to 0.7 and a dictionary later.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex
from jax.extend import source_info_util
from jax.extend.core import primitives as _primitives

from jaxinterp.typing import PyTree

NAMED: Any = _primitives
"""The module in which primitives that `jax.lax` does not export are found by name."""

Equation = jex.JaxprEqn
Rule = Callable[[Equation, list], list | None]
"""Takes an equation and the values of its inputs; returns the values of its outputs, or `None` to leave it as it is."""


def names(text: str) -> frozenset[str]:
    """A set of names, as a table of primitives is written: by their names, for some exist in some versions only.

    >>> sorted(names("tanh exp"))
    ['exp', 'tanh']
    """
    return frozenset(text.split())


class Program:
    """A function traced once at given shapes; calling it evaluates the trace, not the Python function.

    Attributes:
      jaxpr: the closed jaxpr.
      out_shape: what it returns, as `jax.ShapeDtypeStruct`s.
    """

    def __init__(self, jaxpr: Any, in_tree: Any, out_shape: PyTree) -> None:
        self.jaxpr = jaxpr
        self.out_shape = out_shape
        self._in_tree = in_tree

    def __call__(self, *args: PyTree) -> PyTree:
        return self.interpret(lambda equation, inputs: None, *args)

    def interpret(self, rule: Rule, *args: PyTree) -> PyTree:
        """Evaluates the program on `args`, asking `rule` about each equation first."""
        flat, in_tree = jax.tree.flatten(args)
        if in_tree != self._in_tree:
            raise TypeError(f"The program was traced for arguments of structure {self._in_tree}; got {in_tree}.")
        return jax.tree.unflatten(jax.tree.structure(self.out_shape), evaluate(self.jaxpr, rule, flat))


def trace(f: Callable[..., PyTree], *args: PyTree) -> Program:
    """Traces `f` at the shapes and dtypes of `args` (arrays or `jax.ShapeDtypeStruct`s); runs its Python body once."""
    # A new function object each time: `make_jaxpr` caches by identity, and `f` may close over values of an outer trace.
    jaxpr, out_shape = jax.make_jaxpr(lambda *inputs: f(*inputs), return_shape=True)(*args)
    return Program(jaxpr, jax.tree.structure(args), out_shape)


def detached(program: Program) -> Program:
    """The same program, with what `f` closed over held constant under differentiation."""
    constants = [jax.lax.stop_gradient(c) for c in program.jaxpr.consts]
    open_jaxpr = program.jaxpr.jaxpr
    in_shapes = [v.aval for v in open_jaxpr.invars]
    closed = jax.make_jaxpr(lambda *flat: _run(open_jaxpr, constants, lambda equation, inputs: None, flat))(*in_shapes)
    return Program(closed, program._in_tree, program.out_shape)


def evaluate(jaxpr: Any, rule: Rule, inputs: Sequence) -> list:
    """Evaluates a closed jaxpr on `inputs`, asking `rule` about each equation first."""
    return _run(jaxpr.jaxpr, jaxpr.consts, rule, inputs)


def _run(jaxpr: Any, constants: Sequence, rule: Rule, inputs: Sequence) -> list:
    values: dict = dict(zip(jaxpr.constvars, map(constant, constants), strict=True))
    values.update(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> Any:
        return constant(atom.val) if isinstance(atom, jex.Literal) else values[atom]

    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        outputs = rule(equation, operands)
        if outputs is None:
            outputs = bind(equation, operands)
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def bind(equation: Equation, operands: list, **replaced: Any) -> list:
    """Applies the equation's primitive to `operands`; `replaced` takes the place of parameters of the same name."""
    params = equation.primitive.get_bind_params({**equation.params, **replaced})
    functions, keywords = params if isinstance(params, tuple) else ((), params)
    with equation.ctx.manager, located(equation):
        outputs = equation.primitive.bind(*functions, *operands, **keywords)
    return list(outputs) if equation.primitive.multiple_results else [outputs]


def scopes(equation: Equation, outer: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The names of the `jax.named_scope`s around an equation, behind those of the calls around it.

    A scope that starts with "/" is a whole path by itself: scopes can only be added, and a module that is called from
    inside another branch of the network keeps its own. Those that `einsum` makes of its formula are left out.
    """
    names = list(outer)
    for element in equation.source_info.name_stack.stack:
        if type(element).__name__ == "Scope":
            if element.name.startswith("/"):
                names = []
            names += [part for part in element.name.split("/") if re.fullmatch(r"[\w.\- ]+", part)]
    return tuple(names)


def shapes(equation: Equation) -> list[jax.ShapeDtypeStruct]:
    """The shapes and dtypes of an equation's operands and then of its results."""
    avals: list[Any] = [atom.aval for atom in (*equation.invars, *equation.outvars)]
    return [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals]


def source(equation: Equation) -> str:
    """Where in the user's code an equation comes from."""
    return source_info_util.summarize(equation.source_info)


def inner_program(equation: Equation, names: Sequence[str]) -> Any:
    """The jaxpr that an equation calls, if its primitive is one of `names`; `None` otherwise."""
    if equation.primitive.name not in names:
        return None
    return equation.params.get("jaxpr", equation.params.get("call_jaxpr"))


def is_literal(atom: Any) -> bool:
    """Whether an operand of an equation is a number written into the program."""
    return isinstance(atom, jex.Literal)


def constant(value: Any) -> Any:
    """A constant of a program as something to compute with: some versions of JAX wrap those of NumPy."""
    is_wrapped = hasattr(value, "__array__") and not isinstance(value, jax.Array | np.ndarray | np.generic)
    return np.asarray(value) if is_wrapped else value


def located(equation: Equation) -> Any:
    """A context in which new equations get the scopes and the source line of this one."""
    info = equation.source_info
    stack = source_info_util.current_name_stack() + info.name_stack
    return source_info_util.user_context(info.traceback, name_stack=stack)


def unroll(equation: Equation, rule: Rule, operands: Sequence) -> list:
    """The outputs of a `scan` equation, step by step, asking `rule` about each equation of its body."""
    params = equation.params
    if "num_carry" in params:
        num_constants, num_carried = params["num_consts"], params["num_carry"]
    else:  # from jax 0.12 on, a tree of the operands
        constants, carried, _ = params["ft_in"].unpack()
        num_constants, num_carried = len(constants), len(carried)
    fixed, carry = operands[:num_constants], operands[num_constants : num_constants + num_carried]
    rows = operands[num_constants + num_carried :]
    steps = range(params["length"])
    kept = []
    with located(equation):
        for i in reversed(steps) if params["reverse"] else steps:
            outputs = evaluate(params["jaxpr"], rule, [*fixed, *carry, *(row[i] for row in rows)])
            carry = outputs[:num_carried]
            kept.append(outputs[num_carried:])
        ordered = kept[::-1] if params["reverse"] else kept
        return [*carry, *(jax.numpy.stack(column) for column in zip(*ordered, strict=True))]


def contains(jaxpr: Any, predicate: Callable[[Equation], bool]) -> bool:
    """Whether `predicate` holds for an equation of the jaxpr or of a program inside it."""
    return any(predicate(equation) or contains_inside(equation, predicate) for equation in opened(jaxpr)[0].eqns)


def contains_inside(equation: Equation, predicate: Callable[[Equation], bool]) -> bool:
    """Whether `predicate` holds for an equation of a program inside this one: the body of a loop, a branch, a call.

    The programs of `shard_map` and `pmap` are passed over: they name an axis of devices that exists only inside them,
    so they cannot be traced again on their own.
    """
    if equation.primitive.name in ("shard_map", "xla_pmap"):
        return False
    inner = jax.tree.leaves(dict(equation.params), is_leaf=_is_jaxpr)
    return any(contains(value, predicate) for value in inner if _is_jaxpr(value))


def rewritten_inside(equation: Equation, rule: Rule) -> dict[str, Any]:
    """The parameters of an equation that hold programs, each rewritten by `rule`."""
    changed = {}
    for name, value in equation.params.items():
        leaves, structure = jax.tree.flatten(value, is_leaf=_is_jaxpr)
        if any(map(_is_jaxpr, leaves)):
            changed[name] = jax.tree.unflatten(structure, [_rewritten(v, rule) if _is_jaxpr(v) else v for v in leaves])
    return changed


def _rewritten(jaxpr: Any, rule: Rule) -> Any:
    body, constants = opened(jaxpr)
    closed = jax.make_jaxpr(lambda *flat: _run(body, constants, rule, flat))(*[v.aval for v in body.invars])
    if hasattr(jaxpr, "consts"):
        return closed
    return jaxpr if closed.consts else closed.jaxpr  # an open jaxpr has no room for constants: leave it as it came


def opened(jaxpr: Any) -> tuple[Any, Sequence]:
    """The open jaxpr and its constants, of a closed or an open jaxpr."""
    return (jaxpr.jaxpr, jaxpr.consts) if hasattr(jaxpr, "consts") else (jaxpr, ())


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, jex.ClosedJaxpr | jex.Jaxpr)


def is_primitive(value: Any) -> bool:
    """Whether `value` is one of JAX's primitives, or a user's."""
    return isinstance(value, jex.Primitive)
