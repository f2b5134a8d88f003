"""The same computation for many examples: compiled once, a batch at a time, each example with its own key."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from jaxinterp import tree
from jaxinterp.typing import Array, Key, LogitsFn, PyTree

PerExample = Callable[[LogitsFn, Key, Array, Array], dict[str, Array]]
"""`(f, key, x, label)` -> named arrays of one example, where f maps x to logits."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained network: `apply(params, state, x) -> logits`."""

    apply: Callable[..., Array]
    params: PyTree
    state: PyTree


@dataclasses.dataclass(frozen=True)
class Examples:
    """Examples, their labels, and their numbers in the test part."""

    x: np.ndarray
    labels: np.ndarray
    numbers: np.ndarray

    def num_batches(self, batch_size: int) -> int:
        """How many batches `over_examples` makes of them."""
        return -(-len(self.x) // batch_size)


def over_examples(
    one: PerExample,
    network: Trained,
    key: Key,
    examples: Examples,
    *,
    batch_size: int,
    advance: Callable[[int], None] = lambda done: None,
) -> dict[str, np.ndarray]:
    """Returns the named arrays of all examples, stacked, and "finite", which says whether an example can be trusted.

    Looked at for NaN and infinity are the input, the parameters, the logits and the arrays themselves, for a ReLU
    network can turn a NaN in its input into a finite gradient.

    Args:
      one: what to compute for an example.
      network: the network; its parameters are arguments of the compiled program, not constants.
      key: folded with the number of an example to give its key, so an example's noise does not depend on the others.
      examples: the examples.
      batch_size: examples computed together; the last batch is filled up with the last example, so that all have
        one shape.
      advance: told after each batch how many are done.
    """

    def flagged(params: PyTree, state: PyTree, k: Key, x: Array, label: Array) -> dict[str, Array]:
        def f(inputs: Array) -> Array:
            return network.apply(params, state, inputs)

        arrays = one(f, k, x, label)
        return arrays | {"finite": tree.all_finite((x, params, state, f(x), arrays))}

    compiled = jax.jit(jax.vmap(flagged, (None, None, 0, 0, 0)))
    size = min(batch_size, len(examples.x))
    parts: list[dict[str, np.ndarray]] = []
    for start in range(0, len(examples.x), size):
        chosen = np.minimum(np.arange(start, start + size), len(examples.x) - 1)
        keys = jax.vmap(lambda n: jax.random.fold_in(key, n))(examples.numbers[chosen])
        batch = compiled(network.params, network.state, keys, examples.x[chosen], examples.labels[chosen])
        parts.append(jax.device_get(batch))
        advance(len(parts))
    return jax.tree.map(lambda *arrays: np.concatenate(arrays)[: len(examples.x)], *parts)
