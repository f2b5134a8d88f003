"""What average-case robustness is for: classes that are less robust than others, and training for it."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxinterp import checks, tree
from jaxinterp.robustness._events import leads
from jaxinterp.robustness._linearised import sigmoid_loss, taylor
from jaxinterp.typing import Array, Key, PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ClassRobustness:
    """The robustness of each class.

    Attributes:
      mean: over the examples of the class, [classes]; NaN for a class without examples, and for all of them if a label
        is no class.
      stderr: of the mean over the examples, [classes]; NaN for fewer than two.
      count: of examples, [classes].
    """

    mean: Array
    stderr: Array
    count: Array


def by_class(probabilities: Array, labels: Array, num_classes: int) -> ClassRobustness:
    r"""Robustness bias: the mean probability to survive, class by class.

    Args:
      probabilities: of the examples, [examples], from any estimator.
      labels: their classes, true or predicted, [examples].
      num_classes: how many classes there are.

    Raises:
      TypeError: if the labels are not integers.
      ValueError: if the shapes do not fit, or a label is no class.

    Source: Nanda, Dooley, Singla, Feizi & Dickerson (2021); by probabilities Han, Srinivas & Lakkaraju (2024).

    >>> found = by_class(jnp.array([1.0, 0.5, 0.75]), jnp.array([0, 0, 1]), 2)
    >>> found.mean.tolist(), found.count.tolist()
    ([0.75, 0.75], [2, 1])
    """
    checks.positive_integer("num_classes", num_classes)
    p, classes = jnp.asarray(probabilities), jnp.asarray(labels)
    if p.ndim != 1 or p.shape != classes.shape:
        raise ValueError(f"`by_class` needs a label for each probability; got shapes {p.shape} and {classes.shape}.")
    if not jnp.issubdtype(classes.dtype, jnp.integer):
        raise TypeError(f"`labels` of `by_class` must be integers; got dtype {classes.dtype}.")
    known = checks.concrete(classes)
    if known is not None and ((known < 0) | (known >= num_classes)).any():
        wrong = known[(known < 0) | (known >= num_classes)]
        raise ValueError(f"`labels` of `by_class` must be between 0 and {num_classes - 1}; got {wrong[:6]}.")
    member = (classes[None] == jnp.arange(num_classes, dtype=classes.dtype)[:, None]).astype(p.dtype)
    count = jnp.sum(member, 1)
    valid = jnp.all((classes >= 0) & (classes < num_classes))
    mean = jnp.where(valid, jnp.sum(jnp.where(member > 0, p[None], 0), 1) / count, jnp.nan)
    square = jnp.sum(jnp.where(member > 0, (p[None] - mean[:, None]) ** 2, 0), 1)
    return ClassRobustness(mean, jnp.sqrt(square / (count * (count - 1))), jnp.sum(member > 0, 1, dtype=jnp.int32))


def fragility(stddev: float) -> Callable[[Callable[..., Array], PyTree, PyTree, Key, PyTree, Array], Array]:
    r"""A penalty that raises average-case robustness: :math:`-\log F(z)` of the label's linearised margins.

    :math:`F(z) = 1/(1 + \sum_i e^{-z_i})` with :math:`z_i = (f_y - f_i)(x)/(\sigma\|\nabla(f_y - f_i)(x)\|)`: the
    Taylor estimate with the multivariate sigmoid, of the probability that noise of σ leaves the prediction at the label
    y. It has no unit, and is the cross-entropy of a softmax whose temperature is set by the gradients. Infinite for a
    wrong prediction whose gradient is 0, as of a dead network: no noise would mend it.

    Args:
      stddev: σ > 0, in the units of x.

    Returns:
      `(apply, params, state, key, x, label) -> scalar` for one example, as the objective of `training` takes it.

    Raises:
      TypeError: at the call, if `apply` does not return class scores, or the label is not one integer.
      ValueError: if σ is not positive, or the label is no class.

    Source: Han, Srinivas & Lakkaraju (2024) for the estimate.

    >>> linear = lambda params, state, x: jnp.stack([params * x[0], jnp.zeros(())])
    >>> round(float(fragility(1.0)(linear, 5.0, {}, jax.random.key(0), jnp.array([2.0]), 0)), 4)
    0.1269
    """
    checks.positive("stddev", stddev, "fragility")

    def penalty(apply: Callable[..., Array], params: PyTree, state: PyTree, key: Key, x: PyTree, label: Array) -> Array:
        del key  # deterministic

        def margins(clean: Array, noisy: Array) -> Array:
            checks.label("fragility", label, checks.logits("fragility", clean).shape[0])
            return leads(noisy, label)

        taken = taylor(lambda point: apply(params, state, point), cdf=sigmoid_loss, event=margins)
        found = taken(x, stddev=stddev)
        return found.probability.astype(tree.accumulator(found.probability.dtype))

    return penalty
