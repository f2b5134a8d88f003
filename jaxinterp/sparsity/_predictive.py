"""How sure a network with random gates is of its answer: the gates are drawn at prediction too."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxinterp import checks
from jaxinterp.derivatives import expectation
from jaxinterp.sparsity._gates import apply, sample
from jaxinterp.typing import Array, Key, PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Predictive:
    """What a network says on average over its gates, and how much the gates matter.

    Attributes:
      probabilities: mean over the masks, [classes].
      stderr: their standard errors, from the number of masks drawn, [classes].
      entropy: of the mean, in nats: all uncertainty.
      mutual_information: the part of it that the masks disagree about, in nats: 0 if each mask says the same.
    """

    probabilities: Array
    stderr: Array
    entropy: Array
    mutual_information: Array


def predictive(
    f: Callable[..., Array], *, num_samples: int = 100, chunk_size: int | None = None
) -> Callable[..., Predictive]:
    r"""Returns `(key, params, gates, *args) -> Predictive`: class probabilities with gates that are drawn anew.

    :math:`\bar p = E_m\,\mathrm{softmax}(f(\theta \odot m, x))` for masks :math:`m \sim \mathrm{Bernoulli}(g)`. Its
    entropy :math:`H(\bar p)` is the expected entropy of a single network, :math:`E_m H(p_m)`, and the mutual
    information of answer and mask, which is high where the masks are sure of different answers. From N masks it comes
    out too small, by about (classes - 1) / 2N at most. With gates of 1/2 per
    input unit this is Monte Carlo dropout.

    Args:
      f: `(params, *args) -> logits` for one example.
      num_samples: masks drawn.
      chunk_size: how many of them are computed together; `None` takes all.

    Raises:
      TypeError: if f is not a function.
      ValueError: if `num_samples` or `chunk_size` is not positive; at the call, if f does not return logits [classes].

    Source: Gal & Ghahramani (2016); Houlsby, Huszar, Ghahramani & Lengyel (2011) for the mutual information.

    >>> f = lambda params, x: x @ params
    >>> gates, params = jnp.full((1, 2), 0.5), jnp.array([[0.0, 20.0]])  # sure of class 1, or of nothing
    >>> found = predictive(f, num_samples=1000)(jax.random.key(0), params, gates, jnp.ones(1))
    >>> bool(abs(found.probabilities[1] - 0.75) < 4 * found.stderr[1]), bool(found.mutual_information > 0.2)
    (True, True)
    """
    checks.functions("predictive", f=f)
    checks.positive_integer("num_samples", num_samples)
    checks.optional_chunk_size(chunk_size)

    def found(key: Key, params: PyTree, gates: PyTree, *args: PyTree) -> Predictive:
        def one(key: Key) -> tuple[Array, Array]:
            logits = checks.logits("predictive", f(apply(params, sample(key, gates)), *args))
            log_probabilities = jax.nn.log_softmax(logits)
            probabilities = jnp.exp(log_probabilities)
            return probabilities, _entropy(probabilities)

        drawn = expectation(one, num_samples, chunk_size=chunk_size)(checks.key("predictive", key))
        (mean, single), (stderr, _) = drawn.mean, drawn.stderr
        entropy = _entropy(mean)
        return Predictive(mean, stderr, entropy, jnp.maximum(entropy - single, 0.0))

    return found


def _entropy(probabilities: Array) -> Array:
    is_possible = probabilities > 0
    return -jnp.sum(jnp.where(is_possible, probabilities * jnp.log(jnp.where(is_possible, probabilities, 1.0)), 0.0))
