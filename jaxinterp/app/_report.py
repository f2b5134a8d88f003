"""The stage that reports: figures, and one self-contained page."""

import base64
import dataclasses
import io
from collections.abc import Mapping
from typing import Any

import jinja2
import numpy as np
from matplotlib.figure import Figure

from jaxinterp import training
from jaxinterp.app import _codec, _environment, figures
from jaxinterp.app._compression import pareto
from jaxinterp.app._explain import LOCAL_MODELS
from jaxinterp.app._measure import EPSILON, robustness_name
from jaxinterp.app._methods import METHODS
from jaxinterp.app._run import Run
from jaxinterp.app._tree import SurrogateTree, fitted_tree


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure as the page shows it: its data, and the width in pixels at which its text has the size of the page's."""

    data: str
    width: int


Arrays = dict[str, np.ndarray]

EXTREMES = 8
"""How many of the least and of the most robust examples are shown."""

TREES, TREE_DEPTH = 4, 3
"""Of how many examples of a table there is a tree, and how many questions it asks."""


def report(run: Run) -> dict[str, Any]:
    """Draws the figures and writes report.html."""
    with run.reporter.progress("report", 2, "parts") as advance:
        pictures = _figures(run)
        for name, figure in pictures.items():
            run.workdir.write_with(f"figures/{name}.png", figure.savefig)
        advance(1, "figures")
        run.workdir.write_text(
            "report.html",
            _page(
                run,
                {
                    name: Picture(_inline(figure), round(96 * figure.get_figwidth()))
                    for name, figure in pictures.items()
                },
            ),
        )
        advance(2, "page")
    return {}


def _inline(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _load(run: Run, name: str) -> Arrays:
    with np.load(run.workdir.root / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def _figures(run: Run) -> dict[str, Figure]:
    results, dataset = run.results(), run.dataset
    made = {
        "training": figures.training_curves(training.read_metrics(run.workdir.metrics), results["best_step"]),
        "curvature": figures.curvature_histograms(_load(run, "measurements/curvature")),
    }
    if results["sparsity"]["gated"]:
        made["sparsity"] = figures.sparsity_bars(results["sparsity"]["per_parameter"])
    if results["compression"]:
        made["compression"] = figures.compression_curves(results["compression"])
    examples = _load(run, "explanations/examples")
    raw, titles = dataset.normalisation.undo(dataset.test.x[examples["number"]]), _titles(run, examples)
    maps = {name: _load(run, f"explanations/{name}")["map"] for name in run.experiment.explain.methods}
    models = _load(run, f"explanations/{LOCAL_MODELS}")
    if dataset.is_image:
        made["attributions"] = figures.attribution_grid(raw, titles, maps)
        made["local_models"] = figures.local_model_images(raw, titles, models)
    else:
        rows = {name: values.reshape(len(values), -1) for name, values in maps.items()}
        made["attributions"] = figures.attribution_table(dataset.feature_names, titles, rows)
        made["local_models"] = figures.local_model_bars(dataset.feature_names, titles, models)
    estimates = _estimates(run, finite_only=True)
    made["robustness"] = figures.robustness_histograms(estimates)
    made["estimators"] = figures.estimator_scatter(_estimates(run, finite_only=False))
    extremes = _extremes(run)
    if dataset.is_image and extremes:
        images = dataset.normalisation.undo(dataset.test.x[[row["number"] for row in extremes]])
        captions = [f"{row['title']}\n{row['probability']:.2f}" for row in extremes]
        made["extremes"] = figures.extreme_images(images, captions)
    return made


def _trees(run: Run) -> list[tuple[str, SurrogateTree]]:
    """Trees that describe the function around the first examples of a table, in the units of the data."""
    models, dataset = _load(run, f"explanations/{LOCAL_MODELS}"), run.dataset
    if "points" not in models:
        return []
    titles = _titles(run, _load(run, "explanations/examples"))
    points, names = dataset.normalisation.undo(models["points"]), dataset.feature_names
    return [
        (titles[i], fitted_tree(points[i], models["values"][i], max_depth=TREE_DEPTH, feature_names=names))
        for i in np.flatnonzero(models["finite"])[:TREES]
    ]


def _titles(run: Run, examples: Arrays) -> list[str]:
    return [_title(run, *pair) for pair in zip(examples["label"], examples["predicted"], strict=True)]


def _title(run: Run, label: int, predicted: int) -> str:
    names = run.dataset.class_names
    return names[label] if label == predicted else f"{names[label]} → {names[predicted]}"


def _levels(run: Run) -> dict[str, tuple[float, ...]]:
    settings = run.experiment.measure
    return {"monte_carlo": settings.stddevs, "taylor": settings.stddevs, "softmax": (settings.temperature,)}


def _estimates(run: Run, *, finite_only: bool) -> dict[str, dict[str, np.ndarray]]:
    estimates: dict[str, dict[str, np.ndarray]] = {}
    for estimator, levels in _levels(run).items():
        for level in levels:
            arrays = _load(run, f"measurements/{robustness_name(estimator, level)}")
            kept = np.where(arrays["finite"], arrays["probability"], np.nan)
            estimates.setdefault(estimator, {})[f"{level:g}"] = kept[arrays["finite"]] if finite_only else kept
    return estimates


def _extremes(run: Run) -> list[dict[str, Any]]:
    """The least robust examples, then the most robust; ties, as among the sure ones, go by the Taylor estimate."""
    level = max(run.experiment.measure.stddevs)
    frequency = _load(run, f"measurements/{robustness_name('monte_carlo', level)}")
    taylor = _load(run, f"measurements/{robustness_name('taylor', level)}")
    predictions = _load(run, "measurements/predictions")
    finite = np.flatnonzero(frequency["finite"] & taylor["finite"])
    order = finite[np.lexsort((taylor["probability"][finite], frequency["probability"][finite]))]
    count = min(EXTREMES, len(order) // 2)
    return [
        {
            "number": int(i),
            "title": _title(run, predictions["label"][i], predictions["predicted"][i]),
            "probability": float(frequency["probability"][i]),
            "stderr": float(frequency["stderr"][i]),
            "taylor": float(taylor["probability"][i]),
        }
        for i in [*order[:count], *order[::-1][:count]]
    ]


def _warnings(run: Run, results: Mapping[str, Any]) -> list[str]:
    """What a reader must know before trusting the numbers."""
    found = []
    for kind in ("explanations", "measurements"):
        for name, count in results[f"non_finite_{kind}"].items():
            if count:
                found.append(
                    f"{count} example(s) gave NaN or infinite values in {name}; they are left out of its means."
                )
    curvature = _load(run, "measurements/curvature")
    loose = int(np.sum(curvature["residual"] > 1e-2 * curvature["hessian_norm"]))
    if loose:
        found.append(f"The Hessian norm of {loose} example(s) has a residual above 1 %; raise measure.num_iterations.")
    tiny = int(np.sum(curvature["finite"] & (curvature["gradient_norm"] <= 10 * EPSILON)))
    if tiny:
        found.append(f"The gradient of {tiny} example(s) vanishes: their normalised curvature says nothing.")
    if results["hessian_norm"]["mean"] == 0:
        found.append("All Hessians are zero, as in every ReLU network: curvature says nothing here.")
    return found


def _page(run: Run, pictures: Mapping[str, Picture]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jaxinterp.app"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["number"] = lambda value: "n/a" if value is None or not np.isfinite(value) else f"{value:.3g}"
    results = run.results()
    return environment.get_template("report.html.jinja").render(
        name=run.name,
        dataset=run.dataset,
        experiment=run.experiment,
        config=_codec.to_json(run.experiment),
        digest=_codec.digest(_codec.to_plain(run.experiment))[:8],
        results=results,
        pictures=pictures,
        warnings=_warnings(run, results),
        methods=[METHODS[name] for name in run.experiment.explain.methods],
        trees=_trees(run),
        extremes=_extremes(run),
        pareto=pareto(results),
        level=f"{max(run.experiment.measure.stddevs):g}",
        command=run.command,
        versions=_environment.versions(),
        devices=_environment.devices(),
    )
