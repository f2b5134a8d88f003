"""Units that the next layer can do with: structured pruning from a few activations."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp import checks, tree
from jaxinterp.typing import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Selection:
    """Units chosen, and the weights with which the next layer reads them.

    Attributes:
      kept: the units, in the order in which they were chosen, int32 [k].
      gains: what each added to the explained part, [k].
      weights: of the next layer for these units, [k, m] (or [k, b, m]).
      explained: the part of the squared norm of the target that they explain.
    """

    kept: Array
    gains: Array
    weights: Array
    explained: Array


def select_units(
    activations: Array,
    weights: Array,
    *,
    num_kept: int,
    targets: Array | None = None,
    reweight: bool = True,
    ridge: float = 0.0,
) -> Selection:
    r"""Chooses the units from which the next layer's inputs can best be reconstructed, greedily.

    For activations A [n, d] of n calibration examples and the next layer's weights W [d, m] it maximises
    :math:`F(S) = \|T\|^2 - \min_{\tilde W}\|T - A_S \tilde W\|^2` with :math:`T = AW`, adding at each step the unit
    with the largest gain :math:`\|R_i^\top T_R\|^2/\|R_i\|^2` of the parts R of A and :math:`T_R` of T that are
    orthogonal to what was chosen before (orthogonal least squares, with several outputs). F is monotone and weakly
    submodular, so it reaches at least :math:`1 - e^{-\gamma}` of the best, γ being the submodularity ratio. The weights
    are then the least-squares solution :math:`\tilde W`: no labels, no gradients.

    The units of a convolution are blocks of columns: give A as [n, d, b] with the b entries of each channel (the window
    of the next kernel at a position, or all pixels of a channel that is flattened), and W as [d, b, m].

    Args:
      activations: A, what the next layer reads, after activation, normalisation and pooling.
      weights: W.
      num_kept: how many units.
      targets: T [n, m]; give those of the unpruned network where A is from one whose earlier layers are pruned (the
        asymmetric variant, the best in the paper).
      reweight: whether the weights are solved for, or taken from W.
      ridge: see `reweighted`; the choice is made without it.

    Raises:
      TypeError: if the arrays are not floating-point.
      ValueError: if the shapes do not fit, or there are fewer than `num_kept` units.

    Source: El Halabi, Srinivas & Lacoste-Julien (2022).

    >>> a = jnp.array([[1.0, 1.0, 0.0], [2.0, 2.0, 0.0], [0.0, 0.0, 1.0]])  # the first two are equal
    >>> chosen = select_units(a, jnp.ones((3, 1)), num_kept=2)
    >>> sorted(chosen.kept.tolist()), round(float(chosen.explained), 4)
    ([0, 2], 1.0)
    """
    checks.non_negative("ridge", ridge)
    blocks, maps = _blocks("select_units", activations, weights)
    if not checks.positive_integer("num_kept", num_kept) <= blocks.shape[1]:
        raise ValueError(f"`num_kept` must be at most the number of units, {blocks.shape[1]}; got {num_kept}.")
    blocks, target = _compressed(blocks, _target(blocks, maps, targets))
    kept, gains = _greedy(blocks, target, num_kept)
    if not reweight:
        chosen = maps[kept]
        left = target - jnp.einsum("nkb,kbm->nm", blocks[:, kept], chosen, precision="highest")
    else:
        chosen, left = _solved(blocks[:, kept], maps[kept], target, ridge)
    size = jnp.maximum(jnp.sum(target**2), jnp.finfo(target.dtype).tiny)
    return Selection(kept, gains, chosen.reshape(num_kept, *weights.shape[1:]), 1 - jnp.sum(left**2) / size)


def reweighted(
    activations: Array, weights: Array, kept: Array, *, targets: Array | None = None, ridge: float = 0.0
) -> Array:
    r"""Returns the weights that make the most of some units: the least-squares solution of :math:`A_S\tilde W = AW`.

    :math:`\tilde W = W_S + \arg\min_\Delta \|AW - A_S(W_S + \Delta)\|^2 + \lambda\|\Delta\|^2`, with the smallest
    Δ where several do. λ is `ridge` times the mean squared norm of the columns of :math:`A_S`: with about as many
    examples as columns the solution without it fits the noise of the examples, and 0.1 serves others better
    (LeNet, 100 of 500 units, 128 digits: 93.7 % right instead of 84.5).
    For units chosen in any way; see `select_units`.

    Args:
      activations: A, [n, d] or [n, d, b].
      weights: W, [d, m] or [d, b, m].
      kept: the units, integers.
      targets: in place of AW.
      ridge: at least 0.

    Raises:
      TypeError: if the arrays are not floating-point.
      ValueError: if the shapes do not fit, `kept` has a unit twice or one that there is not, or `ridge` is negative.

    >>> a = jnp.array([[1.0, 2.0], [2.0, 4.0], [0.0, 0.0]])
    >>> reweighted(a, jnp.ones((2, 1)), jnp.array([1])).tolist()
    [[1.5]]
    """
    checks.non_negative("ridge", ridge)
    blocks, maps = _blocks("reweighted", activations, weights)
    units = jnp.asarray(kept)
    known = checks.concrete(units)
    if known is not None and (len(np.unique(known)) < known.size or np.any((known < 0) | (known >= blocks.shape[1]))):
        raise ValueError(f"`kept` of `reweighted` must be distinct units from 0 to {blocks.shape[1] - 1}; got {known}.")
    blocks, target = _compressed(blocks[:, units], _target(blocks, maps, targets))
    solution, _ = _solved(blocks, maps[units], target, ridge)
    return solution.reshape(len(kept), *weights.shape[1:])


def equal_accuracy_budgets(
    fractions: Sequence[float], accuracies: Array, sizes: Sequence[int], *, kept: float
) -> np.ndarray:
    r"""How many units of each layer to keep so that, pruned alone, all would lose about equally much accuracy.

    The largest accuracy a such that :math:`\sum_l n_l\,\min\{\phi : \mathrm{acc}_l(\phi) \ge a\}` is within the budget,
    the curves being replaced by their monotone envelopes; what is left goes to the layers that keep most.

    Args:
      fractions: kept, rising to 1.
      accuracies: of the network when one layer is pruned to each fraction, [layers, fractions].
      sizes: units of the layers.
      kept: the fraction of all units that is kept.

    Returns:
      Units to keep, [layers], at least one of each; their sum is the budget.

    Raises:
      ValueError: if the shapes do not fit, the fractions do not rise to 1, the budget leaves a layer without a unit, or
        it is below what all layers keep at the least accuracy that was measured.

    Source: Kuzmin et al. (2019), as in El Halabi, Srinivas & Lacoste-Julien (2022).

    >>> curves = np.array([[0.9, 0.9, 0.9], [0.5, 0.8, 0.9]])
    >>> equal_accuracy_budgets([0.25, 0.5, 1.0], curves, [8, 8], kept=0.5).tolist()
    [2, 6]
    """
    phi, curves, units = np.asarray(fractions, float), np.asarray(accuracies, float), np.asarray(sizes)
    if curves.shape != (len(units), len(phi)) or np.any(np.diff(phi) <= 0) or phi[0] <= 0 or phi[-1] != 1:
        raise ValueError(
            "`equal_accuracy_budgets` needs fractions that rise to 1 and accuracies [layers, fractions]; got "
            f"{list(phi)}, shape {curves.shape} and {len(units)} layers."
        )
    if not np.all(np.isfinite(curves)):
        raise ValueError("The accuracies given to `equal_accuracy_budgets` must be finite.")
    total = round(checks.share("kept", kept) * int(units.sum()))
    if total < len(units):
        raise ValueError(f"A budget of {total} units cannot give one to each of {len(units)} layers.")
    envelope = np.maximum.accumulate(np.minimum(curves, curves[:, -1:]), 1)
    counts = np.zeros_like(units)
    for level in np.unique(envelope):
        reached = np.where(envelope >= level, phi, np.inf).min(1)
        wanted = np.maximum(1, np.ceil(np.round(np.minimum(reached, 1) * units, 9))).astype(units.dtype)
        if np.all(np.isfinite(reached)) and wanted.sum() <= total:
            counts = np.maximum(counts, wanted)
    if not counts.any():
        least = int(np.maximum(1, np.ceil(np.round(phi[0] * units, 9))).sum())
        raise ValueError(
            f"A budget of {total} units is below the {least} that the smallest measured fraction, {phi[0]:g}, keeps: "
            "measure smaller ones."
        )
    for layer in np.argsort(-counts / units, kind="stable"):
        counts[layer] += min(total - counts.sum(), units[layer] - counts[layer])
    return counts


def _blocks(method: str, activations: Array, weights: Array) -> tuple[Array, Array]:
    """Activations [n, d, b] and weights [d, b, m] in at least float32."""
    a, w = checks.floating(method, (jnp.asarray(activations), jnp.asarray(weights)))
    if a.ndim not in (2, 3) or w.ndim != a.ndim or w.shape[:-1] != a.shape[1:]:
        raise ValueError(
            f"`{method}` needs activations [n, d] and weights [d, m], or [n, d, b] and [d, b, m]; got shapes {a.shape} "
            f"and {w.shape}."
        )
    dtype = tree.accumulator(jnp.promote_types(a.dtype, w.dtype))
    if a.ndim == 2:
        a, w = a[:, :, None], w[:, None]
    return a.astype(dtype), w.astype(dtype)


def _compressed(activations: Array, targets: Array) -> tuple[Array, Array]:
    """Activations [n, d, b] and targets of fewer examples with the same inner products, hence the same least squares.

    With more examples than columns, :math:`[A, T] = QR` and R is taken for them.
    """
    examples, units, size = activations.shape
    columns = jnp.concatenate([activations.reshape(examples, -1), targets.astype(activations.dtype)], 1)
    if examples > columns.shape[1]:
        columns = jnp.linalg.qr(columns, mode="r")
    return columns[:, : units * size].reshape(-1, units, size), columns[:, units * size :]


def _target(blocks: Array, maps: Array, targets: Array | None) -> Array:
    if targets is None:
        return jnp.einsum("ndb,dbm->nm", blocks, maps, precision="highest")
    target = jnp.asarray(targets)
    if target.shape != (blocks.shape[0], maps.shape[2]):
        raise ValueError(f"`targets` must have shape {(blocks.shape[0], maps.shape[2])}; got {target.shape}.")
    return target.astype(blocks.dtype)


@functools.partial(jax.jit, static_argnums=2)
def _greedy(blocks: Array, target: Array, num_kept: int) -> tuple[Array, Array]:
    """The blocks of columns with the largest gains, one after the other."""
    eps = float(jnp.finfo(blocks.dtype).eps)
    sizes = jnp.sum(blocks**2, (0, 2))
    floor = jnp.max(sizes) * blocks.shape[0] * eps**2 + sizes * eps  # below is rounding, not a direction

    def choose(state: tuple[Array, Array, Array], _: None) -> tuple[tuple[Array, Array, Array], tuple[Array, Array]]:
        rest, left, is_free = state
        gram = jnp.einsum("ndb,ndc->dbc", rest, rest, precision="highest")
        cross = jnp.einsum("ndb,nm->dbm", rest, left, precision="highest")
        values, vectors = jnp.linalg.eigh(gram)
        is_direction = values > floor[:, None]
        inverse = jnp.where(is_direction, 1 / jnp.where(is_direction, values, 1.0), 0.0)
        components = jnp.einsum("dbe,dbm->dem", vectors, cross, precision="highest")
        gains = jnp.einsum("de,dem->d", inverse, components**2, precision="highest")
        chosen = jnp.argmax(jnp.where(is_free, gains, -1.0))
        basis = jnp.dot(rest[:, chosen], vectors[chosen] * jnp.sqrt(inverse[chosen])[None], precision="highest")

        def without(columns: Array) -> Array:
            for _ in range(2):  # twice, so that rounding does not add up
                along = jnp.tensordot(basis.T, columns, 1, precision="highest")
                columns = columns - jnp.tensordot(basis, along, 1, precision="highest")
            return columns

        return (without(rest), without(left), is_free.at[chosen].set(False)), (
            chosen.astype(jnp.int32),
            gains[chosen],
        )

    start = (blocks, target, jnp.ones(blocks.shape[1], bool))
    _, found = jax.lax.scan(choose, start, None, num_kept)
    return found


def _solved(blocks: Array, maps: Array, target: Array, ridge: float) -> tuple[Array, Array]:
    """The least-squares weights [k, b, m], the nearest to `maps` of several ones, and what they leave of the target."""
    columns, old = blocks.reshape(blocks.shape[0], -1), maps.reshape(-1, maps.shape[-1])
    missing = target - jnp.dot(columns, old, precision="highest")
    rows, wanted = columns, missing
    if ridge:
        weight = jnp.sqrt(ridge * jnp.mean(jnp.sum(columns**2, 0)))
        rows = jnp.concatenate([columns, weight * jnp.eye(columns.shape[1], dtype=columns.dtype)])
        wanted = jnp.concatenate([missing, jnp.zeros_like(old)])
    change = jnp.linalg.lstsq(rows, wanted)[0]
    left = missing - jnp.dot(columns, change, precision="highest")
    return (old + change).reshape(*blocks.shape[1:], target.shape[1]), left
