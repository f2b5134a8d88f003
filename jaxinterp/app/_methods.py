"""The one table of attribution methods: what the command line lists, the report shows and the property tests check."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np

from jaxinterp import attribution, local, tree
from jaxinterp.typing import Key, PyTree, ScalarFn

Domain = Literal["any", "image", "site", "background"]
"""What a method needs: any input; an image; a site inside the network; a background data set."""

Units = Literal["output", "slope", "squared slope"]
"""Units of a map: those of the output, of the output over the input, or of its square."""


@dataclasses.dataclass(frozen=True)
class Enrolled:
    """A method as the table knows it.

    Attributes:
      name: as in `jaxinterp.attribution`.
      build: takes f, and `chunk_size` if the method has it; returns `(key, *args) -> map`, where deterministic methods
        ignore the key.
      on_linear: for f(x) = ⟨a, x⟩, takes (a, x, baseline) and returns the expected map; `None` if there is no
        closed form.
      units: of the map, in terms of those of f; only maps in units of the output can account for it.
      summary: one line for people.
      source: author and year.
      domain: what the method needs.
      takes_baseline: whether the built method has the keyword `baseline`.
      takes_chunk_size: whether the method has the keyword `chunk_size`.
      stochastic: whether the map depends on the key.
    """

    name: str
    build: Callable[..., Callable[..., PyTree]]
    on_linear: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] | None
    units: Units
    summary: str
    source: str
    domain: Domain = "any"
    takes_baseline: bool = False
    takes_chunk_size: bool = False
    stochastic: bool = False


def ignore_key(method: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """A deterministic method in the place of a stochastic one."""

    def keyed(key: Key, *args: PyTree, **arrays: PyTree) -> PyTree:
        del key
        return method(*args, **arrays)

    return keyed


def with_noise(method: Callable[..., PyTree], stddev: float) -> Callable[..., PyTree]:
    """A method that takes the keyword `stddev`, with its value filled in."""
    return lambda key, *args: method(key, *args, stddev=stddev)


NOISE = 0.1
"""Standard deviation of the noise methods, in the units of the normalised input."""

GRID = 8
"""Cells along each side of an image that is too large to take its pixels one by one."""

PIXELS = 256
"""The largest input whose entries are taken one by one by occlusion and LIME."""


def _occlusion(f: ScalarFn, **chunks: Any) -> Callable[..., PyTree]:
    """Single entries, or half-overlapping windows of an eighth of the side for a large image."""

    def attribute(x: PyTree, *args: PyTree, **arrays: PyTree) -> PyTree:
        if not _is_large_image(x):
            return attribution.occlusion(f, **chunks)(x, *args, **arrays)
        height, width, channels = x.shape
        window = (-(-height // GRID), -(-width // GRID), channels)
        stride = (max(window[0] // 2, 1), max(window[1] // 2, 1), 1)
        return attribution.occlusion(f, window=window, stride=stride, **chunks)(x, *args, **arrays)

    return ignore_key(attribute)


def _lime(f: ScalarFn, **chunks: Any) -> Callable[..., PyTree]:
    """Single entries, or the cells of a grid for a large image."""

    def attribute(key: Key, x: PyTree, *args: PyTree, **arrays: PyTree) -> PyTree:
        if not _is_large_image(x):
            return attribution.lime(f, num_samples=max(1000, 4 * tree.size(x)), **chunks)(key, x, *args, **arrays)
        cells = (min(GRID, x.shape[0]), min(GRID, x.shape[1]), 1)
        groups = local.grid_groups(x.shape, cells)
        return attribution.lime(f, num_groups=math.prod(cells), **chunks)(key, x, *args, groups=groups, **arrays)

    return attribute


def _is_large_image(x: PyTree) -> bool:
    return isinstance(x, jax.Array | np.ndarray) and x.ndim == 3 and x.size > PIXELS


_TABLE = (
    Enrolled(
        name="gradient",
        build=lambda f: ignore_key(attribution.gradient(f)),
        on_linear=lambda a, x, b: a,
        units="slope",
        summary="gradient of the output with respect to the input",
        source="Simonyan et al. 2014",
    ),
    Enrolled(
        name="gradient_times_input",
        build=lambda f: ignore_key(attribution.gradient_times_input(f)),
        on_linear=lambda a, x, b: a * x,
        units="output",
        summary="gradient times input: first-order contribution relative to zero",
        source="Shrikumar et al. 2016",
    ),
    Enrolled(
        name="integrated_gradients",
        build=lambda f, **chunks: ignore_key(attribution.integrated_gradients(f, **chunks)),
        on_linear=lambda a, x, b: a * (x - b),
        units="output",
        takes_baseline=True,
        takes_chunk_size=True,
        summary="gradient averaged from a baseline to the input; sums to the change of the output",
        source="Sundararajan et al. 2017",
    ),
    Enrolled(
        name="smooth_grad",
        build=lambda f, **chunks: with_noise(attribution.smooth_grad(f, **chunks), NOISE),
        on_linear=lambda a, x, b: a,
        units="slope",
        stochastic=True,
        takes_chunk_size=True,
        summary="mean gradient under Gaussian noise",
        source="Smilkov et al. 2017",
    ),
    Enrolled(
        name="var_grad",
        build=lambda f, **chunks: with_noise(attribution.var_grad(f, **chunks), NOISE),
        on_linear=lambda a, x, b: 0 * a,
        units="squared slope",
        stochastic=True,
        takes_chunk_size=True,
        summary="variance of the gradient under Gaussian noise: where the function bends",
        source="Adebayo et al. 2018",
    ),
    Enrolled(
        name="occlusion",
        build=_occlusion,
        on_linear=lambda a, x, b: a * (x - b),
        units="output",
        takes_baseline=True,
        takes_chunk_size=True,
        summary="drop of the output when an entry is replaced by the baseline",
        source="Zeiler & Fergus 2014",
    ),
    Enrolled(
        name="lime",
        build=_lime,
        on_linear=lambda a, x, b: a * (x - b),
        units="output",
        takes_baseline=True,
        stochastic=True,
        takes_chunk_size=True,
        summary="weighted linear model of the output over random masks",
        source="Ribeiro et al. 2016",
    ),
)

METHODS = {method.name: method for method in _TABLE}
