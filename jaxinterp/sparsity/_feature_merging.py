"""Features with nearly the same weights on both sides are merged until none are left: how many there really are."""

from typing import Literal

import jax.numpy as jnp
import numpy as np

from jaxinterp import checks
from jaxinterp.sparsity._merging import Merging, checked_layer
from jaxinterp.typing import Array

Between = Literal["merged", "mean"]


def merge_features(
    incoming: Array,
    bias: Array,
    outgoing: Array,
    *,
    threshold: float = 0.1,
    axis: int = -2,
    compare: Between = "merged",
) -> Merging:
    r"""Iterative feature merging: the closest two features of a layer become one, again and again, without data.

    A feature is what comes in, :math:`w_i` with its bias, and what goes out, :math:`a_i`. The two with the smallest
    :math:`D_{ij} = \|w_i - w_j\|^2 + \|a_i - a_j\|^2` are merged as long as
    :math:`\min D \le \beta \max D` over the features that are left. How many are left then, `len(merged.kept)`, is the
    feature complexity of the layer, at this β.

    A feature that stands for the set C of the original ones reads with the mean of their weights and biases, and its
    outgoing weights are their sum: equal features go without a trace, whatever the activation. The paper writes it as
    :math:`w_C = \sum_{i\in C} w_i` and :math:`a_C = \frac1{|C|}\sum_{i\in C} a_i`, which is the same function where
    h(cx) = c h(x) for c > 0, as for ReLU. Its distances are between these :math:`w_C` and :math:`a_C` ("merged"); they
    set features apart that stand for different numbers of equal ones. "mean" compares means on both sides, so that any
    number of equal features become one.

    The bias counts as one more incoming weight here; the authors' code compares no biases, and would merge features
    that differ in nothing else. Fold batch normalisation into the weights before. One layer is merged to the end; the
    authors' code merges one pair of each layer in turn.

    Args:
      incoming: weights [..., units]: of a dense layer [inputs, units], of a convolution [*window, inputs, units].
      bias: [units].
      outgoing: weights of the next layer, whose `axis` is that of the units.
      threshold: β, between 0 and 1.
      axis: of the units in `outgoing`; -2 for dense layers and convolutions.
      compare: "merged", as in the paper, or "mean".

    Returns:
      The layer with the features that are left; `saliencies` are the D of the pairs merged.

    Raises:
      TypeError: if the arrays are not floating-point, or `threshold` is no number.
      ValueError: if the shapes do not fit, weights are not finite, or `threshold` is not between 0 and 1.

    Source: Chen, Zhou & Yan (2024). Runs outside `jax.jit`: the shapes depend on the weights.

    >>> w, b = jnp.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), jnp.zeros(3)
    >>> merged = merge_features(w, b, jnp.array([[2.0], [2.0], [0.0]]))  # the first two features are equal
    >>> len(merged.kept), merged.into.tolist(), merged.outgoing.ravel().tolist()
    (2, [0], [4.0, 0.0])
    """
    checks.one_of("compare", compare, ("merged", "mean"))
    checks.share("threshold", threshold)
    incoming, bias, moved = checked_layer("merge_features", incoming, bias, outgoing, axis)
    units = len(bias)
    sides = (incoming.reshape(-1, units).T, bias[:, None], moved.reshape(units, -1))
    means = [np.asarray(side).astype(np.float64) for side in sides]
    sizes, steps = _merged(means, threshold, compare == "merged")
    into, removed = (np.array([step[i] for step in steps], int) for i in (0, 1))
    kept = np.setdiff1d(np.arange(units), removed)
    reads, shifts, writes = means[0][kept].T, means[1][kept, 0], (means[2] * sizes[:, None])[kept]
    return Merging(
        jnp.asarray(reads.reshape(*incoming.shape[:-1], len(kept)), incoming.dtype),
        jnp.asarray(shifts, bias.dtype),
        jnp.moveaxis(jnp.asarray(writes.reshape(len(kept), *moved.shape[1:]), moved.dtype), 0, axis),
        kept,
        removed,
        into,
        np.array([step[2] for step in steps], float),
    )


def _merged(
    means: list[np.ndarray], threshold: float, is_by_size: bool
) -> tuple[np.ndarray, list[tuple[int, int, float]]]:
    """Merges rows of `means` in place: the numbers of features that each stands for, and who was joined by whom."""
    units = len(means[0])
    sizes, steps = np.ones(units), []
    first = np.concatenate(means, 1)
    gaps = np.stack([_gaps(first, i) for i in range(units)])
    gaps[np.arange(units), np.arange(units)] = np.nan
    for _ in range(units - 1):
        i, j = divmod(int(np.nanargmin(gaps)), units)
        if gaps[i, j] > threshold * np.nanmax(gaps):
            break
        steps.append((i, j, float(gaps[i, j])))
        for side in means:
            side[i] = (sizes[i] * side[i] + sizes[j] * side[j]) / (sizes[i] + sizes[j])
        sizes[i] += sizes[j]
        gaps[j] = gaps[:, j] = np.nan
        read = sizes[:, None] if is_by_size else 1.0
        row = _gaps(np.concatenate([means[0] * read, means[1] * read, means[2]], 1), i)
        gaps[i] = gaps[:, i] = np.where(np.isnan(gaps[i]), np.nan, row)
    return sizes, steps


def _gaps(features: np.ndarray, i: int) -> np.ndarray:
    return np.sum((features - features[i]) ** 2, 1)
