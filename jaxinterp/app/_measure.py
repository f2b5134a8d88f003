"""The stage that measures: curvature and average-case robustness on the test examples."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp import geometry, heads, robustness
from jaxinterp.app._compression import COMPARED, compression, curves
from jaxinterp.app._config import Measure
from jaxinterp.app._examples import Examples, PerExample, over_examples
from jaxinterp.app._progress import Advance
from jaxinterp.app._run import Run
from jaxinterp.typing import Array, Key, LogitsFn

PGD_STEPS = 20
"""Of the attack: projected gradient descent on the margin of the true class."""

COMPRESSION = "compression"
"""The name of the accuracies of pruned networks among the measurements."""

EPSILON = 1e-30
"""In the normalised curvature: what guards a gradient of zero must not outweigh the gradients of a sure network."""


def measure(run: Run) -> dict[str, Any]:
    """Measures each quantity on all examples, a batch at a time; each is kept as soon as it is there."""
    settings, inputs, test = run.experiment.measure, run.inputs("measure"), run.dataset.test
    network = run.trained()
    count = min(settings.num_examples or len(test), len(test))
    examples = Examples(test.x[:count], test.y[:count], np.arange(count))
    work, batches = quantities(settings), examples.num_batches(settings.batch_size)
    levels = (0.0, *settings.sparsities) if settings.sparsities else ()
    pruned = len(COMPARED) * len(levels)
    everything = {}
    with run.reporter.progress("measure", len(work) * batches + pruned, "batches") as advance:
        for number, (name, one) in enumerate(work.items()):
            make = functools.partial(
                over_examples,
                one,
                network,
                jax.random.fold_in(run.key("measure"), number),
                examples,
                batch_size=settings.batch_size,
                advance=_after(number * batches, name, advance),
            )
            everything[name] = run.workdir.arrays(f"measurements/{name}", inputs, make)
            advance((number + 1) * batches, name)
        compress = functools.partial(
            compression, network, examples, levels, _after(len(work) * batches, COMPRESSION, advance)
        )
        compressed = run.workdir.arrays(f"measurements/{COMPRESSION}", inputs, compress) if pruned else {}
    return _summary(everything, settings) | {COMPRESSION: curves(compressed, levels) if pruned else {}}


def _after(done_before: int, note: str, advance: Advance) -> Callable[[int], None]:
    return lambda done: advance(done_before + done, note)


def robustness_name(estimator: str, level: float) -> str:
    """The name of a robustness estimate among the measurements."""
    return f"p_robust_{estimator}_{level:g}"


def attack_name(radius: float) -> str:
    """The name of the accuracy under attack among the measurements."""
    return f"pgd_{radius:g}"


def quantities(settings: Measure) -> dict[str, PerExample]:
    """What is measured for each example, by name."""
    work: dict[str, PerExample] = {
        "predictions": _predictions,
        "curvature": functools.partial(_curvature, settings.num_iterations),
    }
    for stddev in settings.stddevs:
        work[robustness_name("monte_carlo", stddev)] = functools.partial(_monte_carlo, settings.num_samples, stddev)
        work[robustness_name("taylor", stddev)] = functools.partial(_taylor, stddev)
    for radius in settings.radii:
        work[attack_name(radius)] = functools.partial(_attacked, radius)
    work[robustness_name("softmax", settings.temperature)] = functools.partial(_softmax, settings.temperature)
    return work


def _predictions(f: LogitsFn, key: Key, x: Array, label: Array) -> dict[str, Array]:
    logits = f(x)
    return {"logits": logits, "predicted": jnp.argmax(logits), "label": label}


def _curvature(num_iterations: int, f: LogitsFn, key: Key, x: Array, label: Array) -> dict[str, Array]:
    result = geometry.curvature(heads.log_prob(f), epsilon=EPSILON, num_iterations=num_iterations)(key, x, label)
    return {
        "normalised_curvature": result.normalised,
        "hessian_norm": result.hessian_norm,
        "gradient_norm": result.gradient_norm,
        "residual": result.residual,
        "num_iterations": result.num_iterations,
    }


def _monte_carlo(num_samples: int, stddev: float, f: LogitsFn, key: Key, x: Array, label: Array) -> dict[str, Array]:
    result = robustness.monte_carlo(f, num_samples=num_samples)(key, x, stddev=stddev)
    return {"probability": result.probability, "stderr": result.stderr}


def _taylor(stddev: float, f: LogitsFn, key: Key, x: Array, label: Array) -> dict[str, Array]:
    result = robustness.taylor(f)(x, stddev=stddev)
    return {"probability": result.probability, "stderr": result.stderr}


def _attacked(radius: float, f: LogitsFn, key: Key, x: Array, label: Array) -> dict[str, Array]:
    missing = lambda x, label: -heads.margin(f)(x, label)  # noqa: E731
    found = robustness.pgd(missing, num_steps=PGD_STEPS)(key, x, label, radius=radius)
    return {"accuracy": (found.value < 0).astype(found.value.dtype), "margin": -found.value}


def _softmax(temperature: float, f: LogitsFn, key: Key, x: Array, label: Array) -> dict[str, Array]:
    result = robustness.softmax(f)(x, temperature=temperature)
    return {"probability": result.probability, "stderr": result.stderr}


def _summary(everything: dict[str, dict[str, np.ndarray]], settings: Measure) -> dict[str, Any]:
    curvature = everything["curvature"]
    names = ("gradient_norm", "hessian_norm", "normalised_curvature")
    results: dict[str, Any] = {name: _statistics(curvature[name], curvature["finite"]) for name in names}
    results["p_robust"] = {}
    levels = {"monte_carlo": settings.stddevs, "taylor": settings.stddevs, "softmax": (settings.temperature,)}
    for estimator, values in levels.items():
        for level in values:
            arrays = everything[robustness_name(estimator, level)]
            statistics = _statistics(arrays["probability"], arrays["finite"])
            kept = arrays["stderr"][arrays["finite"]]
            sampling = float(np.sqrt(np.sum(kept**2))) / len(kept) if len(kept) else float("nan")
            results["p_robust"].setdefault(estimator, {})[f"{level:g}"] = statistics | {"sampling_stderr": sampling}
    attacks = {f"{radius:g}": everything[attack_name(radius)] for radius in settings.radii}
    results["pgd_accuracy"] = {level: _statistics(a["accuracy"], a["finite"]) for level, a in attacks.items()}
    results["non_finite_measurements"] = {name: int(np.sum(~a["finite"])) for name, a in everything.items()}
    return results


def _statistics(values: np.ndarray, finite: np.ndarray) -> dict[str, float]:
    """Mean, its standard error as a sample of inputs, and median of the finite examples; how many were left out."""
    kept = values[finite]
    flagged = int(np.sum(~finite))
    if not len(kept):
        return {
            "mean": float("nan"),
            "stderr": float("nan"),
            "median": float("nan"),
            "num_examples": 0,
            "flagged": flagged,
        }
    spread = float(np.std(kept, ddof=1) / np.sqrt(len(kept))) if len(kept) > 1 else float("inf")
    return {
        "mean": float(np.mean(kept)),
        "stderr": spread,
        "median": float(np.median(kept)),
        "num_examples": len(kept),
        "flagged": flagged,
    }
