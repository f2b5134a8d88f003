"""Certified bounds of a function and its derivatives over a ball, put together."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxinterp import tree
from jaxinterp.interpreters._bounds import Walk, walk
from jaxinterp.interpreters._enclosures import Enclosure, length, times
from jaxinterp.interpreters._graph import Graph
from jaxinterp.interpreters._operators import singular_value
from jaxinterp.interpreters._second_order import hessian_change
from jaxinterp.interpreters._sharpening import within
from jaxinterp.interpreters._templates import canonical, large
from jaxinterp.typing import Array, PyTree


@dataclasses.dataclass(frozen=True)
class Enclosed:
    """Bounds over a ball.

    Attributes:
      value: the least and the greatest of each entry.
      lipschitz: a lower and an upper bound of the largest norm of the Jacobian.
      curvature: the same of the second derivative as a bilinear map.
    """

    value: tuple[Array, Array]
    lipschitz: tuple[Array, Array]
    curvature: tuple[Array, Array]


def enclose(
    method: str, g: Callable[[PyTree], Array], x: PyTree, radius: Array, is_box: bool, telescoping: bool
) -> Enclosed:
    """Bounds of g over the Euclidean ball, or the box, of some radius around x.

    Args:
      method: the name for error messages.
      g: returns one array of floating-point numbers.
      x: a pytree of floating-point arrays.
      radius: a scalar, which may be infinite.
      is_box: whether each entry moves by the radius.
      telescoping: see `walk`.
    """
    shape = jax.eval_shape(g, x)
    if not isinstance(shape, jax.ShapeDtypeStruct) or not jnp.issubdtype(shape.dtype, jnp.floating):
        raise TypeError(f"`{method}` needs a function that returns one floating-point array; it returned {shape}.")
    around = radius * tree.size(x) ** 0.5 if is_box else radius
    program, leaves = canonical(g, x)
    _check_precision(method, program)
    found = walk(program, leaves, around, radius, telescoping)
    output = found.output
    dtype = output.rows.dtype
    margin = 64 * float(jnp.finfo(dtype).eps)
    bent_below, bent = _curvature(found, g, x, output)
    norm, moved, _ = output.norms
    flat = _jacobian(output, x)
    below, at_centre = singular_value(flat)
    if output.centre.size == 1:
        below = at_centre = length(flat)
    moved = jnp.where(output.is_exact, jnp.minimum(moved, times(around, bent)), moved)
    norm = jnp.minimum(norm, at_centre + moved)
    limit = jnp.minimum(times(around, norm), times(around, output.nominal()) + times(around**2 / 2, bent))
    middle, half = within(output, jnp.where(output.is_exact, limit, jnp.inf))
    half = half + margin * jnp.abs(output.centre).astype(dtype)
    least, greatest = middle - half, middle + half
    most = large(output.centre.dtype) / 2  # what stands for infinity
    return Enclosed(
        (jnp.where(least < -most, -jnp.inf, least), jnp.where(greatest > most, jnp.inf, greatest)),
        (below * (1 - margin), _unknown_is_infinite(norm * (1 + margin))),
        (bent_below * (1 - margin), _unknown_is_infinite(bent * (1 + margin))),
    )


def _check_precision(method: str, program: Graph) -> None:
    """Rounding to less than float32 is not among what is bounded."""
    for v in sorted(program.active.union(program.inputs)):
        dtype = program.avals[v].dtype
        if jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32:
            raise TypeError(
                f"`{method}` needs a function computed in float32 or float64, but it holds an array of {dtype}: cast "
                "the input and the parameters."
            )


def _unknown_is_infinite(bound: Array) -> Array:
    return jnp.where(jnp.isnan(bound), jnp.inf, bound)


def _jacobian(output: Enclosure, x: PyTree) -> Array:
    if output.tangent is None:
        return jnp.zeros((tree.size(x), max(output.centre.size, 1)), output.rows.dtype)
    return output.tangent.astype(output.rows.dtype).reshape(len(output.tangent), -1)


def _curvature(found: Walk, g: Callable[[PyTree], Array], x: PyTree, output: Enclosure) -> tuple[Array, Array]:
    """A lower and an upper bound of the norm of the second derivative."""
    by_norms = output.norms[2]
    if not found.adjoints:
        return jnp.zeros_like(by_norms), by_norms
    flat, unravel = tree.ravel(x)
    hessians = jax.hessian(lambda v: jnp.ravel(g(unravel(v))).astype(flat.dtype))(flat)
    change, most = hessian_change(found)
    below, each = (jnp.stack(b) for b in zip(*map(singular_value, hessians), strict=True))
    stacked = singular_value(hessians.reshape(-1, flat.size))[1] if len(hessians) > 1 else each[0]
    upper = jnp.minimum(stacked + length(change), jnp.minimum(length(most), by_norms))
    return jnp.max(below), jnp.maximum(upper, jnp.max(below))
