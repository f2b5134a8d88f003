"""Functions of the explained arguments alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp import checks
from jaxinterp.typing import PyTree, ScalarFn


def restrict(
    method: str, f: Callable[..., PyTree], argnums: int | tuple[int, ...], args: tuple
) -> tuple[Callable[[PyTree], PyTree], PyTree]:
    """Returns `f` as a function of the arguments at `argnums` alone, and their values.

    Args:
      method: the name to put into error messages.
      f: any function.
      argnums: a position, or a tuple of positions (then the restricted function takes a tuple).
      args: the values of all arguments.

    Raises:
      TypeError: if f is not callable, or an entry of the chosen arguments not a real floating-point number.

    >>> g, x = restrict("example", lambda a, b: a * b, 1, (3.0, 4.0))
    >>> float(g(x)), float(g(5.0))
    (12.0, 15.0)
    """
    g, chosen, others = rearranged(method, f, argnums, args)
    return lambda x: g(x, *others), chosen


def rearranged(
    method: str, f: Callable[..., PyTree], argnums: int | tuple[int, ...], args: tuple
) -> tuple[Callable[..., PyTree], PyTree, tuple]:
    """Returns `f` with the chosen arguments first, as one, and the others after them; the chosen and the others.

    Arguments and errors are those of `restrict`.

    >>> g, x, others = rearranged("example", lambda a, b: a - b, 1, (3.0, 4.0))
    >>> float(g(x, *others)), float(g(5.0, 3.0))
    (-1.0, -2.0)
    """
    if not callable(f):
        raise TypeError(f"`{method}` takes a function; got {f!r} of type {type(f).__name__}.")
    positions = checks.argnums(method, argnums, len(args))
    chosen = tuple(args[i] for i in positions)
    checks.floating(method, chosen if isinstance(argnums, tuple) else chosen[0])
    chosen = jax.tree.map(jnp.asarray, chosen)
    # Numbers become arrays, as under `jax.jit`: a program tells a parameter from a number that is written into it.
    others = tuple(jax.tree.map(_as_array, arg) for i, arg in enumerate(args) if i not in positions)
    count = len(args)

    def g(x: PyTree, *others: PyTree) -> PyTree:
        filled, rest = dict(zip(positions, x if isinstance(argnums, tuple) else (x,), strict=True)), iter(others)
        return f(*(filled[i] if i in filled else next(rest) for i in range(count)))

    return g, chosen if isinstance(argnums, tuple) else chosen[0], others


def _as_array(leaf: Any) -> Any:
    return jnp.asarray(leaf) if isinstance(leaf, float | np.floating | np.ndarray) else leaf


def restrict_scalar(method: str, f: ScalarFn, argnums: int | tuple[int, ...], args: tuple) -> tuple[ScalarFn, PyTree]:
    """As `restrict`, for a scalar function: `TypeError` when `f` returns anything else."""
    restricted, x = restrict(method, f, argnums, args)
    return lambda point: checks.scalar(method, restricted(point)), x
