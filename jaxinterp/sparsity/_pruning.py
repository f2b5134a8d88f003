"""Pruning while training: an optimiser after whose updates some parameters are zero."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxinterp import checks
from jaxinterp.sparsity._budgets import Budget, check_budget, over_all
from jaxinterp.sparsity._gates import Granularity, Predicate, apply, full_gates, kernels, per_weight
from jaxinterp.sparsity._schedules import Schedule
from jaxinterp.typing import Array, PyTree

Score = Callable[[PyTree, PyTree], PyTree]
"""`(params, gradients) -> scores` of the same structure; the lowest are removed first."""


class PruneState(NamedTuple):
    """The state of a pruning transformation.

    Attributes:
      step: updates made, int32.
      masks: 1 for what is kept; `None` for parameters that are not pruned.
      sparsity: that was asked for when the masks were made.
      inner: the state of the optimiser.
    """

    step: Array
    masks: PyTree
    sparsity: Array
    inner: Any


def magnitude(params: PyTree, gradients: PyTree) -> PyTree:
    """Returns |p|, the usual score.

    >>> magnitude({"kernel": jnp.array([-2.0, 1.0])}, None)["kernel"].tolist()
    [2.0, 1.0]
    """
    del gradients
    return jax.tree.map(jnp.abs, params)


def saliency(params: PyTree, gradients: PyTree) -> PyTree:
    """Returns |p · gradient|, the change of the loss to first order when p is removed (Mozer & Smolensky, 1989).

    >>> saliency(jnp.array([-2.0, 1.0]), jnp.array([0.5, 3.0])).tolist()
    [1.0, 3.0]
    """
    return jax.tree.map(lambda p, g: jnp.abs(p * g), params, gradients)


def prune(
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    *,
    score: Score = magnitude,
    budget: Budget | None = None,
    predicate: Predicate = kernels,
    granularity: Granularity = per_weight,
    every: int = 1,
    regrow: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Returns an optimiser after whose t-th update a fraction `schedule(t)` of the selected parameters is zero.

    The masks are taken from the parameters after the update of the optimiser, :math:`\theta + u`; the update returned
    is u where the mask is 1, and :math:`-\theta` where it is 0, so `optax.apply_updates` gives exact zeros and nothing
    else needs to be called. In `optax.chain` it comes last: what changes the updates after it undoes the zeros.

    Without `regrow` the gradient is masked before the optimiser sees it, and what was removed stays so (gradual
    pruning). With it the gradient is dense and the masks are chosen anew: projected gradient descent, which is
    iterative hard thresholding for a constant schedule and `every=1`, and cyclical pruning for the schedule `cyclical`.
    The optimiser's own state, such as momentum, is not masked.

    The masks are renewed after each `every` updates, and where the schedule comes to rest: the target is reached
    exactly there, whatever the period.

    Args:
      optimizer: any gradient transformation.
      schedule: `step -> sparsity`: `one_shot`, `gradual`, `cyclical`, or any function.
      score: `magnitude`, `saliency`, or any function of parameters and gradients. NaN counts as the highest: the weight
        stays.
      budget: `over_all()` by default; `per_parameter()`, `erdos_renyi()`, `n_of_m(2, 4)`.
      predicate: `(path, value) -> bool`, which parameters are pruned; kernels by default.
      granularity: `per_weight`, `per_output_unit` or `per_filter`; the scores of a unit are summed, and the sparsity
        counts units. The outputs of the last layer are units as well: leave it out by the predicate.
      every: updates from one renewal of the masks to the next.
      regrow: whether what was removed can come back.

    Raises:
      TypeError: if `optimizer` is no gradient transformation, or a function is none.
      ValueError: if `every` is not positive; at `init` if nothing is selected, or the shape of a selected parameter
        does not suit the granularity or the budget; at `update` without `params`, or if the scores do not fit them.

    Source: Zhu & Gupta (2018); Blumensath & Davies (2009) for hard thresholding; Srinivas et al. (2022) for cycles.

    >>> import optax
    >>> optimizer = prune(optax.sgd(0.1), lambda step: 0.5 * (step >= 1))
    >>> params = {"kernel": jnp.array([3.0, -1.0, 0.5, 2.0])}
    >>> updates, state = optimizer.update({"kernel": jnp.ones(4)}, optimizer.init(params), params)
    >>> [round(v, 4) for v in optax.apply_updates(params, updates)["kernel"].tolist()]
    [2.9, 0.0, 0.0, 1.9]
    """
    chosen = over_all() if budget is None else budget
    functions = {"schedule": schedule, "score": score, "budget": chosen, "predicate": predicate}
    checks.functions("prune", **functions, granularity=granularity)
    checks.positive_integer("every", every)
    check_budget("prune", chosen)
    inner = wrapped("prune", optimizer)

    def init(params: PyTree) -> PruneState:
        masks = full_gates("prune", params, predicate, granularity, 1.0)
        jax.eval_shape(chosen, masks, jnp.zeros((), float))  # refuses shapes before anything is compiled
        return PruneState(jnp.zeros((), jnp.int32), masks, jnp.zeros((), float), inner.init(params))

    def update(
        gradients: PyTree, state: PruneState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, PruneState]:
        if params is None:
            raise ValueError("`prune` needs the parameters: call `update(gradients, state, params)`.")
        seen = gradients if regrow else apply(gradients, state.masks)
        updates, inner_state = inner.update(seen, state.inner, params, **extra)
        step = state.step + 1
        level, following = (jnp.asarray(schedule(t), float) for t in (step, step + 1))
        is_due = (step % every == 0) | ((level == following) & (level != state.sparsity))

        def renewed() -> PyTree:
            scores = _summed(score(optax.apply_updates(params, updates), gradients), state.masks)
            if regrow:
                return chosen(scores, level)
            open_ones = jax.tree.map(lambda s, m: jnp.where(m > 0, s, -jnp.inf), scores, state.masks)
            return jax.tree.map(jnp.multiply, chosen(open_ones, level), state.masks)

        masks, made_for = jax.lax.cond(is_due, lambda: (renewed(), level), lambda: (state.masks, state.sparsity))
        return masked(updates, params, masks), PruneState(step, masks, made_for, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def wrapped(method: str, optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """The optimiser, for further arguments of `update`; `TypeError` if it is none."""
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(f"`optimizer` of `{method}` must be a gradient transformation of Optax; got {optimizer!r}.")
    return optax.with_extra_args_support(optimizer)


def _summed(scores: PyTree, masks: PyTree) -> PyTree:
    """The scores of the pruned parameters, summed over the entries that share a mask."""

    def one(mask: Array | None, score: Array) -> Array | None:
        if mask is None:
            return None
        if len(mask.shape) != len(score.shape) or any(
            a not in (1, b) for a, b in zip(mask.shape, score.shape, strict=True)
        ):
            raise ValueError(
                "`score` of `prune` must return arrays like the parameters; "
                f"got shape {score.shape} for masks of shape {mask.shape}."
            )
        axes = tuple(i for i, (a, b) in enumerate(zip(mask.shape, score.shape, strict=True)) if a < b)
        return jnp.sum(score, axes, keepdims=True)

    return jax.tree.map(one, masks, scores, is_leaf=lambda leaf: leaf is None)


def masked(updates: PyTree, params: PyTree, masks: PyTree) -> PyTree:
    """Updates that keep what is masked at zero, exactly."""

    def one(mask: Array | None, update: Array, param: Array) -> Array:
        if mask is None:
            return update
        return jnp.where(jnp.broadcast_to(mask > 0, param.shape), update.astype(param.dtype), -param)

    return jax.tree.map(one, masks, updates, params, is_leaf=lambda leaf: leaf is None)
