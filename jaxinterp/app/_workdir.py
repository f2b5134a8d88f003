"""The work directory: what is in it, who may write to it, and which stages are finished.

Everything is written under a temporary name and renamed, so that a file that is there is whole. Each stage leaves a
record with the fingerprint of its inputs and of the files it wrote; a stage whose record agrees is not done again.
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import filelock
import numpy as np

from jaxinterp import data
from jaxinterp.app import _codec


class WorkdirError(RuntimeError):
    """The work directory cannot be used; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class Workdir:
    """A work directory.

    Attributes:
      root: its path.
    """

    root: pathlib.Path

    @property
    def checkpoints(self) -> pathlib.Path:
        """Where the checkpoints are."""
        return self.root / "checkpoints"

    @property
    def metrics(self) -> pathlib.Path:
        """The log of training."""
        return self.root / "metrics.jsonl"

    @property
    def report(self) -> pathlib.Path:
        """The report."""
        return self.root / "report.html"

    @contextlib.contextmanager
    def opened(self, experiment: Any) -> Iterator[None]:
        """Makes the directory, or resumes in it, and keeps other runs out.

        Args:
          experiment: the plain values of the experiment.

        Raises:
          WorkdirError: if it cannot be written to, another run is at work in it, or it holds another experiment.
        """
        self.require_same(experiment)  # before anything is written
        lock = filelock.FileLock(self.root / ".lock")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=False)
        except filelock.Timeout as error:
            raise WorkdirError(
                f"Another run is at work in {self.root}; wait for it, or choose another --workdir."
            ) from error
        except OSError as error:
            raise WorkdirError(
                f"{self.root} cannot be written to ({error.strerror}); choose another --workdir."
            ) from error
        try:
            self.require_same(experiment)
            if not (self.root / "config.json").exists():
                self.write_json("config.json", {"digest": _codec.digest(experiment), "experiment": experiment})
            yield
        finally:
            lock.release()

    def require_same(self, experiment: Any) -> None:
        """Raises `WorkdirError` naming the fields if the directory holds another experiment than `experiment`."""
        path = self.root / "config.json"
        if not path.exists():
            if self.root.is_dir() and any(p.name not in (".lock", ".config.tmp.json") for p in self.root.iterdir()):
                raise WorkdirError(f"{self.root} is not empty and holds no config.json; choose another --workdir.")
            return
        try:
            there = json.loads(path.read_text(encoding="utf-8"))["experiment"]
        except (ValueError, KeyError, TypeError) as error:
            raise WorkdirError(f"{path} cannot be read ({error!r}); choose another --workdir.") from error
        differing = _codec.differences(there, experiment)
        if differing:
            listed = "\n  ".join(differing)
            raise WorkdirError(
                f"{self.root} holds another experiment:\n  {listed}\nChoose another --workdir, or run that experiment."
            )

    def write_text(self, name: str, text: str) -> pathlib.Path:
        """Writes a file, whole or not at all; one that holds the text already is left alone."""
        path = self.root / name
        with contextlib.suppress(OSError, ValueError):
            if path.read_text(encoding="utf-8") == text:
                return path
        return self.write_with(name, lambda path: path.write_text(text, encoding="utf-8"))

    def write_json(self, name: str, value: Any) -> pathlib.Path:
        """Writes a value as JSON; numbers that are not finite become null."""
        return self.write_text(name, json.dumps(_finite_json(value), indent=2) + "\n")

    def write_with(self, name: str, write: Callable[[pathlib.Path], Any]) -> pathlib.Path:
        """Lets `write` make a file under a temporary name of the same suffix, then renames it."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
        write(temporary)
        temporary.replace(path)
        return path

    def arrays(self, name: str, inputs: str, make: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """The arrays of `<name>.npz`: those on disk if they were made from `inputs`, else made now and written.

        Args:
          name: of the file, without suffix.
          inputs: fingerprint of what the arrays depend on, kept in the file.
          make: makes them.
        """
        path = self.root / f"{name}.npz"
        with contextlib.suppress(KeyError, *data.UNREADABLE), path.open("rb") as stream, np.load(stream) as file:
            if str(file["fingerprint"]) == inputs:
                return {key: file[key] for key in file.files if key != "fingerprint"}
        made = {key: np.asarray(value) for key, value in make().items()}
        contents: dict[str, Any] = {"fingerprint": np.asarray(inputs), **made}
        self.write_with(f"{name}.npz", lambda temporary: np.savez_compressed(temporary, **contents))
        return made

    def finished(self, stage: str, inputs: str) -> dict[str, Any] | None:
        """The record of a stage, if it was finished on the same inputs and its files are as it left them."""
        try:
            record = json.loads((self.root / "stages" / f"{stage}.json").read_text(encoding="utf-8"))
            same = record["inputs"] == inputs and record["files"] == self._digests(record["files"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return record if same else None

    @contextlib.contextmanager
    def stage(self, name: str, inputs: str, outputs: tuple[str, ...] = ()) -> Iterator[dict[str, Any]]:
        """Times a stage and writes its record when it ends without an error; the results go into what is yielded.

        Args:
          name: of the stage.
          inputs: fingerprint of what it depends on.
          outputs: the files it writes, and the directories all of whose files it writes.
        """
        results: dict[str, Any] = {}
        start = time.perf_counter()
        yield results
        seconds = round(time.perf_counter() - start, 3)
        paths = [path for output in outputs for path in (self.root / output, *(self.root / output).rglob("*"))]
        files = self._digests(str(path.relative_to(self.root)) for path in sorted(paths) if path.is_file())
        record = {"inputs": inputs, "seconds": seconds, "results": results, "files": files}
        self.write_json(f"stages/{name}.json", record)

    def _digests(self, names: Iterable[str]) -> dict[str, str]:
        return {name: hashlib.sha256((self.root / name).read_bytes()).hexdigest() for name in names}


def _finite_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite_json(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
