"""Interactions of pairs of features: the Shapley-Taylor index and Faith-SHAP, of order two."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp import checks, tree
from jaxinterp.attribution._coalitions import all_values, bit_counts
from jaxinterp.typing import Array, PyTree, ScalarFn

MOST_FEATURES = 12


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Interactions:
    r"""What single features and pairs contribute: :math:`f(x) - f(b) = \sum_i m_i + \sum_{i<j} p_{ij}`.

    Attributes:
      main: m, [features]: in the order of the leaves and entries of the input, or of the groups.
      pairs: p, symmetric with a diagonal of zeros, [features, features].
    """

    main: Array
    pairs: Array


def shapley_taylor(
    f: ScalarFn, argnums: int | tuple[int, ...] = 0, *, num_groups: int | None = None, chunk_size: int | None = 256
) -> Callable[..., Interactions]:
    r"""The Shapley-Taylor index of order two: returns `(*args, baseline=0, background=None, groups=None)`.

    :math:`m_i = v(i) - v(\emptyset)` and :math:`p_{ij} = \frac2d \sum_{S \not\ni i, j}
    \binom{d-1}{|S|}^{-1} \bigl(v(S \cup ij) - v(S \cup i) - v(S \cup j) + v(S)\bigr)`: what is beyond the pairs is
    counted with them.

    Args:
      f: a scalar function.
      argnums: the explained argument, or several.
      num_groups: the number of features d if `groups` are given at the call; at most 12.
      chunk_size: subsets evaluated together; memory grows with it. `None` takes all.

    Returns:
      A function of f's arguments and of the keywords of `exact_shapley`; `Interactions` in units of f.

    Raises:
      ValueError: at the call, if there are more than 12 features.

    Source: Dhamdhere, Agarwal & Sundararajan (2020).

    >>> found = shapley_taylor(lambda x: x[0] * x[1] + x[2])(jnp.array([2.0, 3.0, 1.0]))
    >>> [round(abs(float(v)), 4) for v in found.main], [round(abs(float(v)), 4) for v in found.pairs[0]]
    ([0.0, 0.0, 1.0], [0.0, 6.0, 0.0])
    """
    return _from_values("shapley_taylor", _taylor, f, argnums, num_groups, chunk_size)


def faith_shap(
    f: ScalarFn, argnums: int | tuple[int, ...] = 0, *, num_groups: int | None = None, chunk_size: int | None = 256
) -> Callable[..., Interactions]:
    r"""Faith-SHAP of order two: returns `(*args, baseline=0, background=None, groups=None)` -> `Interactions`.

    The quadratic function :math:`v(\emptyset) + \sum_i m_i z_i + \sum_{i<j} p_{ij} z_i z_j` of masks that is nearest to
    v in the Shapley kernel, and equal to it at the empty and the full mask: KernelSHAP with pairs.

    Args:
      f: a scalar function.
      argnums: the explained argument, or several.
      num_groups: the number of features d if `groups` are given at the call; at most 12.
      chunk_size: subsets evaluated together; memory grows with it. `None` takes all.

    Returns:
      A function of f's arguments and of the keywords of `exact_shapley`; `Interactions` in units of f.

    Raises:
      ValueError: at the call, if there are more than 12 features.

    Source: Tsai, Yeh & Ravikumar (2023).

    >>> found = faith_shap(lambda x: x[0] * x[1] + x[2])(jnp.array([2.0, 3.0, 1.0]))
    >>> [round(abs(float(v)), 4) for v in found.main], [round(abs(float(v)), 4) for v in found.pairs[0]]
    ([0.0, 0.0, 1.0], [0.0, 6.0, 0.0])
    """
    return _from_values("faith_shap", _faithful, f, argnums, num_groups, chunk_size)


def _from_values(
    method: str,
    operator: Callable[[int], np.ndarray],
    f: ScalarFn,
    argnums: int | tuple[int, ...],
    num_groups: int | None,
    chunk_size: int | None,
) -> Callable[..., Interactions]:
    checks.optional_chunk_size(chunk_size)
    evaluate = all_values(method, f, argnums, num_groups=num_groups, chunk_size=chunk_size, most_features=MOST_FEATURES)

    def attribute(*args: PyTree, **arrays: PyTree) -> Interactions:
        removing, values = evaluate(*args, **arrays)
        d = removing.num_features
        wide = values.astype(tree.accumulator(values.dtype))
        weights = jnp.asarray(operator(d), wide.dtype)
        found = jnp.dot(weights, wide - wide[0], precision="highest").astype(values.dtype)
        first, second = np.triu_indices(d, 1)
        pairs = jnp.zeros((d, d), values.dtype).at[first, second].set(found[d:])
        return Interactions(found[:d], pairs + pairs.T)

    return attribute


def _terms(d: int) -> list[int]:
    """The subsets of one and of two features, as bits."""
    return [1 << i for i in range(d)] + [(1 << i) | (1 << j) for i, j in itertools.combinations(range(d), 2)]


@functools.cache
def _taylor(d: int) -> np.ndarray:
    """The index as a matrix on the values at all subsets, less that at the empty one."""
    weights = np.zeros((d + d * (d - 1) // 2, 2**d))
    subsets = np.arange(2**d)
    for row, term in enumerate(_terms(d)):
        if row < d:
            weights[row, term] = 1
            continue
        rest = subsets[subsets & term == 0]
        share = np.array([2 / (d * math.comb(d - 1, k)) for k in range(d)])[bit_counts(rest)]
        one = term & -term
        for inside, sign in ((0, 1), (one, -1), (term ^ one, -1), (term, 1)):
            weights[row, rest | inside] += sign * share
    return weights


@functools.cache
def _faithful(d: int) -> np.ndarray:
    """The solution of the constrained least squares as a matrix, likewise."""
    subsets, terms = np.arange(2**d), np.array(_terms(d))
    present = (subsets[:, None] & terms[None] == terms[None]).astype(float)
    sizes = bit_counts(subsets)
    inner = (sizes > 0) & (sizes < d)
    choices = np.array([math.comb(d, k) for k in range(d + 1)])[sizes[inner]]
    kernel = np.zeros(2**d)
    kernel[inner] = (d - 1) / (choices * sizes[inner] * (d - sizes[inner]))
    # The last of the conditions for an optimum on the plane where the terms sum to the change of v.
    system = np.zeros((len(terms) + 1,) * 2)
    system[:-1, :-1] = present.T @ (kernel[:, None] * present)
    system[-1, :-1] = system[:-1, -1] = 1
    given = np.zeros((len(terms) + 1, 2**d))
    given[:-1] = present.T * kernel
    given[-1, -1] = 1
    return (np.linalg.pinv(system) @ given)[:-1]
