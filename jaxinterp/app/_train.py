"""The stage that trains."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxinterp import data, sparsity, training
from jaxinterp.app._run import Run
from jaxinterp.typing import Array


def train(run: Run) -> dict[str, Any]:
    """Trains, or goes on from the newest intact checkpoint; returns test accuracy and sparsity at the best one."""
    settings = run.experiment.training
    checkpoints, initial = run.checkpoints, run.initial_state()
    resumed = checkpoints.restore_latest(initial)
    state = resumed or initial
    start = int(state.step)
    training.cut_back_metrics(run.workdir.metrics, start)
    if resumed:
        run.reporter.say(f"train: resuming after step {start}")
    step = training.make_step(run.objective(), run.optimizers)
    evaluate = training.make_evaluation(run.network[0].apply)
    batches = data.batches(run.dataset.train, run.key("batches"), settings.batch_size)
    targets = [pruning.settled(settings.num_steps) for pruning in run.experiment.pruning]
    first = max(settings.best_after * settings.num_steps, *targets, 0)
    with run.reporter.progress("train", settings.num_steps, "steps", done=start) as advance:

        def log(done: int, state: training.TrainState, metrics: dict[str, Array]) -> None:
            values = training.require_finite(done, metrics)
            training.append_metrics(run.workdir.metrics, {"step": done, **values, **_openness(state)})
            advance(done, f"loss {values['loss']:.4f}")

        def save(done: int, state: training.TrainState, metrics: dict[str, Array]) -> None:
            split = run.dataset.validation
            params = training.final_params(state.params, state.gates)
            scores = evaluate(params, state.state, split.x, split.y)
            training.require_finite(done, metrics, state)
            record = {f"validation_{name}": value for name, value in scores.items()}
            training.append_metrics(run.workdir.metrics, {"step": done, **record})
            eligible = done >= first
            checkpoints.save(done, state, score=scores["accuracy"] - (0.0 if eligible else 1.0))

        callbacks = (training.Callback(settings.log_every, log), training.Callback(settings.checkpoint_every, save))
        training.fit(step, state, batches, settings.num_steps, callbacks)
    return _results(run, evaluate)


def _openness(state: training.TrainState) -> dict[str, float]:
    """The fraction of gated and pruned parameters that is left."""
    masks = _masks(state)
    if not masks:
        return {}
    count = sparsity.count(state.params, *masks)
    return {"open_fraction": count.kept / count.gated}


def _masks(state: training.TrainState) -> tuple:
    """Of the gates, and of the pruning."""
    return (*training.final_masks(state.gates), *sparsity.optimizer_masks(state.opt_state[0]))


def _results(run: Run, evaluate: Any) -> dict[str, Any]:
    best = run.checkpoints.restore_best(run.initial_state())
    params, test = training.final_params(best.params, best.gates), run.dataset.test
    scores = evaluate(params, best.state, test.x, test.y)
    n = len(test)
    accuracy = scores["accuracy"]
    return {
        "accuracy": {"mean": accuracy, "stderr": float(np.sqrt(accuracy * (1 - accuracy) / n)), "num_examples": n},
        "test_loss": scores["loss"],
        "best_step": int(best.step),
        "checkpoint": run.checkpoints.digest(int(best.step)),
        "sparsity": _sparsity(run, best),
    }


def _sparsity(run: Run, state: training.TrainState) -> dict[str, Any]:
    """How many parameters thresholded gates and pruning leave, in all and per parameter; multiplications an example."""
    masks, example = _masks(state), jnp.zeros(run.dataset.shape)
    counts, total = sparsity.count_by_parameter(state.params, *masks), sparsity.count(state.params, *masks)
    costs = sparsity.cost_by_parameter(run.network[0].apply)(state.params, state.state, example, masks=masks)
    return {
        "removed_fraction": total.sparsity,
        "kept": total.kept,
        "gated": total.gated,
        "parameters": total.total,
        "multiply_adds": sum(cost.multiply_adds for cost in costs.values()),
        "multiply_adds_kept": sum(cost.multiply_adds_kept for cost in costs.values()),
        "per_parameter": {
            name: {
                "kept": c.kept,
                "gated": c.gated,
                "multiply_adds": costs[name].multiply_adds,
                "multiply_adds_kept": costs[name].multiply_adds_kept,
            }
            for name, c in counts.items()
        },
    }
