"""Which masks KernelSHAP lists, and of which sizes it samples how many."""

import dataclasses
import functools
import itertools
import math

import numpy as np

FEW_SUBSETS = 8  # with fewer subsets of a size than so many for each that is taken, none is taken twice
FLOOR = 0.005  # the variance that interactions of more than three features add; see `_spread`


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """Masks that are listed, with their weights, and sizes of which pairs of masks are sampled.

    Attributes:
      masks: the listed masks.
      weights: of the listed masks.
      pairs: how many pairs are sampled.
      sizes: of the smaller mask of a pair.
      cumulative: the share of the pairs up to each size.
      shares: what the masks of each size weigh together; empty if all that are sampled weigh the same.
      weight: of each sampled mask, in the mean.
      subsets: all masks of a size, for those sizes that have few.
    """

    masks: np.ndarray
    weights: np.ndarray
    pairs: int = 0
    sizes: tuple[int, ...] = ()
    cumulative: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()
    weight: float = 0.0
    subsets: tuple[np.ndarray | None, ...] = ()

    @property
    def size(self) -> int:
        return len(self.masks) + 2 * self.pairs


@functools.cache
def plan_of(features: int, num_samples: int) -> Plan:
    """Which sizes are listed and which are sampled."""
    sizes = np.arange(1, features // 2 + 1)
    is_middle = 2 * sizes == features
    share = np.where(is_middle, 1, 2) / (sizes * (features - sizes))
    share = share / share.sum()
    rows, weights = [np.zeros((0, features), bool)], list[float]()
    left, first = num_samples, 0
    while first < len(sizes):
        subsets = math.comb(features, int(sizes[first])) * (1 if is_middle[first] else 2)
        if left * share[first] / share[first:].sum() < subsets * (1 - 1e-8):
            break
        kept = _subsets(features, int(sizes[first]))
        rows += [kept] if is_middle[first] else [kept, ~kept]
        weights += [share[first] / subsets] * subsets
        left, first = left - subsets, first + 1
    listed, pairs = Plan(np.concatenate(rows), np.asarray(weights)), left // 2 if first < len(sizes) else 0
    if not pairs:
        return listed
    rest = sizes[first:].tolist()
    wanted = share[first:] * np.array([_spread(features, k) for k in rest])
    is_enough = pairs * wanted.min() >= wanted.sum()  # for a pair of each size; otherwise in proportion to their weight
    wanted = wanted / wanted.sum() if is_enough else share[first:] / share[first:].sum()
    most = np.array([_num_pairs(features, k) for k in rest]) / pairs
    while is_enough and np.any(wanted > most * (1 + 1e-9)):  # no size gets more pairs than it has
        is_full = wanted >= most * (1 - 1e-9)
        wanted = np.where(is_full, most, wanted * (1 - most[is_full].sum()) / wanted[~is_full].sum())
    return dataclasses.replace(
        listed,
        pairs=pairs,
        sizes=tuple(rest),
        cumulative=tuple(np.cumsum(wanted).tolist()),
        shares=tuple(share[first:].tolist()) if is_enough else (),
        weight=float(share[first:].sum() / (2 * pairs)),
        subsets=tuple(
            _subsets(features, k)[: _num_pairs(features, k)]  # of half the features the first half: no complements
            if _num_pairs(features, k) < FEW_SUBSETS * pairs * part
            else None
            for k, part in zip(rest, wanted, strict=True)
        ),
    )


def _num_pairs(features: int, size: int) -> int:
    """How many pairs of a mask with `size` features and its complement there are."""
    return math.comb(features, size) // (2 if 2 * size == features else 1)


def _subsets(features: int, size: int) -> np.ndarray:
    """All masks that keep `size` features."""
    chosen = np.array(list(itertools.combinations(range(features), size)))
    kept = np.zeros((len(chosen), features), bool)
    np.put_along_axis(kept, chosen, True, axis=1)
    return kept


def _spread(features: int, size: int) -> float:
    """How much values at masks of a size vary beside what pairs of masks and a linear model settle.

    A pair, a mask and its complement, settles interactions of two features. Of three, with a of them kept, the
    odd part is -1, 0, 0, 1; what is left of that by a linear function of a is its standard deviation here, with a
    share of it for interactions of higher order.
    """
    kept = np.arange(4)
    chance = np.array([math.comb(3, a) * math.comb(features - 3, size - a) if size >= a else 0 for a in kept], float)
    chance = chance / chance.sum()
    odd, centred = np.array([-1.0, 0, 0, 1]), kept - chance @ kept
    variance, width = chance @ (odd - chance @ odd) ** 2, chance @ centred**2
    if width > 0:  # 0 for one of three features
        variance -= (chance @ (centred * odd)) ** 2 / width
    return float(np.sqrt(variance + FLOOR))
