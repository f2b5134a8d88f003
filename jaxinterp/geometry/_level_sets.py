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
      weights: of the corners at each grid point, [points, corners]; the sum of each row is 1.
      values: f at each grid point, a pytree of arrays [points, ...].
    """

    weights: Array
    values: PyTree


class _Walk(NamedTuple):
    point: PyTree
    value: Array
    slope: PyTree
    step: Array
    tried: Array
    accepted: Array


def level_set_traversal(
    f: ScalarFn,
    argnums: int | tuple[int, ...] = 0,
    *,
    step_size: float = 0.02,
    num_steps: int = 400,
    tolerance: float = 1e-3,
) -> Callable[..., LevelSetPoint]:
    r"""Walks towards a target where f stays: returns `(*args, target, drop) -> LevelSetPoint`.

    With :math:`\Delta = t - x` and the unit gradient u, each step is
    :math:`x \leftarrow x + \eta\,(\Delta - u u^\top \Delta) + c\,u`, along the level set, and back up to
    :math:`f(x_0)` by one Newton step, :math:`c = (f(x_0) - f(x))_+ / \|\nabla f(x)\|`, at most as long as the first. A
    step after which f is below :math:`f(x_0) - \text{drop}` is not taken, and η halved; so f is never below that on
    the points visited. It ends within `tolerance` times the first distance of the target, where the target lies along
    the gradient, where no step can be taken, or after `num_steps` steps were tried.

    With the log-probability of a class for f it finds blind spots: images of other classes of which the network is as
    sure as of x. Not differentiable.

    Args:
      f: a scalar function, such as `heads.log_prob(logits)`.
      argnums: the argument, or several, that moves.
      step_size: η.
      num_steps: how many steps are tried at most.
      tolerance: in units of the first distance.

    Returns:
      A function of f's arguments and the keywords `target` (like x) and `drop` (>= 0, in the units of f; 0.05 by
      default; curved level sets cannot be followed with 0).

    Raises:
      TypeError: at the call, if f is not scalar or the input not floating-point.
      ValueError: if an option is not positive, `drop` negative, or the target unlike x.

    Source: Balasubramanian, Sriramanan, Sadasivan & Feizi (2023), who correct by a signed step of fixed size instead.

    >>> walk = level_set_traversal(lambda x: -x[0])
    >>> found = walk(jnp.zeros(2), target=jnp.array([3.0, 4.0]))
    >>> round(float(found.distance), 3), round(float(found.value), 3) == 0
    (3.0, True)
    """
    checks.positive_integer("num_steps", num_steps)
    checks.positive("step_size", step_size)
    checks.positive("tolerance", tolerance)

    def traverse(*args: PyTree, target: PyTree, drop: Array | float = 0.05) -> LevelSetPoint:
        g, x = restrict_scalar("level_set_traversal", f, argnums, args)
        target = checks.same_structure("level_set_traversal", "target", target, x)
        allowed = checks.distance("drop", drop)
        look = loop_safe(jax.value_and_grad(g))
        level, slope = look(x)
        near = tolerance * tree.norm(tree.sub(target, x))

        def directions(walk: _Walk) -> tuple[PyTree, PyTree, Array]:
            """The way to the target along the level set, the unit gradient, and the length of the gradient."""
            way, length = tree.sub(target, walk.point), tree.norm(walk.slope)
            unit = tree.scale(jnp.where(length > 0, 1 / jnp.where(length > 0, length, 1), 0), walk.slope)
            return tree.axpy(-tree.vdot(unit, way), unit, way), unit, length

        def goes_on(walk: _Walk) -> Array:
            is_far = tree.norm(directions(walk)[0]) > near
            return (walk.tried < num_steps) & is_far & (walk.step >= SMALLEST_STEP * step_size)

        def move(walk: _Walk) -> _Walk:
            way, unit, length = directions(walk)
            missing = jnp.maximum(level - walk.value, 0).astype(length.dtype) / jnp.where(length > 0, length, 1)
            lift = jnp.minimum(missing, walk.step * tree.norm(way))
            point = tree.cast_like(tree.axpy(lift, unit, tree.axpy(walk.step, way, walk.point)), x)
            value, slope = look(point)
            is_kept = value >= level - allowed.astype(level.dtype)
            point, value, slope = jax.tree.map(
                lambda new, old: jnp.where(is_kept, new, old),
                (point, value, slope),
                (walk.point, walk.value, walk.slope),
            )
            step = jnp.where(is_kept, jnp.minimum(2 * walk.step, step_size), walk.step / 2)
            return _Walk(point, value, slope, step, walk.tried + 1, walk.accepted + is_kept.astype(jnp.int32))

        zero = jnp.zeros((), jnp.int32)
        start = _Walk(x, level, slope, jnp.asarray(step_size, near.dtype), zero, zero)
        end = jax.lax.while_loop(goes_on, move, start)
        return LevelSetPoint(end.point, end.value, tree.norm(tree.sub(target, end.point)), end.accepted)

    return traverse


def simplex(
    f: Callable[..., PyTree],
    argnums: int | tuple[int, ...] = 0,
    *,
    num_points: int = 17,
    chunk_size: int | None = None,
) -> Callable[..., Simplex]:
    r"""Values on the convex hull of x and other inputs: returns `(*args, corners) -> Simplex`.

    The grid holds all :math:`\sum_i w_i x_i` whose weights are multiples of 1/(n - 1) and sum to 1. Two corners make a
    linear path of n points from x, three a triangle of n(n + 1)/2.

    Args:
      f: any function.
      argnums: the argument, or several, that varies.
      num_points: n, on each edge; at least 2.
      chunk_size: points computed together; one at a time by default.

    Returns:
      A function of f's arguments and the keyword `corners`: the other inputs, like x with a leading axis.

    Raises:
      TypeError: at the call, if the input or the corners are not floating-point.
      ValueError: if there are fewer than two points, or at the call if the corners are unlike x.

    Source: Balasubramanian, Sriramanan, Sadasivan & Feizi (2023), for paths and triangles.

    >>> triangle = simplex(lambda x: x[0] * x[1], num_points=3)
    >>> found = triangle(jnp.zeros(2), corners=jnp.array([[2.0, 0.0], [0.0, 2.0]]))
    >>> found.weights.shape, found.values.tolist()
    ((6, 3), [0.0, 0.0, 0.0, 0.0, 1.0, 0.0])
    """
    if checks.positive_integer("num_points", num_points) < 2:
        raise ValueError("`num_points` of `simplex` must be 2 or more; got 1.")
    checks.optional_chunk_size(chunk_size)

    def probe(*args: PyTree, corners: PyTree) -> Simplex:
        g, x = restrict("simplex", f, argnums, args)
        count = _others(corners, x)
        grid = jnp.asarray(_barycentric(count + 1, num_points))
        every = jax.tree.map(lambda a, b: jnp.concatenate([a[None], jnp.asarray(b, a.dtype)]), x, corners)

        def value(weights: Array) -> PyTree:
            return g(jax.tree.map(lambda a: jnp.tensordot(weights.astype(a.dtype), a, 1), every))

        return Simplex(grid, jax.lax.map(loop_safe(value), grid, batch_size=chunk_size))

    return probe


def level_distance(
    f: ScalarFn, argnums: int | tuple[int, ...] = 0, *, num_points: int = 64, num_bisections: int = 20
) -> Callable[..., Array]:
    r"""How far f stays at a level along a ray: returns `(*args, direction, reach, level) -> distance`.

    The smallest t with :math:`f(x + t\,v/\|v\|) < \text{level}`: the first of equally spaced points up to `reach`, then
    bisection. Infinite if there is none. A fall and rise between two points is not seen; NaN counts as below. Mapped
    over directions it is the star-shaped part of the region of confidence around x. Not differentiable.

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
    along = first_change("level_distance", num_points=num_points, num_bisections=num_bisections)

    def distance(*args: PyTree, direction: PyTree, reach: Array | float, level: Array | float) -> Array:
        g, x = restrict_scalar("level_distance", f, argnums, args)
        return along(lambda point: ~(g(point) >= level), x, direction, reach)

    return distance


def _others(corners: PyTree, x: PyTree) -> int:
    """How many corners there are beside x."""
    checks.floating("simplex", corners)
    counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(corners)}
    if len(counts) != 1 or () in counts or (0,) in counts:
        raise ValueError(
            "`corners` of `simplex` must have one leading axis, of the same length, at least 1, in each array; got "
            f"shapes {[jnp.shape(leaf) for leaf in jax.tree.leaves(corners)]}."
        )
    checks.same_structure("simplex", "corners", jax.tree.map(lambda a: a[0], corners), x)
    ((count,),) = counts
    return count


def _barycentric(corners: int, num_points: int) -> np.ndarray:
    """All weights that are multiples of 1/(n - 1) and sum to 1, those of the first corner falling."""
    steps = num_points - 1
    bars = itertools.combinations(range(steps + corners - 1), corners - 1)
    ends = [(-1, *places, steps + corners - 1) for places in bars]
    counts = np.diff(np.asarray(ends)) - 1
    return counts[::-1].astype(np.result_type(float, np.float32)) / steps
