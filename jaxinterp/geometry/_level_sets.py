"""Where a function keeps its value: walks on its level sets, and its values between points."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp import checks, tree
from jaxinterp.derivatives import first_change
from jaxinterp.interpreters import loop_safe, restrict, restrict_scalar
from jaxinterp.typing import Array, PyTree, ScalarFn

SMALLEST_STEP = 2.0**-10
PATIENCE = 8  # steps taken in a row before they become longer again


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LevelSetPoint:
    """Where a walk on a level set ended.

    Attributes:
      point: the input.
      value: f there.
      distance: Euclidean, from the target.
      num_steps: accepted steps, int32.
    """

    point: PyTree
    value: Array
    distance: Array
    num_steps: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Simplex:
    """Values on a grid in the convex hull of some corners.

    Attributes:
      weights: of x and the others at each grid point, [points, 1 + others]; the sum of each row is 1.
      values: f at each grid point, a pytree of arrays [points, ...].
    """

    weights: Array
    values: PyTree


class _Walk(NamedTuple):
    """A walk: where it is, in at least float32; f and its gradient there; η; steps tried, taken, and taken in a row."""

    point: PyTree
    value: Array
    slope: PyTree
    step: Array
    tried: Array
    taken: Array
    in_a_row: Array


def level_set_traversal(
    f: ScalarFn,
    argnums: int | tuple[int, ...] = 0,
    *,
    step_size: float = 0.02,
    num_steps: int = 400,
    tolerance: float = 1e-3,
) -> Callable[..., LevelSetPoint]:
    r"""Walks towards a target where f does not fall: returns `(*args, target, drop) -> LevelSetPoint`.

    With :math:`\Delta = t - x` and the unit gradient u, each step is
    :math:`x \leftarrow x + \eta\,(\Delta - u u^\top \Delta) + c\,u`, along the level set, and back up to
    :math:`f(x_0)` by one Newton step, :math:`c = (f(x_0) - f(x))_+ / \|\nabla f(x)\|`, at most as long as the first. A
    step after which f is below :math:`f(x_0) - \text{drop}` is not taken, and η halved; so f is never below that on
    the points visited. Where f curves upwards it may rise. The walk ends where the rest of the way lies along the
    gradient, up to `tolerance` times the first distance (or is that short itself), where no step can be taken, or after
    `num_steps` steps were tried.

    With the log-probability of a class for f it finds blind spots: inputs far from x, towards examples of other
    classes, of which the network is as sure as of x. It has no derivative.

    Args:
      f: a scalar function, such as `heads.log_prob(logits)`.
      argnums: the argument, or several, that moves.
      step_size: η.
      num_steps: how many steps are tried at most.
      tolerance: in units of the first distance.

    Returns:
      A function of f's arguments and the keywords `target` (like x), `drop` (>= 0, in the units of f; 0.05 by default;
      curved level sets cannot be followed with 0), `low` and `high` (pytree prefixes of x, to which each step is
      clipped; no limits by default).

    Raises:
      TypeError: at the call, if f is not scalar or the input not floating-point, or when it is differentiated.
      ValueError: if an option is not positive, `drop` negative, or the target unlike x.

    Source: Balasubramanian, Sriramanan, Sadasivan & Feizi (2023), who correct by an accumulated, clipped gradient of
    the loss in place of the Newton step.

    >>> walk = level_set_traversal(lambda x: -x[0])
    >>> found = walk(jnp.zeros(2), target=jnp.array([3.0, 4.0]))
    >>> round(float(found.distance), 3), round(float(found.value), 3) == 0
    (3.0, True)
    """
    checks.positive_integer("num_steps", num_steps)
    checks.positive("step_size", step_size)
    checks.positive("tolerance", tolerance)

    def traverse(
        *args: PyTree, target: PyTree, drop: Array | float = 0.05, low: PyTree = None, high: PyTree = None
    ) -> LevelSetPoint:
        g, x = restrict_scalar("level_set_traversal", f, argnums, args)
        target = checks.same_structure("level_set_traversal", "target", target, x)
        x, target = checks.not_differentiable("level_set_traversal", (x, jax.tree.map(jnp.asarray, target)))
        wide = jax.tree.map(lambda leaf: leaf.astype(tree.accumulator(leaf.dtype)), x)
        aim = tree.cast_like(target, wide)
        allowed = checks.distance("drop", drop)
        clip = tree.clipping(x, low, high)
        slope_at = loop_safe(jax.value_and_grad(g))

        def look(point: PyTree) -> tuple[Array, PyTree]:
            value, slope = slope_at(tree.cast_like(point, x))
            return value.astype(tree.accumulator(value.dtype)), slope

        def along(point: PyTree, slope: PyTree) -> tuple[PyTree, PyTree, Array]:
            """The way to the target along the level set, the unit gradient, and the length of the gradient."""
            way, (direction, length) = tree.sub(aim, point), tree.unit(slope)
            return tree.axpy(-tree.vdot(direction, way), direction, way), direction, length

        level, first_slope = look(wide)
        near = tolerance * tree.norm(tree.sub(aim, wide))

        def goes_on(walk: _Walk) -> Array:
            is_far = tree.norm(along(walk.point, walk.slope)[0]) > near
            return (walk.tried < num_steps) & is_far & (walk.step >= SMALLEST_STEP * step_size)

        def move(walk: _Walk) -> _Walk:
            way, direction, length = along(walk.point, walk.slope)
            missing = jnp.maximum(level - walk.value, 0).astype(length.dtype) / jnp.where(length > 0, length, 1)
            lift = jnp.minimum(missing, walk.step * tree.norm(way))
            point = clip(tree.axpy(lift, direction, tree.axpy(walk.step, way, walk.point)))
            value, slope = look(point)
            is_kept = value - level >= -allowed.astype(level.dtype)
            there = (point, value, slope)
            here = (walk.point, walk.value, walk.slope)
            point, value, slope = jax.tree.map(lambda new, old: jnp.where(is_kept, new, old), there, here)
            in_a_row = jnp.where(is_kept, walk.in_a_row + 1, 0)
            longer = jnp.where(in_a_row >= PATIENCE, jnp.minimum(2 * walk.step, step_size), walk.step)
            step = jnp.where(is_kept, longer, walk.step / 2)
            return _Walk(point, value, slope, step, walk.tried + 1, walk.taken + is_kept.astype(jnp.int32), in_a_row)

        zero = jnp.zeros((), jnp.int32)
        start = _Walk(wide, level, first_slope, jnp.asarray(step_size, near.dtype), zero, zero, zero)
        end = jax.lax.while_loop(goes_on, move, start)
        distance = tree.norm(tree.sub(aim, end.point))
        return LevelSetPoint(tree.cast_like(end.point, x), end.value, distance, end.taken)

    return traverse


def simplex(
    f: Callable[..., PyTree],
    argnums: int | tuple[int, ...] = 0,
    *,
    num_points: int = 17,
    chunk_size: int | None = 1,
) -> Callable[..., Simplex]:
    r"""Values on the convex hull of x and other inputs: returns `(*args, others) -> Simplex`.

    The grid holds all :math:`\sum_i w_i x_i` whose weights are multiples of 1/(n - 1) and sum to 1. With one
    other input it is a linear path of n points from x, with two a triangle of n(n + 1)/2.

    Args:
      f: any function.
      argnums: the argument, or several, that varies.
      num_points: n, on each edge; at least 2.
      chunk_size: points computed together; `None` takes all.

    Returns:
      A function of f's arguments and the keyword `others`: the other inputs, like x with a leading axis.

    Raises:
      TypeError: at the call, if the inputs are not floating-point.
      ValueError: if there are fewer than two points, or at the call if the others are unlike x.

    Source: Balasubramanian, Sriramanan, Sadasivan & Feizi (2023), for paths and triangles.

    >>> triangle = simplex(lambda x: x[0] * x[1], num_points=3)
    >>> found = triangle(jnp.zeros(2), others=jnp.array([[2.0, 0.0], [0.0, 2.0]]))
    >>> found.weights.shape, found.values.tolist()
    ((6, 3), [0.0, 0.0, 0.0, 0.0, 1.0, 0.0])
    """
    if checks.positive_integer("num_points", num_points) < 2:
        raise ValueError("`num_points` of `simplex` must be 2 or more; got 1.")
    checks.optional_chunk_size(chunk_size)

    def probe(*args: PyTree, others: PyTree) -> Simplex:
        g, x = restrict("simplex", f, argnums, args)
        count = _number(others, x)
        grid = jnp.asarray(_barycentric(1 + count, num_points))

        def value(weights: Array) -> PyTree:
            def leaf(a: Array, rest: Array) -> Array:
                dtype = tree.accumulator(a.dtype)
                corners = jnp.concatenate([a[None].astype(dtype), jnp.asarray(rest, dtype)])
                return jnp.tensordot(weights.astype(dtype), corners, 1, precision="highest").astype(a.dtype)

            return g(jax.tree.map(leaf, x, others))

        size = grid.shape[0] if chunk_size is None else chunk_size
        return Simplex(grid, jax.lax.map(loop_safe(value), grid, batch_size=None if size == 1 else size))

    return probe


def level_distance(
    f: ScalarFn, argnums: int | tuple[int, ...] = 0, *, num_points: int = 64, num_bisections: int = 20
) -> Callable[..., Array]:
    r"""How far f stays at a level along a ray: returns `(*args, direction, reach, level) -> distance`.

    The smallest t with :math:`f(x + t\,v/\|v\|) < \text{level}`: 0 if x is below, else the first of equally spaced
    points up to `reach`, then bisection. Infinite if there is none, NaN where f(x) or the level is. A fall and rise
    between two points is not seen; NaN on the way counts as below. Mapped over directions it is the star-shaped part of
    the region of confidence around x. It has no derivative.

    Args:
      f: a scalar function, such as `heads.log_prob(logits)`.
      argnums: the argument, or several, that varies.
      num_points: equally spaced points.
      num_bisections: each halves the error.

    Returns:
      A function of f's arguments and the keywords `direction` (v, like x, not zero), `reach` (> 0, in the units of x)
      and `level` (in the units of f).

    Raises:
      TypeError: at the call, if f is not scalar or the input not floating-point.
      ValueError: if a count is not positive, or the direction is zero or unlike x.

    >>> distance = level_distance(lambda x: -jnp.sum(x**2))
    >>> round(float(distance(jnp.zeros(2), direction=jnp.array([3.0, 4.0]), reach=5.0, level=-4.0)), 4)
    2.0
    """
    along = first_change(num_points=num_points, num_bisections=num_bisections, name="level_distance")

    def distance(*args: PyTree, direction: PyTree, reach: Array | float, level: Array | float) -> Array:
        g, x = restrict_scalar("level_distance", f, argnums, args)
        least = jnp.asarray(level)
        if least.shape:
            raise ValueError(f"`level` of `level_distance` must be one number; got shape {least.shape}.")
        found = along(lambda point: ~(g(point) >= least), x, direction=direction, reach=reach)
        return jnp.where(jnp.isnan(g(x)) | jnp.isnan(least), jnp.nan, found)

    return distance


def _number(others: PyTree, x: PyTree) -> int:
    """How many inputs there are beside x."""
    checks.floating("others", others)
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(others)]
    counts = {shape[:1] for shape in shapes}
    if len(counts) != 1 or () in counts or (0,) in counts:
        raise ValueError(
            "`others` of `simplex` must have one leading axis, of the same length, at least 1, in each array; got "
            f"shapes {shapes}."
        )
    checks.same_structure("simplex", "others", jax.tree.map(lambda a: a[0], others), x)
    return shapes[0][0]


def _barycentric(corners: int, num_points: int) -> np.ndarray:
    """All weights that are multiples of 1/(n - 1) and sum to 1, those of the first corner falling."""
    steps = num_points - 1
    bars = itertools.combinations(range(steps + corners - 1), corners - 1)
    ends = [(-1, *places, steps + corners - 1) for places in bars]
    counts = np.diff(np.asarray(ends)) - 1
    return counts[::-1] / steps
