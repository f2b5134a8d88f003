"""A whole run: what is in the work directory, that nothing is done twice, and that the numbers are what they say."""

import base64
import dataclasses
import json
import re
import shutil

import jax
import numpy as np
import pytest

from jaxinterp import heads, tree
from jaxinterp.app import _codec, _stages
from jaxinterp.app._dry_run import dry_run
from jaxinterp.app._progress import Reporter
from jaxinterp.app._run import STAGES, Run
from jaxinterp.app._tree import fitted_tree
from jaxinterp.app._workdir import Workdir, WorkdirError
from tests.app import tiny

pytestmark = pytest.mark.usefixtures("standard_promotion")


class Listener(Reporter):
    """Remembers what is said."""

    def __init__(self):
        super().__init__()
        object.__setattr__(self, "said", [])

    def say(self, message):
        self.said.append(message)


def make_run(root, **changes):
    return Run("tiny", tiny.experiment(**changes), Workdir(root), Listener(), "jaxinterp run tiny.py")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The work directory of a finished run."""
    root = tmp_path_factory.mktemp("finished") / "work"
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), jax.debug_key_reuse(False):
        _stages.perform(make_run(root), STAGES)
    return root


@pytest.fixture
def work(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "work")
    return tmp_path / "work"


def results_of(root):
    return json.loads((root / "results.json").read_text())


def test_everything_is_there(finished):
    for name in ("config.json", "metrics.jsonl", "results.json", "report.html", "checkpoints", "figures"):
        assert (finished / name).exists(), name
    assert {p.stem for p in (finished / "explanations").iterdir()} == {
        "gradient", "integrated_gradients", "local_models", "examples"
    }  # fmt: skip
    assert not list(finished.rglob("*tmp*"))
    config = json.loads((finished / "config.json").read_text())
    assert config["experiment"] == json.loads(_codec.to_json(tiny.experiment()))
    assert config["digest"] == _codec.digest(config["experiment"])


def test_results_hold_what_the_readme_promises(finished):
    results = results_of(finished)
    for name in ("accuracy", "sparsity", "gradient_norm", "normalised_curvature", "p_robust", "completeness", "seconds",
                 "versions", "devices", "command", "digest"):  # fmt: skip
        assert name in results, name
    assert set(results["seconds"]) == set(STAGES)
    assert set(results["p_robust"]) == {"monte_carlo", "taylor", "softmax"}
    for estimator in results["p_robust"].values():
        for statistics in estimator.values():
            assert 0 <= statistics["mean"] <= 1
            assert statistics["stderr"] >= 0
            assert statistics["num_examples"] == 5
    assert results["completeness"]["integrated_gradients"]["max_relative_gap"] < 1e-4
    assert results["completeness"]["gradient"]["max_relative_gap"] > 1e-3


def test_the_numbers_are_those_of_the_best_checkpoint(finished):
    """Accuracy, sparsity and gradient norm, computed again from the checkpoint without the stages."""
    run = make_run(finished)
    network, test, results = run.trained(), run.dataset.test, results_of(finished)
    logits = np.asarray(jax.vmap(network.apply, (None, None, 0))(network.params, network.state, test.x))
    assert results["accuracy"]["mean"] == pytest.approx(np.mean(np.argmax(logits, 1) == test.y))
    kernels = {f"{layer}/kernel": np.asarray(network.params[layer]["kernel"]) for layer in ("dense_0", "head")}
    left = {name: np.count_nonzero(kernel) for name, kernel in kernels.items()}
    assert {name: row["kept"] for name, row in results["sparsity"]["per_parameter"].items()} == left
    assert left["head/kernel"] == 40  # the half, by pruning; the other has gates
    assert results["sparsity"]["removed_fraction"] == pytest.approx(1 - sum(left.values()) / (512 + 80))
    f = heads.log_prob(lambda x: network.apply(network.params, network.state, x))
    norms = [float(tree.norm(jax.grad(f)(x, y))) for x, y in zip(test.x[:5], test.y[:5], strict=True)]
    assert results["gradient_norm"]["mean"] == pytest.approx(np.mean(norms), rel=1e-4)
    assert results["gradient_norm"]["stderr"] == pytest.approx(np.std(norms, ddof=1) / np.sqrt(5), rel=1e-4)


def test_the_explanations_are_of_the_examples_they_name(finished):
    run = make_run(finished)
    network = run.trained()
    with np.load(finished / "explanations" / "gradient.npz") as file:
        maps, finite = file["map"], file["finite"]
    with np.load(finished / "explanations" / "examples.npz") as file:
        numbers, labels, inputs = file["number"], file["predicted"], file["x"]
        np.testing.assert_array_equal(file["label"], run.dataset.test.y[numbers])
    np.testing.assert_array_equal(inputs, run.dataset.test.x[numbers])
    assert finite.all()
    assert len(set(run.dataset.test.y[numbers])) == 3, "one example of each of three classes"
    f = heads.logit(lambda x: network.apply(network.params, network.state, x))
    for number, label, attribution in zip(numbers, labels, maps, strict=True):
        x = run.dataset.test.x[number]
        assert label == np.argmax(network.apply(network.params, network.state, x))
        np.testing.assert_allclose(attribution, jax.grad(f)(x, int(label)), atol=1e-5)


def test_a_finished_stage_is_not_done_again(work):
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file() and path.name != ".lock"}
    run = make_run(work)
    _stages.perform(run, STAGES)
    assert run.reporter.said == [f"{stage}: finished before" for stage in STAGES]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_stage_that_was_interrupted_goes_on_with_what_is_missing(work):
    (work / "stages" / "measure.json").unlink()
    missing = work / "measurements" / "curvature.npz"
    wanted = np.load(missing)["hessian_norm"]
    missing.unlink()
    kept = work / "measurements" / "predictions.npz"
    before = kept.stat().st_mtime_ns
    _stages.perform(make_run(work), STAGES)
    np.testing.assert_array_equal(np.load(missing)["hessian_norm"], wanted)
    assert kept.stat().st_mtime_ns == before


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 not an archive", None])
def test_arrays_that_cannot_be_read_are_made_again(work, damage):
    (work / "stages" / "measure.json").unlink()
    path = work / "measurements" / "predictions.npz"
    wanted = np.load(path)["logits"]
    path.write_bytes(path.read_bytes()[:-40] if damage is None else damage)
    _stages.perform(make_run(work), STAGES)
    np.testing.assert_array_equal(np.load(path)["logits"], wanted)


def test_arrays_are_read_or_made_whatever_byte_has_changed(tmp_path):
    workdir = Workdir(tmp_path)
    values = {"a": np.arange(50.0), "b": np.ones((3, 4), np.int32)}
    workdir.arrays("x", "inputs", lambda: values)
    whole = (tmp_path / "x.npz").read_bytes()
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        (tmp_path / "x.npz").write_bytes(bytes(damaged))
        np.testing.assert_array_equal(workdir.arrays("x", "inputs", lambda: values)["a"], values["a"])


def test_the_directory_is_free_after_use(work):
    run = make_run(work)
    for _ in range(2):
        with run.workdir.opened(_codec.to_plain(run.experiment)):
            pass


def test_the_report_follows_what_it_shows(work):
    """Other numbers in an explanation, as another machine might give, make the report unfinished."""
    run = make_run(work)
    assert run.finished("report")
    record = json.loads((work / "stages" / "explain.json").read_text())
    record["results"]["non_finite_explanations"]["gradient"] = 1
    (work / "stages" / "explain.json").write_text(json.dumps(record))
    assert run.finished("explain")
    assert not run.finished("report")


@pytest.mark.parametrize("name", ["measurements/curvature.npz", "explanations/gradient.npz", "report.html"])
@pytest.mark.parametrize("damage", ["missing", "garbage"])
def test_a_finished_stage_whose_files_are_damaged_is_done_again(work, name, damage):
    path = work / name
    wanted = np.load(path)["finite"] if path.suffix == ".npz" else None
    path.unlink() if damage == "missing" else path.write_bytes(b"garbage")
    _stages.perform(make_run(work), STAGES)
    if path.suffix == ".npz":
        np.testing.assert_array_equal(np.load(path)["finite"], wanted)
    else:
        assert "</html>" in path.read_text()


def test_results_that_were_deleted_come_back(work):
    wanted = results_of(work)
    (work / "results.json").unlink()
    _stages.perform(make_run(work), STAGES)
    assert results_of(work) == wanted


def test_all_results_are_of_one_network(work):
    """The evaluated checkpoint is broken: training is finished no longer, and everything is done for the next best."""
    before = results_of(work)
    kernel = max((work / "checkpoints" / f"{before['best_step']:08d}").rglob("*"), key=lambda p: p.stat().st_size)
    data = bytearray(kernel.read_bytes())
    data[len(data) // 2] ^= 1
    kernel.write_bytes(bytes(data))
    (work / "stages" / "measure.json").unlink()
    run = make_run(work)
    _stages.perform(run, STAGES)
    after = results_of(work)
    assert any("has changed since it was written" in line for line in run.reporter.said)
    assert not any("finished before" in line for line in run.reporter.said)
    assert after["checkpoint"] == run.checkpoints.digest(after["best_step"])
    network, test = run.trained(), run.dataset.test
    f = heads.log_prob(lambda x: network.apply(network.params, network.state, x))
    norms = [float(tree.norm(jax.grad(f)(x, y))) for x, y in zip(test.x[:5], test.y[:5], strict=True)]
    assert after["gradient_norm"]["mean"] == pytest.approx(np.mean(norms), rel=1e-4)


def test_one_example_is_enough(tmp_path):
    one = tiny.app.Measure(num_examples=1, stddevs=(0.2,), num_samples=5, batch_size=4, num_iterations=5)
    run = make_run(tmp_path / "work", measure=one)
    _stages.perform(run, STAGES)
    assert results_of(tmp_path / "work")["gradient_norm"]["stderr"] is None
    assert "± unknown" in _stages.headline(run)


@pytest.mark.parametrize("stage", ["explain", "measure", "report"])
def test_a_stage_that_cannot_be_done_leaves_nothing_behind(tmp_path, stage):
    run = make_run(tmp_path / "work")
    with pytest.raises(WorkdirError, match=f"`{stage}` needs the results of `train`"):
        _stages.perform(run, (stage,))
    with pytest.raises(WorkdirError, match=f"`{stage}` needs the results of `train`"):
        dry_run(run, (stage,))
    assert not (tmp_path / "work").exists()


def test_a_foreign_directory_is_left_as_it_is(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(WorkdirError, match=r"not empty and holds no config\.json"):
        _stages.perform(make_run(tmp_path), STAGES)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("part", ["explain", "measure"])
def test_more_examples_than_there_are_is_refused(tmp_path, part):
    settings = dataclasses.replace(getattr(tiny.experiment(), part), num_examples=361)
    with pytest.raises(_codec.ConfigError, match=rf"{part}\.num_examples: 361 is more than the 359 test examples"):
        dry_run(make_run(tmp_path / "work", **{part: settings}), STAGES)


def test_gates_on_the_same_parameter_are_counted_together(tmp_path):
    gates = (
        tiny.app.Gates(parameters="dense_0/kernel", initial=1.0, bimodal=0.0, sparsity=0.0),
        tiny.app.Gates(parameters="dense_0/kernel", initial=0.0, bimodal=0.0, sparsity=0.0, granularity="unit"),
    )
    run = make_run(
        tmp_path / "work",
        gates=gates,
        pruning=(),
        training=dataclasses.replace(tiny.experiment().training, num_steps=1),
    )
    _stages.perform(run, ("train",))
    found = results_of(tmp_path / "work")["sparsity"]
    kernel = np.asarray(run.trained().params["dense_0"]["kernel"])
    assert found["kept"] == np.count_nonzero(kernel) < kernel.size == found["gated"]


def test_another_experiment_in_the_same_directory_is_refused_and_named(work):
    before = (work / "config.json").read_text()
    with pytest.raises(WorkdirError, match=r"holds another experiment:\n  seed: 0 there, 1 here"):
        _stages.perform(make_run(work, seed=1), STAGES)
    assert (work / "config.json").read_text() == before


def test_two_runs_in_one_directory_are_refused(work):
    run = make_run(work)
    with (
        run.workdir.opened(_codec.to_plain(run.experiment)),
        pytest.raises(WorkdirError, match="Another run is at work"),
    ):
        _stages.perform(make_run(work), STAGES)


def test_the_report_is_one_file_with_everything_in_it(finished):
    page = (finished / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', page), "it refers to something outside"
    assert "http" not in re.sub(r"data:image/png;base64,[^\"]+", "", page)
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) >= 7
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures)
    results = results_of(finished)
    for text in (f"{100 * results['accuracy']['mean']:.1f} %", "jaxinterp run tiny.py", "integrated_gradients",
                 "Sundararajan et al. 2017", "config.json", "least and the most robust"):  # fmt: skip
        assert text in page, text
    assert len(list((finished / "figures").glob("*.png"))) >= 7


def surrogate_tree_of(points, values):
    """By scikit-learn; trees do not depend on the units of their features."""
    return fitted_tree(points, values, max_depth=3, feature_names=None)


def test_a_table_is_reported_too(tmp_path):
    changes = {"data": tiny.app.BreastCancer(), "gates": (), "pruning": ()}
    _stages.perform(make_run(tmp_path / "work", **changes), STAGES)
    page = (tmp_path / "work" / "report.html").read_text()
    assert "no gates" in page
    assert "malignant" in page
    with np.load(tmp_path / "work" / "explanations" / "local_models.npz") as models:
        assert models["points"].shape[::2] == (len(models["values"]), 30)
        tree = surrogate_tree_of(models["points"][0], models["values"][0])
    assert f"R² {tree.r_squared:.3g}" in page, "a tree of the samples"
    assert page.count("|--- worst") + page.count("|--- mean") > 4, "its rules, in the names of the features"
    assert results_of(tmp_path / "work")["sparsity"]["removed_fraction"] == 0


def test_an_example_that_is_no_number_is_flagged_and_left_out(work, monkeypatch):
    """A NaN in the input of a ReLU network gives a finite gradient; the flag must see it all the same."""
    for path in [
        *(work / "stages").glob("[emr]*.json"),
        *(work / "measurements").iterdir(),
        *(work / "explanations").iterdir(),
    ]:
        path.unlink()
    run = make_run(work)
    run.dataset.test.x[2] = np.nan
    monkeypatch.setattr(Run, "inputs", lambda self, stage, inputs=run.inputs: inputs(stage))
    _stages.perform(run, STAGES)
    results = results_of(work)
    assert results["non_finite_measurements"]["curvature"] == 1
    assert results["gradient_norm"]["flagged"] == 1
    assert results["gradient_norm"]["num_examples"] == 4
    assert np.isfinite(results["gradient_norm"]["mean"])
    for estimator in results["p_robust"].values():
        assert all(s["flagged"] == 1 and s["mean"] is not None for s in estimator.values())
    page = (work / "report.html").read_text()
    assert "Before you trust the numbers" in page
    assert "1 example(s) gave NaN or infinite values in curvature" in page
