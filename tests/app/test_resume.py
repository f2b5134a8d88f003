"""`kill -9` at any moment of training, and the same command again: the end is the same, bit for bit."""

import random
import shutil
import signal
import time
import warnings

import numpy as np
import orbax.checkpoint as ocp
import pytest

from jaxinterp import training
from tests.app import tiny

OPTIONS = ("--training.num-steps", "400", "--training.checkpoint-every", "20", "--training.log-every", "5")


def start(work, *more):
    return tiny.started("train", "tiny.py", "--workdir", work, *OPTIONS, *more, cwd=work.parent)


def killed_when(process, reached, timeout=120.0):
    """Waits until `reached()`, then kills the process; says whether it lived till then."""
    deadline = time.monotonic() + timeout
    while not reached() and process.poll() is None:
        assert time.monotonic() < deadline, "the moment to kill never came"
        time.sleep(0.0005)
    alive = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return alive


def logged(work, step):
    return lambda: any(r["step"] >= step for r in training.read_metrics(work / "metrics.jsonl"))


def saving(work, after):
    """Whether a checkpoint later than step `after` is just being written."""

    def now():
        names = [p.name for p in (work / "checkpoints").glob("*")] if (work / "checkpoints").is_dir() else []
        return any("tmp" in name and int(name[:8] if name[:8].isdigit() else name[1:9]) > after for name in names)

    return now


def final(work):
    """The bytes of the arrays of the last checkpoint, and the log."""
    newest = max(p for p in (work / "checkpoints").iterdir() if p.is_dir() and p.name.isdigit())
    with warnings.catch_warnings(action="ignore"), ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        tree = checkpointer.restore(str(newest), args=ocp.args.StandardRestore())
    flat = {}

    def walk(node, path):
        if isinstance(node, dict):
            for name, child in node.items():
                walk(child, f"{path}/{name}")
        elif isinstance(node, list | tuple):
            for i, child in enumerate(node):
                walk(child, f"{path}/{i}")
        elif node is not None:
            flat[path] = np.asarray(node).tobytes()

    walk(tree, "")
    return newest.name, flat, (work / "metrics.jsonl").read_text()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    tiny.write_config(folder)
    finish(folder / "work")
    return folder / "work"


def finish(work, *more):
    process = start(work, *more)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return errors


def test_three_kills_one_of_them_during_a_save_change_nothing(tmp_path, uninterrupted):
    tiny.write_config(tmp_path)
    work = tmp_path / "work"
    assert killed_when(start(work), logged(work, 45))
    assert killed_when(start(work), saving(work, 100)), "the second kill came too late"
    assert killed_when(start(work), logged(work, 250))
    errors = finish(work)
    assert "train: resuming after step 240" in errors
    assert final(work) == final(uninterrupted)


def test_the_comparison_can_fail(tmp_path, uninterrupted):
    tiny.write_config(tmp_path)
    finish(tmp_path / "work", "--seed", "1")
    assert final(tmp_path / "work")[1] != final(uninterrupted)[1]


def test_a_finished_training_is_not_repeated(tmp_path, uninterrupted):
    tiny.write_config(tmp_path)
    shutil.copytree(uninterrupted, tmp_path / "work")
    before = (tmp_path / "work" / "stages" / "train.json").stat().st_mtime_ns
    assert "train: finished before" in finish(tmp_path / "work")
    assert (tmp_path / "work" / "stages" / "train.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_thirty_kills_at_random_moments_change_nothing(tmp_path, uninterrupted):
    """Every third during a save, the others at random times, start-up included; several runs end and begin anew."""
    rng = random.Random(0)
    kills = runs = 0
    while kills < 30:
        folder = tmp_path / f"{runs}"
        folder.mkdir()
        tiny.write_config(folder)
        work = folder / "work"
        for attempt in range(8):
            process = start(work)
            latest = max((r["step"] for r in training.read_metrics(work / "metrics.jsonl")), default=0)
            if attempt % 3 == 2:
                hit = killed_when(process, saving(work, latest))
            else:
                moment = time.monotonic() + rng.uniform(1.0, 9.0)
                hit = killed_when(process, lambda moment=moment: time.monotonic() > moment)
            kills += hit
            if not hit:
                break
        finish(work)
        assert final(work) == final(uninterrupted)
        runs += 1
