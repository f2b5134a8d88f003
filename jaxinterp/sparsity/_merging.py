"""Neurons that do nearly the same are merged: pruning without data."""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp import checks, tree
from jaxinterp.typing import Array

Distance = Literal["relative", "euclidean"]

BINS = 100
COVERED = 95  # percent of the saliencies that the histogram covers


@dataclasses.dataclass(frozen=True)
class Merging:
    """A layer with fewer units, and what was done to it.

    Attributes:
      incoming: weights of the units that remain, in the shape given but for the last axis.
      bias: likewise.
      outgoing: weights of the next layer; those of removed units were added to others.
      kept: which units remain, in order.
      removed: the others, in the order of removal.
      into: the unit that each was merged into.
      saliencies: of the removals; from `merge_features` their distances.
    """

    incoming: Array
    bias: Array
    outgoing: Array
    kept: np.ndarray
    removed: np.ndarray
    into: np.ndarray
    saliencies: np.ndarray


def merge_units(
    incoming: Array,
    bias: Array,
    outgoing: Array,
    *,
    num_removed: int | None = None,
    axis: int = -2,
    homogeneous: bool = True,
    distance: Distance = "euclidean",
) -> Merging:
    r"""Merges the units of a layer whose removal changes the next one least, without data.

    Unit j is removed and its outgoing weights :math:`a_j` are given to unit i where the saliency
    :math:`s_{ij} = \langle a_j^2\rangle\,\epsilon_{ij}^2` is smallest, the mean being over what the next layer adds up;
    then again. For :math:`\epsilon_{ij} = \|W_i - W_j\|` ("euclidean", the biases included), an activation of slope at
    most 1, and inputs X with a 1 for the bias, the mean squared change of the next layer is at most
    :math:`s_{ij}\,E\|X\|^2`.

    For a positively homogeneous activation such as ReLU, units are compared up to their scale :math:`\alpha = \|W'\|`
    (without bias), and :math:`a_i \leftarrow a_i + (\alpha_j/\alpha_i)\,a_j`. The "relative" distance is the heuristic
    of the paper, :math:`\frac{\|W'_i - W'_j\|}{\|W'_i + W'_j\|} + \frac{|b_i - b_j|}{|b_i + b_j|}` of scaled weights.
    Units without incoming weights or bias are removed first. Fold batch normalisation into the weights before, and
    merge the layers from the first to the last.

    Args:
      incoming: weights [..., units]: of a dense layer [inputs, units], of a convolution [*window, inputs, units].
      bias: [units].
      outgoing: weights of the next layer, whose `axis` is that of the units.
      num_removed: how many units go. By default as many as the rule without data tells: the mode of all saliencies
        (of a histogram of 100 bins up to their 95th percentile; without units that are dead) is the largest accepted.
      axis: of the units in `outgoing`; -2 for dense layers and convolutions.
      homogeneous: whether h(cx) = c h(x) for c > 0.
      distance: "euclidean", to which the bound belongs, or "relative". On networks with ReLU the cut-off of the first
        cost 0 to 0.6 points of accuracy (12 % of 100 units for digits, 46 % of LeNet's 500 for MNIST), that of the
        second 0.6 and 6.6 (51 and 75 %).

    Raises:
      TypeError: if the arrays are not floating-point.
      ValueError: if the shapes do not fit, weights are not finite, there is one unit, or not one would remain.

    Source: Srinivas & Babu (2015). Runs outside `jax.jit`: the shapes depend on the weights.

    >>> w, b = jnp.array([[1.0, 2.0, 0.0], [0.0, 0.0, 1.0]]), jnp.array([0.5, 1.0, 0.0])
    >>> merged = merge_units(w, b, jnp.ones((3, 1)), num_removed=1)  # unit 1 is twice unit 0
    >>> merged.removed.tolist(), merged.into.tolist(), merged.outgoing.ravel().tolist()
    ([1], [0], [3.0, 1.0])
    """
    checks.one_of("distance", distance, ("relative", "euclidean"))
    incoming, bias, moved = checked_layer("merge_units", incoming, bias, outgoing, axis)
    units = len(bias)
    if units < 2:
        raise ValueError("`merge_units` needs a layer of two units or more; got one.")
    if num_removed is not None and not 1 <= checks.positive_integer("num_removed", num_removed) < units:
        raise ValueError(f"`num_removed` must leave at least one of {units} units; got {num_removed}.")
    found = _merged(incoming.reshape(-1, units).T, bias, moved.reshape(units, -1), homogeneous, distance)
    steps, removed, into, factors, all_saliencies, is_dead = jax.tree.map(np.asarray, found)
    if num_removed is None:
        beyond = np.flatnonzero(steps > _mode(all_saliencies[:, ~is_dead]))
        num_removed = int(beyond[0]) if beyond.size else units - 1
    removed, into = removed[:num_removed], into[:num_removed]
    for i, j, factor in zip(into, removed, factors[:num_removed], strict=True):
        moved = moved.at[i].add(moved[j] * jnp.asarray(factor, moved.dtype))
    kept = np.setdiff1d(np.arange(units), removed)
    return Merging(
        incoming[..., kept],
        bias[kept],
        jnp.moveaxis(moved[kept], 0, axis),
        kept,
        removed,
        into,
        steps[:num_removed],
    )


def checked_layer(method: str, incoming: Array, bias: Array, outgoing: Array, axis: int) -> tuple[Array, Array, Array]:
    """The weights and biases of a layer as arrays, `outgoing` with its units in front; errors name the method."""
    incoming, bias, outgoing = checks.floating(method, tuple(map(jnp.asarray, (incoming, bias, outgoing))))
    units = bias.shape[0] if bias.ndim == 1 else -1
    if incoming.ndim < 2 or incoming.shape[-1] != units or not -outgoing.ndim <= axis < outgoing.ndim:
        raise ValueError(
            f"`{method}` needs incoming weights [..., units], a bias [units] and outgoing weights with an axis "
            f"{axis}; got shapes {incoming.shape}, {bias.shape} and {outgoing.shape}."
        )
    if outgoing.shape[axis] != units:
        raise ValueError(
            f"Axis {axis} of `outgoing` of `{method}` must have {units} units; got shape {outgoing.shape}."
        )
    if not tree.all_finite((incoming, bias, outgoing)):
        raise ValueError(f"The weights given to `{method}` must be finite.")
    return incoming, bias, jnp.moveaxis(outgoing, axis, 0)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _merged(
    weights: Array, bias: Array, outgoing: Array, homogeneous: bool, distance: Distance
) -> tuple[Array, Array, Array, Array, Array, Array]:
    """All removals but of one unit: saliencies, who, into whom, times what; the first saliencies, and who is dead."""
    units = len(bias)
    lengths = jnp.linalg.norm(weights, axis=1)
    is_dead = (lengths == 0) & (bias == 0) if homogeneous else jnp.zeros(units, bool)
    scales = jnp.where(lengths > 0, lengths, 1.0) if homogeneous else jnp.ones(units, weights.dtype)
    unit, shift = weights / scales[:, None], bias / scales
    if distance == "relative":
        tiny = float(jnp.finfo(weights.dtype).tiny)
        apart = jnp.linalg.norm(unit[:, None] - unit[None], axis=2)
        gap = apart / (jnp.linalg.norm(unit[:, None] + unit[None], axis=2) + tiny)
        gap = gap + jnp.abs(shift[:, None] - shift[None]) / (jnp.abs(shift[:, None] + shift[None]) + tiny)
    else:
        gap = jnp.sqrt(jnp.sum((unit[:, None] - unit[None]) ** 2, 2) + (shift[:, None] - shift[None]) ** 2)
    gap = jnp.where(is_dead[None], 0.0, jnp.minimum(gap, 1e12))  # a dead unit goes for free

    def importance(outgoing: Array) -> Array:
        return jnp.mean((outgoing * scales[:, None]) ** 2, 1)

    alone = jnp.eye(units, dtype=bool)
    start = jnp.where(alone, jnp.inf, gap**2 * importance(outgoing)[None])

    def remove(state: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], tuple[Array, Array, Array, Array]]:
        saliency, outgoing = state
        i, j = jnp.unravel_index(jnp.argmin(saliency), saliency.shape)
        lowest = saliency[i, j]
        factor = jnp.where(is_dead[j], 0.0, scales[j] / scales[i])
        outgoing = outgoing.at[i].add(factor * outgoing[j])
        column = gap[:, i] ** 2 * importance(outgoing)[i]
        saliency = saliency.at[:, i].set(jnp.where(jnp.isinf(saliency[:, i]), jnp.inf, column))
        saliency = saliency.at[j].set(jnp.inf).at[:, j].set(jnp.inf)
        return (saliency, outgoing), (lowest, j, i, factor)

    _, (steps, removed, into, factors) = jax.lax.scan(remove, (start, outgoing), None, units - 1)
    return steps, removed, into, factors, start, is_dead


def _mode(saliencies: np.ndarray) -> float:
    """The most frequent saliency; 0 of none."""
    values = saliencies[np.isfinite(saliencies)]
    if not values.size:
        return 0.0
    counts, edges = np.histogram(values, BINS, (0, np.percentile(values, COVERED)))
    most = int(np.argmax(counts))
    return float(edges[most : most + 2].mean())
