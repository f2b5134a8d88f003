"""Axioms of attributions, as numbers."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxinterp import checks, tree
from jaxinterp.derivatives import restrict_scalar
from jaxinterp.typing import Array, PyTree, ScalarFn


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Completeness:
    """How far a map is from summing to the change of the output.

    Attributes:
      gap: the sum of the map minus f(x) - f(baseline), in units of f.
      relative: |gap| over the larger of |f(x) - f(baseline)| and the sum of the map's magnitudes; 0 where both vanish.
    """

    gap: Array
    relative: Array


def completeness_gap(f: ScalarFn, argnums: int | tuple[int, ...] = 0) -> Callable[..., Completeness]:
    r"""Completeness: returns `(attribution, *args, baseline=0) -> Completeness`, :math:`\sum_i \phi_i - (f(x) - f(b))`.

    Args:
      f: the function that was explained.
      argnums: the explained argument, or several.

    Raises:
      ValueError: at the call, if the map is not shaped like the explained argument.

    >>> from jaxinterp.attribution import integrated_gradients
    >>> f, x = lambda x: jnp.sum(x**3), jnp.array([1.0, 2.0])
    >>> bool(completeness_gap(f)(integrated_gradients(f)(x), x).relative < 1e-6)
    True
    """

    def gap(attribution: PyTree, *args: PyTree, baseline: PyTree = 0.0) -> Completeness:
        g, x = restrict_scalar("completeness_gap", f, argnums, args)
        attribution = jax.tree.map(
            jnp.asarray, checks.same_structure("completeness_gap", "attribution", attribution, x)
        )
        change = g(x) - g(tree.broadcast_prefix("baseline", baseline, x))
        total = tree.vdot(attribution, tree.ones_like(attribution))
        magnitude = tree.vdot(jax.tree.map(jnp.abs, attribution), tree.ones_like(attribution))
        difference = total - change.astype(total.dtype)
        scale = jnp.maximum(jnp.abs(change).astype(total.dtype), magnitude)
        is_zero = scale == 0
        return Completeness(difference, jnp.abs(difference) / jnp.where(is_zero, jnp.ones_like(scale), scale))

    return gap
