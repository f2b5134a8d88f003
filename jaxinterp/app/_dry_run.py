"""What a run would do, found out without doing it."""

import os
import shutil

import jax
import jax.numpy as jnp

from jaxinterp import data, training, tree
from jaxinterp.app import _codec
from jaxinterp.app import _explain as explain
from jaxinterp.app import _measure as measure
from jaxinterp.app._run import Run
from jaxinterp.app._stages import require_possible
from jaxinterp.app._workdir import WorkdirError


def dry_run(run: Run, stages: tuple[str, ...]) -> str:
    """Checks experiment, data, shapes, work directory and disk, compiles nothing and writes nothing; returns a summary.

    Args:
      run: the experiment.
      stages: what would be done.

    Raises:
      WorkdirError: if the work directory holds another experiment, cannot be made, or the disk is too small.
    """
    run.workdir.require_same(_codec.to_plain(run.experiment))
    require_possible(run, stages)
    dataset, settings = run.dataset, run.experiment.training
    state = run.initial_state()
    data.batches(dataset.train, run.key("batches"), settings.batch_size)
    batch = (
        jax.ShapeDtypeStruct((settings.batch_size, *dataset.shape), jnp.float32),
        jax.ShapeDtypeStruct((settings.batch_size,), jnp.int32),
    )
    jax.eval_shape(training.make_step(run.objective(), run.optimizers), state, batch)
    explained = explain.quantities(run.experiment.explain, dataset)
    for name, one in (explained | measure.quantities(run.experiment.measure)).items():
        explain.require_computable(name, one, run)
    needed = 4 * tree.size((state.params, state.gates, state.state, state.opt_state)) * (settings.keep_last + 2)
    parent = _existing_parent(run)
    if not os.access(parent, os.W_OK):
        raise WorkdirError(f"{run.workdir.root} cannot be written to; choose another --workdir.")
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise WorkdirError(
            f"{run.workdir.root} needs {needed / 1e6:.0f} MB for checkpoints; {free / 1e6:.0f} MB are free."
        )
    epochs = settings.num_steps * settings.batch_size / len(dataset.train)
    parts = (dataset.train, dataset.validation, dataset.test)
    rows = {
        "experiment": f"{run.name}, digest {_codec.digest(_codec.to_plain(run.experiment))[:8]}",
        "data": f"{dataset.name}: {' + '.join(str(len(part)) for part in parts)} training, validation, test examples "
        f"of shape {dataset.shape}, {dataset.num_classes} classes",
        "network": f"{tree.size(state.params)} parameters, {tree.size(state.gates)} gates",
        "training": f"{settings.num_steps} steps of {settings.batch_size} examples ({epochs:.0f} epochs)",
        "explain": f"{run.experiment.explain.num_examples} examples by {', '.join(run.experiment.explain.methods)}",
        "measure": f"{run.experiment.measure.num_examples or len(dataset.test)} examples",
        "work directory": f"{run.workdir.root} ({needed / 1e6:.1f} MB for checkpoints, {free / 1e9:.1f} GB free)",
    }
    return "\n".join(f"{name:<15} {text}" for name, text in rows.items()) + "\nall is well; nothing was written"


def _existing_parent(run: Run) -> str:
    path = run.workdir.root.absolute()
    while not path.exists():
        path = path.parent
    if not path.is_dir():
        raise WorkdirError(f"{run.workdir.root} cannot be made: {path} is not a directory.")
    return str(path)
