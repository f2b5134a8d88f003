"""Distributions over the test examples, and the examples at their ends."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from jaxinterp.app.figures._style import COLOURS, bare, histogram, panels, picture, styled


@styled
def curvature_histograms(arrays: Mapping[str, np.ndarray]) -> Figure:
    """Gradient norm, Hessian norm (both on a logarithmic scale) and normalised curvature of the test examples."""
    figure, axes = panels(1, 3, width=3.4, height=2.7)
    names = (
        ("gradient_norm", "gradient norm"),
        ("hessian_norm", "Hessian norm"),
        ("normalised_curvature", "normalised curvature"),
    )
    for axis, (name, label), colour in zip(axes[0], names, COLOURS, strict=False):
        values = arrays[name][arrays["finite"]]
        positive = values[values > 0]
        if name == "normalised_curvature" or not positive.size or positive.max() < 10 * positive.min():
            histogram(axis, values, label, colour)
        else:
            bins = np.geomspace(positive.min(), positive.max(), 31)
            histogram(axis, positive, label, colour, list(bins))
            axis.set_xscale("log")
        axis.set_ylabel("examples" if axis is axes[0, 0] else "")
    return figure


@styled
def robustness_histograms(estimates: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """The probability to survive noise over the test examples, a panel per estimator and noise level.

    Args:
      estimates: for each estimator (rows) and level (columns) the probabilities of the finite examples.
    """
    columns = max(len(levels) for levels in estimates.values())
    figure, axes = panels(len(estimates), columns, width=3.2, height=2.0)
    for row, (estimator, levels) in enumerate(estimates.items()):
        for column in range(columns):
            axis = axes[row, column]
            if column >= len(levels):
                axis.set_axis_off()
                continue
            level = list(levels)[column]
            symbol = "T" if estimator == "softmax" else "σ"
            histogram(
                axis,
                levels[level],
                f"{estimator.replace('_', ' ')}, {symbol} = {level}",
                COLOURS[row],
                list(np.linspace(0, 1, 31)),
            )
            axis.set_xlim(0, 1)
            axis.set_yscale("log")
    return figure


@styled
def estimator_scatter(estimates: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Each cheap estimator against Monte Carlo, example by example, at each noise level."""
    levels = list(estimates["monte_carlo"])
    figure, axes = panels(1, len(levels), width=3.2, height=3.0)
    for axis, level in zip(axes[0], levels, strict=True):
        truth = estimates["monte_carlo"][level]
        axis.plot([0, 1], [0, 1], color="#7b8794", linewidth=1)
        axis.scatter(truth, estimates["taylor"][level], s=8, color=COLOURS[1], alpha=0.6, label="taylor (sigmoid)")
        temperature = next(iter(estimates["softmax"]))
        axis.scatter(
            truth,
            estimates["softmax"][temperature],
            s=8,
            color=COLOURS[2],
            alpha=0.6,
            label=f"softmax, T = {temperature}",
        )
        axis.set_title(f"σ = {level}")
        axis.set_xlabel("Monte Carlo")
        axis.set_xlim(-0.02, 1.02)
        axis.set_ylim(-0.02, 1.02)
    axes[0, 0].set_ylabel("estimate")
    axes[0, 0].legend(fontsize=8)
    return figure


@styled
def extreme_images(images: np.ndarray, titles: Sequence[str]) -> Figure:
    """Two rows of images: the first half of them, then the second.

    Args:
      images: raw pixels [2n, height, width, channels].
      titles: one per image.
    """
    columns = len(images) // 2
    figure, axes = panels(2, columns, width=1.25, height=1.65)
    for i, image in enumerate(images):
        axis = axes[divmod(i, columns)]
        picture(bare(axis), image)
        axis.set_title(titles[i], fontsize=8)
    axes[0, 0].set_ylabel("least robust")
    axes[1, 0].set_ylabel("most robust")
    return figure
