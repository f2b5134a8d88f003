"""Worst-case search: small changes of an input that raise a loss or change the prediction."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxinterp import checks, interpreters, tree
from jaxinterp.derivatives import Norm, first_change, jacobian, projected_ascent
from jaxinterp.interpreters import restrict_scalar
from jaxinterp.robustness._events import restricted_margins, same_prediction
from jaxinterp.typing import Array, Key, LogitsFn, PyTree, ScalarFn


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Attack:
    """The worst input that was found.

    Attributes:
      point: the input.
      value: the attacked function there: the loss, or for `deepfool` the smallest margin, negative where the prediction
        has changed.
      distance: Euclidean, from x.
    """

    point: PyTree
    value: Array
    distance: Array


def fgsm(f: ScalarFn, argnums: int | tuple[int, ...] = 0) -> Callable[..., Attack]:
    r"""Fast gradient sign method: returns `(*args, radius) -> Attack` at :math:`x + r\,\operatorname{sign}\nabla f(x)`.

    Args:
      f: what is raised, such as `heads.cross_entropy(logits)`.
      argnums: the argument, or several, that is changed.

    Returns:
      A function of f's arguments and the keyword `radius` (r >= 0, per entry, in the units of x).

    Raises:
      TypeError: at the call, if f is not scalar or the input not floating-point.

    Source: Goodfellow, Shlens & Szegedy (2015).

    >>> fgsm(lambda x: 3 * x[0] - x[1])(jnp.zeros(2), radius=0.5).point.tolist()
    [0.5, -0.5]
    """

    def attack(*args: PyTree, radius: Array | float) -> Attack:
        g, x = restrict_scalar("fgsm", f, argnums, args)
        reach = checks.distance("radius", radius)
        point = tree.axpy(reach, jax.tree.map(jnp.sign, jax.grad(g)(x)), x)
        return Attack(point, g(point), tree.norm(tree.sub(point, x)))

    return attack


def pgd(
    f: ScalarFn,
    argnums: int | tuple[int, ...] = 0,
    *,
    norm: Norm = "l2",
    num_steps: int = 20,
    num_restarts: int = 1,
    step_size: float = 0.125,
) -> Callable[..., Attack]:
    r"""Projected gradient ascent: returns `(key, *args, radius) -> Attack`, the largest f found in a ball around x.

    :math:`x \leftarrow \Pi\bigl(x + \eta r\, d\bigr)` with d the gradient over its norm ("l2") or its sign ("linf"),
    and Π the projection on the ball, then on the box from `low` to `high`, which should hold x. The first run starts at
    x, the others at random points on the sphere (corners of the cube); the best point of all steps and runs is
    returned. The ball is kept up to the rounding of x. From an input of pure noise, with the log-probability of a class
    for f, it makes fooling inputs: nonsense that the network is sure of (Nguyen, Yosinski & Clune, 2015).

    Args:
      f: what is raised, such as `heads.cross_entropy(logits)`.
      argnums: the argument, or several, that is changed.
      norm: of the ball, "l2" or "linf".
      num_steps: of each run.
      num_restarts: how many runs.
      step_size: η, in units of the radius.

    Returns:
      A function of a key, f's arguments and the keywords `radius` (r >= 0, in the units of x), `low` and `high` (pytree
      prefixes of x; no limits by default).

    Raises:
      TypeError: at the call, if f is not scalar, the input not floating-point or the key not a typed key.
      ValueError: if a count is not positive, the norm unknown, or r negative.

    Source: Madry, Makelov, Schmidt, Tsipras & Vladu (2018).

    >>> found = pgd(lambda x: 3 * x[0] - 4 * x[1])(jax.random.key(0), jnp.zeros(2), radius=1.0)
    >>> round(float(found.value), 4), round(float(found.distance), 4)
    (5.0, 1.0)
    """
    climb = projected_ascent(norm=norm, num_steps=num_steps, num_restarts=num_restarts, step_size=step_size)

    def attack(key: Key, *args: PyTree, radius: Array | float, low: PyTree = None, high: PyTree = None) -> Attack:
        key = checks.key("pgd", key)
        g, x = restrict_scalar("pgd", f, argnums, args)
        point, value = climb(key, g, x, radius=radius, low=low, high=high)
        return Attack(point, value, tree.norm(tree.sub(point, x)))

    return attack


def deepfool(
    f: LogitsFn, argnums: int | tuple[int, ...] = 0, *, num_steps: int = 50, overshoot: float = 0.02
) -> Callable[..., Attack]:
    r"""DeepFool: returns `(*args) -> Attack`, an input near x with another prediction.

    Steps to the nearest of the linearised boundaries, :math:`\delta = -\frac{g_i}{\|\nabla g_i\|^2}\nabla g_i` for the
    margin with the smallest :math:`|g_i|/\|\nabla g_i\|`, until the prediction has changed; all steps together are
    lengthened by the overshoot. Not differentiable.

    Args:
      f: `(*args) -> [classes]`.
      argnums: the argument, or several, that is changed.
      num_steps: the most steps.
      overshoot: by how much, relative.

    Returns:
      A function of f's arguments. The value is the smallest margin: not negative if no change was found.

    Raises:
      TypeError: at the call, if f does not return class scores or the input is not floating-point.
      ValueError: if the count is not positive or the overshoot negative.

    Source: Moosavi-Dezfooli, Fawzi & Frossard (2016).

    >>> found = deepfool(lambda x: jnp.stack([x[0], 0 * x[0]]))(jnp.array([2.0, 1.0]))
    >>> [round(float(v), 3) for v in found.point], bool(found.value < 0)
    ([-0.04, 1.0], True)
    """
    checks.positive_integer("num_steps", num_steps)
    checks.non_negative("overshoot", overshoot)

    def attack(*args: PyTree) -> Attack:
        margins, x, _ = restricted_margins("deepfool", f, argnums, same_prediction, args)
        linearise = interpreters.loop_safe(jacobian(margins))

        def at(change: PyTree) -> PyTree:
            return tree.axpy(1 + overshoot, change, x)

        def step(state: tuple[Array, PyTree]) -> tuple[Array, PyTree]:
            count, change = state
            values, rows = linearise(tree.add(x, change))
            squares = jax.vmap(tree.squared_norm)(rows)
            values = values.astype(squares.dtype)
            is_flat = squares == 0
            squares = jnp.where(is_flat, jnp.ones_like(squares), squares)
            chosen = jnp.argmin(jnp.where(is_flat, jnp.inf, jnp.abs(values) / jnp.sqrt(squares)))
            sizes = jnp.where(jnp.isinf(values), 0, jnp.abs(values))  # a class that is masked has no boundary
            beyond = 4 * float(jnp.finfo(values.dtype).eps) * jnp.max(sizes)  # not onto the boundary
            length = jnp.where(is_flat[chosen], 0.0, -(jnp.abs(values[chosen]) + beyond) / squares[chosen])
            return count + 1, tree.axpy(length, jax.tree.map(lambda row: row[chosen], rows), change)

        def goes_on(state: tuple[Array, PyTree]) -> Array:
            count, change = state
            return (count < num_steps) & jnp.all(margins(at(change)) >= 0)

        _, change = jax.lax.while_loop(goes_on, step, (jnp.zeros((), jnp.int32), tree.zeros_like(x)))
        point = at(change)
        return Attack(point, jnp.min(margins(point)), tree.norm(tree.sub(point, x)))

    return attack


def boundary_distance(
    f: LogitsFn, argnums: int = 0, *, num_points: int = 64, num_bisections: int = 20
) -> Callable[..., Array]:
    r"""Distance to the boundary along a direction: returns `(*args, direction, reach) -> distance`.

    The smallest t with another prediction at :math:`x + t\,v/\|v\|`: the first of equally spaced points up to `reach`
    where it differs, then bisection. Infinite if none differs, NaN where f(x) is. A change and back between two points
    is not seen; a value that is not a number counts as a change. Not differentiable.

    Args:
      f: `(*args) -> [classes]`.
      argnums: the argument that is changed.
      num_points: equally spaced points.
      num_bisections: each halves the error.

    Returns:
      A function of f's arguments and the keywords `direction` (v, like x, not zero) and `reach` (> 0, in the units of
      x).

    Raises:
      TypeError: at the call, if f does not return class scores or the input is not floating-point.
      ValueError: if a count is not positive, or the direction is zero or unlike x.

    >>> f = lambda x: jnp.stack([x[0], 0 * x[0]])
    >>> round(float(boundary_distance(f)(jnp.array([2.0, 1.0]), direction=jnp.array([-3.0, 0.0]), reach=10.0)), 4)
    2.0
    """
    along = first_change(num_points=num_points, num_bisections=num_bisections, name="boundary_distance")

    def distance(*args: PyTree, direction: PyTree, reach: Array | float) -> Array:
        margins, x, clean = restricted_margins("boundary_distance", f, argnums, same_prediction, args)
        found = along(lambda point: ~jnp.all(margins(point) >= 0), x, direction=direction, reach=reach)
        return jnp.where(jnp.any(jnp.isnan(clean)), jnp.nan, found)

    return distance
