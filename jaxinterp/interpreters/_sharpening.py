"""Tighter enclosures, from what is known of a program at the centre of the ball."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp.interpreters._enclosures import Bend, Enclosure, interval, length, times
from jaxinterp.interpreters._operators import root, spectral_bound
from jaxinterp.interpreters._streams import Stream
from jaxinterp.typing import Array


def anchored(z: Enclosure, radius: Array, change: Array | None = None, change_norm: Array | None = None) -> Enclosure:
    """The same enclosure with no more than the derivative at the centre and its change allow.

    Args:
      z: the enclosure.
      radius: of the ball.
      change: how far each row of the Jacobian moves, if more is known of that than z says.
      change_norm: how far the Jacobian moves.
    """
    half, slope, moved, bend = z.rows
    norm, moved_norm, bend_norm = z.norms
    moved = jnp.where(z.is_exact, jnp.minimum(moved, times(radius, bend)), moved)
    moved_norm = jnp.where(z.is_exact, jnp.minimum(moved_norm, times(radius, bend_norm)), moved_norm)
    if change is not None and change_norm is not None:
        moved, moved_norm = jnp.minimum(moved, change), jnp.minimum(moved_norm, change_norm)
    moved_norm = jnp.minimum(moved_norm, length(moved))
    slope = jnp.minimum(slope, z.nominal() + moved)
    if z.tangent is not None:
        matrix = z.tangent.reshape(len(z.tangent), -1).astype(z.rows.dtype)
        norm = jnp.minimum(norm, spectral_bound(matrix) + moved_norm)
    norm = jnp.minimum(norm, length(slope))
    limit = jnp.minimum(times(radius, slope), times(radius, z.nominal()) + times(radius**2 / 2, bend))
    middle, half = within(z, jnp.where(z.is_exact, limit, jnp.inf))
    rows = jnp.stack([half, slope, moved, bend])
    return dataclasses.replace(z, middle=middle, rows=rows, norms=jnp.stack([norm, moved_norm, bend_norm]))


def linked(matrix: Array, bends: Sequence[Bend]) -> tuple[Array, Array]:
    """How far the rows of a Jacobian, and all of it, move by the nonlinear equations before.

    Args:
      matrix: the derivative with respect to what is added to the results of all nonlinear equations, in their order,
        [entries, *shape].
      bends: those before, in order.
    """
    dtype = bends[0].rows.dtype
    sizes = [bend.rows.size for bend in bends]
    owner, count = np.repeat(np.arange(len(bends)), sizes), len(bends)
    to = jnp.abs(matrix[: sum(sizes)].astype(dtype)).reshape(sum(sizes), -1)

    def per_equation(weights: Array) -> Array:
        return jax.ops.segment_sum(weights, owner, count)

    rows = per_equation(times(to, jnp.concatenate([bend.rows.reshape(-1, 1) for bend in bends])))
    is_elementwise = np.array([bool(bend.partials) for bend in bends])[:, None]
    other, whole = jnp.zeros_like(rows), jnp.zeros((count, 1), dtype)
    for i in range(max(len(bend.partials) for bend in bends)):
        steps = [_step(bend, i) for bend in bends]
        squares = per_equation(times(to, jnp.concatenate([change for change, _ in steps])) ** 2)
        norms = jnp.stack([norm for _, norm in steps])[:, None]
        other = other + times(root(squares), norms)
        whole = whole + times(root(jnp.sum(squares, 1, keepdims=True)), norms)
    rows = jnp.minimum(rows, jnp.where(is_elementwise, other, jnp.inf))
    size = jnp.minimum(length(rows, 1), jnp.where(is_elementwise, whole, jnp.inf)[:, 0])
    return jnp.sum(rows, 0).reshape(matrix.shape[1:]), jnp.sum(size)


def _step(bend: Bend, i: int) -> tuple[Array, Array]:
    """How far the derivative in operand i moves, entry by entry, and the norm of that operand's Jacobian."""
    if i >= len(bend.partials):
        return jnp.zeros((bend.rows.size, 1), bend.rows.dtype), jnp.zeros((), bend.rows.dtype)
    partial = bend.partials[i]
    return partial.change.reshape(-1, 1), partial.operand.norms[0]


def streamed(stream: Stream, bend: Bend, out: int) -> tuple[dict[int, tuple[Array, Array]], Array]:
    """As `linked`, for one nonlinear equation and all that it reaches, without keeping matrices.

    Args:
      stream: the derivatives with respect to what is added to its result.
      bend: what can move.
      out: the output.

    Returns:
      By variable, how far the rows of its Jacobian and all of it move; and the derivative of the output, [entries,
      *shape].
    """
    dtype = bend.rows.dtype
    steps = [_step(bend, i) for i in range(len(bend.partials))]
    weights = [bend.rows.reshape(-1), *(change[:, 0] for change, _ in steps)]
    shapes = [stream.program.avals[v].shape for v in stream.reached]
    initial = [(jnp.zeros(shape, dtype), [jnp.zeros(shape, dtype) for _ in steps]) for shape in shapes]

    def consume(carried: list, indices: Array, tangents: list[Array]) -> tuple[list, list[Array]]:
        added = []
        for (row, squares), tangent in zip(carried, tangents, strict=True):
            to = jnp.abs(tangent.astype(dtype))
            moved, *changes = (jnp.expand_dims(w[indices], range(1, to.ndim)) for w in weights)
            squares = [s + jnp.sum(times(to, w) ** 2, 0) for s, w in zip(squares, changes, strict=True)]
            added.append((row + jnp.sum(times(to, moved), 0), squares))
        return added, [t for v, t in zip(stream.reached, tangents, strict=True) if v == out]

    carried, to_output = stream.reduced(consume, initial)
    changes = {}
    for v, (row, squares) in zip(stream.reached, carried, strict=True):
        size = length(row)
        if steps:
            pairs = [(s, norm) for s, (_, norm) in zip(squares, steps, strict=True)]
            by_row = [times(root(s), norm) for s, norm in pairs]
            whole = [times(root(jnp.sum(s)), norm) for s, norm in pairs]
            row = jnp.minimum(row, functools.reduce(jnp.add, by_row))
            size = jnp.minimum(length(row), functools.reduce(jnp.add, whole))
        changes[v] = (row, size)
    shape = (bend.rows.size, *stream.program.avals[out].shape)
    return changes, to_output[0] if to_output else jnp.zeros(shape, dtype)


def within(z: Enclosure, limit: Array) -> tuple[Array, Array]:
    """The middle and half the width of the interval of z where it moves by no more than a limit from its centre."""
    centre = z.centre.astype(limit.dtype)
    rounding = 4 * float(jnp.finfo(limit.dtype).eps) * jnp.abs(centre)
    limit = limit + jnp.where(jnp.isfinite(centre), rounding, 0)
    return interval(jnp.maximum(z.low, centre - limit), jnp.minimum(z.high, centre + limit), z.centre)


def product_of(a: Array, b: Array) -> Array:
    """The product of two matrices without negative entries, in which nothing times infinity is nothing."""
    finite_a, finite_b = (jnp.where(jnp.isinf(m), 0, m) for m in (a, b))
    infinite_a, infinite_b = (jnp.isinf(m).astype(m.dtype) for m in (a, b))
    reached = jnp.dot(infinite_a, (b > 0).astype(b.dtype)) + jnp.dot((a > 0).astype(a.dtype), infinite_b)
    return jnp.where(reached > 0, jnp.inf, jnp.dot(finite_a, finite_b, precision="highest"))
