"""The full-gradient decomposition: what the input and what the offsets of a program contribute to its value."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp import tree
from jaxinterp.interpreters._backward import no_rule
from jaxinterp.interpreters._graph import Graph, Node, Site, called, graph, names
from jaxinterp.interpreters._regions import Group, Grouping, regions
from jaxinterp.interpreters._restrict import restrict_scalar
from jaxinterp.typing import Array, PyTree, ScalarFn

CONSTANT = Site("", "constant")
"""The site of an output that does not depend on the input at all."""

STRUCTURAL = names(
    """reshape squeeze expand_dims transpose broadcast_in_dim reduce_sum reduce_max reduce_min neg abs slice rev copy
    copy_p convert_element_type reduce_precision reduce_window_sum reduce_window_max reduce_window_min cumsum cummax
    cummin cumsum dynamic_slice gather split stack unstack tile name real imag sort optimization_barrier
    sharding_constraint"""
)
"""Primitives that are homogeneous of degree one in all their floating-point inputs."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FullGradient:
    r"""The full-gradient decomposition of f at x.

    :math:`f(x) = \langle \nabla f, x\rangle + \sum_s \langle c_s, b_s\rangle`, over the sites s.

    Attributes:
      input_gradient: ∇f(x), like x.
      offsets: b, by site: what a part of the program adds that is not linear in its inputs.
      cotangents: c, by site: the gradient of f with respect to the output of that part.
    """

    input_gradient: PyTree
    offsets: dict[Site, Array]
    cotangents: dict[Site, Array]

    def terms(self) -> dict[Site, Array]:
        """The bias-gradients: the products of cotangents and offsets, by site; 0 where the cotangent is."""
        return {
            site: jnp.where(c == 0, jnp.zeros_like(c), c * self.offsets[site]) for site, c in self.cotangents.items()
        }

    def total(self, x: PyTree) -> Array:
        """The sum of all terms, at the x of the decomposition: f(x) up to rounding."""
        return tree.vdot(self.input_gradient, x) + sum(map(jnp.sum, self.terms().values()))


def full_gradient(
    f: ScalarFn, argnums: int | tuple[int, ...] = 0, *, grouping: Grouping = regions
) -> Callable[..., FullGradient]:
    r"""The full-gradient decomposition of any JAX function: returns `(*args) -> FullGradient`.

    For every part p of the program, from its inputs h (those that depend on x) to its output,
    :math:`b_p = p(h) - J_p(h)\,h`; then, exactly and for every program,
    :math:`f(x) = \langle\nabla f(x), x\rangle + \sum_p \langle \partial f/\partial p, b_p\rangle`.

    A bias has itself as offset, batch normalisation in evaluation mode :math:`\beta - \mu\gamma/\sigma`; smooth
    activations, softmax, LayerNorm and products have implicit ones. ReLU, max-pooling and linear maps have none and
    no site. The parts are whole activations, affine chains and normalisers, since the terms of the single primitives
    inside them nearly cancel; loops (`scan`, `cond`) are one part each.

    Args:
      f: a scalar function.
      argnums: the explained argument, or several.
      grouping: how equations form parts: `interpreters.regions`, or `interpreters.equations` for every primitive by
        itself. The total is the same.

    Returns:
      A function of f's arguments. It composes with `jax.jit`, `jax.vmap` and `jax.grad`.

    Raises:
      TypeError: at the call, if f is not scalar or the input not floating-point.
      NotImplementedError: at the call, for a loop with an unknown number of steps (`lax.while_loop`) that depends on
        x, or another primitive without a reverse derivative.

    Source: Srinivas & Fleuret (2019); implicit biases of any primitive as here.

    >>> def f(x):
    ...     with jax.named_scope("layer"):
    ...         h = jax.nn.relu(2.0 * x + jnp.array([1.0, 1.0]))
    ...     return jnp.sum(h)
    >>> full = full_gradient(f)(jnp.array([1.0, -3.0]))
    >>> full.input_gradient.tolist(), {str(site): term.tolist() for site, term in full.terms().items()}
    ([2.0, 0.0], {'layer:add#0': [1.0, 0.0]})
    >>> float(full.total(jnp.array([1.0, -3.0])))
    3.0
    """

    def at(*args: PyTree) -> FullGradient:
        g, x = restrict_scalar("full_gradient", f, argnums, args)
        program, arrays = graph(g, x)
        groups = grouping(program)
        probed = {v: site for group in groups for site, v in _sited(program, group)}
        zeros = {v: jnp.zeros(program.avals[v].shape, program.avals[v].dtype) for v in probed}

        def value(leaves: list, probes: dict[int, Array]) -> tuple[Array, dict[int, Array]]:
            values, offsets = program.start(leaves), {}
            for group in groups:
                outputs, offset = _with_offsets(program, group, values, probed)
                offsets.update(offset)
                values.update({v: out + probes[v] if v in probes else out for v, out in outputs.items()})
            return values[program.outputs[0]], offsets

        out, pull, offsets = jax.vjp(value, arrays, zeros, has_aux=True)
        gradient, cotangents = pull(jnp.ones_like(out))
        if program.outputs[0] not in program.active:
            offsets, cotangents, probed = {-1: out}, {-1: jnp.ones_like(out)}, {-1: CONSTANT}
        return FullGradient(
            jax.tree.unflatten(jax.tree.structure(x), gradient),
            {probed[v]: offset for v, offset in offsets.items()},
            {probed[v]: cotangent for v, cotangent in cotangents.items()},
        )

    return at


def _sited(program: Graph, group: Group) -> list[tuple[Site, int]]:
    """The outputs of a group that may have an offset, with their sites."""
    if not any(v in program.active for v in group.inputs) or all(is_homogeneous(n, program) for n in group.nodes):
        return []
    outputs = ((node.site(i), v) for node in group.nodes for i, v in enumerate(node.outputs))
    return [(site, v) for site, v in outputs if v in group.outputs and v in program.active]


def _with_offsets(
    program: Graph, group: Group, values: dict, probed: dict[int, Site]
) -> tuple[dict[int, Array], dict[int, Array]]:
    """The outputs of a group, and the offsets of those that have one."""
    for node in group.nodes:
        if node.name == "while" and any(v in program.active for v in node.inputs):
            raise no_rule("full_gradient", node, "write the loop with `jax.lax.scan`, whose number of steps is known")
    outputs = dict(zip(group.outputs, group.apply(values, [values[v] for v in group.inputs]), strict=True))
    wanted = [v for v in group.outputs if v in probed]
    if not wanted:
        return outputs, {}
    moving = [v for v in group.inputs if v in program.active]

    def parts(*inputs: Array) -> list[Array]:
        inside = {**values, **dict(zip(moving, inputs, strict=True))}
        results = dict(zip(group.outputs, group.apply(inside, [inside[v] for v in group.inputs]), strict=True))
        return [results[v] for v in wanted]

    try:
        at, along = _linear_part(parts, [values[v] for v in moving], has_own_vjp(group))
    except NotImplementedError as error:
        raise no_rule("full_gradient", group.nodes[-1], "give it a derivative with `jax.custom_vjp`") from error
    return outputs, {v: a - b for v, a, b in zip(wanted, at, along, strict=True)}


def has_own_vjp(group: Group) -> bool:
    """Whether a node of a group has a reverse derivative of its own, and so no forward one."""
    return any(node.name.startswith("custom_vjp") for node in group.nodes)


def _linear_part(p: Callable[..., list[Array]], inputs: list[Array], by_transpose: bool) -> tuple[list, list]:
    """p(h) and J_p(h)·h; derivatives of higher order go through both."""
    if not by_transpose:
        return jax.jvp(p, tuple(inputs), tuple(inputs))
    outputs, pull = jax.vjp(p, *inputs)
    _, push = jax.vjp(pull, outputs)
    return outputs, push(tuple(inputs))[0]


def is_homogeneous(node: Node, program: Graph) -> bool:
    """Whether a node's outputs equal its Jacobian times its inputs, as far as its primitive tells."""

    def is_zero(v: int) -> bool:
        number = program.literal(v)
        return number is not None and bool(np.all(number == 0))

    if not any(v in program.active for v in node.outputs):
        return all(v not in program.active for v in node.inputs) or node.name in ("eq", "ne", "lt", "le", "gt", "ge")
    moving = [v in program.active for v in node.inputs]
    match node.name:
        case name if name in STRUCTURAL:
            return True
        case "add" | "sub" | "add_any" | "max" | "min" | "concatenate" | "pad":
            return all(is_active or is_zero(v) for is_active, v in zip(moving, node.inputs, strict=True))
        case "select_n":
            return all(is_active or is_zero(v) for is_active, v in zip(moving[1:], node.inputs[1:], strict=True))
        case "mul" | "dot_general" | "conv_general_dilated":
            return sum(moving) == 1
        case "div":
            return not moving[1]
    inner = called(node)
    return inner is not None and all(moving) and all(is_homogeneous(n, inner) for n in inner.nodes)
