"""Experiments as JSON, their fingerprint, and what differs between two of them."""

import dataclasses
import hashlib
import json
import pathlib
from typing import Any


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
