"""Mini-batches that depend on a key and the step alone, so that a resumed run sees the same ones."""

import functools
from collections.abc import Callable

import jax
import numpy as np

from jaxinterp import checks
from jaxinterp.data._dataset import DataError, Split
from jaxinterp.typing import Key


def batches(split: Split, key: Key, batch_size: int) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    """Returns `step -> (x, y)`, the batches of a split, shuffled anew each epoch.

    The order of epoch e is the permutation drawn from `fold_in(key, e)`, so any step can be asked for at any time. The
    incomplete batch at the end of an epoch is left out.

    Args:
      split: the examples.
      key: decides the order.
      batch_size: examples per batch.

    Raises:
      DataError: if the split has fewer examples than a batch.

    >>> split = Split(np.zeros((5, 1), np.float32), np.arange(5, dtype=np.int32))
    >>> batch, again = (batches(split, jax.random.key(0), 2) for _ in range(2))
    >>> len(set(batch(0)[1]) | set(batch(1)[1])), (batch(3)[1] == again(3)[1]).all().item()
    (4, True)
    """
    checks.positive_integer("batch_size", batch_size)
    checks.key("batches", key)
    if batch_size > len(split):
        raise DataError(f"batch_size={batch_size}, but there are only {len(split)} training examples.")
    steps_per_epoch = len(split) // batch_size

    @functools.lru_cache(maxsize=1)
    def order(epoch: int) -> np.ndarray:
        return np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), len(split)))

    def batch(step: int) -> tuple[np.ndarray, np.ndarray]:
        epoch, position = divmod(step, steps_per_epoch)
        chosen = order(epoch)[position * batch_size : (position + 1) * batch_size]
        return split.x[chosen], split.y[chosen]

    return batch
