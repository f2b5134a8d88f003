"""FullGrad: saliency maps from the full-gradient decomposition."""

from collections.abc import Callable

import jax.numpy as jnp

from jaxinterp import checks, interpreters, local, tree
from jaxinterp.attribution._features import FeatureShape
from jaxinterp.attribution._images import Resize, align_corners, over_channels, single_image
from jaxinterp.derivatives import expectation
from jaxinterp.interpreters import FullGradient, Grouping, Site, restrict_scalar
from jaxinterp.typing import Array, Key, PyTree, ScalarFn

Rescale = Callable[[Array], Array]
"""Takes the term of one site [*spatial, channels] and returns what is added to the map, entry by entry."""


def to_unit_range(term: Array) -> Array:
    """The magnitude, moved and scaled to 0..1 over positions and channels together; 1e-6 guards a constant term.

    >>> [round(float(v), 3) for v in to_unit_range(jnp.array([-3.0, 1.0, 2.0]))]
    [1.0, 0.0, 0.5]
    """
    size = jnp.abs(term)
    size = size - jnp.min(size)
    return size / (jnp.max(size) + jnp.asarray(1e-6, size.dtype))


def full_grad(
    f: ScalarFn,
    argnums: int | tuple[int, ...] = 0,
    *,
    rescale: Rescale = to_unit_range,
    resize: Resize = align_corners,
    grouping: Grouping = interpreters.regions,
    channel_axis: int = -1,
) -> Callable[..., PyTree]:
    r"""FullGrad: returns `(*args)` -> the sizes of all terms of the full-gradient decomposition, as one map.

    :math:`S = \sum_c \psi(\nabla f \odot x)_c + \sum_s \sum_c \psi(c_s \odot b_s)_c`, over the sites s whose output
    has positions, with :math:`\psi = \mathrm{resize} \circ \mathrm{rescale}`. See `interpreters.full_gradient` for the
    decomposition itself, which is complete; the map is not. Terms without positions (dense layers) are in the
    decomposition and not in the map.

    The sites are those of the program: biases and batch normalisation, and, beyond the original, the implicit offsets
    of smooth activations and normalisers.

    Args:
      f: a scalar function.
      argnums: the explained argument: one image [*spatial, channels] with any number of spatial axes.
      rescale: what is done to each term first.
      resize: brings the result to the positions of the image.
      grouping: how equations form sites; see `interpreters.full_gradient`.
      channel_axis: where the image and the terms have their channels; see `class_activation_map`.

    Returns:
      A function of f's arguments; the map is like the explained argument, equal over the channels, without units.

    Raises:
      TypeError: at the call, if f is not scalar or the input not one floating-point image.
      NotImplementedError: at the call, for a primitive without a reverse derivative.

    Source: Srinivas & Fleuret (2019).

    >>> f = lambda x: jnp.sum(jax.nn.relu(x + jnp.array([[1.0], [0.0], [2.0]])))
    >>> [round(float(v), 2) for v in full_grad(f)(jnp.array([[1.0], [2.0], [3.0]])).ravel()]
    [0.5, 0.5, 2.0]
    """
    checks.functions("full_grad", rescale=rescale, resize=resize, grouping=grouping)

    def attribute(*args: PyTree) -> PyTree:
        g, x = restrict_scalar("full_grad", f, argnums, args)
        full = interpreters.full_gradient(g, grouping=grouping)(x)
        return _map("full_grad", x, tree.mul(full.input_gradient, x), full.terms(), rescale, resize, channel_axis)

    return attribute


def simple_full_grad(
    f: ScalarFn,
    argnums: int | tuple[int, ...] = 0,
    *,
    rescale: Rescale = to_unit_range,
    resize: Resize = align_corners,
    grouping: Grouping = interpreters.regions,
    channel_axis: int = -1,
) -> Callable[..., PyTree]:
    r"""Simple FullGrad: returns `(*args)` -> as `full_grad`, with the cotangents alone in place of the bias-gradients.

    :math:`S = \sum_c \psi(\nabla f \odot x)_c + \sum_s \sum_c \psi(c_s)_c`, over the sites that have an offset.

    Args:
      f: a scalar function.
      argnums: the explained argument: one image [*spatial, channels] with any number of spatial axes.
      rescale: as for `full_grad`.
      resize: as for `full_grad`.
      grouping: as for `full_grad`.
      channel_axis: as for `full_grad`.

    Returns:
      A function of f's arguments; the map is like the explained argument, equal over the channels, without units.

    Raises:
      TypeError: at the call, if f is not scalar or the input not one floating-point image.
      NotImplementedError: at the call, for a primitive without a reverse derivative.

    Source: Srinivas & Fleuret (2019), released code.

    >>> f = lambda x: jnp.sum(jax.nn.relu(x + jnp.array([[1.0], [0.0], [2.0]])) * x)
    >>> simple_full_grad(f)(jnp.array([[1.0], [2.0], [3.0]])).shape
    (3, 1)
    """
    checks.functions("simple_full_grad", rescale=rescale, resize=resize, grouping=grouping)

    def attribute(*args: PyTree) -> PyTree:
        g, x = restrict_scalar("simple_full_grad", f, argnums, args)
        full = interpreters.full_gradient(g, grouping=grouping)(x)
        return _map(
            "simple_full_grad", x, tree.mul(full.input_gradient, x), full.cotangents, rescale, resize, channel_axis
        )

    return attribute


def smooth_full_grad(
    f: ScalarFn,
    argnums: int | tuple[int, ...] = 0,
    *,
    num_samples: int = 25,
    rescale: Rescale = to_unit_range,
    resize: Resize = align_corners,
    grouping: Grouping = interpreters.regions,
    channel_axis: int = -1,
    chunk_size: int | None = 1,
) -> Callable[..., PyTree]:
    r"""Smooth FullGrad: returns `(key, *args, stddev)` -> the map of the terms of `full_grad` averaged under noise.

    Each term t is replaced by :math:`\mathbb E\,t(x + \sigma\varepsilon),\ \varepsilon \sim \mathcal N(0, I)`, before
    ψ and the sums. (The released code also sums the input's term over channels before ψ, unlike its FullGrad.) ψ is
    not linear, so the map has no standard error of its own.

    Args:
      f: a scalar function.
      argnums: the explained argument: one image [*spatial, channels] with any number of spatial axes.
      num_samples: noisy copies.
      rescale: as for `full_grad`.
      resize: as for `full_grad`.
      grouping: as for `full_grad`.
      channel_axis: as for `full_grad`.
      chunk_size: copies taken together; memory grows with it. `None` takes all.

    Returns:
      A function of a key, f's arguments and the keyword `stddev` (σ >= 0 in the units of x). The map is like the
      explained argument, equal over the channels, without units.

    Raises:
      TypeError: at the call, if f is not scalar, the input not one floating-point image or the key not a typed key.
      ValueError: if a count is not positive or σ is negative.

    Source: Srinivas & Fleuret (2019), released code; σ there is 0.15 of the range of the batch.

    >>> f = lambda x: jnp.sum(jax.nn.relu(x + 1.0))
    >>> smooth_full_grad(f, num_samples=4)(jax.random.key(0), jnp.ones((3, 1)), stddev=0.1).shape
    (3, 1)
    """
    checks.functions("smooth_full_grad", rescale=rescale, resize=resize, grouping=grouping)
    checks.positive_integer("num_samples", num_samples)
    checks.optional_chunk_size(chunk_size)

    def terms(key: Key, *args: PyTree, stddev: PyTree) -> tuple[PyTree, dict[Site, Array]]:
        g, x = restrict_scalar("smooth_full_grad", f, argnums, args)
        noisy = local.gaussian(key, x, stddev=stddev).point
        full: FullGradient = interpreters.full_gradient(g, grouping=grouping)(noisy)
        return tree.mul(full.input_gradient, noisy), full.terms()

    averaged = expectation(terms, num_samples, chunk_size=chunk_size)

    def attribute(key: Key, *args: PyTree, stddev: PyTree) -> PyTree:
        _, x = restrict_scalar("smooth_full_grad", f, argnums, args)
        single_image("smooth_full_grad", x, channel_axis)
        of_input, of_sites = averaged(key, *args, stddev=stddev).mean
        return _map("smooth_full_grad", x, of_input, of_sites, rescale, resize, channel_axis)

    return attribute


def _map(
    method: str,
    x: PyTree,
    of_input: PyTree,
    of_sites: dict[Site, Array],
    rescale: Rescale,
    resize: Resize,
    channel_axis: int,
) -> PyTree:
    image, restored = single_image(method, x, channel_axis)
    kind = FeatureShape(image.ndim, channel_axis)
    saliency = jnp.sum(rescale(single_image(method, of_input, channel_axis)[0]), -1)
    for term in of_sites.values():
        if kind.is_met(term):
            resized = resize(rescale(kind.of(term)), image.shape[:-1])
            saliency = saliency + jnp.sum(resized, -1).astype(saliency.dtype)
    return restored(over_channels(saliency, image))
