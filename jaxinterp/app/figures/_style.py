"""The look that all figures share."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED, GRID = "#1f2933", "#7b8794", "#e4e7eb"
COLOURS = ("#2f6fb0", "#c8553d", "#3c8d5a", "#8a5fb0", "#b8860b", "#4f9da6")

SETTINGS: Any = {
    "font.size": 10,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "figure.facecolor": "white",
}


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Lets a function draw in the shared look, without changing matplotlib's settings for others."""

    @functools.wraps(draw)
    def drawn(*args: Any, **keywords: Any) -> Figure:
        with matplotlib.rc_context(SETTINGS):
            return draw(*args, **keywords)

    return drawn


def panels(rows: int, columns: int, *, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """A figure of equal panels (sizes in inches per panel), without pyplot and its global state."""
    figure = Figure(figsize=(width * columns, height * rows), dpi=150, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def bare(axis: Axes) -> Axes:
    """An axis for a picture: no ticks, no grid, no frame."""
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set_visible(False)
    return axis


def picture(axis: Axes, image: np.ndarray) -> None:
    """Shows raw pixel values [height, width, channels], scaled from their own least to their greatest value."""
    low, high = float(np.min(image)), float(np.max(image))
    scaled = (image - low) / (high - low) if high > low else np.zeros_like(image)
    if image.shape[-1] == 3:
        axis.imshow(scaled, interpolation="nearest")
    else:
        axis.imshow(scaled.mean(-1), cmap="gray", interpolation="nearest")


def signed(axis: Axes, values: np.ndarray) -> None:
    """Shows a map [height, width], blue below zero and red above, saturated at the 99th percentile of its magnitude."""
    finite = np.abs(values[np.isfinite(values)])
    limit = (float(np.percentile(finite, 99)) if finite.size else 0.0) or 1.0
    axis.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")


def histogram(axis: Axes, values: np.ndarray, label: str, colour: str, bins: Sequence[float] | int = 30) -> None:
    """A histogram with its median marked."""
    kept = values[np.isfinite(values)]
    if not kept.size:
        axis.text(0.5, 0.5, "no finite values", ha="center", va="center", transform=axis.transAxes, color=MUTED)
        return
    axis.hist(kept, bins=bins, color=colour, alpha=0.85)
    axis.axvline(float(np.median(kept)), color=INK, linewidth=1, linestyle="--")
    axis.set_title(f"{label}\nmedian {np.median(kept):.3g}")
