"""Searches along rays."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxinterp import checks, interpreters, tree
from jaxinterp.typing import Array, PyTree


def first_change(*, num_points: int, num_bisections: int, name: str = "first_change") -> Callable[..., Array]:
    r"""Returns `(has_changed, x, *, direction, reach) -> distance`: the first change along a ray.

    The smallest t at which :math:`x + t v/\|v\|` has changed: 0 if x itself has; else the first of equally spaced
    points up to `reach` that has, then bisection. Infinite if none has, NaN where the reach or the direction is zero or
    not finite. A change and back between two points is not seen. It has no derivative.

    Args:
      num_points: equally spaced points.
      num_bisections: each halves the error.
      name: of the method, for error messages.

    Returns:
      A function of a predicate, x (a pytree of floating-point arrays) and the keywords `direction` (v, like x, not
      zero) and `reach` (> 0, in the units of x).

    Raises:
      ValueError: if a count is not positive, or at the call if the direction is zero or unlike x, or the reach zero.

    >>> distance = first_change(num_points=8, num_bisections=20)
    >>> round(float(distance(lambda x: x[0] > 0.3, jnp.zeros(2), direction=jnp.array([2.0, 0.0]), reach=1.0)), 4)
    0.3
    """
    checks.positive_integer("num_points", num_points)
    checks.positive_integer("num_bisections", num_bisections)

    def distance(
        has_changed: Callable[[PyTree], Array], x: PyTree, *, direction: PyTree, reach: Array | float
    ) -> Array:
        known = checks.concrete(reach)
        if known is not None and known.shape == () and known.dtype.kind in "biuf" and not 0 < known < jnp.inf:
            raise ValueError(f"`reach` of `{name}` must be positive and finite; got {known}.")
        far = checks.distance("reach", reach)
        direction = jax.tree.map(jnp.asarray, checks.same_structure(name, "direction", direction, x))
        x, direction = checks.not_differentiable(name, (x, direction))
        vector, length = tree.unit(direction)
        if checks.concrete(length) == 0:
            raise ValueError(f"`direction` of `{name}` must not be zero.")
        wide = jax.tree.map(lambda leaf: leaf.astype(tree.accumulator(leaf.dtype)), x)
        spacing = far / num_points
        changed = interpreters.loop_safe(lambda t: has_changed(tree.cast_like(tree.axpy(t, vector, wide), x)))

        def scan(state: tuple[Array, Array]) -> tuple[Array, Array]:
            index, _ = state
            return index + 1, changed((index + 1).astype(spacing.dtype) * spacing)

        start = (jnp.full((), -1, jnp.int32), jnp.zeros((), bool))  # the first point is x
        index, found = jax.lax.while_loop(lambda s: (s[0] < num_points) & ~s[1], scan, start)

        def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = ends
            middle = (low + high) / 2
            is_beyond = changed(middle)
            return jnp.where(is_beyond, low, middle), jnp.where(is_beyond, middle, high)

        last = index.astype(spacing.dtype) * spacing
        _, high = jax.lax.fori_loop(0, num_bisections, halve, (jnp.maximum(last - spacing, 0), last))
        is_known = (length > 0) & jnp.isfinite(length) & (far > 0)
        return jnp.where(found, high, jnp.inf) * jnp.where(is_known, 1.0, jnp.nan)

    return distance
