"""Ablation: what the output loses when a feature is replaced by a baseline, or by the values of other inputs."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp import checks, local, tree
from jaxinterp.derivatives import weighted_sum
from jaxinterp.interpreters import restrict_scalar
from jaxinterp.typing import Array, PyTree, ScalarFn


def feature_ablation(
    f: ScalarFn,
    argnums: int | tuple[int, ...] = 0,
    *,
    num_groups: int | None = None,
    chunk_size: int | None = 16,
) -> Callable[..., PyTree]:
    r"""Feature ablation: returns `(*args, baseline=0, groups=None)` -> the drop of f when a feature is replaced.

    :math:`\phi_i = f(x) - f(x_{G(i) \to b})`, where G(i) is the feature of entry i: the entry alone, or its group.

    For a linear function the value of a group is the sum of :math:`a_i (x_i - b_i)` over its entries, the exact
    effect of removing it. The groups may have any shape and reach across the arrays of a pytree
    (`local.grid_groups` makes a grid of patches); `occlusion` is the same for overlapping windows.

    Args:
      f: a scalar function.
      argnums: the explained argument, or several (then the result is a tuple).
      num_groups: the number of features if `groups` are given at the call.
      chunk_size: features removed together; memory grows with it, the result does not depend on it. `None` takes all.

    Returns:
      A function of f's arguments and of the keywords `baseline` (b, a pytree prefix of x; zeros by default) and
      `groups` (integer arrays like x, naming the feature of each entry). The map is like the explained argument, in
      units of f; all entries of a group carry the value of the group.

    Raises:
      TypeError: at the call, if f is not scalar, the input not floating-point or the groups not integers, or if only
        one of `groups` and `num_groups` is given.
      ValueError: if the chunk size is not positive, or a group is not in 0..num_groups-1 (while traced, an entry
        outside gives NaN).

    Source: Li, Monroe & Jurafsky (2016); the name is that of captum.

    >>> explain = feature_ablation(lambda x: jnp.prod(x), num_groups=2)
    >>> explain(jnp.array([1.0, 2.0, 3.0]), baseline=1.0, groups=jnp.array([0, 1, 1])).tolist()
    [0.0, 5.0, 5.0]
    """
    _check_options(num_groups, chunk_size)

    def attribute(*args: PyTree, baseline: PyTree = 0.0, groups: PyTree | None = None) -> PyTree:
        g, x = restrict_scalar("feature_ablation", f, argnums, args)
        features = local.feature_groups("feature_ablation", groups, num_groups, x)
        row = jax.tree.map(lambda b: b[None], tree.broadcast_prefix("baseline", baseline, x))
        return _mean_drop(g, x, row, 1, *features, chunk_size)

    return attribute


def permutation(
    f: ScalarFn,
    argnums: int | tuple[int, ...] = 0,
    *,
    num_groups: int | None = None,
    chunk_size: int | None = 16,
) -> Callable[..., PyTree]:
    r"""Permutation importance of one example: returns `(*args, background, groups=None)` -> the mean drop of f.

    :math:`\phi_i = \frac1n \sum_{b} f(x) - f(x_{G(i) \to b})` over the n rows b of the background, where G(i) is the
    feature of entry i: the entry alone, or its group.

    The feature takes the values it has in other examples instead of a baseline that none of them has. All rows are
    taken, so nothing is random; the map costs n evaluations of f for each feature. For a linear function it is
    :math:`a \odot (x - \bar b)`, summed over the groups.

    Args:
      f: a scalar function.
      argnums: the explained argument, or several (then a row replaces in all of them, and the result is a tuple).
      num_groups: the number of features if `groups` are given at the call.
      chunk_size: evaluations of f made together; memory grows with it, the result does not depend on it. `None`
        takes all.

    Returns:
      A function of f's arguments and of the keywords `background` (a pytree like the explained argument, each array
      with a leading axis of rows) and `groups` (as for `feature_ablation`). The map is like the explained argument,
      in units of f; all entries of a group carry the value of the group.

    Raises:
      TypeError: at the call, if f is not scalar, the input or the background not floating-point or the groups not
        integers, or if only one of `groups` and `num_groups` is given.
      ValueError: if the chunk size is not positive, the background is not shaped like the input, or a group is
        not in 0..num_groups-1 (while traced, an entry outside gives NaN).

    Source: Breiman (2001); Fisher, Rudin & Dominici (2019), there of the loss and averaged over the examples.

    >>> explain = permutation(lambda x: x[0] * x[1])
    >>> explain(jnp.array([2.0, 3.0]), background=jnp.array([[0.0, 0.0], [1.0, 3.0]])).tolist()
    [4.5, 3.0]
    """
    _check_options(num_groups, chunk_size)

    def attribute(*args: PyTree, background: PyTree, groups: PyTree | None = None) -> PyTree:
        g, x = restrict_scalar("permutation", f, argnums, args)
        features = local.feature_groups("permutation", groups, num_groups, x)
        return _mean_drop(g, x, *local.checked_background("permutation", background, x), *features, chunk_size)

    return attribute


def _check_options(num_groups: int | None, chunk_size: int | None) -> None:
    if num_groups is not None:
        checks.positive_integer("num_groups", num_groups)
    checks.optional_chunk_size(chunk_size)


def _mean_drop(
    g: ScalarFn, x: PyTree, rows: PyTree, num_rows: int, groups: PyTree, num_groups: int, chunk_size: int | None
) -> PyTree:
    """For each entry the mean over the rows of g(x) - g(x with the entry's group taken from the row)."""
    dtype = tree.accumulator(jnp.result_type(*jax.tree.leaves(x)))
    value = g(x)

    def drop(node: tuple[Array, Array]) -> PyTree:
        group, row = node
        others = (jnp.arange(num_groups, dtype=jnp.int32) != group).astype(dtype)
        keep = local.spread_over(groups, others, x)
        change = value - g(local.masked(keep, x, local.background_row(rows, row)))
        # Selected, not multiplied: a value that is not finite stays in its group.
        return jax.tree.map(lambda z: jnp.where(z == 1, jnp.zeros_like(z), change.astype(z.dtype) * (1 - z)), keep)

    nodes = np.repeat(np.arange(num_groups), num_rows), np.tile(np.arange(num_rows), num_groups)
    weights = jnp.full((num_groups * num_rows,), 1 / num_rows, dtype)
    return weighted_sum(drop, jax.tree.map(lambda n: jnp.asarray(n, jnp.int32), nodes), weights, chunk_size=chunk_size)
