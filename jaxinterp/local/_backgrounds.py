"""Background data sets: the inputs that stand for "not knowing" a feature, as rows of arrays like the input."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxinterp.typing import Array, PyTree


def checked_background(method: str, background: PyTree, x: PyTree, name: str = "background") -> tuple[PyTree, int]:
    """Returns the background in the dtypes of x, and the number of its rows.

    Args:
      method: the name to put into error messages.
      background: a pytree like x, each array with a leading axis of rows.
      x: one input.
      name: what the rows are called there.

    Raises:
      TypeError: if an array is not floating-point.
      ValueError: if the structure or a shape is another, or there are no rows.

    >>> rows, count = checked_background("example", jnp.zeros((3, 2)), jnp.ones(2))
    >>> rows.shape, count
    ((3, 2), 3)
    """
    wanted: Any = jax.tree.structure(x)
    got: Any = jax.tree.structure(background)
    if wanted != got:
        raise ValueError(f"`{name}` of `{method}` must have the structure {wanted} of the input; got {got}.")
    rows = jax.tree.map(jnp.asarray, background)
    leaves = jax.tree_util.tree_leaves_with_path(rows)
    count = leaves[0][1].shape[0] if leaves[0][1].ndim else 0
    for (path, leaf), like in zip(leaves, jax.tree.leaves(x), strict=True):
        where = f"`{name}{jax.tree_util.keystr(path)}` of `{method}`"
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(f"{where} must hold floating-point inputs, prepared like x; got dtype {leaf.dtype}.")
        if leaf.shape[1:] != like.shape or leaf.ndim == 0 or not leaf.shape[0]:
            raise ValueError(
                f"{where} must have the shape of the input with a leading axis of one or more rows, "
                f"[rows{''.join(f', {n}' for n in like.shape)}]; got {leaf.shape}."
            )
        if leaf.shape[0] != count:
            raise ValueError(f"{where} must have as many rows as the first array, {count}; got {leaf.shape[0]}.")
    return jax.tree.map(lambda a, b: a.astype(b.dtype), rows, x), count


def background_row(background: PyTree, index: Array) -> PyTree:
    """Returns one row of a background, an input.

    >>> background_row(jnp.arange(6.0).reshape(3, 2), 1).tolist()
    [2.0, 3.0]
    """
    return jax.tree.map(lambda a: a[index], background)
