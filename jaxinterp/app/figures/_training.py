"""How training went."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from jaxinterp.app.figures._style import COLOURS, MUTED, panels, styled


@styled
def training_curves(records: Sequence[dict[str, float]], best_step: int) -> Figure:
    """Loss, accuracy, and where they exist the penalty and the open gates, against the step.

    Args:
      records: the lines of metrics.jsonl.
      best_step: the step whose checkpoint was chosen, marked in every panel.
    """
    names = {name for record in records for name in record}
    wanted = [
        ("loss", (("cross_entropy", "training"), ("validation_loss", "validation")), True),
        ("accuracy", (("accuracy", "training batch"), ("validation_accuracy", "validation")), False),
        ("penalty: squared gradient norm", (("squared_gradient_norm", ""),), True),
        ("fraction of parameters kept", (("open_fraction", ""),), False),
    ]
    shown = [entry for entry in wanted if any(name in names for name, _ in entry[1])]
    figure, axes = panels(1, len(shown), width=3.4, height=2.6)
    for axis, (title, series, logarithmic) in zip(axes[0], shown, strict=True):
        for (name, label), colour in zip(series, COLOURS, strict=False):
            points = np.array([(r["step"], r[name]) for r in records if name in r], float).reshape(-1, 2)
            axis.plot(points[:, 0], points[:, 1], color=colour, label=label or None, linewidth=1.4)
        axis.set_title(title)
        axis.set_xlabel("step")
        if logarithmic:
            axis.set_yscale("log")
            axis.yaxis.set_minor_formatter(NullFormatter())
        axis.axvline(best_step, color=MUTED, linewidth=1, linestyle=":")
        if any(label for _, label in series):
            axis.legend(fontsize=8)
    return figure


@styled
def sparsity_bars(per_parameter: dict[str, dict[str, int]]) -> Figure:
    """What gates and pruning left of each parameter that has a mask."""
    figure, axes = panels(1, 1, width=7.0, height=0.6 + 0.4 * len(per_parameter))
    axis, names = axes[0, 0], list(per_parameter)
    kept = np.array([per_parameter[name]["kept"] for name in names], float)
    gated = np.array([per_parameter[name]["gated"] for name in names], float)
    axis.barh(names, np.ones(len(names)), color="#e4e7eb")
    axis.barh(names, kept / gated, color=COLOURS[2])
    for i in range(len(names)):
        axis.text(1.01, i, f"{kept[i]:.0f} of {gated[i]:.0f} kept", va="center", fontsize=9, color=MUTED)
    axis.set_xlim(0, 1)
    axis.invert_yaxis()
    axis.set_xlabel("fraction kept")
    axis.grid(False)
    return figure


@styled
def compression_curves(results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Figure:
    """Accuracy of the trained network pruned by magnitude without training on.

    Args:
      results: budget, level of sparsity (0 first), then "accuracy" and "multiply_adds".
    """
    figure, axes = panels(1, 2, width=3.6, height=2.8)
    for (budget, levels), colour in zip(results.items(), COLOURS, strict=False):
        accuracies = [row["accuracy"] for row in levels.values()]
        costs = [row["multiply_adds"] for row in levels.values()]
        for axis, values in zip(axes[0], ([100 * float(level) for level in levels], costs), strict=True):
            axis.plot(values, accuracies, color=colour, marker="o", markersize=4, label=budget.replace("_", " "))
    axes[0, 0].set_xlabel("sparsity of the kernels, %")
    axes[0, 1].set_xlabel("multiplications per example")
    most = max(row["multiply_adds"] for levels in results.values() for row in levels.values())
    axes[0, 1].set_xlim(0, 1.05 * max(most, 1))
    axes[0, 1].xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes[0, 0].set_ylabel("test accuracy")
    for axis in axes[0]:
        axis.set_ylim(0, 1.02)
    axes[0, 0].legend(fontsize=8)
    return figure
