"""Which local model holds in whose neighbourhood."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from jaxinterp.app.figures._style import INK, panels, styled


@styled
def transfer_table(names: Sequence[str], relative: np.ndarray) -> Figure:
    """The no-free-lunch table as a picture: dark where a model fails, with the number in each field.

    Args:
      names: of the explanations.
      relative: the error of each model (rows) in each neighbourhood (columns) over the variance of f there, 1 - R².
    """
    figure, axes = panels(1, 1, width=2.0 + 0.8 * len(names), height=1.2 + 0.55 * len(names))
    axis = axes[0, 0]
    shade = np.log10(np.clip(relative, 1e-3, 1e1))
    axis.imshow(shade, cmap="Blues", vmin=-3, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(relative):
        colour = "white" if shade[row, column] > -0.3 else INK
        text = f"{value:.1e}" if value >= 100 else f"{value:.3f}" if value < 10 else f"{value:.0f}"
        axis.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    axis.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axis.set_yticks(range(len(names)), names)
    axis.set_xlabel("neighbourhood it is judged in")
    axis.set_ylabel("explanation")
    axis.set_title("Mean squared error over the variance of f", loc="left")
    axis.grid(False)
    return figure
