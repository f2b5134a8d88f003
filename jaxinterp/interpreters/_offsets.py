"""The full-gradient decomposition: what the input and what the offsets of a program contribute to its value."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp import checks, tree
from jaxinterp.interpreters import _ir
from jaxinterp.interpreters._backward import no_rule
from jaxinterp.interpreters._graph import Graph, Node, Site, graph
from jaxinterp.interpreters._groups import Group, Grouping
from jaxinterp.interpreters._ir import names
from jaxinterp.interpreters._regions import regions
from jaxinterp.interpreters._restrict import restrict_scalar
from jaxinterp.typing import Array, PyTree, ScalarFn

CONSTANT = Site("", "constant")
"""The site of an output that does not depend on the input at all."""

STRUCTURAL = names(
    """reshape squeeze expand_dims transpose broadcast_in_dim reduce_sum reduce_max reduce_min neg abs slice rev copy
    copy_p convert_element_type reduce_precision reduce_window_sum reduce_window_max reduce_window_min cumsum cummax
    cummin dynamic_slice split stack unstack tile name real imag sort top_k fft optimization_barrier
    sharding_constraint add sub add_any max min concatenate pad dynamic_update_slice scatter-add"""
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
        """The bias-gradients: the products of cotangents and offsets, by site; 0 where the cotangent is.

        Of complex intermediates, the real part: what they contribute to f.
        """
        return {
            site: jnp.real(jnp.where(c == 0, jnp.zeros_like(c), c * self.offsets[site]))
            for site, c in self.cotangents.items()
        }

    def total(self, x: PyTree) -> Array:
        """The sum of all terms, at the x of the decomposition: f(x) up to rounding.

        For decompositions of a batch, map this too: `jax.vmap(FullGradient.total)(full, x)`.
        """
        terms = self.terms()
        return tree.vdot((self.input_gradient, terms), (jax.tree.map(jnp.asarray, x), tree.ones_like(terms)))


def full_gradient(
    f: ScalarFn, argnums: int | tuple[int, ...] = 0, *, grouping: Grouping = regions
) -> Callable[..., FullGradient]:
    r"""The full-gradient decomposition of any JAX function: returns `(*args) -> FullGradient`.

    For every part p of the program, from its inputs h (those that depend on x) to its output,
    :math:`b_p = p(h) - J_p(h)\,h`; then, exactly,
    :math:`f(x) = \langle\nabla f(x), x\rangle + \sum_p \langle \partial f/\partial p, b_p\rangle`. It holds for every
    program whose derivatives are linear maps; a `jax.custom_vjp` that clips gradients, say, has none.

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
    checks.functions("full_gradient", grouping=grouping)

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

        try:
            out, pull, offsets = jax.vjp(value, arrays, zeros, has_aux=True)
            gradient, cotangents = pull(jnp.ones_like(out))
        except (TypeError, ValueError, NotImplementedError) as error:
            node = _irreversible(program, groups)
            if node is None:
                raise
            remedy = "write the `while` loop with `jax.lax.scan`, whose number of steps is known"
            if not _holds(node, "while"):
                remedy = "give it a derivative with `jax.custom_vjp`"
            raise no_rule("full_gradient", node, remedy) from error
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
    outputs = dict(zip(group.outputs, group.apply(values, [values[v] for v in group.inputs]), strict=True))
    wanted = [v for v in group.outputs if v in probed]
    if not wanted:
        return outputs, {}
    parts, moving = _function(program, group, values, wanted)
    at, along = _linear_part(parts, moving, any(_holds(node, "custom_vjp") for node in group.nodes))
    return outputs, {v: a - b for v, a, b in zip(wanted, at, along, strict=True)}


def _function(
    program: Graph, group: Group, values: dict, wanted: list[int]
) -> tuple[Callable[..., list[Array]], list[Array]]:
    """Some outputs of a group as a function of its inputs that have a derivative; and the values of those."""
    moving = [v for v in group.inputs if v in program.active]

    def parts(*inputs: Array) -> list[Array]:
        inside = {**values, **dict(zip(moving, inputs, strict=True))}
        results = dict(zip(group.outputs, group.apply(inside, [inside[v] for v in group.inputs]), strict=True))
        return [results[v] for v in wanted]

    return parts, [values[v] for v in moving]


def _holds(node: Node, name: str) -> bool:
    """Whether a node is a primitive whose name begins so, or has one in a program inside it."""

    def is_named(equation: _ir.Equation) -> bool:
        return equation.primitive.name.startswith(name)

    return is_named(node.equation) or _ir.contains_inside(node.equation, is_named)


def _irreversible(program: Graph, groups: tuple[Group, ...]) -> Node | None:
    """The first node that JAX cannot differentiate in reverse."""

    def pulled(group: Group, values: dict) -> tuple:
        parts, moving = _function(program, group, values, [v for v in group.outputs if v in program.active])
        outputs, pull = jax.vjp(parts, *moving)
        return pull(outputs)

    shapes = {v: jax.ShapeDtypeStruct(aval.shape, aval.dtype) for v, aval in program.avals.items()}
    for group in groups:
        try:
            jax.eval_shape(lambda values, group=group: pulled(group, values), shapes)
        except (TypeError, ValueError, NotImplementedError):
            return group.nodes[-1]
    return None


def _linear_part(p: Callable[..., list[Array]], inputs: list[Array], by_transpose: bool) -> tuple[list, list]:
    """p(h) and J_p(h)·h; derivatives of higher order go through both.

    Infinite entries of h, such as masked scores, count as 0 in the product: what reads them has derivative 0.
    """
    along = tuple(jnp.where(jnp.isfinite(h), h, jnp.zeros_like(h)) for h in inputs)
    if not by_transpose:
        return jax.jvp(p, tuple(inputs), along)
    outputs, pull = jax.vjp(p, *inputs)
    _, push = jax.vjp(pull, outputs)
    return outputs, push(along)[0]


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
            numbers = [v for v in node.inputs if jnp.issubdtype(program.avals[v].dtype, jnp.inexact)]
            return all(v in program.active or is_zero(v) for v in numbers)
        case "select_n":
            return all(is_active or is_zero(v) for is_active, v in zip(moving[1:], node.inputs[1:], strict=True))
        case "mul" | "dot_general" | "conv_general_dilated":
            return sum(moving) == 1
        case "div":
            return not moving[1]
        case "gather":
            return not node.params["fill_value"]
    return is_relu(node, program)


def is_relu(node: Node, program: Graph) -> bool:
    """Whether a node is `jax.nn.relu`, by its program and that of its derivative, which it may have of its own."""
    if node.name != "custom_jvp_call" or len(node.inputs) != 1 or len(node.outputs) != 1:
        return False
    shape = node.shapes()[0]
    return _with_derivative(node, shape) == _relu(shape.shape, shape.dtype)


def _with_derivative(node: Node, shape: jax.ShapeDtypeStruct) -> tuple:
    """The equations of an elementwise node and of its derivative, in a form that can be compared."""
    inside, _ = graph(lambda h: jax.jvp(node, (h,), (h,)), shape)
    numbers = {v: np.asarray(inside.constants[v]).item() for v in inside.literals}
    return [(n.name, n.inputs) for n in inside.nodes], inside.outputs, numbers


@functools.cache
def _relu(shape: tuple[int, ...], dtype: Any) -> tuple:
    wanted = jax.ShapeDtypeStruct(shape, dtype)
    (relu,) = graph(jax.nn.relu, wanted)[0].nodes
    return _with_derivative(relu, wanted)
