"""Sparse least squares on second moments: the lasso by coordinate descent, and selection by least-angle regression."""

import jax
import jax.numpy as jnp

from jaxinterp.typing import Array


def lasso(
    gram: Array, cross: Array, penalty: float, *, tolerance: float, max_sweeps: int
) -> tuple[Array, Array, Array]:
    r"""Minimises :math:`\tfrac12 b^\top G b - c^\top b + \alpha\|b\|_1` by cyclic coordinate descent.

    When the sweeps have settled which coefficients are zero and the signs of the others, these are the solution of a
    linear system; so the result is exact up to rounding, and differentiable.

    Args:
      gram: G, positive semi-definite, [features, features].
      cross: c, [features].
      penalty: α >= 0.
      tolerance: of the optimality conditions, relative to the largest \|c\|.
      max_sweeps: the most passes over all coefficients.

    Returns:
      b, by how much the optimality conditions are missed, relative to the largest \|c\|, and the number of sweeps.

    Source: Friedman, Hastie & Tibshirani (2010).

    >>> b, residual, _ = lasso(jnp.eye(2), jnp.array([3.0, 0.5]), 1.0, tolerance=1e-6, max_sweeps=100)
    >>> b.tolist()
    [2.0, 0.0]
    """
    g, c = jax.lax.stop_gradient((gram, cross))
    diagonal = jnp.diag(g)
    scale = jnp.maximum(jnp.max(jnp.abs(c)), jnp.asarray(jnp.finfo(c.dtype).tiny, c.dtype))
    level = jnp.asarray(penalty, c.dtype)
    alpha = jax.lax.stop_gradient(level)

    def violation(b: Array) -> Array:
        slope = jnp.dot(g, b, precision="highest") - c
        at_zero = jax.nn.relu(jnp.abs(slope) - alpha)
        return jnp.max(jnp.where(b == 0, at_zero, jnp.abs(slope + alpha * jnp.sign(b)))) / scale

    def update(j: Array, b: Array) -> Array:
        part = c[j] - jnp.dot(g[j], b, precision="highest") + diagonal[j] * b[j]
        shrunk = jnp.sign(part) * jax.nn.relu(jnp.abs(part) - alpha)
        is_empty = diagonal[j] == 0
        return b.at[j].set(jnp.where(is_empty, jnp.zeros_like(shrunk), shrunk / jnp.where(is_empty, 1, diagonal[j])))

    def sweep(state: tuple[Array, Array]) -> tuple[Array, Array]:
        b, count = state
        return jax.lax.fori_loop(0, b.shape[0], update, b), count + 1

    def goes_on(state: tuple[Array, Array]) -> Array:
        b, count = state
        return (violation(b) > tolerance) & (count < max_sweeps)

    b, count = jax.lax.while_loop(goes_on, sweep, (jnp.zeros_like(c), jnp.zeros((), jnp.int32)))
    signs = jnp.sign(jax.lax.stop_gradient(b))
    chosen = (signs != 0).astype(c.dtype)
    inside = gram * jnp.outer(chosen, chosen) + jnp.diag(1 - chosen)
    constant = chosen * jnp.linalg.solve(jax.lax.stop_gradient(inside), chosen * (c - alpha * signs))
    missed, missed_before = violation(constant), violation(b)
    is_settled = missed <= jnp.maximum(missed_before, float(jnp.finfo(c.dtype).eps) ** 0.5)
    b = jnp.where(missed <= missed_before, constant, b)
    inside = jnp.where(is_settled, inside, jnp.eye(len(c), dtype=c.dtype))
    polished = chosen * jnp.linalg.solve(inside, chosen * (cross - level * signs))
    polished = jnp.where(is_settled, polished, jnp.zeros_like(polished))
    return b + (polished - jax.lax.stop_gradient(polished)), violation(b), count  # with the derivative of the optimum


def least_angle(gram: Array, cross: Array, num_features: int) -> Array:
    """Which features enter the least-angle path first, as a mask [features] of zeros and ones.

    One that depends linearly on those before does not enter.

    Args:
      gram: second moments of the centred features, [features, features].
      cross: their moments with the centred target, [features].
      num_features: how many.

    Source: Efron, Hastie, Johnstone & Tibshirani (2004).

    >>> least_angle(jnp.eye(3), jnp.array([1.0, -3.0, 2.0]), 2).tolist()
    [0.0, 1.0, 1.0]
    """
    g, c = jax.lax.stop_gradient((gram, cross))

    def enter(_: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        chosen, b = state
        rest = c - jnp.dot(g, b, precision="highest")
        inside = g * jnp.outer(chosen, chosen) + jnp.diag(1 - chosen)
        explained = jnp.linalg.solve(inside, chosen[:, None] * g)  # by the chosen, of each feature
        new = jnp.diag(g) - jnp.sum(chosen[:, None] * g * explained, 0)
        is_barred = (chosen > 0) | (new <= 100 * float(jnp.finfo(g.dtype).eps) * jnp.diag(g))
        candidate = jnp.argmax(jnp.where(is_barred, -1, jnp.abs(rest)))
        chosen = jnp.where(jnp.all(is_barred), chosen, chosen.at[candidate].set(1))
        level = jnp.max(jnp.abs(rest) * chosen)
        inside = g * jnp.outer(chosen, chosen) + jnp.diag(1 - chosen)
        direction = chosen * jnp.linalg.solve(inside, chosen * jnp.sign(rest))
        change = jnp.dot(g, direction, precision="highest")
        # The largest step at which the correlation of a feature outside, of either sign, has caught up.
        steps = jnp.stack([(level - rest) / _nonzero(1 - change), (level + rest) / _nonzero(1 + change)])
        is_open = ~is_barred[None] & (chosen == 0)[None] & (steps > 0)
        return chosen, b + jnp.min(jnp.where(is_open, steps, level)) * direction

    start = (jnp.zeros_like(c), jnp.zeros_like(c))
    return jax.lax.fori_loop(0, min(num_features, c.shape[0]), enter, start)[0]


def _nonzero(value: Array) -> Array:
    return jnp.where(value == 0, jnp.ones_like(value), value)
