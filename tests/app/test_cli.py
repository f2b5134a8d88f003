"""The command line, as a person meets it: a process, its output and its exit status."""

import json
import re

import numpy as np
import pytest

from jaxinterp.app import METHODS
from jaxinterp.app.cli import main
from tests.app import tiny

pytestmark = pytest.mark.usefixtures("standard_promotion")


def run(capsys, *arguments):
    """Runs the command in this process; returns its exit status and what it printed."""
    with pytest.raises(SystemExit) as exit_info:
        main([str(a) for a in arguments])
    printed = capsys.readouterr()
    return exit_info.value.code, printed.out, printed.err


@pytest.mark.core
@pytest.mark.parametrize("arguments", [(), ("--help",), ("run", "--help")])
def test_help_names_every_command(capsys, arguments):
    status, out, _ = run(capsys, *arguments)
    assert status == 0
    for word in ("run", "train", "explain", "measure", "report", "methods", "doctor", "--workdir", "--dry-run"):
        assert word in out


def test_help_of_a_configuration_lists_its_fields(capsys, tmp_path):
    status, out, _ = run(capsys, "run", tiny.write_config(tmp_path), "--help")
    assert status == 0
    for field in ("--training.num-steps", "--gates.0.sparsity", "--penalties.0.weight", "--model.widths", "--workdir"):
        assert field in out
    assert "(default: 24)" in out


@pytest.mark.core
def test_methods_are_listed_one_line_each(capsys):
    status, out, _ = run(capsys, "methods")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == list(METHODS)


@pytest.mark.core
def test_the_doctor_finds_the_devices_well(capsys):
    status, out, _ = run(capsys, "doctor")
    assert status == 0
    assert re.search(r"jax +\d+\.\d+", out)
    assert out.count(": gradient off by at most") == 8  # the devices of the test configuration
    assert "BROKEN" not in out


def test_a_dry_run_checks_everything_and_writes_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, _ = run(capsys, "run", tiny.write_config(tmp_path), "--dry-run", "--training.num-steps", "30")
    assert status == 0
    assert "30 steps of 64 examples" in out
    assert "610 parameters, 512 gates" in out
    assert "nothing was written" in out
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["tiny.py"]


BAD = {
    "no command": (("frobnicate",), "no command 'frobnicate'"),
    "no configuration": (("run",), "needs a configuration"),
    "option first": (("run", "--dry-run"), "needs a configuration"),
    "missing file": (("run", "nope.py"), "no configuration nope.py"),
    "unknown field": (("run", "tiny.py", "--training.num-stepz", "3"), "Unrecognized options"),
    "wrong type": (("run", "tiny.py", "--training.num-steps", "many"), "training.num-steps.*'many'"),
    "zero samples": (
        ("run", "tiny.py", "--measure.num-samples", "0"),
        "measure.num_samples: must be at least 1; got 0",
    ),
    "negative noise": (("run", "tiny.py", "--measure.stddevs", "-0.1"), "measure.stddevs"),
    "unknown method": (("run", "tiny.py", "--explain.methods", "magic"), "no method 'magic'"),
    "wrong choice": (("run", "tiny.py", "--model.activation", "step"), "step"),
    "no such gate": (("run", "tiny.py", "--gates.0.parameters", "nothing*"), "gates: .*selects none.*dense_0/kernel"),
    "batch too large": (("run", "tiny.py", "--training.batch-size", "2000"), "batch_size=2000.*only 1078"),
}


@pytest.mark.parametrize("dry", [False, True], ids=["run", "dry-run"])
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_message_and_status_two(capsys, tmp_path, monkeypatch, case, dry):
    monkeypatch.chdir(tmp_path)
    tiny.write_config(tmp_path)
    arguments, message = BAD[case]
    status, out, err = run(capsys, *arguments, *(("--dry-run",) if dry and len(arguments) > 1 else ()))
    assert status == 2
    assert out == ""
    assert re.search(message, " ".join(err.split())), err
    assert "Traceback" not in err
    written = [
        p for p in tmp_path.rglob("*") if (p.is_file() and p.suffix in {".npz", ".html"}) or p.name == "results.json"
    ]
    assert not written


BAD_DATA = {
    "nan": (lambda x, y: (np.where(np.arange(40)[:, None] == 7, np.nan, x), y), r"NaN or infinite.*rows 7"),
    "label": (
        lambda x, y: (x, np.where(np.arange(40) == 3, -1, y)),
        r"labels must be from 0 to 1, .*; got -1 in the rows 3",
    ),
    "shape": (lambda x, y: (x, y[:30]), r"40 inputs need as many labels.*\(30,\)"),
    "dtype": (lambda x, y: (x, y.astype(float)), r"labels must be integers.*float64.*astype\(int\)"),
    "text": (lambda x, y: (x.astype(str), y), r"must be numbers"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_are_named_with_their_rows(capsys, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    change, message = BAD_DATA[case]
    x, y = change(np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 2)
    np.savez(tmp_path / "mine.npz", x=x, y=y)
    text = tiny.CONFIG.replace("app.Digits()", 'app.Files("npz", pathlib.Path("mine.npz"))')
    path = tiny.write_config(tmp_path, "import pathlib\n" + text)
    status, _, err = run(capsys, "run", path, "--training.batch-size", "8")
    assert status == 2
    assert re.search(message, " ".join(err.split())), err
    assert "mine.npz" in err


def test_a_network_that_does_not_fit_the_data_is_named(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = tiny.CONFIG.replace("app.Digits()", "app.BreastCancer()").replace("app.MLP(widths=(8,))", "app.ConvNet()")
    status, _, err = run(capsys, "run", tiny.write_config(tmp_path, text), "--dry-run")
    assert status == 2
    assert "model: `ConvNet` needs images" in err


def test_a_work_directory_that_cannot_be_written_is_named(capsys, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for options in ((), ("--dry-run",)):
        status, _, err = run(capsys, "run", tiny.write_config(tmp_path), "--workdir", tmp_path / "file" / "x", *options)
        assert status == 2
        assert "cannot be" in err
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_directory_with_other_things_is_left_alone(capsys, tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").write_text("precious")
    status, _, err = run(capsys, "run", tiny.write_config(tmp_path), "--workdir", tmp_path / "work")
    assert status == 2
    assert "is not empty" in err
    assert (tmp_path / "work" / "thesis.txt").read_text() == "precious"
    assert not (tmp_path / "work" / "config.json").exists()


def test_a_stage_without_the_one_before_says_so(capsys, tmp_path):
    path = tiny.write_config(tmp_path)
    for command, before in (("explain", "train"), ("measure", "train"), ("report", "train")):
        status, _, err = run(capsys, command, path, "--workdir", tmp_path / "work")
        assert status == 2
        assert f"`{command}` needs the results of `{before}`" in err


def test_a_real_process_exits_with_two_and_no_traceback(tmp_path):
    finished = tiny.command("run", "nope.py", cwd=tmp_path)
    assert finished.returncode == 2
    assert finished.stderr.startswith("error: there is no configuration nope.py")
    assert "Traceback" not in finished.stderr


def test_divergence_is_an_error_with_a_remedy_and_saves_nothing(capsys, tmp_path):
    work = tmp_path / "work"
    path = tiny.write_config(
        tmp_path, tiny.CONFIG.replace("training=", "optimizer=app.SGD(learning_rate=1e20),\n        training=")
    )
    status, _, err = run(capsys, "train", path, "--workdir", work)
    assert status == 2
    assert "diverged" in err
    assert "learning rate" in err
    assert not list((work / "checkpoints").glob("*.json"))
    assert "NaN" not in (work / "metrics.jsonl").read_text()
    assert json.loads((work / "config.json").read_text())["experiment"]["optimizer"]["learning_rate"] == 1e20
