"""Checks of an experiment's values against their types and ranges, before anything is built."""

import dataclasses
import math
import types
import typing
from typing import Any

from jaxinterp.app._codec import ConfigError
from jaxinterp.app._config import Experiment
from jaxinterp.app._methods import METHODS


def validate(experiment: Experiment) -> None:
    """Raises `ConfigError` naming the first field whose type or value is wrong."""
    if not isinstance(experiment, Experiment):
        raise ConfigError(f"`get_config()` must return an `Experiment`; it returned {experiment!r}.")
    _check_fields(experiment, "")
    for name, values in {
        "explain.methods": experiment.explain.methods,
        "measure.stddevs": experiment.measure.stddevs,
    }.items():
        if not values:
            raise ConfigError(f"{name}: at least one is needed.")
        _check_distinct(name, values)
    _check_distinct("measure.radii", experiment.measure.radii)
    _check_distinct("measure.sparsities", experiment.measure.sparsities)
    removing = [("measure.sparsities", level) for level in experiment.measure.sparsities]
    removing += [(f"pruning.{i}.target", part.target) for i, part in enumerate(experiment.pruning)]
    for name, level in removing:
        if level == 1:
            raise ConfigError(f"{name}: must be below 1, for a fraction of 1 leaves nothing.")
    unknown = [name for name in experiment.explain.methods if name not in METHODS]
    if unknown:
        raise ConfigError(f"explain.methods: there is no method {unknown[0]!r}; known are {', '.join(METHODS)}.")


def _check_distinct(name: str, values: tuple) -> None:
    names = [value if isinstance(value, str) else f"{value:g}" for value in values]  # as in the results
    if len(set(names)) < len(names):
        raise ConfigError(f"{name}: one is named twice in {values}.")


def _check_fields(part: Any, path: str) -> None:
    hints = typing.get_type_hints(type(part), include_extras=True)
    for field in dataclasses.fields(part):
        _check(getattr(part, field.name), hints[field.name], f"{path}{field.name}")


def _check(value: Any, hint: Any, where: str) -> None:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        _check(value, arguments[0], where)
        if not arguments[1].holds(value):
            finite = " and finite" if value == math.inf else ""
            raise ConfigError(f"{where}: must be {arguments[1]}{finite}; got {value!r}.")
    elif origin is tuple and isinstance(value, tuple):
        for i, item in enumerate(value):
            _check(item, arguments[0], f"{where}.{i}")
    elif origin in (typing.Union, types.UnionType) and any(_is_a(value, argument) for argument in arguments):
        _check(value, next(argument for argument in arguments if _is_a(value, argument)), where)
    elif not _is_a(value, hint):
        raise ConfigError(f"{where}: must be {_name(hint)}; got {value!r}.")
    elif dataclasses.is_dataclass(value):
        _check_fields(value, f"{where}.")


def _is_a(value: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _is_a(value, arguments[0])
    if origin is typing.Literal:
        return any(value == argument for argument in arguments)
    if hint in (int, float):
        return isinstance(value, (int, float) if hint is float else int) and not isinstance(value, bool)
    return origin is None and isinstance(value, hint)


def _name(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return "one of " + ", ".join(repr(argument) for argument in arguments)
    if origin is tuple:
        return f"a tuple of {_name(arguments[0])}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_name(argument) for argument in arguments)
    return _name(arguments[0]) if origin is typing.Annotated else str(getattr(hint, "__name__", hint))
