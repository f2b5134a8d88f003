"""A whole experiment in a few seconds, for the tests of the application."""

import dataclasses
import os
import pathlib
import subprocess
import sys

from jaxinterp import app  # noqa: F401 (the tests take it from here)

ROOT = pathlib.Path(__file__).parents[2]

CONFIG = """
from jaxinterp import app


def get_config():
    return app.Experiment(
        data=app.Digits(),
        model=app.MLP(widths=(8,)),
        gates=(app.Gates(parameters="dense_0/kernel"),),
        pruning=(app.Pruning(parameters="head/kernel", target=0.5, every=3),),
        penalties=(app.GradientNorm(weight=0.01),),
        training=app.Training(num_steps=24, batch_size=64, log_every=4, checkpoint_every=8),
        explain=app.Explain(methods=("gradient", "integrated_gradients"), num_examples=3, secant_samples=150),
        measure=app.Measure(
            num_examples=5, stddevs=(0.2,), sparsities=(0.5,), num_samples=20, batch_size=4, num_iterations=20
        ),
    )
"""


def write_config(folder, text=CONFIG, name="tiny.py"):
    path = folder / name
    path.write_text(text)
    return path


def experiment(**changes):
    scope = {}
    exec(CONFIG, scope)  # the same text that the command line reads
    return dataclasses.replace(scope["get_config"](), **changes)


def environment():
    """For a process of its own: the tests' compilation cache, so that it need not compile again."""
    cache = os.path.expanduser("~/.cache/jaxinterp-tests")
    return os.environ | {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "COLUMNS": "120",
    }


def command(*arguments, cwd):
    """Runs `python -m jaxinterp ...` in a process of its own; returns the finished process."""
    return subprocess.run(
        [sys.executable, "-m", "jaxinterp", *map(str, arguments)],
        capture_output=True, text=True, cwd=cwd, env=environment(), timeout=300, check=False,
    )  # fmt: skip


def started(*arguments, cwd):
    """Starts the same and returns the running process."""
    return subprocess.Popen(
        [sys.executable, "-m", "jaxinterp", *map(str, arguments)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=cwd, env=environment(),
    )  # fmt: skip
