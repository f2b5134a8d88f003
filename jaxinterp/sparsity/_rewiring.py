"""Sparse training: connections that move while their number stays."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxinterp import checks, tree
from jaxinterp.sparsity._budgets import Budget, check_budget, highest, per_parameter
from jaxinterp.sparsity._gates import Predicate, apply, full_gates, kernels, per_weight
from jaxinterp.sparsity._pruning import magnitude, masked, wrapped
from jaxinterp.sparsity._schedules import sparsity_level
from jaxinterp.typing import Array, Key, PyTree


class RewireState(NamedTuple):
    """The state of `rewire`.

    Attributes:
      step: updates made, int32.
      masks: 1 for what is connected; `None` for parameters that are dense.
      key: the data of the key of random growth, which checkpoints keep more readily than a key.
      inner: the state of the optimiser.
    """

    step: Array
    masks: PyTree
    key: Array
    inner: Any


def rewire(
    optimizer: optax.GradientTransformation,
    sparsity: float,
    *,
    key: Key,
    budget: Budget | None = None,
    predicate: Predicate = kernels,
    by_gradient: bool = True,
    fraction: float = 0.3,
    every: int = 100,
    end: int,
) -> optax.GradientTransformationExtraArgs:
    r"""Returns an optimiser that trains a sparse network from the start, and moves its connections.

    The first masks are random. After each `every` updates, in each parameter, a fraction
    :math:`\frac{\alpha}{2}(1 + \cos(\pi t / T))` of its connections, those of least magnitude, is removed, and as many
    are added at zero: where the gradient is largest (RigL), or at random (SET). The number in each parameter stays.

    Args:
      optimizer: any gradient transformation; it sees masked gradients.
      sparsity: fraction removed.
      key: decides the first masks and random growth.
      budget: how the sparsity is divided, `per_parameter()` by default. A pattern inside a parameter, such as that of
        `n_of_m`, is lost with the first move.
      predicate: `(path, value) -> bool`, which parameters are sparse.
      by_gradient: grow by gradient, or at random.
      fraction: α.
      every: updates from one move to the next.
      end: T, after which the connections stay.

    Raises:
      TypeError: if `optimizer` is no gradient transformation, or a function is none.
      ValueError: if an option is out of its range; at `init` if nothing is selected; at `update` without `params`.

    Source: Mocanu et al. (2018) for SET; Evci, Gale, Menick, Castro & Elsen (2020) for RigL.

    >>> import optax
    >>> optimizer = rewire(optax.sgd(0.1), 0.5, key=jax.random.key(0), end=10, every=1)
    >>> params = {"kernel": jnp.array([3.0, -1.0, 0.5, 2.0])}
    >>> updates, state = optimizer.update({"kernel": jnp.ones(4)}, optimizer.init(params), params)
    >>> int(jnp.sum(optax.apply_updates(params, updates)["kernel"] != 0)) <= 2
    True
    """
    level = sparsity_level("sparsity", sparsity)
    checks.key("rewire", key)
    checks.positive_integer("every", every)
    checks.positive_integer("end", end)
    checks.share("fraction", fraction)
    chosen = per_parameter() if budget is None else budget
    checks.functions("rewire", budget=chosen, predicate=predicate)
    check_budget("rewire", chosen)
    inner = wrapped("rewire", optimizer)

    def init(params: PyTree) -> RewireState:
        gates = full_gates("rewire", params, predicate, per_weight, 1.0)
        first, later = jax.random.split(key)
        masks = chosen(tree.uniform_like(first, gates), level)
        return RewireState(jnp.zeros((), jnp.int32), masks, jax.random.key_data(later), inner.init(params))

    def update(
        gradients: PyTree, state: RewireState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, RewireState]:
        if params is None:
            raise ValueError("`rewire` needs the parameters: call `update(gradients, state, params)`.")
        updates, inner_state = inner.update(apply(gradients, state.masks), state.inner, params, **extra)
        step = state.step + 1
        share = fraction / 2 * (1 + jnp.cos(jnp.pi * step / end))

        growth = jax.random.wrap_key_data(state.key, impl=jax.random.key_impl(key))

        def moved() -> PyTree:
            weights = magnitude(optax.apply_updates(params, updates), gradients)
            wishes = (
                magnitude(gradients, None)
                if by_gradient
                else tree.uniform_like(jax.random.fold_in(growth, step), weights)
            )
            return jax.tree.map(
                lambda m, w, g: None if m is None else _moved(m, w, g, share),
                state.masks,
                weights,
                wishes,
                is_leaf=lambda leaf: leaf is None,
            )

        masks = jax.lax.cond((step % every == 0) & (step < end), moved, lambda: state.masks)
        return masked(updates, params, masks), RewireState(step, masks, state.key, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _moved(mask: Array, weights: Array, wishes: Array, share: Array) -> Array:
    """A mask with as many ones, of which a share is new."""
    flat = mask.ravel() > 0
    number = jnp.sum(flat, dtype=jnp.int32)
    count = jnp.round(share * number).astype(jnp.int32)
    kept = highest(jnp.where(flat, weights.ravel(), -jnp.inf), number - count)
    grown = highest(jnp.where(kept, -jnp.inf, wishes.ravel()), count)
    return (kept | grown).reshape(mask.shape).astype(mask.dtype)
