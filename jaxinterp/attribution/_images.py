"""Images [*spatial, channels] of any spatial rank, and maps of another resolution brought to theirs."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp.typing import Array, PyTree

Resize = Callable[[Array, tuple[int, ...]], Array]
"""Takes a map and the spatial shape wanted; the axes after the spatial ones stay."""


def single_image(method: str, x: PyTree, channel_axis: int = -1) -> tuple[Array, Callable[[Array], PyTree]]:
    """The one array of x with its channels last, and the way back to x; `TypeError` if x is no image."""
    leaves, structure = jax.tree.flatten(x)
    if len(leaves) != 1 or leaves[0].ndim < 2:
        raise TypeError(
            f"`{method}` explains one image of shape [*spatial, channels]; got "
            f"{'arrays' if len(leaves) > 1 else 'an array'} of shape {', '.join(str(leaf.shape) for leaf in leaves)}."
        )
    image = jnp.asarray(leaves[0])
    if isinstance(channel_axis, bool) or not isinstance(channel_axis, int):
        raise TypeError(f"`channel_axis` of `{method}` must be an integer; got {channel_axis!r}.")
    if not -image.ndim <= channel_axis < image.ndim:
        raise ValueError(f"`channel_axis` of `{method}` is {channel_axis}, but the image has shape {image.shape}.")
    return jnp.moveaxis(image, channel_axis, -1), lambda values: jax.tree.unflatten(
        structure, [jnp.moveaxis(values, -1, channel_axis)]
    )


def over_channels(values: Array, image: Array) -> Array:
    """A map [*spatial] as an attribution: every channel of a pixel gets the pixel's number, in the image's dtype."""
    return jnp.broadcast_to(values[..., None], image.shape).astype(image.dtype)


def align_corners(values: Array, shape: tuple[int, ...]) -> Array:
    """Linear interpolation whose corner samples keep their place: output i of n reads position i (m - 1) / (n - 1).

    The convention of FullGrad and Grad-CAM in PyTorch (`align_corners=True`); `jax.image.resize` has another.

    >>> align_corners(jnp.array([0.0, 2.0]), (3,)).tolist()
    [0.0, 1.0, 2.0]
    """
    for axis, wanted in enumerate(shape):
        given = values.shape[axis]
        position = np.linspace(0, given - 1, wanted) if wanted > 1 else np.zeros(1)
        weights = np.maximum(1 - np.abs(position[:, None] - np.arange(given)), 0)
        matrix = jnp.asarray(weights, values.dtype)
        values = jnp.moveaxis(jnp.tensordot(matrix, values, ((1,), (axis,)), precision="highest"), 0, axis)
    return values


def nearest(values: Array, shape: tuple[int, ...]) -> Array:
    """The nearest sample, with half-pixel centres.

    >>> nearest(jnp.array([0.0, 2.0]), (4,)).tolist()
    [0.0, 0.0, 2.0, 2.0]
    """
    return jax.image.resize(values, (*shape, *values.shape[len(shape) :]), "nearest")
