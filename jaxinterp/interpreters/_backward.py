"""Backward rules put in the place of derivatives: the mechanism of guided backpropagation, LRP and DeepLift."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from jaxinterp.interpreters import _ir, primitives
from jaxinterp.interpreters._graph import Graph, Node
from jaxinterp.interpreters._groups import Group
from jaxinterp.typing import Array


@dataclasses.dataclass(frozen=True)
class Call:
    """One part of a program as its backward rule sees it.

    Attributes:
      function: from the inputs to the list of outputs that have a derivative; everything else is held fixed.
      inputs: the values of the inputs that have a derivative.
      outputs: the values of the outputs that have one.
      cotangents: what arrives, one array for each output.
      group: the equations.
      moving: the variables that `inputs` are the values of.
      outgoing: the variables that `outputs` are the values of.
      values: the values of all other variables that the equations read.
      reference: what the method computed for the part beforehand, such as its values at a baseline.
    """

    function: Callable[..., list[Array]]
    inputs: tuple[Array, ...]
    outputs: list[Array]
    cotangents: list[Array]
    group: Group
    moving: tuple[int, ...]
    outgoing: tuple[int, ...]
    values: dict[int, Any]
    reference: Any = None

    def pull(self, cotangents: list[Array]) -> tuple[Array, ...]:
        """The ordinary derivative: the cotangents of the inputs for these cotangents of the outputs."""
        return jax.vjp(self.function, *self.inputs)[1](cotangents)


Backward = Callable[[Call], tuple[Any, ...]]
"""A backward rule: the cotangents of a part's inputs, and, where it has one, that of its reference after them."""


class Rules:
    """The backward rules of one method, by primitive.

    Tables are filled by `define`, next to the definition of a rule. A table that a method owns may be extended for a
    primitive it does not know; `copy` makes one for a single use.

    >>> rules = Rules("example")
    >>> @rules.define(jax.lax.tanh_p)
    ... def straight_through(call):
    ...     return tuple(call.cotangents)
    >>> jax.lax.tanh_p in rules, jax.lax.exp_p in rules
    (True, False)
    """

    def __init__(self, method: str, rules: dict[Any, Backward] | None = None) -> None:
        self.method = method
        self._rules = dict(rules or {})

    def define(self, *primitives: Any) -> Callable[[Backward], Backward]:
        """Decorator: makes a function the rule of some primitives of `interpreters.primitives`."""
        for primitive in primitives:
            if not _ir.is_primitive(primitive):
                raise TypeError(
                    f"`define` takes primitives, such as `interpreters.primitives.tanh`; got {primitive!r}."
                )

        def enter(rule: Backward) -> Backward:
            self._rules.update(dict.fromkeys(primitives, rule))
            return rule

        return enter

    def copy(self) -> "Rules":
        """A table of the same rules that can be changed by itself."""
        return Rules(self.method, self._rules)

    def __contains__(self, primitive: Any) -> bool:
        return primitive in self._rules

    def __getitem__(self, primitive: Any) -> Backward:
        return self._rules[primitive]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rules)

    def missing(self, node: Node) -> NotImplementedError:
        """The error for a primitive without a rule."""
        known = hasattr(primitives, node.name)
        primitive = f"jaxinterp.interpreters.primitives.{node.name}" if known else f"<the primitive {node.name}>"
        loop = LOOPS.get(node.name, "")
        if node.name == "while":  # a keyword of Python
            primitive = "jax.lax.while_p"
        return no_rule(
            self.method,
            node,
            f"{loop}define one:\n\n    @jaxinterp.attribution.rules.{self.method}.define({primitive})\n"
            "    def rule(call):\n        return call.pull(call.cotangents)  # here: the ordinary derivative\n",
        )


LOOPS = {
    "scan": "write the loop out with `interpreters.unrolled(f)`, or ",
    "while": "write the loop with `jax.lax.scan`, and that out with `interpreters.unrolled(f)`, or ",
}
"""What to do about a loop other than to define a rule."""


def no_rule(method: str, node: Node, remedy: str) -> NotImplementedError:
    """The error for a primitive that a method cannot pass through: what, where, and what to do."""
    where = f" in the scope {node.path!r}" if node.path else ""
    place = _ir.source(node.equation) or (_ir.source(node.caller) if node.caller else "")
    return NotImplementedError(
        f"`{method}` has no rule for the primitive `{node.name}`, used{where} at {place}; {remedy}"
    )


def with_backward(
    program: Graph,
    groups: tuple[Group, ...],
    choose: Callable[[Group], Backward | None],
    reference: Callable[[Group], Any] = lambda group: None,
) -> Callable[[list[Array]], Any]:
    """The program as a function of its flat inputs, with the derivatives of some parts replaced.

    Args:
      program: the program.
      groups: its parts, in order.
      choose: returns the backward rule of a part, or `None` to keep its derivative.
      reference: what to hand to the rule besides.
    """
    rules = {id(group): choose(group) for group in groups if _is_moving(program, group)}

    def run(arrays: list[Array]) -> Any:
        values = program.start(arrays)
        for group in groups:
            rule = rules.get(id(group))
            if rule is None:
                outputs = group.apply(values, [values[v] for v in group.inputs])
            else:
                outputs = _replaced(program, group, rule, values, reference(group))
            # Variables that count as constants are stopped, so that no derivative passes through them.
            values.update(
                {
                    v: out
                    if v in program.active or not jnp.issubdtype(out.dtype, jnp.inexact)
                    else jax.lax.stop_gradient(out)
                    for v, out in zip(group.outputs, outputs, strict=True)
                }
            )
        return program.unflatten(values)

    return run


def _checked(results: Any, call: Call) -> tuple[Any, ...]:
    """What a rule returned: a cotangent for each input, of its shape, and perhaps one for the reference."""
    wanted = [a.shape for a in call.inputs]
    is_sequence = isinstance(results, tuple | list)
    got = [jnp.shape(c) for c in results[: len(wanted)]] if is_sequence else type(results).__name__
    if got != wanted or len(results) > len(wanted) + 1:
        names = " ".join(dict.fromkeys(node.name for node in call.group.nodes))
        raise TypeError(
            f"A backward rule returns a tuple with one cotangent for each input. That for `{names}` must return arrays "
            f"of the shapes {wanted}; got {got}."
        )
    return tuple(results)


def _is_moving(program: Graph, group: Group) -> bool:
    return not program.active.isdisjoint(group.inputs) and not program.active.isdisjoint(group.outputs)


def _replaced(program: Graph, group: Group, rule: Backward, values: dict[int, Any], reference: Any) -> list[Array]:
    inside = {v for node in group.nodes for v in node.outputs}
    moving = [v for v in group.inputs if v in program.active]
    outgoing = [i for i, v in enumerate(group.outputs) if v in program.active]
    fixed = {v: values[v] for node in group.nodes for v in node.inputs if v not in inside and v not in moving}

    def forward(inputs: tuple[Array, ...], constants: dict[int, Any]) -> list[Array]:
        everything = {**constants, **dict(zip(moving, inputs, strict=True))}
        return group.apply(everything, [everything[v] for v in group.inputs])

    call = jax.custom_vjp(lambda inputs, constants, reference: forward(inputs, constants))

    def backward(residuals: tuple, cotangents: list[Array]) -> tuple:
        inputs, constants, outputs, reference = jax.tree.map(_ir.constant, residuals)
        known_outputs, arriving = ([row[i] for i in outgoing] for row in (outputs, cotangents))
        known = Call(
            lambda *a: [forward(a, constants)[i] for i in outgoing],
            inputs,
            known_outputs,
            arriving,
            group,
            tuple(moving),
            tuple(group.outputs[i] for i in outgoing),
            constants,
            reference,
        )
        results = _checked(rule(known), known)
        pulled = tuple(jnp.asarray(c, a.dtype) for c, a in zip(results, inputs, strict=False))
        return pulled, None, results[len(inputs)] if len(results) > len(inputs) else None

    def keep(inputs: tuple, constants: dict, reference: Any) -> tuple:
        outputs = forward(inputs, constants)
        return outputs, (inputs, constants, outputs, reference)

    call.defvjp(keep, backward)
    return call(tuple(values[v] for v in moving), fixed, reference)
