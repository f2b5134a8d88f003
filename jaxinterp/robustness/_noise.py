"""Gaussian noise as a linear image of standard normal numbers."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxinterp import checks, local, tree
from jaxinterp.typing import Array, PyTree


@dataclasses.dataclass(frozen=True, eq=False)
class GaussianNoise:
    """Noise of one covariance, in standard normal coordinates.

    Attributes:
      like: what the coordinates look like.
      scale: standard deviations like the input, or the factor of the covariance.
      at: `coordinates -> input`, the noisy input.
      rows: takes gradients with respect to the input, with a leading axis, to those with respect to the coordinates,
        [k, any], in at least float32.
    """

    like: PyTree
    scale: PyTree
    at: Callable[[PyTree], PyTree]
    rows: Callable[[PyTree], Array]


def flat_rows(rows: PyTree) -> Array:
    """Gradients of several functions, arrays with a leading axis, as the rows of one matrix in at least float32."""
    leaves = [leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(rows)]
    return jnp.concatenate([leaf.astype(tree.accumulator(leaf.dtype)) for leaf in leaves], 1)


def gaussian_noise(method: str, x: PyTree, stddev: PyTree | None, factor: Array | None) -> GaussianNoise:
    """The noise around x that one of `stddev` and `factor` describes."""
    if (stddev is None) == (factor is None):
        came = "neither came" if stddev is None else "both came"
        raise TypeError(f"`{method}` needs the noise: either `stddev=` or `factor=`; {came}.")

    if factor is None:
        sigma = tree.broadcast_prefix("stddev", checks.non_negative("stddev", stddev), x)
        return GaussianNoise(
            x,
            sigma,
            lambda noise: tree.add(x, tree.mul(sigma, noise)),
            lambda rows: flat_rows(jax.tree.map(lambda row, s: row * s[None], rows, sigma)),
        )
    given = local.check_factor(method, factor, x)
    matrix = given.astype(tree.accumulator(given.dtype))
    start, unravel = tree.ravel(x)

    def at(noise: Array) -> PyTree:
        return unravel(start + jnp.dot(matrix, noise, precision="highest").astype(start.dtype))

    def through(rows: PyTree) -> Array:
        wide = flat_rows(rows)
        return jnp.dot(wide, matrix.astype(wide.dtype), precision="highest")

    return GaussianNoise(jnp.zeros(matrix.shape[1:], matrix.dtype), matrix, at, through)
