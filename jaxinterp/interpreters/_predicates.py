"""Booleans of a program over a ball: which comparisons have the same outcome all over it."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp

from jaxinterp.interpreters import _ir
from jaxinterp.interpreters._enclosures import Enclosure
from jaxinterp.interpreters._graph import Graph, Node
from jaxinterp.typing import Array

COMPARISONS = ("gt", "ge", "lt", "le", "eq", "ne")


@dataclasses.dataclass(frozen=True)
class Predicate:
    """A boolean of a program over a ball.

    Attributes:
      centre: its value at x.
      is_certain: where it has this value all over the ball.
    """

    centre: Array
    is_certain: Array


def predicate(
    program: Graph,
    node: Node,
    read: Callable[[int], Enclosure],
    predicates: dict[int, Predicate],
    values: dict[int, Array],
) -> Predicate:
    """A comparison, or a combination of comparisons.

    Args:
      program: that the node is of.
      node: writes a boolean.
      read: gives the enclosure of an array.
      predicates: those before.
      values: at the centre.
    """
    if node.name in COMPARISONS:
        a, b = (read(v) for v in node.inputs)
        apart = (a.low > b.high) | (a.high < b.low)
        same = node.inputs[0] == node.inputs[1]
        return Predicate(node(a.centre, b.centre)[0], jnp.ones_like(apart) if same else apart)
    if node.name == "is_finite":
        a = read(node.inputs[0])
        return Predicate(node(a.centre)[0], jnp.isfinite(a.rows[0]))
    if node.name in ("and", "or", "not", "broadcast_in_dim", "reshape", "squeeze", "expand_dims", "transpose"):
        parts = [predicates.get(v) or _certain(values[v]) for v in node.inputs]
        certain = [p.is_certain for p in parts]
        together = certain[0] & certain[1] if len(parts) == 2 else certain[0]
        is_certain = together if node.name in ("and", "or", "not") else node(together)[0]
        return Predicate(node(*[p.centre for p in parts])[0], is_certain)
    raise NotImplementedError(
        f"Bounds know no rule for the primitive `{node.name}` of `{node.site()}`, which takes the input to dtype "
        f"{program.avals[node.outputs[0]].dtype} ({_ir.source(node.equation)})."
    )


def _certain(value: Array) -> Predicate:
    return Predicate(value, jnp.ones(jnp.shape(value), bool))
