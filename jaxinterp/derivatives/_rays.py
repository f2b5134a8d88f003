"""Searches along rays."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxinterp import checks, interpreters, tree
from jaxinterp.typing import Array, PyTree

RayDistance = Callable[[Callable[[PyTree], Array], PyTree, PyTree, Array | float], Array]


def first_change(method: str, *, num_points: int, num_bisections: int) -> RayDistance:
    r"""Returns `(has_changed, x, direction, reach) -> distance`, the smallest t with a change at :math:`x + t v/\|v\|`.

    The first of equally spaced points up to `reach` that has changed, then bisection. Infinite if none has, NaN where
    the reach or the direction is zero. A change and back between two points is not seen. Not differentiable.

    Args:
      method: the name to put into error messages.
      num_points: equally spaced points.
      num_bisections: each halves the error.

    Raises:
      ValueError: if a count is not positive, or at the call if the direction is zero or unlike x, or the reach zero.

    >>> distance = first_change("example", num_points=8, num_bisections=20)
    >>> round(float(distance(lambda x: x[0] > 0.3, jnp.zeros(2), jnp.array([2.0, 0.0]), 1.0)), 4)
    0.3
    """
    checks.positive_integer("num_points", num_points)
    checks.positive_integer("num_bisections", num_bisections)

    def distance(has_changed: Callable[[PyTree], Array], x: PyTree, direction: PyTree, reach: Array | float) -> Array:
        far = checks.distance("reach", reach)
        if checks.concrete(far) == 0:
            raise ValueError(f"`reach` of `{method}` must be positive.")
        vector = checks.same_structure(method, "direction", direction, x)
        length = tree.norm(vector)
        if checks.concrete(length) == 0:
            raise ValueError(f"`direction` of `{method}` must not be zero.")
        vector = tree.scale(1 / length, vector)
        spacing = far / num_points
        changed = interpreters.loop_safe(lambda t: has_changed(tree.axpy(t, vector, x)))

        def scan(state: tuple[Array, Array]) -> tuple[Array, Array]:
            index, _ = state
            return index + 1, changed((index + 1).astype(spacing.dtype) * spacing)

        start = (jnp.zeros((), jnp.int32), jnp.zeros((), bool))
        index, found = jax.lax.while_loop(lambda s: (s[0] < num_points) & ~s[1], scan, start)

        def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = ends
            middle = (low + high) / 2
            is_beyond = changed(middle)
            return jnp.where(is_beyond, low, middle), jnp.where(is_beyond, middle, high)

        last = index.astype(spacing.dtype) * spacing
        _, high = jax.lax.fori_loop(0, num_bisections, halve, (last - spacing, last))
        return jnp.where(found, high, jnp.inf) * jnp.where((length > 0) & (far > 0), 1.0, jnp.nan)

    return distance
