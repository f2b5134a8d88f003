"""Batches: the methods see one example; this maps them over many without holding all in memory."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxinterp import checks
from jaxinterp.typing import Array, PyTree


def map_examples(
    fn: Callable[..., PyTree], *, batch_size: int, in_axes: int | tuple[int | None, ...] = 0
) -> Callable[..., PyTree]:
    """Maps `fn` over a batch in pieces of `batch_size` examples; memory grows with the piece, not with the batch.

    The same as `jax.vmap(fn, in_axes)`, computed by `jax.lax.map(..., batch_size=batch_size)`: pieces run one after the
    other, the examples of a piece together, and the last, smaller piece by itself.

    On a CPU, a convolution's gradient inside any JAX loop is 7 to 27 times slower than outside it unless the
    program is rewritten: for convolutional networks pass `jaxinterp.interpreters.loop_safe(fn)`. The methods of this
    library that loop themselves are rewritten already.

    Args:
      fn: a function of one example.
      batch_size: the number of examples computed together.
      in_axes: as in `jax.vmap`, but a mapped argument is mapped along axis 0: per argument 0 or `None` (shared).

    Returns:
      A function of the batched arguments.

    Raises:
      ValueError: if `in_axes` maps no argument, or has another length than the arguments.

    >>> import jax.numpy as jnp
    >>> squares = map_examples(lambda w, x: w * x**2, in_axes=(None, 0), batch_size=2)
    >>> squares(3.0, jnp.arange(3.0)).tolist()
    [0.0, 3.0, 12.0]
    """
    checks.positive_integer("batch_size", batch_size)

    def mapped(*args: PyTree) -> PyTree:
        axes = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(args)
        if len(axes) != len(args):
            raise ValueError(f"`in_axes` of `map_examples` has {len(axes)} entries, but {len(args)} arguments came.")
        if any(axis not in (0, None) for axis in axes) or all(axis is None for axis in axes):
            raise ValueError(
                f"`in_axes` of `map_examples` must be 0 or None per argument, and 0 at least once; got {axes}."
            )
        varying = tuple(arg for arg, axis in zip(args, axes, strict=True) if axis == 0)

        def one(example: tuple) -> PyTree:
            parts = iter(example)
            return fn(*(next(parts) if axis == 0 else arg for arg, axis in zip(args, axes, strict=True)))

        return jax.lax.map(one, varying, batch_size=batch_size)

    return mapped


@jax.custom_batching.custom_vmap
def any_example(flag: Array) -> Array:
    """Whether it holds for any of the examples that are computed together: one decision for all of them.

    Under `jax.vmap`, `jax.lax.cond` on a condition of each example computes both branches for all; on this one, it
    computes one.

    Args:
      flag: a boolean scalar.

    >>> import jax.numpy as jnp
    >>> root = lambda x: jax.lax.cond(any_example(x < 0), lambda: jnp.nan, lambda: jnp.sqrt(x))
    >>> jax.vmap(root)(jnp.array([1.0, 4.0])).tolist(), jax.vmap(root)(jnp.array([1.0, -4.0])).tolist()
    ([1.0, 2.0], [nan, nan])
    """
    return flag


@any_example.def_vmap
def _(axis_size: int, in_batched: list[bool], flag: Array) -> tuple[Array, bool]:
    return any_example(jnp.any(flag)), False
