"""What a run would do, found out without doing it."""

import shutil

import jax
import jax.numpy as jnp

from jaxinterp import data, training, tree
from jaxinterp.app import _codec
from jaxinterp.app._run import Run
from jaxinterp.app._workdir import WorkdirError


def dry_run(run: Run) -> str:
    """Checks experiment, data, shapes, work directory and disk, compiles nothing and writes nothing; returns a summary.

    Raises:
      WorkdirError: if the work directory holds another experiment, cannot be made, or the disk is too small.
    """
    run.workdir.require_same(_codec.to_plain(run.experiment))
    dataset, settings = run.dataset, run.experiment.training
    state = run.initial_state()
    data.batches(dataset.train, run.key("batches"), settings.batch_size)
    batch = (
        jax.ShapeDtypeStruct((settings.batch_size, *dataset.shape), jnp.float32),
        jax.ShapeDtypeStruct((settings.batch_size,), jnp.int32),
    )
    jax.eval_shape(training.make_step(run.objective(), run.optimizers), state, batch)
    needed = 4 * tree.size((state.params, state.gates, state.state, state.opt_state)) * (settings.keep_last + 2)
    free = shutil.disk_usage(_existing_parent(run)).free
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
        "explain": ", ".join(run.experiment.explain.methods),
        "work directory": f"{run.workdir.root} ({needed / 1e6:.1f} MB needed, {free / 1e9:.1f} GB free)",
    }
    return "\n".join(f"{name:<15} {text}" for name, text in rows.items()) + "\nall is well; nothing was written"


def _existing_parent(run: Run) -> str:
    path = run.workdir.root.absolute()
    while not path.exists():
        path = path.parent
    if not path.is_dir():
        raise WorkdirError(f"{run.workdir.root} cannot be made: {path} is not a directory.")
    return str(path)
