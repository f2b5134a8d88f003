"""Linear layers of a program, with the constants that follow merged into kernel and bias (canonisation)."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxinterp.interpreters._graph import Graph, Node
from jaxinterp.interpreters._groups import Group, Grouping
from jaxinterp.interpreters._regions import regions
from jaxinterp.typing import Array

MIXING = ("dot_general", "conv_general_dilated")
REARRANGING = ("transpose", "squeeze", "reshape", "slice", "broadcast_in_dim", "expand_dims")


@dataclasses.dataclass(frozen=True)
class Layer:
    """A linear layer: a product or convolution with a constant kernel, and the affine chain behind it.

    In between, axes may be transposed, and axes of length one come and go, as that of a batch of one example does.

    Attributes:
      group: its equations.
      kind: "dense" or "conv".
      kernel_position: which operand of the product is the kernel.
    """

    group: Group
    kind: Literal["dense", "conv"]
    kernel_position: int

    @property
    def node(self) -> Node:
        """The product itself."""
        return self.group.nodes[0]

    def merged(self, values: dict[int, Any]) -> tuple[Callable[[Array, Array], Array], Array, Array]:
        """The layer as `product(input, kernel) + bias`, what follows the product merged into both.

        Args:
          values: of all variables that the layer reads, other than its input.

        Returns:
          The product, bilinear in the input and the kernel; the kernel and the bias, the latter of the output's shape.
        """
        rearranging = [node for node in self.group.nodes if node.name in REARRANGING]

        def product(x: Array, kernel: Array) -> Array:
            out = self.node(*((kernel, x) if self.kernel_position == 0 else (x, kernel)))[0]
            for node in rearranging:
                (out,) = node(out)
            return out

        kernel = values[self.node.inputs[self.kernel_position]]
        last = rearranging[-1] if rearranging else self.node
        shape = last.shapes()[-1]
        chain = Group("affine", self.group.nodes[1 + len(rearranging) :], last.outputs, self.group.outputs)
        after = functools.partial(_only, chain, values)
        zeros = jnp.zeros(shape.shape, shape.dtype)
        if not chain.nodes:
            return product, kernel, zeros
        bias, scale = jax.jvp(after, (zeros,), (jnp.ones_like(zeros),))
        if all(node.name in ("add", "sub") and node.inputs[0] in self._flow() for node in chain.nodes):
            return product, kernel, bias
        axes = _rearranged(kernel_axes(self.node, self.kernel_position), rearranging)
        per_channel = scale[tuple(slice(None) if axis in axes else 0 for axis in range(scale.ndim))]
        order = [axis for axis in range(scale.ndim) if axis in axes]
        targets = [axes[axis] for axis in order]
        spread = jnp.transpose(per_channel, sorted(range(len(targets)), key=lambda i: targets[i]))
        missing = [axis for axis in range(kernel.ndim) if axis not in targets]
        return product, kernel * jnp.expand_dims(spread, missing), bias

    def _flow(self) -> set[int]:
        return {v for node in self.group.nodes for v in node.outputs}


def _only(group: Group, values: dict[int, Any], x: Array) -> Array:
    return group.apply(values, [x])[0]


def kernel_axes(node: Node, kernel_position: int) -> dict[int, int]:
    """Which axis of the kernel each axis of the output runs along, where there is one."""
    if node.name == "conv_general_dilated":
        numbers = node.params["dimension_numbers"]
        if kernel_position == 0:  # the filter is explained, and the image is the constant
            return {numbers.out_spec[0]: numbers.lhs_spec[0]} if node.params["batch_group_count"] == 1 else {}
        return {numbers.out_spec[1]: numbers.rhs_spec[0]}
    contracted, batched = node.params["dimension_numbers"]
    ranks = [len(operand.shape) for operand in node.shapes()[:2]]
    free = [
        [axis for axis in range(ranks[side]) if axis not in contracted[side] and axis not in batched[side]]
        for side in (0, 1)
    ]
    start = len(batched[0]) + (len(free[0]) if kernel_position == 1 else 0)
    along = dict(enumerate(batched[kernel_position]))
    return along | {start + i: axis for i, axis in enumerate(free[kernel_position])}


def _rearranged(axes: dict[int, int], nodes: Sequence[Node]) -> dict[int, int]:
    """The axes of `kernel_axes` behind such nodes; those of length one are left out."""
    for node in nodes:
        before, after = (_long(shape.shape) for shape in node.shapes())
        if node.name == "transpose":
            before, after = node.params["permutation"], range(len(node.params["permutation"]))
        axes = {new: axes[old] for old, new in zip(before, after, strict=True) if old in axes}
    return axes


def _long(shape: Sequence[int]) -> Sequence[int]:
    return [axis for axis, size in enumerate(shape) if size != 1]


def _is_rearranging(node: Node) -> bool:
    if node.name not in REARRANGING or len(node.inputs) != 1:
        return False
    before, after = ([shape.shape[axis] for axis in _long(shape.shape)] for shape in node.shapes())
    return node.name == "transpose" or before == after


def layers(program: Graph, grouping: Grouping = regions) -> tuple[tuple[Group, ...], dict[int, Layer]]:
    """The parts of a program as `regions` finds them, with products and convolutions by constants as whole layers.

    An affine chain belongs to the layer before it as far as its scales run along the output channels of the kernel
    only: biases, and batch normalisation in evaluation mode.

    Returns:
      The groups in order, and the layers among them by the `id` of their group.
    """
    groups = grouping(program)
    chains = {group.inputs[0]: group for group in groups if group.kind == "affine"}
    following = {g.inputs[0]: g for g in groups if g.kind == "equation" and _is_rearranging(g.nodes[0])}
    uses, producers = program.uses(), program.producers
    found: dict[int, Layer] = {}
    absorbed: dict[int, Group] = {}
    parts: list[Group] = []
    for group in groups:
        node = group.nodes[0]
        moving = [i for i, v in enumerate(node.inputs) if v in program.active]
        if group.kind != "equation" or node.name not in MIXING or len(moving) != 1:
            parts.append(absorbed.pop(id(group), group))
            if not parts[-1].nodes:
                parts.pop()
            continue
        between: list[Group] = []
        v = node.outputs[0]
        while uses[v] == 1 and v in following:
            between.append(following[v])
            v = between[-1].outputs[0]
        chain = chains.get(v) if uses[v] == 1 else None
        axes = _rearranged(kernel_axes(node, 1 - moving[0]), [g.nodes[0] for g in between])
        taken, rest = _fitting(program, producers, axes, chain) if chain else ((), ())
        outputs = (taken[-1].outputs[0],) if taken else group.outputs
        nodes = (node, *(g.nodes[0] for g in between), *taken) if taken else (node,)
        whole = Group("equation", nodes, tuple(v for v in node.inputs if v in program.active), outputs)
        if chain and taken:
            absorbed[id(chain)] = Group("affine", rest, outputs, chain.outputs)
            absorbed.update({id(g): Group("equation", (), (), ()) for g in between})
        parts.append(whole)
        found[id(whole)] = Layer(whole, "dense" if node.name == "dot_general" else "conv", 1 - moving[0])
    return tuple(parts), found


def _fitting(
    program: Graph, producers: dict[int, Node], axes: dict[int, int], chain: Group
) -> tuple[tuple[Node, ...], tuple[Node, ...]]:
    """The part of a chain that can be merged into the kernel, and the rest."""
    for i, link in enumerate(chain.nodes):
        constants = [v for v in link.inputs if v not in program.dependent]
        scales = link.name in ("mul", "div")
        along = set().union(*(_varying(program, producers, v) for v in constants)) if scales else set()
        converts = program.avals[link.outputs[0]].dtype != program.avals[chain.inputs[0]].dtype
        if converts or link.name == "select_n" or not along <= set(axes):
            return chain.nodes[:i], chain.nodes[i:]
    return chain.nodes, ()


def _varying(program: Graph, producers: dict[int, Node], v: int) -> set[int]:
    """The axes along which a constant may vary."""
    shape = program.avals[v].shape
    long = {axis for axis, size in enumerate(shape) if size > 1}
    node = producers.get(v)
    if node is None or node.name not in (
        "broadcast_in_dim",
        "convert_element_type",
        "mul",
        "rsqrt",
        "sqrt",
        "div",
        "add",
    ):
        return long
    if node.name == "broadcast_in_dim":
        inner, places = _varying(program, producers, node.inputs[0]), node.params["broadcast_dimensions"]
        return {places[axis] for axis in inner}
    same_rank = [u for u in node.inputs if len(program.avals[u].shape) == len(shape)]
    return long & set().union(*(_varying(program, producers, u) for u in same_rank))
