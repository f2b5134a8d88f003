"""A log of metrics, one JSON object per line, that agrees with the checkpoint a run resumes from."""

import json
import pathlib


def append_metrics(path: pathlib.Path, record: dict[str, float]) -> None:
    """Adds a line; `record` has an entry "step"."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def read_metrics(path: pathlib.Path) -> list[dict[str, float]]:
    """Returns the lines; one that was cut off while it was written is left out."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def cut_back_metrics(path: pathlib.Path, step: int) -> None:
    """Removes what was logged after `step`."""
    kept = [record for record in read_metrics(path) if record["step"] <= step]
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
    temporary.replace(path)
