"""What the table of methods says of each."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np

from jaxinterp.typing import Key, PyTree

Domain = Literal["any", "image", "site", "background"]
"""What a method needs: any input; an image; a site inside the network; a background data set."""

Units = Literal["output", "slope", "squared slope", "other"]
"""Units of a map: those of the output, of the output over the input, of its square, or none that compare with them."""


@dataclasses.dataclass(frozen=True)
class Enrolled:
    """A method as the table knows it.

    Attributes:
      name: as in `jaxinterp.attribution`.
      build: takes f, and `chunk_size` if the method has it; returns `(key, *args) -> map`, where deterministic methods
        ignore the key. Methods of the domain "background" take the keyword `background` at the call.
      on_linear: for f(x) = ⟨a, x⟩, takes (a, x, baseline) and returns the expected map, where the baseline of a
        background is the mean of its rows; `None` if there is no closed form.
      units: of the map, in terms of those of f; only maps in units of the output can account for it.
      summary: one line for people.
      source: author and year.
      domain: what the method needs.
      complete: whether a map in units of the output sums to what it explains, up to the error of quadrature.
      of_output_itself: whether that is f(x), without a baseline; else it is the difference to f at the baseline.
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
    complete: bool = False
    of_output_itself: bool = False
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
