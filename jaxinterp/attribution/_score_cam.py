"""Class-activation maps without gradients: channels are tried out one by one."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxinterp import batching, checks, interpreters, local, tree
from jaxinterp.attribution._cam import Activation
from jaxinterp.attribution._features import features_at, weighted_channels
from jaxinterp.attribution._images import Resize, align_corners, over_channels, single_image
from jaxinterp.interpreters import SiteLike, restrict_scalar
from jaxinterp.typing import Array, PyTree, ScalarFn


def score_cam(
    f: ScalarFn,
    argnums: int | tuple[int, ...] = 0,
    *,
    site: SiteLike | None = None,
    activation: Activation = jax.nn.relu,
    resize: Resize = align_corners,
    channel_axis: int = -1,
    chunk_size: int | None = 16,
) -> Callable[..., PyTree]:
    r"""Score-CAM: returns `(*args, baseline=0)` -> the features weighted by what f gains when each is shown alone.

    :math:`\mathrm{ReLU}\bigl(\sum_k \alpha_k A_k\bigr),\ \alpha = \mathrm{softmax}_k\bigl(f(b + H_k\odot(x - b)) -
    f(b)\bigr)`, where :math:`H_k` is :math:`A_k` resized to the image and scaled to 0..1 (0 where it is constant).

    Args:
      f: a scalar function.
      argnums: the explained argument: one image [*spatial, channels] with any number of spatial axes.
      site: as in `class_activation_map`.
      activation: as in `class_activation_map`.
      resize: as in `class_activation_map`; of the masks too.
      channel_axis: as in `class_activation_map`.
      chunk_size: channels tried together; memory grows with it. `None` takes all.

    Returns:
      A function of f's arguments and of the keyword `baseline` (b, a pytree prefix of x; zeros by default). The map is
      like the explained argument, equal over the channels, in units of the features.

    Raises:
      TypeError: at the call, if f is not scalar or the input not one floating-point image.
      ValueError: if the chunk size is not positive; at the call, if there is no such site or its output has no
        positions.

    Source: Wang, Wang, Du, Yang, Zhang, Ding, Mardziel & Hu (2020).

    >>> f = lambda x: jnp.sum(jax.nn.relu(x) @ jnp.array([2.0, 0.0]))
    >>> score_cam(f)(jnp.array([[1.0, 0.0], [3.0, 0.0]])).shape
    (2, 2)
    """
    checks.functions("score_cam", activation=activation, resize=resize)
    checks.optional_chunk_size(chunk_size)

    def attribute(*args: PyTree, baseline: PyTree = 0.0) -> PyTree:
        g, x = restrict_scalar("score_cam", f, argnums, args)
        image, restored = single_image("score_cam", x, channel_axis)
        origin, _ = single_image("score_cam", tree.broadcast_prefix("baseline", baseline, x), channel_axis)
        features, _ = features_at(g, x, site, channel_axis)

        def gain(channel: Array) -> Array:
            mask = resize(channel, image.shape[:-1])
            low, high = jnp.min(mask), jnp.max(mask)
            mask = jnp.where(high > low, (mask - low) / jnp.where(high > low, high - low, jnp.ones_like(high)), 0.0)
            shown = local.along_segment(over_channels(mask.astype(image.dtype), image), image, origin)
            return g(restored(shown))

        channels = jnp.moveaxis(features, -1, 0)
        scores = _in_chunks(gain, channels, chunk_size) - g(restored(origin))
        # Compiled for a CPU, the softmax of NaN can come out finite (jax 0.10): bad scores are to be seen.
        weights = jnp.where(jnp.all(jnp.isfinite(scores)), jax.nn.softmax(scores), jnp.full_like(scores, jnp.nan))
        heat = activation(weighted_channels(features, weights))
        return restored(over_channels(resize(heat, image.shape[:-1]), image))

    return attribute


def ablation_cam(
    f: ScalarFn,
    argnums: int | tuple[int, ...] = 0,
    *,
    site: SiteLike | None = None,
    activation: Activation = jax.nn.relu,
    resize: Resize = align_corners,
    channel_axis: int = -1,
    chunk_size: int | None = 16,
) -> Callable[..., PyTree]:
    r"""Ablation-CAM: returns `(*args)` -> the features weighted by the relative drop of f when each is removed.

    :math:`\mathrm{ReLU}\bigl(\sum_k \alpha_k A_k\bigr),\ \alpha_k = \frac{f - f_{A_k = 0}}{|f|}`; 0 where f is 0.
    Only the part of f behind the site is evaluated again for each channel.

    Args:
      f: a scalar function.
      argnums: the explained argument: one image [*spatial, channels] with any number of spatial axes.
      site: as in `class_activation_map`.
      activation: as in `class_activation_map`.
      resize: as in `class_activation_map`.
      channel_axis: as in `class_activation_map`.
      chunk_size: channels removed together; memory grows with it. `None` takes all.

    Returns:
      A function of f's arguments; the map is like the explained argument, equal over the channels, in units of the
      features.

    Raises:
      TypeError: at the call, if f is not scalar or the input not one floating-point image.
      ValueError: if the chunk size is not positive; at the call, if there is no such site or its output has no
        positions.

    Source: Desai & Ramaswamy (2020); with the magnitude of f, so that the sign means the same for negative scores.

    >>> f = lambda x: jnp.sum(jax.nn.relu(x) @ jnp.array([2.0, 0.0]))
    >>> ablation_cam(f)(jnp.array([[1.0, 5.0], [3.0, 0.0]])).tolist()
    [[1.0, 1.0], [3.0, 3.0]]
    """
    checks.functions("ablation_cam", activation=activation, resize=resize)
    checks.optional_chunk_size(chunk_size)

    def attribute(*args: PyTree) -> PyTree:
        g, x = restrict_scalar("ablation_cam", f, argnums, args)
        image, restored = single_image("ablation_cam", x, channel_axis)
        features, score = features_at(g, x, site, channel_axis)
        count = features.shape[-1]
        value = score(features)

        def drop(index: Array) -> Array:
            kept = (jnp.arange(count, dtype=index.dtype) != index).astype(features.dtype)
            return value - score(features * kept.reshape(*(1,) * (features.ndim - 1), count))

        drops = _in_chunks(drop, jnp.arange(count, dtype=jnp.int32), chunk_size)
        is_zero = value == 0
        size = jnp.where(is_zero, jnp.ones_like(value), jnp.abs(value))
        weights = jnp.where(is_zero, jnp.zeros_like(drops), drops / size)
        heat = activation(weighted_channels(features, weights))
        return restored(over_channels(resize(heat, image.shape[:-1]), image))

    return attribute


def _in_chunks(fn: Callable[[Array], Array], values: Array, chunk_size: int | None) -> Array:
    """`fn` of every row, several at a time."""
    if chunk_size is None:
        return jax.vmap(fn)(values)
    return batching.map_examples(interpreters.loop_safe(fn), batch_size=min(chunk_size, values.shape[0]))(values)
