"""Attribution maps and local linear models, of images and of tables."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from jaxinterp.app.figures._style import INK, MUTED, bare, panels, picture, signed, styled


@styled
def attribution_grid(images: np.ndarray, titles: Sequence[str], maps: Mapping[str, np.ndarray]) -> Figure:
    """One row per image: the image, then each method's map, summed over the channels.

    Args:
      images: raw pixels [examples, height, width, channels].
      titles: what stands beside each image.
      maps: for each method [examples, height, width, channels].
    """
    figure, axes = panels(len(images), 1 + len(maps), width=1.15, height=1.2)
    for row, image in enumerate(images):
        picture(bare(axes[row, 0]), image)
        axes[row, 0].set_ylabel(titles[row], rotation=0, ha="right", va="center", fontsize=9)
        for column, values in enumerate(maps.values(), start=1):
            signed(bare(axes[row, column]), values[row].sum(-1))
    for column, name in enumerate(["input", *maps]):
        axes[0, column].set_title(name.replace("_", "\n"), fontsize=9)
    return figure


@styled
def attribution_table(features: Sequence[str], titles: Sequence[str], maps: Mapping[str, np.ndarray]) -> Figure:
    """For a table: one panel per method, examples down, features across.

    Args:
      features: names of the features.
      titles: one per example.
      maps: for each method [examples, features].
    """
    figure, axes = panels(len(maps), 1, width=max(6.0, 0.28 * len(features)), height=0.9 + 0.17 * len(titles))
    for axis, (name, values) in zip(axes[:, 0], maps.items(), strict=True):
        signed(axis, values)
        axis.set_aspect("auto")
        axis.grid(False)
        axis.set_title(name, loc="left", fontsize=9)
        axis.set_yticks(range(len(titles)), titles, fontsize=7)
        axis.set_xticks([])
    axes[-1, 0].set_xticks(range(len(features)), features, rotation=60, ha="right", fontsize=8)
    return figure


@styled
def local_model_images(images: np.ndarray, titles: Sequence[str], arrays: Mapping[str, np.ndarray]) -> Figure:
    """For images: the coefficients of the tangent and of the secant model, with their R² over the neighbourhood.

    Args:
      images: raw pixels [examples, height, width, channels].
      titles: one per example.
      arrays: the arrays of the local models.
    """
    figure, axes = panels(3, len(images), width=1.15, height=1.45)
    for column, image in enumerate(images):
        picture(bare(axes[0, column]), image)
        axes[0, column].set_title(titles[column], fontsize=8)
        for row, name in ((1, "tangent"), (2, "secant")):
            signed(bare(axes[row, column]), arrays[f"{name}_slope"][column].sum(-1))
            axes[row, column].set_xlabel(f"R² {arrays[f'{name}_r_squared'][column]:.2f}", fontsize=8, color=MUTED)
    for row, name in enumerate(("input", "tangent", "secant")):
        axes[row, 0].set_ylabel(name, fontsize=9)
    return figure


@styled
def local_model_bars(features: Sequence[str], titles: Sequence[str], arrays: Mapping[str, np.ndarray]) -> Figure:
    """For a table: the coefficients of the tangent and of the secant model of each example, with standard errors.

    Args:
      features: names of the features.
      titles: one per example.
      arrays: the arrays of the local models.
    """
    count = min(len(titles), 3)
    figure, axes = panels(1, count, width=3.6, height=max(2.5, 0.2 * len(features)))
    places = np.arange(len(features))
    for i in range(count):
        axis = axes[0, i]
        axis.barh(places - 0.2, arrays["tangent_slope"][i], height=0.38, color="#2f6fb0", label="tangent")
        error = 2 * arrays["secant_stderr"][i]
        axis.barh(
            places + 0.2, arrays["secant_slope"][i], height=0.38, color="#c8553d", label="secant", xerr=error,
            error_kw={"elinewidth": 0.8, "ecolor": INK},
        )  # fmt: skip
        quality = ", ".join(f"{n} R² {arrays[f'{n}_r_squared'][i]:.2f}" for n in ("tangent", "secant"))
        axis.set_title(f"{titles[i]}\n{quality}", fontsize=8)
        axis.set_yticks(places, features if i == 0 else [], fontsize=8)
        axis.invert_yaxis()
    axes[0, 0].legend(fontsize=8, loc="lower right")
    return figure
