"""Features of an image inside the network: intermediates that have positions and channels."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxinterp import interpreters
from jaxinterp.interpreters import Site, SiteLike
from jaxinterp.typing import Array, PyTree


def as_features(shape: tuple[int, ...], rank: int) -> tuple[int, ...] | None:
    """The shape [*spatial, channels] of an intermediate of a function of one image with `rank` axes, or `None`.

    Leading axes of length one are dropped; there must be more than one position.
    """
    lead, rest = shape[: len(shape) - rank], shape[len(shape) - rank :]
    if len(rest) < rank or any(n != 1 for n in lead) or all(n == 1 for n in rest[:-1]):
        return None
    return rest


def features_at(
    g: Callable[[PyTree], Array], x: PyTree, site: SiteLike | None
) -> tuple[Array, Callable[[Array], Array]]:
    """The features [*positions, channels] at a site, and g as a function of them."""
    rank = jax.tree.leaves(x)[0].ndim

    def last(avals: dict[Site, jax.ShapeDtypeStruct]) -> Site:
        having = [s for s, a in avals.items() if as_features(a.shape, rank) and jnp.issubdtype(a.dtype, jnp.floating)]
        if not having:
            raise ValueError(
                f"No intermediate of the function has {rank} axes and more than one position, as class-activation maps "
                f"of an input of shape {jax.tree.leaves(x)[0].shape} need: is it a convolutional network?"
            )
        return having[-1]

    value, rest = interpreters.resume_from(g, last if site is None else site)(x)
    shape = as_features(value.shape, rank)
    if shape is None or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"The site {site} has shape {value.shape} and dtype {value.dtype}; a class-activation map needs "
            f"floating-point features [*positions, channels] with {rank} axes and more than one position."
        )
    return value.reshape(shape), lambda features: rest(features.reshape(value.shape))
