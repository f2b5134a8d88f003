"""Which intermediates of a program are never negative."""

from collections.abc import Iterable

import numpy as np

from jaxinterp.interpreters._graph import Graph, Node, called
from jaxinterp.interpreters._ir import names

POSITIVE = names("abs exp exp2 logistic square sqrt rsqrt erfc cosh")

PRESERVING = names(
    """add add_any mul div max pow integer_pow reshape squeeze expand_dims transpose broadcast_in_dim reduce_sum
    reduce_max reduce_min reduce_window_sum reduce_window_max reduce_window_min slice dynamic_slice gather rev copy
    copy_p concatenate stack convert_element_type select_n cumsum pad sqrt cbrt tanh log1p expm1 name"""
)
"""Primitives that take operands that are not negative to results that are not."""


def nonnegative(program: Graph, given: Iterable[int] = ()) -> frozenset[int]:
    """The variables that cannot be negative, as far as the primitives tell; NaN apart.

    Args:
      program: the program.
      given: variables known not to be negative beforehand.
    """
    known = set(given)
    known.update(v for v in program.literals if np.all(np.asarray(program.constants[v]) >= 0))
    for node in program.nodes:
        if _is_nonnegative(node, known):
            known.update(node.outputs)
    return frozenset(known)


def _is_nonnegative(node: Node, known: set[int]) -> bool:
    operands = node.inputs[1:] if node.name == "select_n" else node.inputs
    if node.name in ("gather", "dynamic_slice"):
        operands = node.inputs[:1]
    if _is_filled(node):
        return False
    if node.name == "integer_pow" and node.params["y"] % 2 == 0:
        return True
    if node.name == "max" and not known.isdisjoint(operands):
        return True
    if node.name in POSITIVE or (node.name in PRESERVING and known.issuperset(operands)):
        return True
    inner = called(node)
    if inner is None:
        return False
    given = [v for v, outside in zip(inner.inputs, node.inputs, strict=True) if outside in known]
    return nonnegative(inner, given).issuperset(inner.outputs)


def _is_filled(node: Node) -> bool:
    """Whether a node may write numbers of its own: where an index is outside, where a window has nothing to look at."""
    if node.name == "gather":
        return (node.params["fill_value"] or 0) < 0
    if node.name == "reduce_window_max":
        outside = zip(node.params["window_dimensions"], node.params["padding"], strict=True)
        return any(max(pads) >= size for size, pads in outside) or any(n > 1 for n in node.params["base_dilation"])
    return False
