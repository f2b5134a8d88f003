"""Experiments as JSON, their fingerprint, and what differs between two of them."""

import dataclasses
import hashlib
import json
import pathlib
from typing import Any

from jaxinterp.app import _config

_KINDS = {c.__name__: c for c in vars(_config).values() if isinstance(c, type) and c.__module__ == _config.__name__}


class ConfigError(ValueError):
    """An experiment that cannot be run as it is written; the message names the field and the remedy."""


def to_plain(value: Any) -> Any:
    """The value as JSON types; a dataclass becomes an object with its class name under "kind"."""
    if dataclasses.is_dataclass(value):
        fields = {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **fields}
    if isinstance(value, tuple):
        return [to_plain(item) for item in value]
    return str(value) if isinstance(value, pathlib.Path) else value


def to_json(value: Any) -> str:
    """The value as indented JSON text."""
    return json.dumps(to_plain(value), indent=2)


def from_plain(value: Any) -> Any:
    """Undoes `to_plain`."""
    if isinstance(value, list):
        return tuple(from_plain(item) for item in value)
    if not isinstance(value, dict):
        return value
    kind = _KINDS.get(value.get("kind", ""))
    if kind is None:
        raise ConfigError(
            f"{value.get('kind')!r} is not a part of an experiment; known are {', '.join(sorted(_KINDS))}."
        )
    fields = {name: from_plain(item) for name, item in value.items() if name != "kind"}
    if "path" in fields:
        fields["path"] = pathlib.Path(fields["path"])
    try:
        return kind(**fields)
    except TypeError as error:
        raise ConfigError(f"{kind.__name__}: {error}") from error


def digest(*values: Any) -> str:
    """A fingerprint of plain values (SHA-256 of their canonical JSON)."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Where two plain values differ, one line each: `training.num_steps: 500 there, 600 here`."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for name in [*old, *(n for n in new if n not in old)]:
            lines += differences(old.get(name), new.get(name), f"{path}.{name}" if path else name)
        return lines
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            line for i, (a, b) in enumerate(zip(old, new, strict=True)) for line in differences(a, b, f"{path}.{i}")
        ]
    return [] if old == new else [f"{path}: {json.dumps(old)} there, {json.dumps(new)} here"]
