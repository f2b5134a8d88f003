"""What training minimises: cross-entropy, penalties of smoothness, and regularisers of gates."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from jaxinterp import sparsity
from jaxinterp.penalties import Penalty
from jaxinterp.typing import Array, Key, PyTree


@dataclasses.dataclass(frozen=True)
class WeightedPenalty:
    """A penalty of `jaxinterp.penalties` with its weight in the loss."""

    name: str
    penalty: Penalty
    weight: float


@dataclasses.dataclass(frozen=True)
class GateRegulariser:
    r"""How one tree of gates enters training.

    Attributes:
      bimodal: α of the term :math:`\alpha \sum g(1 - g)`.
      sparsity: β of the term :math:`\beta \sum g`.
      sampled: whether a step draws its mask (Bernoulli), or takes the most probable one.
    """

    bimodal: float
    sparsity: float
    sampled: bool


Objective = Callable[[PyTree, tuple, PyTree, Key, tuple[Array, Array]], tuple[Array, tuple[PyTree, dict[str, Array]]]]
"""`(params, gates, state, key, (x, y)) -> (loss, (new_state, metrics))`."""


def make_objective(
    train_apply: Callable[..., tuple[Array, PyTree]],
    apply: Callable[..., Array],
    penalties: Sequence[WeightedPenalty] = (),
    regularisers: Sequence[GateRegulariser] = (),
) -> Objective:
    r"""Returns the objective, a mean over the batch.

    :math:`L = \frac1B \sum_i \big[\mathrm{CE}(f(x_i), y_i) + \sum_p \lambda_p P_p(x_i, y_i)\big] + \sum_g [\alpha_g
    \sum g(1-g) + \beta_g \sum g]`. The masks are made once per step and shared by the loss and all penalties. The
    penalties see the network in evaluation mode, with the running statistics from before the step.

    Args:
      train_apply: `(params, state, key, batch) -> (logits, new_state)`.
      apply: `(params, state, x) -> logits` for one example, in evaluation mode.
      penalties: with their weights.
      regularisers: one for each tree of gates, in the order of `TrainState.gates`.
    """
    names = _distinct([term.name for term in penalties])

    def objective(
        params: PyTree, gates: tuple, state: PyTree, key: Key, batch: tuple[Array, Array]
    ) -> tuple[Array, tuple[PyTree, dict[str, Array]]]:
        x, y = batch
        masked = apply_gates(params, make_masks(jax.random.fold_in(key, 0), gates, regularisers))
        logits, new_state = train_apply(masked, state, jax.random.fold_in(key, 1), x)
        cross_entropy = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))
        metrics = {"cross_entropy": cross_entropy, "accuracy": jnp.mean(jnp.argmax(logits, -1) == y)}
        loss = cross_entropy
        for i, term in enumerate(penalties):
            keys = jax.random.split(jax.random.fold_in(key, 2 + i), y.shape[0])
            values = jax.vmap(functools.partial(term.penalty, apply, masked, state))(keys, x, y)
            metrics[names[i]] = jnp.mean(values)
            loss = loss + term.weight * metrics[names[i]]
        for tree, rule in zip(gates, regularisers, strict=True):
            loss = loss + rule.bimodal * sparsity.bimodal_penalty(tree)
            loss = loss + rule.sparsity * sparsity.sparsity_penalty(tree)
        return loss, (new_state, {"loss": loss, **metrics})

    return objective


def make_masks(key: Key, gates: tuple, regularisers: Sequence[GateRegulariser]) -> tuple:
    """The masks of one training step, one for each tree of gates."""
    return tuple(
        sparsity.sample(jax.random.fold_in(key, i), tree) if term.sampled else sparsity.threshold(tree)
        for i, (tree, term) in enumerate(zip(gates, regularisers, strict=True))
    )


def apply_gates(params: PyTree, masks: tuple) -> PyTree:
    """The parameters times all masks."""
    for mask in masks:
        params = sparsity.apply(params, mask)
    return params


def final_masks(gates: tuple) -> tuple:
    """The masks with which a network is evaluated and reported: the thresholded gates."""
    return tuple(sparsity.threshold(tree) for tree in gates)


def final_params(params: PyTree, gates: tuple) -> PyTree:
    """The parameters times their final masks."""
    return apply_gates(params, final_masks(gates))


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, those that occur several times with their number."""
    return [f"{name}_{names[:i].count(name)}" if names.count(name) > 1 else name for i, name in enumerate(names)]
