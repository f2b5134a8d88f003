"""Optimal brain surgery: weights of one layer are removed, and the others make up for them, from a few activations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp import checks, tree
from jaxinterp.sparsity._schedules import sparsity_level
from jaxinterp.typing import Array


def brain_surgeon(
    activations: Array,
    weights: Array,
    *,
    sparsity: float | None = None,
    n_of_m: tuple[int, int] | None = None,
    damping: float = 1e-2,
) -> tuple[Array, Array]:
    r"""Removes the weights without which a layer's outputs change least, and corrects the others: `(weights, mask)`.

    For activations A [n, d] and each output's weights w [d] the squared change is
    :math:`\|Aw - Aw'\|^2 = (w - w')^\top H (w - w')` with :math:`H = A^\top A`. Step by step the weight with the
    smallest :math:`w_q^2 / [H^{-1}]_{qq}` is removed, which is the change it costs when all others are corrected by
    :math:`-\frac{w_q}{[H^{-1}]_{qq}} H^{-1}_{:,q}`; then :math:`H^{-1}` loses its row and column. After each step the
    remaining weights are the least-squares solution on their support. The work is d³ for each output.

    Args:
      activations: A, what the layer reads, of n calibration examples (or positions).
      weights: [d, m].
      sparsity: the fraction of each output's weights that goes; or
      n_of_m: (n, m): n of each m consecutive weights stay.
      damping: added to the diagonal of H, in units of its mean, so that it can be inverted.

    Returns:
      The weights [d, m] with exact zeros, and the mask, 1 where one is left.

    Raises:
      TypeError: if the arrays are not floating-point.
      ValueError: if the shapes do not fit, an entry is not finite, the sparsity is not in [0, 1), m does not divide d,
        or not exactly one of the two is given.

    Source: Hassibi & Stork (1993); row by row, with patterns: Frantar & Alistarh (2022).

    >>> a = jnp.array([[1.0, 1.0, 0.0], [2.0, 2.1, 0.0], [0.0, 0.0, 1.0]])  # the first two are nearly equal
    >>> w, mask = brain_surgeon(a, jnp.array([[1.0], [1.0], [3.0]]), sparsity=1 / 3, damping=1e-6)
    >>> mask.ravel().tolist(), [round(v, 1) for v in w.ravel().tolist()]
    ([0.0, 1.0, 1.0], [0.0, 2.0, 3.0])
    """
    a, w = checks.floating("brain_surgeon", (jnp.asarray(activations), jnp.asarray(weights)))
    if a.ndim != 2 or w.ndim != 2 or a.shape[1] != w.shape[0]:
        raise ValueError(
            f"`brain_surgeon` needs activations [n, d] and weights [d, m]; got shapes {a.shape} and {w.shape}."
        )
    if checks.concrete(tree.all_finite((a, w))) == np.False_:
        raise ValueError("The activations and weights given to `brain_surgeon` must be finite.")
    if (sparsity is None) == (n_of_m is None):
        raise ValueError("`brain_surgeon` needs either `sparsity` or `n_of_m`.")
    size = w.shape[0]
    group, removed = size, round(sparsity_level("sparsity", sparsity) * size) if sparsity is not None else 0
    if n_of_m is not None:
        kept, group = n_of_m
        if not 0 < kept < group or size % group:
            raise ValueError(f"`n_of_m` needs 0 < n < m, and m to divide the {size} weights; got {n_of_m}.")
        removed = size // group * (group - kept)
    checks.positive("damping", damping)
    dtype = tree.accumulator(jnp.promote_types(a.dtype, w.dtype))
    limit = removed if n_of_m is None else group - n_of_m[0]
    left, mask = _operated(a.astype(dtype), w.astype(dtype), damping, removed, group, limit)
    return left.astype(w.dtype), mask.astype(w.dtype)


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _operated(a: Array, weights: Array, damping: float, removed: int, group: int, limit: int) -> tuple[Array, Array]:
    """Removes so many weights of each column, at most `limit` of each group of consecutive ones."""
    hessian = jnp.dot(a.T, a, precision="highest")
    size = len(hessian)
    scale = jnp.maximum(jnp.trace(hessian) / size, jnp.finfo(a.dtype).tiny)
    inverse = jnp.linalg.inv(hessian + damping * scale * jnp.eye(size, dtype=a.dtype))

    def column(w: Array) -> tuple[Array, Array]:
        def remove(_: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            w, inverse, is_left = state
            is_open = jnp.sum(~is_left.reshape(-1, group), 1, keepdims=True) < limit
            is_allowed = is_left & jnp.broadcast_to(is_open, (size // group, group)).ravel()
            diagonal = jnp.where(is_left, jnp.diagonal(inverse), 1.0)
            q = jnp.argmin(jnp.where(is_allowed, w**2 / diagonal, jnp.inf))
            row = inverse[q] / diagonal[q]
            w = (w - w[q] * row).at[q].set(0)
            inverse = inverse - inverse[q][:, None] * row[None]
            inverse = inverse.at[q].set(0).at[:, q].set(0)
            return w, inverse, is_left.at[q].set(False)

        w, _, is_left = jax.lax.fori_loop(0, removed, remove, (w, inverse, jnp.ones(size, bool)))
        return jnp.where(is_left, w, 0), is_left

    left, mask = jax.lax.map(column, weights.T, batch_size=8)
    return left.T, mask.T
