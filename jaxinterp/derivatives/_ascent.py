"""Ascent of a function in a ball: what attacks, and the search for steep or curved places, have in common."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from jaxinterp import checks, interpreters, tree
from jaxinterp.typing import Array, Key, PyTree

Norm = Literal["l2", "linf"]


def projected_ascent(
    *, norm: Norm = "l2", num_steps: int = 20, num_restarts: int = 1, step_size: float = 0.125
) -> Callable[..., tuple[PyTree, Array]]:
    r"""Returns `(key, g, x, *, radius) -> (point, value)`, where g was largest on the way up in a ball around x.

    :math:`x \leftarrow \Pi\bigl(x + \eta r\, d\bigr)` with d the gradient over its norm ("l2") or its sign ("linf"),
    and Π the projection on the ball, then on the box. The first run starts at x, the others at random points on the
    sphere (corners of the cube).

    Args:
      norm: of the ball.
      num_steps: of each run.
      num_restarts: how many runs.
      step_size: η, in units of the radius.

    Returns:
      A function of a key, a scalar function of x alone, x (a pytree of floating-point arrays) and the keywords `radius`
      (r >= 0), `low` and `high` (pytree prefixes of x; no limits by default). The options are bound first, so that they
      are checked when a method is built; the function comes with its other arguments.

    Raises:
      ValueError: if a count or the step is not positive, the norm unknown, or at the call if the box is empty.

    >>> climb = projected_ascent(num_steps=20)
    >>> point, value = climb(jax.random.key(0), lambda x: 3 * x[0], jnp.zeros(2), radius=1.0)
    >>> round(float(value), 3)
    3.0
    """
    checks.one_of("norm", norm, ("l2", "linf"))
    checks.positive_integer("num_steps", num_steps)
    checks.positive_integer("num_restarts", num_restarts)
    checks.positive("step_size", step_size)

    def climb(
        key: Key,
        g: Callable[[PyTree], Array],
        x: PyTree,
        *,
        radius: Array | float,
        low: PyTree = None,
        high: PyTree = None,
    ) -> tuple[PyTree, Array]:
        radius = checks.distance("radius", radius)
        inside = _projection(x, radius, norm, low, high)
        ascend = interpreters.loop_safe(jax.value_and_grad(g))

        def run(index: Array) -> tuple[Array, PyTree]:
            share = jnp.where(index == 0, 0.0, 1.0) * radius
            first = inside(tree.axpy(share, _direction(tree.normal_like(jax.random.fold_in(key, index), x), norm), x))

            def step(_: Array, state: tuple[PyTree, PyTree, Array]) -> tuple[PyTree, PyTree, Array]:
                point, best, most = state
                value, slope = ascend(point)
                best = jax.tree.map(lambda a, b: jnp.where(value > most, a, b), point, best)
                return (
                    inside(tree.axpy(step_size * radius, _direction(slope, norm), point)),
                    best,
                    jnp.fmax(most, value),
                )

            lowest = jnp.full((), -jnp.inf, jax.eval_shape(g, x).dtype)
            point, best, most = jax.lax.fori_loop(0, num_steps, step, (first, first, lowest))
            value = g(point)
            best = jax.tree.map(lambda a, b: jnp.where(value > most, a, b), point, best)
            return jnp.fmax(most, value), best

        values, points = jax.lax.map(run, jnp.arange(num_restarts, dtype=jnp.int32))
        chosen = jnp.argmax(values)
        point = jax.tree.map(lambda a: a[chosen], points)
        return point, jnp.where(jnp.isneginf(values[chosen]), g(point), values[chosen])  # NaN where all of them were

    return climb


def _direction(slope: PyTree, norm: Norm) -> PyTree:
    """The unit vector along which a linear function rises most."""
    if norm == "linf":
        return jax.tree.map(jnp.sign, slope)
    return tree.unit(slope)[0]


def _projection(x: PyTree, radius: Array, norm: Norm, low: PyTree, high: PyTree) -> Callable[[PyTree], PyTree]:
    clip = tree.clipping(x, low, high)

    def inside(point: PyTree) -> PyTree:
        change = tree.sub(point, x)
        if norm == "linf":
            change = jax.tree.map(lambda c: jnp.clip(c, -radius.astype(c.dtype), radius.astype(c.dtype)), change)
        else:
            length = tree.norm(change)
            reach = radius.astype(length.dtype)
            within = length <= reach
            change = tree.scale(jnp.where(within, 1.0, reach / jnp.where(within, 1.0, length)), change)
        return clip(tree.add(x, change))

    return inside
