"""Axioms of attributions, as numbers."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxinterp import checks, local, tree
from jaxinterp.derivatives import weighted_sum
from jaxinterp.interpreters import restrict_scalar
from jaxinterp.typing import Array, PyTree, ScalarFn


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Completeness:
    """How far a map is from summing to the change of the output.

    Attributes:
      gap: the sum of the map minus f(x) - f(baseline), in units of f; with a background, f(baseline) is its mean there,
        and without baseline 0.
      relative: |gap| over the larger of |f(x) - f(baseline)| and the sum of the map's magnitudes; 0 where both vanish.
    """

    gap: Array
    relative: Array


def completeness_gap(f: ScalarFn, argnums: int | tuple[int, ...] = 0) -> Callable[..., Completeness]:
    r"""Completeness: returns `(attribution, *args, baseline=0, background=None) -> Completeness`.

    :math:`\sum_i \phi_i - (f(x) - f(b))`, where f(b) is the mean over the rows of the background if one is given. With
    `baseline=None` it counts as 0: for maps that account for f(x) itself, such as `attribution.lrp`.

    Args:
      f: the function that was explained.
      argnums: the explained argument, or several.

    Raises:
      ValueError: at the call, if the map is not shaped like the explained argument, or the rows of the background are
        not.

    >>> from jaxinterp.attribution import integrated_gradients
    >>> f, x = lambda x: jnp.sum(x**3), jnp.array([1.0, 2.0])
    >>> bool(completeness_gap(f)(integrated_gradients(f)(x), x).relative < 1e-6)
    True
    """

    def gap(
        attribution: PyTree, *args: PyTree, baseline: PyTree | None = 0.0, background: PyTree | None = None
    ) -> Completeness:
        g, x = restrict_scalar("completeness_gap", f, argnums, args)
        attribution = jax.tree.map(
            jnp.asarray, checks.same_structure("completeness_gap", "attribution", attribution, x)
        )
        value = g(x)
        if background is None and baseline is None:
            before = jnp.zeros_like(value)
        elif background is None:
            before = g(tree.broadcast_prefix("baseline", baseline, x))
        else:
            rows, count = local.checked_background("completeness_gap", background, x)
            weights = jnp.full(count, 1 / count, tree.accumulator(jnp.result_type(*jax.tree.leaves(x))))
            before = weighted_sum(g, rows, weights, chunk_size=16)
        change = value - before
        total = tree.vdot(attribution, tree.ones_like(attribution))
        magnitude = tree.vdot(jax.tree.map(jnp.abs, attribution), tree.ones_like(attribution))
        difference = total - change.astype(total.dtype)
        scale = jnp.maximum(jnp.abs(change).astype(total.dtype), magnitude)
        is_zero = scale == 0
        return Completeness(difference, jnp.abs(difference) / jnp.where(is_zero, jnp.ones_like(scale), scale))

    return gap
