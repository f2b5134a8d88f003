"""A checkpoint is loaded bit for bit, or not at all."""

import dataclasses
import json
import os
import pathlib
import random
import shutil

import jax
import jax.numpy as jnp
import pytest

from jaxinterp import training
from tests.training import problem

pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.fixture(scope="module")
def states():
    """The states after 0, 4, 8 and 12 steps, and their bytes."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), jax.debug_key_reuse(False):
        step, start = problem.setting()
        kept = {0: start()}
        callback = training.Callback(4, lambda done, state, metrics: kept.update({done: jax.tree.map(jnp.copy, state)}))
        training.fit(step, start(), problem.batches(), problem.NUM_STEPS, [callback])
    return kept


@pytest.fixture(scope="module")
def original(states, tmp_path_factory):
    """A directory with the checkpoints 4, 8 and 12, of which 4 is the best."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    checkpoints = training.Checkpoints(folder)
    for step, score in ((4, 0.9), (8, 0.5), (12, 0.7)):
        checkpoints.save(step, states[step], score=score)
    return folder


@pytest.fixture
def folder(original, tmp_path):
    shutil.copytree(original, tmp_path / "checkpoints")
    return tmp_path / "checkpoints"


@pytest.mark.core
def test_what_was_saved_comes_back_bit_for_bit(folder, states):
    restored = training.Checkpoints(folder).restore_latest(states[0])
    assert problem.bits(restored) == problem.bits(states[12])
    assert jax.tree.structure(restored) == jax.tree.structure(states[0])
    assert restored.key.dtype == states[0].key.dtype


def test_the_last_two_and_the_best_are_kept(states, tmp_path):
    checkpoints = training.Checkpoints(tmp_path / "c")
    for step, score in ((1, 0.1), (2, 0.9), (3, 0.3), (4, 0.4), (5, 0.5)):
        checkpoints.save(step, states[4], score=score)
    kept = sorted(path.name for path in (tmp_path / "c").iterdir())
    assert kept == sorted(f"{step:08d}{suffix}" for step in (2, 4, 5) for suffix in ("", ".json"))


def test_the_best_is_the_highest_score_and_the_later_of_equals(folder, states):
    checkpoints = training.Checkpoints(folder)
    assert int(checkpoints.restore_best(states[0]).step) == 4
    checkpoints.save(16, states[8], score=0.9)
    assert int(checkpoints.restore_best(states[0]).step) == int(states[8].step)


@pytest.mark.core
def test_no_checkpoint_is_no_state(states, tmp_path):
    checkpoints = training.Checkpoints(tmp_path / "nothing")
    assert checkpoints.restore_latest(states[0]) is None
    with pytest.raises(training.CheckpointError, match="no intact checkpoint"):
        checkpoints.restore_best(states[0])


def test_a_step_is_not_saved_twice(folder, states):
    with pytest.raises(training.CheckpointError, match="exists already"):
        training.Checkpoints(folder).save(12, states[12], score=0.0)


@pytest.mark.core
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: dataclasses.replace(s, params={**s.params, "more": jnp.ones(2)}), "more.*absent"),
        (lambda s: dataclasses.replace(s, state={"scale": jnp.ones((), jnp.bfloat16)}), r"float32\[\].*bfloat16\[\]"),
        (lambda s: dataclasses.replace(s, state={"scale": jnp.ones(3)}), r"float32\[\] there and float32\[3\] here"),
        (lambda s: dataclasses.replace(s, gates=()), "gates.*absent"),
    ],
    ids=["another parameter", "another dtype", "another shape", "no gates"],
)
def test_another_model_is_refused_not_cast(folder, states, change, message):
    with pytest.raises(training.CheckpointError, match=message):
        training.Checkpoints(folder).restore_latest(change(states[0]))
    assert not (folder / "rejected").exists()


def corrupt(path, kind, rng):
    """Damages a file; returns what was done."""
    content = bytearray(path.read_bytes())
    if kind == "delete":
        path.unlink()
        return f"{path.name} deleted"
    if kind == "truncate":
        length = rng.randrange(len(content)) if content else 0
        path.write_bytes(content[:length])
        return f"{path.name} cut to {length}" if length < len(content) else None
    if not content:
        path.write_bytes(b"x")
        return f"{path.name} not empty any more"
    place, bit = rng.randrange(len(content)), rng.randrange(8)
    content[place] ^= 1 << bit
    path.write_bytes(content)
    return f"{path.name}: bit {bit} of byte {place} flipped"


def test_two_hundred_random_corruptions_are_all_found(original, states, tmp_path):
    """Over every file of the newest checkpoint, its record included: the run falls back and says so, each time."""
    rng = random.Random(0)
    damaged = total = 0
    while damaged < 210:
        work = tmp_path / f"{total}"
        shutil.copytree(original, work)
        files = [*sorted(p for p in (work / "00000012").rglob("*") if p.is_file()), work / "00000012.json"]
        path = files[total % len(files)]
        done = corrupt(path, ("flip", "flip", "truncate", "delete")[total // len(files) % 4], rng)
        total += 1
        if done is None:
            continue
        damaged += 1
        said = []
        restored = training.Checkpoints(work, report=said.append).restore_latest(states[0])
        assert restored is not None, done
        assert problem.bits(restored) == problem.bits(states[8]), f"{done}: something else was loaded"
        assert len(said) == 1, f"{done}: {said}"
        assert "Checkpoint 12 is not used" in said[0], done
        assert not (work / "00000012").exists(), f"{done}: the broken step still stands"
        shutil.rmtree(work)
    assert damaged >= 200


def test_corrupt_best_falls_back_to_the_next_best(folder, states):
    (folder / "00000004" / "_METADATA").write_bytes(b"{}")
    said = []
    best = training.Checkpoints(folder, report=said.append).restore_best(states[0])
    assert int(best.step) == 12
    assert said
    assert "_METADATA has changed" in said[0]


def test_a_record_with_another_score_is_no_record(folder, states):
    path = folder / "00000008.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"score": 1.0}))
    said = []
    assert int(training.Checkpoints(folder, report=said.append).restore_best(states[0]).step) == 4
    assert "its record 00000008.json has changed" in said[0]


def test_a_file_that_was_not_there_is_found(folder, states):
    (folder / "00000012" / "extra").write_text("?")
    said = []
    assert int(training.Checkpoints(folder, report=said.append).restore_latest(states[0]).step) == 8
    assert "extra" in said[0]


def test_a_save_that_was_cut_short_is_put_aside_and_can_be_done_again(folder, states):
    (folder / "00000012.json").unlink()
    (folder / "00000016.orbax-checkpoint-tmp").mkdir()
    (folder / ".00000016.json.tmp").write_text("{")
    (folder / "00000016.json.tmp").write_text("{")
    said = []
    checkpoints = training.Checkpoints(folder, report=said.append)
    assert int(checkpoints.restore_latest(states[0]).step) == 8
    assert "interrupted" in said[0]
    assert (folder / "rejected" / "00000012-0").is_dir()
    assert not list(folder.glob("*tmp*"))
    checkpoints.save(12, states[12], score=0.1)
    assert problem.bits(checkpoints.restore_latest(states[0])) == problem.bits(states[12])


def test_the_same_step_can_be_rejected_twice(folder, states):
    checkpoints = training.Checkpoints(folder)
    for attempt in range(2):
        (folder / "00000012.json").unlink()
        checkpoints.restore_latest(states[0])
        assert (folder / "rejected" / f"00000012-{attempt}").is_dir()
        checkpoints.save(12, states[12], score=0.1)


def test_all_corrupt_is_no_state(folder, states):
    for path in folder.glob("*.json"):
        path.write_text("not json")
    said = []
    assert training.Checkpoints(folder, report=said.append).restore_latest(states[0]) is None
    assert len(said) == 3


def test_missing_data_are_named(folder, states):
    shutil.rmtree(folder / "00000012")
    said = []
    training.Checkpoints(folder, report=said.append).restore_latest(states[0])
    assert "its data are missing" in said[0]


def test_relative_paths_work(states, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints = training.Checkpoints(type(tmp_path)("here"))
    checkpoints.save(4, states[4], score=0.0)
    os.chdir(tmp_path)
    assert problem.bits(checkpoints.restore_latest(states[0])) == problem.bits(states[4])


def test_a_broken_record_of_an_older_step_is_not_believed(folder, states):
    """A score that has changed neither makes a step the best nor deletes the one that is."""
    record = folder / "00000008.json"
    record.write_text(record.read_text().replace('"score": 0.5', '"score": 9.5'))
    checkpoints = training.Checkpoints(folder)
    assert int(checkpoints.restore_latest(states[0]).step) == 12
    checkpoints.save(16, states[12], score=0.1)
    checkpoints.save(20, states[12], score=0.2)
    assert problem.bits(checkpoints.restore_best(states[0])) == problem.bits(states[4])
    assert (folder / "rejected" / "00000008-0.json").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"score": 1}'])
def test_a_record_that_cannot_be_read_does_not_stop_a_save(folder, states, text):
    (folder / "00000008.json").write_text(text)
    checkpoints = training.Checkpoints(folder)
    checkpoints.save(16, states[12], score=1.5)
    assert problem.bits(checkpoints.restore_best(states[0])) == problem.bits(states[12])


@pytest.mark.parametrize("moment", ["rename", "unlink", "rmtree"])
def test_a_deletion_cut_short_is_finished_later(folder, states, monkeypatch, moment):
    """The kill comes just before the directory of step 8 is renamed, its record or the renamed directory deleted."""

    def killed(*args, **keywords):
        raise KeyboardInterrupt

    checkpoints = training.Checkpoints(folder)
    with monkeypatch.context() as patch:
        place = shutil if moment == "rmtree" else pathlib.Path
        original = getattr(place, moment)

        def stops(path, *args, **keywords):
            return killed() if path.name.startswith("00000008") else original(path, *args, **keywords)

        patch.setattr(place, moment, stops)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(16, states[12], score=0.1)
    assert checkpoints.restore_latest(states[0]) is not None
    for step in (20, 24):
        checkpoints.save(step, states[12], score=0.1)
    assert problem.bits(checkpoints.restore_best(states[0])) == problem.bits(states[4])
    kept = sorted(path.name for path in folder.iterdir())
    assert kept == sorted(f"{step:08d}{suffix}" for step in (4, 20, 24) for suffix in ("", ".json"))
