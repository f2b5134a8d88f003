"""Values of a function at all subsets of the features of its input."""

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from jaxinterp import batching, interpreters, local, tree
from jaxinterp.interpreters import restrict_scalar
from jaxinterp.typing import Array, PyTree, ScalarFn

MOST_FEATURES = 16


def all_values(
    method: str,
    f: ScalarFn,
    argnums: int | tuple[int, ...],
    *,
    num_groups: int | None,
    chunk_size: int | None,
    most_features: int = MOST_FEATURES,
    remedy: str = "",
) -> Callable[..., tuple[local.Masks, Array]]:
    """Returns `(*args, **arrays)` -> what removes features, and v(S) for all S: bit i of an index says whether i is in.

    Raises:
      ValueError: at the call, if there are too many features.
    """

    def at(*args: PyTree, **arrays: PyTree) -> tuple[local.Masks, Array]:
        g, x = restrict_scalar(method, f, argnums, args)
        removing = local.masks(method, x, num_groups=num_groups, **arrays)
        d = removing.num_features
        if d > most_features:
            raise ValueError(
                f"`{method}` evaluates all 2^{d} subsets of {d} features; it takes at most {most_features}. Group the "
                f"features (`num_groups`, `groups`){remedy}."
            )
        v = removing.function(g)

        def value(index: Array) -> Array:
            return v(removing.shaped((index >> jnp.arange(d, dtype=index.dtype)) & 1))

        size = min(chunk_size or 2**d, 2**d)
        mapped = batching.map_examples(interpreters.loop_safe(value), batch_size=size)
        return removing, mapped(jnp.arange(2**d, dtype=jnp.int32))

    return at


def marginals(values: Array, num_features: int) -> tuple[Array, Array]:
    """The weights of Shapley and v(S ∪ i) - v(S), for all features i and all S without i: [features, 2^(d-1)]."""
    d, indices = num_features, np.arange(len(values))
    without = np.stack([indices[(indices >> i) & 1 == 0] for i in range(d)])
    by_size = np.array([1 / (d * math.comb(d - 1, k)) for k in range(d)])
    weights = by_size[bit_counts(without)]
    values = values.astype(tree.accumulator(values.dtype))
    change = values[without | (1 << np.arange(d))[:, None]] - values[without]
    return jnp.asarray(weights, change.dtype), change


def bit_counts(numbers: np.ndarray) -> np.ndarray:
    """How many bits are set."""
    return ((numbers[..., None] >> np.arange(MOST_FEATURES + 1)) & 1).sum(-1)
