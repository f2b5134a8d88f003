"""The one table of attribution methods: what the command line lists, the report shows and the property tests check."""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import jax
import numpy as np

from jaxinterp import attribution, local, tree
from jaxinterp.typing import Key, PyTree, ScalarFn

Domain = Literal["any", "image", "site", "background"]
"""What a method needs: any input; an image; a site inside the network; a background data set."""


@dataclasses.dataclass(frozen=True)
class Enrolled:
    """A method as the table knows it.

    Attributes:
      name: as in `jaxinterp.attribution`.
      build: takes f, returns `(key, *args) -> map`; deterministic methods ignore the key.
      domain: what the method needs.
      on_linear: for f(x) = ⟨a, x⟩, takes (a, x, baseline) and returns the expected map; `None` if there is no
        closed form.
      takes_baseline: whether the built method has the keyword `baseline`.
      stochastic: whether the map depends on the key.
      summary: one line for people.
      source: author and year.
    """

    name: str
    build: Callable[[ScalarFn], Callable[..., PyTree]]
    domain: Domain
    on_linear: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] | None
    takes_baseline: bool
    stochastic: bool
    summary: str
    source: str


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


def _occlusion(f: ScalarFn) -> Callable[..., PyTree]:
    """Single entries, or half-overlapping windows of an eighth of the side for a large image."""

    def attribute(x: PyTree, *args: PyTree, **arrays: PyTree) -> PyTree:
        if not _is_large_image(x):
            return attribution.occlusion(f)(x, *args, **arrays)
        height, width, channels = x.shape
        window = (-(-height // GRID), -(-width // GRID), channels)
        stride = (max(window[0] // 2, 1), max(window[1] // 2, 1), 1)
        return attribution.occlusion(f, window=window, stride=stride)(x, *args, **arrays)

    return ignore_key(attribute)


def _lime(f: ScalarFn) -> Callable[..., PyTree]:
    """Single entries, or the cells of a grid for a large image."""

    def attribute(key: Key, x: PyTree, *args: PyTree, **arrays: PyTree) -> PyTree:
        if not _is_large_image(x):
            return attribution.lime(f, num_samples=max(1000, 4 * tree.size(x)))(key, x, *args, **arrays)
        cells = (min(GRID, x.shape[0]), min(GRID, x.shape[1]), 1)
        groups = local.grid_groups(x.shape, cells)
        return attribution.lime(f, num_groups=math.prod(cells))(key, x, *args, groups=groups, **arrays)

    return attribute


def _is_large_image(x: PyTree) -> bool:
    return isinstance(x, jax.Array | np.ndarray) and x.ndim == 3 and x.size > PIXELS


_TABLE = (
    Enrolled(
        "gradient",
        lambda f: ignore_key(attribution.gradient(f)),
        "any",
        lambda a, x, b: a,
        False,
        False,
        "gradient of the output with respect to the input",
        "Simonyan et al. 2014",
    ),
    Enrolled(
        "gradient_times_input",
        lambda f: ignore_key(attribution.gradient_times_input(f)),
        "any",
        lambda a, x, b: a * x,
        False,
        False,
        "gradient times input: first-order contribution relative to zero",
        "Shrikumar et al. 2016",
    ),
    Enrolled(
        "integrated_gradients",
        lambda f: ignore_key(attribution.integrated_gradients(f)),
        "any",
        lambda a, x, b: a * (x - b),
        True,
        False,
        "gradient averaged from a baseline to the input; sums to the change of the output",
        "Sundararajan et al. 2017",
    ),
    Enrolled(
        "smooth_grad",
        lambda f: with_noise(attribution.smooth_grad(f), NOISE),
        "any",
        lambda a, x, b: a,
        False,
        True,
        "mean gradient under Gaussian noise",
        "Smilkov et al. 2017",
    ),
    Enrolled(
        "var_grad",
        lambda f: with_noise(attribution.var_grad(f), NOISE),
        "any",
        lambda a, x, b: 0 * a,
        False,
        True,
        "variance of the gradient under Gaussian noise: where the function bends",
        "Adebayo et al. 2018",
    ),
    Enrolled(
        "occlusion",
        _occlusion,
        "any",
        lambda a, x, b: a * (x - b),
        True,
        False,
        "drop of the output when an entry is replaced by the baseline",
        "Zeiler & Fergus 2014",
    ),
    Enrolled(
        "lime",
        _lime,
        "any",
        lambda a, x, b: a * (x - b),
        True,
        True,
        "weighted linear model of the output over random masks",
        "Ribeiro et al. 2016",
    ),
)

METHODS = {method.name: method for method in _TABLE}
