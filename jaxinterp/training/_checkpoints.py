"""Checkpoints that are never loaded unless they are, bit for bit, what was saved.

Orbax writes a step atomically, but it loads a file with a flipped bit, and casts dtypes, without a word. So a
record stands beside each step, `<step>.json`: the SHA-256 of every file, the shape and dtype of every array, and
the SHA-256 of the record itself. A step without a valid record does not count: it is moved to `rejected/`.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from jaxinterp.training._state import TrainState
from jaxinterp.typing import PyTree


class CheckpointError(RuntimeError):
    """A checkpoint is intact but belongs to another model or configuration, or could not be written."""


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run: the last ones and the best.

    Attributes:
      directory: where they are; made when the first is saved.
      keep_last: how many of the newest are kept, besides the best; two, so that there is one to fall back to.
      report: is told, in a sentence, what was found broken and what is done about it.
    """

    directory: pathlib.Path
    keep_last: int = 2
    report: Callable[[str], None] = lambda message: None

    def save(self, step: int, state: TrainState, *, score: float) -> None:
        """Writes the state after `step` updates; the highest `score` is the best, the later one on ties.

        Raises:
          CheckpointError: if there is a checkpoint of that step.
        """
        target = self._step(step)
        if target.exists():
            raise CheckpointError(f"{target} exists already; a run resumes after its newest checkpoint.")
        self.directory.mkdir(parents=True, exist_ok=True)
        arrays = _as_arrays(state)
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
            checkpointer.save(os.path.abspath(target), args=ocp.args.StandardSave(arrays))
        record = {"step": step, "score": score, "files": _file_digests(target), "arrays": _array_types(arrays)}
        _write(self._record(step), json.dumps(record | {"digest": _digest_of(record)}, indent=1))
        self._delete_superseded()

    def restore_latest(self, like: TrainState) -> TrainState | None:
        """Returns the newest intact state, or `None` if there is none; broken ones are put aside and reported.

        Args:
          like: a state of the wanted structure, shapes and dtypes.

        Raises:
          CheckpointError: if the checkpoint holds other arrays than `like`.
        """
        self._clean_up()
        for step in sorted(self._steps(), reverse=True):
            if self._intact(step):
                return self._load(step, like)
        return None

    def restore_best(self, like: TrainState) -> TrainState:
        """Returns the intact state of the highest score.

        Args:
          like: a state of the wanted structure, shapes and dtypes.

        Raises:
          CheckpointError: if there is none, or it holds other arrays than `like`.
        """
        records = {step: self._read(step) for step in self._steps() if self._intact(step)}
        scores = {step: record["score"] for step, record in records.items() if record}
        if not scores:
            raise CheckpointError(f"{self.directory} holds no intact checkpoint; train again.")
        return self._load(max(scores, key=lambda step: (scores[step], step)), like)

    def _step(self, step: int) -> pathlib.Path:
        return self.directory / f"{step:08d}"

    def _record(self, step: int) -> pathlib.Path:
        return self.directory / f"{step:08d}.json"

    def digest(self, step: int) -> str | None:
        """The fingerprint of a checkpoint, from its record; `None` if there is no valid one."""
        record = self._read(step)
        return record["digest"] if record else None

    def is_intact(self, step: int) -> bool:
        """Whether a checkpoint is what was saved; if not, it is put aside and reported."""
        return self._intact(step)

    def _read(self, step: int) -> dict[str, Any] | None:
        """The record of a step, if it is what was written."""
        try:
            record = json.loads(self._record(step).read_text(encoding="utf-8"))
            valid = record["digest"] == _digest_of({k: v for k, v in record.items() if k != "digest"})
        except (ValueError, KeyError, TypeError, AttributeError, OSError):
            return None
        return record if valid else None

    def _steps(self) -> list[int]:
        if not self.directory.is_dir():
            return []
        names = {path.name.removesuffix(".json") for path in self.directory.iterdir()}
        return [int(name) for name in names if name.isdigit() and len(name) == 8]

    def _intact(self, step: int) -> bool:
        problem = self._problem(step)
        if problem:
            self._reject(step)
            self.report(f"Checkpoint {step} is not used: {problem}. It was moved to {self.directory / 'rejected'}.")
        return problem is None

    def _problem(self, step: int) -> str | None:
        if not self._record(step).is_file():
            return "it was interrupted before it was complete"
        if not self._step(step).is_dir():
            return "its data are missing"
        record = self._read(step)
        if record is None:
            return f"its record {self._record(step).name} has changed since it was written"
        try:
            wanted, found = record["files"], _file_digests(self._step(step))
        except OSError as error:
            return f"it cannot be read ({error!r})"
        for name in sorted(wanted.keys() | found.keys()):
            if name not in found:
                return f"the file {name} is missing"
            if wanted.get(name) != found[name]:
                return f"the file {name} has changed since it was written"
        return None

    def _reject(self, step: int) -> None:
        rejected = self.directory / "rejected"
        rejected.mkdir(exist_ok=True)
        attempt = sum(1 for path in rejected.iterdir() if path.name.startswith(f"{step:08d}"))
        for path in (self._record(step), self._step(step)):
            if path.exists():
                path.rename(rejected / f"{path.stem}-{attempt}{path.suffix}")

    def _clean_up(self) -> None:
        """Removes what an interrupted save or deletion left behind."""
        if self.directory.is_dir():
            for path in list(self.directory.iterdir()):
                if path.suffix == ".tmp" and path.is_dir():  # of a step that was being deleted
                    path.with_suffix(".json").unlink(missing_ok=True)
                if ".orbax-checkpoint-tmp" in path.name or path.suffix == ".tmp":
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _delete_superseded(self) -> None:
        records = {step: self._read(step) for step in self._steps() if self._step(step).is_dir()}
        scores = {step: record["score"] for step, record in records.items() if record}
        best = max(scores, key=lambda step: (scores[step], step))
        for step in sorted(scores)[: -self.keep_last]:
            if step != best:
                # Renamed first: a deletion cut short leaves a name that `_clean_up` knows.
                discarded = self._step(step).with_suffix(".tmp")
                self._step(step).rename(discarded)
                self._record(step).unlink(missing_ok=True)
                shutil.rmtree(discarded, ignore_errors=True)

    def _load(self, step: int, like: TrainState) -> TrainState:
        wanted, found = _array_types(_as_arrays(like)), (self._read(step) or {}).get("arrays", {})
        differing = [name for name in sorted(wanted.keys() | found.keys()) if wanted.get(name) != found.get(name)]
        if differing:
            name = differing[0]
            raise CheckpointError(
                f"{self._step(step)} belongs to another model: {name} is {found.get(name, 'absent')} there and "
                f"{wanted.get(name, 'absent')} here ({len(differing)} arrays differ). Use another work directory."
            )
        abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), _as_arrays(like))
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
            loaded = checkpointer.restore(os.path.abspath(self._step(step)), args=ocp.args.StandardRestore(abstract))
        return TrainState(
            **loaded | {"key": jax.random.wrap_key_data(loaded["key"], impl=jax.random.key_impl(like.key))}
        )


def _as_arrays(state: TrainState) -> dict[str, PyTree]:
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return jax.tree.map(jnp.asarray, fields | {"key": jax.random.key_data(state.key)})


def _array_types(arrays: PyTree) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(arrays)
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}


def _file_digests(directory: pathlib.Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _digest_of(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _write(path: pathlib.Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
