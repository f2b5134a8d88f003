"""RISE: the mean of the output over random smooth masks, weighted by the masks."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxinterp import checks, local, tree
from jaxinterp.attribution._axes import checked_sizes, one_per_axis
from jaxinterp.attribution._images import over_channels, single_image
from jaxinterp.attribution._stochastic import averaged
from jaxinterp.derivatives import Estimate, expectation
from jaxinterp.interpreters import restrict_scalar
from jaxinterp.typing import Array, Key, PyTree, ScalarFn


def rise(
    f: ScalarFn,
    argnums: int | tuple[int, ...] = 0,
    *,
    cells: int | tuple[int, ...] = 8,
    probability: float = 0.5,
    num_samples: int = 1024,
    channel_axis: int = -1,
    chunk_size: int | None = 16,
) -> Callable[..., PyTree]:
    r"""RISE: returns `(key, *args, baseline=0)` -> the mean output over random masks that show a pixel.

    :math:`\phi_i = \frac{1}{Np} \sum_{k=1}^N f(b + M_k \odot (x - b))\, M_{k,i}`, an estimate of
    :math:`\mathbb E[f(b + M \odot (x - b))\, M_i] / \mathbb E[M_i]`.

    A mask is a grid of s cells along each axis of the image, each 1 with probability p and 0 otherwise, made larger by
    linear interpolation with half-pixel centres (constant beyond the outer centres) and cut out at a random place: with
    cells of :math:`c = \lceil n/s \rceil` pixels along an axis of n, the grid covers (s + 1)c pixels, and the n pixels
    taken begin at 0..c - 1. Every pixel of M has the mean p. The map weighs outputs, not differences: a
    constant f gives that constant everywhere. For a linear function with :math:`f(b) = 0` it is :math:`\sum_j a_j
    (x_j - b_j)\, \mathbb E[M_i M_j] / p`, a blurred :math:`a \odot (x - b)` above a common level.

    Args:
      f: a scalar function.
      argnums: the explained argument: one image [*spatial, channels] with any number of spatial axes.
      cells: s, the same along all spatial axes or one number per axis.
      probability: p, that a cell is shown; between 0 and 1.
      num_samples: N.
      channel_axis: where the image has its channels: -1 in Flax, -3 or 0 for images [channels, height, width].
      chunk_size: masks evaluated together; memory grows with it, the samples do not depend on it. `None` takes all.

    Returns:
      A function of a key, f's arguments and the keyword `baseline` (b, a pytree prefix of x; zeros by default). The
      map is like the explained argument, equal over the channels, in units of f. The standard error: see `with_stderr`.

    Raises:
      TypeError: at the call, if f is not scalar, the input not one floating-point image or the key not a typed key.
      ValueError: if a count is not positive, p is not between 0 and 1, `cells` has another number of axes than the
        image, or the baseline does not broadcast to it.

    Source: Petsiuk, Das & Saenko (2018).

    >>> explain = rise(lambda x: jnp.sum(x[:2]), cells=4, num_samples=4000)
    >>> left, right = explain(jax.random.key(0), jnp.ones((4, 1)))[jnp.array([0, 3]), 0]
    >>> bool(left > 1.3), bool(right < 1.1)
    (True, True)
    """
    cells = checked_sizes("cells", cells)
    checks.positive_integer("num_samples", num_samples)
    checks.optional_chunk_size(chunk_size)
    if not 0 < probability < 1:
        raise ValueError(f"`probability` must lie between 0 and 1; got {probability}.")

    def estimate(key: Key, *args: PyTree, baseline: PyTree = 0.0) -> Estimate:
        g, x = restrict_scalar("rise", f, argnums, args)
        image, restored = single_image("rise", x, channel_axis)
        origin, _ = single_image("rise", tree.broadcast_prefix("baseline", baseline, x), channel_axis)
        shape, dtype = image.shape[:-1], tree.accumulator(image.dtype)
        grid = one_per_axis("rise", "cells", cells, shape, "an image of spatial shape")

        def sample(k: Key) -> Array:
            mask = _smooth_mask(k, shape, grid, probability, dtype)
            shown = local.along_segment(over_channels(mask, image), image, origin)
            return g(restored(shown)).astype(dtype) * mask / probability

        found = expectation(sample, num_samples, chunk_size=chunk_size)(key)
        mean, stderr = (restored(over_channels(values, image)) for values in (found.mean, found.stderr))
        return Estimate(mean, stderr, found.num_samples)

    return averaged("rise", estimate)


def _smooth_mask(
    key: Key, shape: tuple[int, ...], cells: tuple[int, ...], probability: float, dtype: jnp.dtype
) -> Array:
    """A random mask with values in 0..1 of the spatial shape: a coarse one, interpolated and shifted axis by axis."""
    mask = tree.bernoulli_like(jax.random.fold_in(key, 0), jnp.zeros(cells, dtype), probability)
    for axis, (n, s) in enumerate(zip(shape, cells, strict=True)):
        pixels = -(-n // s)
        shift = jax.random.randint(jax.random.fold_in(key, 1 + axis), (), 0, pixels, jnp.int32)
        centres = (jnp.arange(n, dtype=jnp.int32) + shift).astype(dtype) + 0.5
        position = jnp.clip(centres * s / ((s + 1) * pixels) - 0.5, 0, s - 1)  # in the grid, cell 0 centred at 0
        weights = jnp.maximum(1 - jnp.abs(position[:, None] - jnp.arange(s, dtype=dtype)[None]), 0)
        mask = jnp.tensordot(mask, weights, ((0,), (1,)), precision="highest")  # the first axis goes to the end
    return mask
