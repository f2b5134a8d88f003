"""Features of an image inside the network: intermediates that have positions and channels."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxinterp import interpreters
from jaxinterp.interpreters import SiteLike
from jaxinterp.typing import Array, PyTree


class FeatureShape:
    """Which intermediates of a function of one image have positions and channels."""

    def __init__(self, rank: int, channel_axis: int = -1) -> None:
        self.rank = rank
        self.channel_axis = channel_axis % rank - rank

    def is_met(self, aval: Array | jax.ShapeDtypeStruct) -> bool:
        """Whether it is no integer, has the axes of the image behind others of length one, and several positions."""
        lead, rest = aval.shape[: -self.rank], aval.shape[-self.rank :]
        if len(rest) < self.rank or any(n != 1 for n in lead) or not jnp.issubdtype(aval.dtype, jnp.inexact):
            return False
        return math.prod(rest) > rest[self.channel_axis]

    def of(self, values: Array) -> Array:
        """The features [*positions, channels]."""
        return jnp.moveaxis(values.reshape(values.shape[-self.rank :]), self.channel_axis, -1)

    def back(self, features: Array, shape: tuple[int, ...]) -> Array:
        """The intermediate of the shape given."""
        return jnp.moveaxis(features, -1, self.channel_axis).reshape(shape)


def weighted_channels(features: Array, weights: Array) -> Array:
    """The sum of the channels, each times its weight: [*positions]."""
    along = ((features.ndim - 1,), (0,))
    return jnp.tensordot(features, weights.astype(features.dtype), along, precision="highest")


def features_at(
    g: Callable[[PyTree], Array], x: PyTree, site: SiteLike | None, channel_axis: int
) -> tuple[Array, Callable[[Array], Array]]:
    """The features [*positions, channels] at a site, and g as a function of them."""
    shape = jax.tree.leaves(x)[0].shape
    kind = FeatureShape(len(shape), channel_axis)

    if site is None:
        program, _ = interpreters.graph(g, x)
        found = {v for v in program.dependent - program.copies() if kind.is_met(program.avals[v])}
        having = [node.site(i) for node in program.nodes for i, v in enumerate(node.outputs) if v in found]
        if not having:
            raise ValueError(
                f"No intermediate of the function has {kind.rank} axes and more than one position, as class-activation "
                f"maps of an input of shape {shape} need: is it a convolutional network?"
            )
        site = having[-1]
    value, rest = interpreters.resume_from(g, site)(x)
    if not kind.is_met(value):
        raise ValueError(
            f"The site {site} has shape {value.shape} and dtype {value.dtype}; a class-activation map needs "
            f"floating-point features with {kind.rank} axes and more than one position."
        )
    return kind.of(value), lambda features: rest(kind.back(features, value.shape))
