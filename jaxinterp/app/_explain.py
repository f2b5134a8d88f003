"""The stage that explains: attribution maps and local linear models of some test examples."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxinterp import data, evaluation, local
from jaxinterp.app._codec import ConfigError
from jaxinterp.app._config import Explain
from jaxinterp.app._examples import Examples, PerExample, over_examples
from jaxinterp.app._fields import HEADS
from jaxinterp.app._methods import METHODS, Enrolled
from jaxinterp.app._program_methods import PROGRAM_METHODS
from jaxinterp.app._run import Run
from jaxinterp.typing import Array, Key, LogitsFn, ScalarFn

HeadFn = Callable[[LogitsFn], ScalarFn]

BATCH_SIZE = 16
"""Examples explained together."""

IMAGES = ("image", "site")
"""The domains of methods that explain images alone."""

LOCAL_MODELS = "local_models"

BACKGROUND = 64
"""The most rows of the background; see `background`."""


def explain(run: Run) -> dict[str, Any]:
    """Computes what the configuration asks for, method by method; each is kept as soon as it is there."""
    settings, inputs, test = run.experiment.explain, run.inputs("explain"), run.dataset.test
    network = run.trained()
    chosen = chosen_examples(test.y, run.dataset.num_classes, settings.num_examples)
    logits = jax.jit(jax.vmap(network.apply, (None, None, 0)))(network.params, network.state, test.x[chosen])
    examples = Examples(test.x[chosen], np.argmax(np.asarray(logits), axis=-1).astype(np.int32), chosen)
    work = quantities(settings, run.dataset)
    everything = {}
    with run.reporter.progress("explain", len(work), "methods") as advance:
        for number, (name, one) in enumerate(work.items()):
            advance(number, name)
            key = jax.random.fold_in(run.key("explain"), number)
            make = functools.partial(over_examples, one, network, key, examples, batch_size=BATCH_SIZE)
            everything[name] = run.workdir.arrays(f"explanations/{name}", inputs, make)
        advance(len(work), "done")
    known = {"number": chosen, "predicted": examples.labels, "label": test.y[chosen], "x": examples.x}
    run.workdir.arrays("explanations/examples", inputs, lambda: known)
    return _summary(everything)


def require_suitable(settings: Explain, dataset: data.Dataset) -> None:
    """Raises `ConfigError` if a method needs images and the data are none."""
    for name in settings.methods:
        if METHODS[name].domain in IMAGES and not dataset.is_image:
            suitable = [other for other in settings.methods if METHODS[other].domain not in IMAGES]
            raise ConfigError(
                f"explain.methods: {name!r} needs images, but the inputs of {dataset.name} have shape {dataset.shape}; "
                f"leave it out ({', '.join(suitable) or 'no method'} would remain)."
            )


def require_readable(run: Run) -> None:
    """Raises `ConfigError` if a method that reads the program of the network cannot read this one."""
    work = quantities(run.experiment.explain, run.dataset)
    for name in run.experiment.explain.methods:
        if METHODS[name] in PROGRAM_METHODS:
            require_computable(name, work[name], run)


def require_computable(name: str, one: PerExample, run: Run) -> None:
    """Traces what is computed for an example, so that what does not fit is found before any work."""
    state, apply = run.initial_state(), run.network[0].apply
    x, label = jax.ShapeDtypeStruct(run.dataset.shape, np.float32), jax.ShapeDtypeStruct((), np.int32)
    try:
        jax.eval_shape(
            lambda k, *args: one(functools.partial(apply, state.params, state.state), k, *args), state.key, x, label
        )
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ConfigError(f"{name} cannot be computed for inputs of shape {run.dataset.shape}: {error}") from error


def quantities(settings: Explain, dataset: data.Dataset) -> dict[str, PerExample]:
    """What is computed for each example, by name."""
    head = HEADS[settings.head]
    rows = {"background": background(dataset)}
    work: dict[str, PerExample] = {}
    for method in (METHODS[name] for name in settings.methods):
        arrays = rows if method.domain == "background" else {}
        work[method.name] = functools.partial(_attribution, method, head, arrays)
    return work | {LOCAL_MODELS: functools.partial(_local_models, settings, head)}


def background(dataset: data.Dataset) -> np.ndarray:
    """The inputs that methods of the domain "background" compare with: 64 training examples, or all if there are fewer.

    They are spread evenly over the training part, so they are the same in every run.
    """
    x = dataset.train.x
    count = min(BACKGROUND, len(x))
    return x[np.arange(count) * len(x) // count]


def chosen_examples(y: np.ndarray, num_classes: int, count: int) -> np.ndarray:
    """The first example of each class, then the second of each, and so on, until there are `count`."""
    rank = np.zeros(len(y), int)
    for label in range(num_classes):
        rank[y == label] = np.arange(np.sum(y == label))
    return np.lexsort((y, rank))[:count]


def _attribution(
    method: Enrolled,
    head: HeadFn,
    arrays: Mapping[str, np.ndarray],
    logits_fn: LogitsFn,
    key: Key,
    x: Array,
    label: Array,
) -> dict[str, Array]:
    f = head(logits_fn)
    attribution = method.build(f)(key, x, label, **arrays)
    reference = {"baseline": None} if method.of_output_itself else arrays
    completeness = evaluation.completeness_gap(f)(attribution, x, label, **reference)
    return {"map": attribution, "gap": completeness.gap, "relative_gap": completeness.relative}


def _local_models(
    settings: Explain, head: HeadFn, logits_fn: LogitsFn, key: Key, x: Array, label: Array
) -> dict[str, Array]:
    f = head(logits_fn)
    stddev, samples = settings.secant_stddev, max(settings.secant_samples, 2 * x.size)
    tangent = local.tangent(f)(x, label)
    values = local.samples(f, neighbourhood=local.gaussian, num_samples=samples, chunk_size=16)
    sampled = values(jax.random.fold_in(key, 0), x, label, stddev=stddev)
    secant = local.Linear().fitted(sampled, "squared_error").surrogate
    fidelity = functools.partial(evaluation.local_r_squared(f), stddev=stddev)
    fresh = jax.random.fold_in(key, 1)
    of_tree = {"points": sampled.coordinates, "values": sampled.values} if x.ndim == 1 else {}  # of an image too many
    return of_tree | {
        "tangent_slope": tangent.slope,
        "secant_slope": secant.slope,
        "secant_stderr": secant.stderr,
        "tangent_r_squared": fidelity(fresh, tangent, x, label).mean,
        "secant_r_squared": fidelity(fresh, secant, x, label).mean,  # the same samples: a fair comparison
    }


def _summary(everything: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
    completeness = {}
    for name, arrays in everything.items():
        if name != LOCAL_MODELS:
            gap, relative = (arrays[key][arrays["finite"]] for key in ("gap", "relative_gap"))
            completeness[name] = {
                "max_relative_gap": float(np.max(relative)) if len(relative) else float("nan"),
                "mean_absolute_gap": float(np.mean(np.abs(gap))) if len(gap) else float("nan"),
            }
    models = everything[LOCAL_MODELS]
    fidelity = {
        f"median_{name}": float(np.median(models[name][models["finite"]])) if models["finite"].any() else float("nan")
        for name in ("tangent_r_squared", "secant_r_squared")
    }
    flagged = {name: int(np.sum(~arrays["finite"])) for name, arrays in everything.items()}
    fidelity["num_examples"] = int(np.sum(models["finite"]))
    return {"completeness": completeness, "local_models": fidelity, "non_finite_explanations": flagged}
