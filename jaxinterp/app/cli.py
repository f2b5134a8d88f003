"""The command line: `jaxinterp run configs/digits.py`."""

import dataclasses
import importlib.util
import pathlib
import shlex
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import tyro

import jaxinterp
from jaxinterp import data, training
from jaxinterp.app import _codec, _environment, _stages
from jaxinterp.app._codec import ConfigError
from jaxinterp.app._config import Experiment
from jaxinterp.app._dry_run import dry_run
from jaxinterp.app._methods import METHODS
from jaxinterp.app._progress import Reporter
from jaxinterp.app._run import STAGES, Run
from jaxinterp.app._validate import validate
from jaxinterp.app._workdir import Workdir, WorkdirError

USAGE = """\
usage: jaxinterp COMMAND [CONFIG] [options]

What a neural network is really doing around a point.

commands that take a configuration (a Python file with `get_config() -> Experiment`):
  run CONFIG        train, explain, measure and report; goes on where an earlier run stopped
  train CONFIG      only train
  explain CONFIG    attributions and local models of a trained network
  measure CONFIG    curvature and robustness of a trained network
  report CONFIG     figures and report.html from the results

others:
  methods           list the attribution methods
  doctor            versions, devices, and whether a gradient runs on each

options after CONFIG: --workdir DIR, --dry-run, and every field of the experiment, such as --training.num-steps 500;
`jaxinterp run CONFIG --help` lists them with their values. Exit status: 0 done, 2 wrong input, 130 interrupted.
"""

USER_ERRORS = (ConfigError, WorkdirError, data.DataError, training.CheckpointError, training.DivergenceError)


@dataclasses.dataclass(frozen=True)
class _Invocation:
    """What stands after the name of the configuration."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    workdir: pathlib.Path | None = None
    """Where the results go; runs/<config>-<digest> by default."""
    dry_run: bool = False
    """Check everything, write nothing."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command; exits with a status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _dispatch(arguments)
    except USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint, if there is one", file=sys.stderr)
        status = 130
    sys.exit(status)


def _dispatch(arguments: list[str]) -> int:
    command = arguments[0] if arguments else "--help"
    if command in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    if command == "--version":
        print(jaxinterp.__version__)
        return 0
    if command in ("methods", "doctor"):
        if arguments[1:] in (["-h"], ["--help"]):
            print(USAGE, end="")
            return 0
        if arguments[1:]:
            raise ConfigError(f"`jaxinterp {command}` takes no arguments; got {shlex.join(arguments[1:])}.")
        return _list_methods() if command == "methods" else _doctor()
    if command not in ("run", *STAGES):
        raise ConfigError(f"there is no command {command!r}; see `jaxinterp --help`.")
    return _work(command, arguments[1:])


def _work(command: str, arguments: list[str]) -> int:
    if arguments[:1] in (["-h"], ["--help"]):
        print(USAGE, end="")
        return 0
    if not arguments or arguments[0].startswith("-"):
        raise ConfigError(
            f"`jaxinterp {command}` needs a configuration first, such as configs/digits.py; options come after it."
        )
    path = pathlib.Path(arguments[0])
    default = _Invocation(load_config(path))
    invocation = tyro.cli(
        _Invocation,
        args=arguments[1:],
        default=default,
        prog=f"jaxinterp {command} {path}",
        description=f"The fields of {path}, each with its value there.",
        config=(tyro.conf.AvoidSubcommands,),
    )
    validate(invocation.experiment)
    digest = _codec.digest(_codec.to_plain(invocation.experiment))
    root = invocation.workdir or pathlib.Path("runs") / f"{path.stem}-{digest[:8]}"
    line = shlex.join(["jaxinterp", "run", *arguments])
    run = Run(path.stem, invocation.experiment, Workdir(root), Reporter(), line)
    stages = STAGES if command == "run" else (command,)
    if invocation.dry_run:
        print(dry_run(run, stages))
        return 0
    _stages.perform(run, stages)
    print(_stages.headline(run))
    print(f"results               {root / 'results.json'}")
    if run.workdir.report.exists():
        print(f"report                {run.workdir.report}")
    return 0


def load_config(path: pathlib.Path) -> Experiment:
    """Returns the experiment that a configuration file describes.

    Raises:
      ConfigError: if the file is missing, fails, or does not return an experiment.
    """
    if not path.is_file():
        raise ConfigError(
            f"there is no configuration {path}; give the path of a Python file such as configs/digits.py."
        )
    spec = importlib.util.spec_from_file_location(f"jaxinterp_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is not a Python file; its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        get_config = getattr(module, "get_config", None)
        experiment: Any = get_config() if get_config else None
    except Exception as error:  # whatever a user's file raises is a mistake in that file
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f"{path}, line {lines[-1]}" if lines else str(path)
        raise ConfigError(f"{where}: {type(error).__name__}: {error}") from error
    if get_config is None:
        raise ConfigError(f"{path} has no `get_config()`; define `def get_config() -> app.Experiment`.")
    try:
        validate(experiment)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return experiment


def _list_methods() -> int:
    width = max(len(name) for name in METHODS)
    for method in METHODS.values():
        print(f"{method.name:<{width}}  {method.summary} ({method.source})")
    return 0


def _doctor() -> int:
    for name, version in _environment.versions().items():
        print(f"{name:<18} {version}")
    print(f"{'default backend':<18} {jax.default_backend()}")
    healthy = True
    for device in jax.devices():
        works, finding = _environment.check_device(device)
        healthy &= works
        print(f"{device.platform}:{device.id} {device.device_kind:<12} {'ok' if works else 'BROKEN'}: {finding}")
    return 0 if healthy else 1
