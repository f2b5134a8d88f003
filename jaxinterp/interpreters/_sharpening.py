"""Tighter enclosures, from what is known of a program at the centre of the ball."""

import dataclasses

import jax.numpy as jnp

from jaxinterp.interpreters._enclosures import Enclosure, interval, length, times
from jaxinterp.interpreters._operators import spectral_bound
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
    if z.is_exact:
        moved = jnp.minimum(moved, times(radius, bend))
        moved_norm = jnp.minimum(moved_norm, times(radius, bend_norm))
    if change is not None and change_norm is not None:
        moved, moved_norm = jnp.minimum(moved, change), jnp.minimum(moved_norm, change_norm)
    moved_norm = jnp.minimum(moved_norm, length(moved))
    slope = jnp.minimum(slope, z.nominal() + moved)
    if z.tangent is not None:
        matrix = z.tangent.reshape(len(z.tangent), -1).astype(z.rows.dtype)
        norm = jnp.minimum(norm, spectral_bound(matrix) + moved_norm)
    norm = jnp.minimum(norm, length(slope))
    middle = z.middle
    if z.is_exact:
        limit = jnp.minimum(times(radius, slope), times(radius, z.nominal()) + times(radius**2 / 2, bend))
        middle, half = within(z, limit)
    rows = jnp.stack([half, slope, moved, bend])
    return dataclasses.replace(z, middle=middle, rows=rows, norms=jnp.stack([norm, moved_norm, bend_norm]))


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
