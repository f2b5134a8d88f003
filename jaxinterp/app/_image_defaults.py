"""Methods that take an image by its regions: single entries of a small input, the cells of a grid for a large one."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxinterp import attribution, local, tree
from jaxinterp.typing import Key, PyTree, ScalarFn

GRID = 8
"""Cells along each side of an image that is too large to take its pixels one by one."""

PIXELS = 256
"""The largest input whose entries are taken one by one."""


def occlusion(f: ScalarFn, **chunks: Any) -> Callable[..., PyTree]:
    """Single entries, or half-overlapping windows of an eighth of the side for a large image."""

    def attribute(x: PyTree, *args: PyTree, **arrays: PyTree) -> PyTree:
        if not _is_large_image(x):
            return attribution.occlusion(f, **chunks)(x, *args, **arrays)
        height, width, channels = x.shape
        window = (-(-height // GRID), -(-width // GRID), channels)
        stride = (max(window[0] // 2, 1), max(window[1] // 2, 1), 1)
        return attribution.occlusion(f, window=window, stride=stride, **chunks)(x, *args, **arrays)

    return attribute


def by_features(
    method: Callable[..., Any], f: ScalarFn, *, has_key: bool = False, num_samples: int | None = None, **chunks: Any
) -> Callable[..., PyTree]:
    """A method with groups, for single entries, or the cells of a grid for a large image.

    Args:
      method: builds the method.
      f: the function.
      has_key: whether a key comes before the input.
      num_samples: for a method that samples, the least number for single entries; at least four for each.
      **chunks: the chunk size.
    """

    def attribute(*args: PyTree, **arrays: PyTree) -> PyTree:
        x = args[has_key]
        if _is_large_image(x):
            groups, num_groups = _grid(x)
            return method(f, num_groups=num_groups, **chunks)(*args, groups=groups, **arrays)
        samples = {} if num_samples is None else {"num_samples": max(num_samples, 4 * tree.size(x))}
        return method(f, **samples, **chunks)(*args, **arrays)

    return attribute


def c_lime(f: ScalarFn, stddev: float, **chunks: Any) -> Callable[..., PyTree]:
    """At least four noisy copies for each entry."""

    def attribute(key: Key, x: PyTree, *args: PyTree) -> PyTree:
        method = attribution.c_lime(f, num_samples=max(1000, 4 * tree.size(x)), **chunks)
        return method(key, x, *args, stddev=stddev)

    return attribute


def rise(f: ScalarFn, **chunks: Any) -> Callable[..., PyTree]:
    """A grid of masks with cells of at least two pixels."""

    def attribute(key: Key, x: PyTree, *args: PyTree, **arrays: PyTree) -> PyTree:
        spatial = x.shape[:-1] if isinstance(x, jax.Array | np.ndarray) else ()
        cells = tuple(min(GRID, max(n // 2, 1)) for n in spatial)
        return attribution.rise(f, cells=cells, **chunks)(key, x, *args, **arrays)

    return attribute


def _grid(x: jax.Array | np.ndarray) -> tuple[np.ndarray, int]:
    cells = (min(GRID, x.shape[0]), min(GRID, x.shape[1]), 1)
    return local.grid_groups(x.shape, cells), math.prod(cells)


def _is_large_image(x: PyTree) -> bool:
    return isinstance(x, jax.Array | np.ndarray) and x.ndim == 3 and x.size > PIXELS
