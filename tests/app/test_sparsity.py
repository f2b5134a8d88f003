"""Pruning in an experiment: when it settles, what it refuses, and the curve of what could be pruned further."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxinterp import app, sparsity
from jaxinterp.app import _compression, _validate
from jaxinterp.app._codec import ConfigError
from jaxinterp.app._examples import Examples, Trained
from tests.app import tiny

pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.mark.parametrize("schedule", ["one_shot", "gradual", "cyclical"])
@pytest.mark.parametrize(("num_steps", "every"), [(24, 1), (24, 5), (7, 3), (3, 10)])
def test_the_target_is_reached_when_it_is_said(schedule, num_steps, every):
    pruning = app.Pruning(target=0.75, schedule=schedule, every=every)
    optimizer = pruning.build(optax.sgd(0.1), num_steps)
    params = {"kernel": jnp.arange(1.0, 17.0).reshape(4, 4)}
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for step in range(1, num_steps + 1):
        updates, state = update(jax.tree.map(jnp.ones_like, params), state, params)
        params = optax.apply_updates(params, updates)
        if step >= pruning.settled(num_steps):
            assert int(jnp.sum(params["kernel"] == 0)) == 12
    assert pruning.settled(num_steps) <= num_steps


@pytest.mark.parametrize("budget", ["over_all", "per_parameter", "erdos_renyi", "2:4"])
@pytest.mark.parametrize("score", ["magnitude", "saliency"])
def test_all_choices_make_an_optimiser(budget, score):
    optimizer = app.Pruning(target=0.5, budget=budget, score=score, schedule="one_shot").build(optax.sgd(0.1), 2)
    params = {"a": {"kernel": jnp.ones((8, 4))}, "b": {"kernel": jnp.ones((4, 4))}}
    _, state = optimizer.update(params, optimizer.init(params), params)
    assert sparsity.count(params, *sparsity.optimizer_masks(state)).sparsity == pytest.approx(0.5, abs=0.05)


def test_refusals():
    for changes, message in (
        ({"pruning": (app.Pruning(target=1.0),)}, r"pruning\.0\.target: must be below 1"),
        ({"pruning": (app.Pruning(schedule="never"),)}, r"pruning\.0\.schedule"),
        ({"measure": app.Measure(sparsities=(0.5, 1.0))}, r"measure\.sparsities: must be below 1"),
        ({"measure": app.Measure(sparsities=(0.5, 0.5))}, r"measure\.sparsities: one is named twice"),
    ):
        with pytest.raises(ConfigError, match=message):
            _validate.validate(tiny.experiment(**changes))


def test_more_cycles_than_steps():
    with pytest.raises(ValueError, match="`num_cycles` is 5, but there are only 4 steps"):
        app.Pruning(num_cycles=5).build(optax.sgd(0.1), 4)


def test_nothing_to_prune_is_said_before_training(tmp_path):
    text = tiny.CONFIG.replace('app.Pruning(parameters="head/kernel"', 'app.Pruning(parameters="tail"')
    tiny.write_config(tmp_path, text)
    finished = tiny.command("run", "tiny.py", "--workdir", "work", "--dry-run", cwd=tmp_path)
    assert finished.returncode != 0
    assert "pruning: The predicate of `prune` selects none of the parameters" in finished.stderr


def network():
    """Two of four weights of each kernel decide; the others are small."""
    params = {"a": {"kernel": jnp.diag(jnp.array([1.0, 2.0])) + 0.01}, "b": {"kernel": 10 * jnp.eye(2) + 0.02}}
    apply = lambda params, state, x: jax.nn.relu(x @ params["a"]["kernel"]) @ params["b"]["kernel"]  # noqa: E731
    x = np.random.default_rng(0).uniform(0.1, 1, (50, 2)).astype(np.float32)
    trained = Trained(apply, params, {})
    labels = np.asarray(jax.vmap(lambda x: jnp.argmax(apply(params, {}, x)))(x))
    return trained, Examples(x, labels, np.arange(50))


def test_the_curve():
    trained, examples = network()
    steps = []
    arrays = _compression.compression(trained, examples, (0.0, 0.5, 0.75), steps.append)
    assert steps == list(range(1, 7))
    np.testing.assert_array_equal(arrays["kept"], [[8, 4, 2], [8, 4, 2]])
    np.testing.assert_array_equal(arrays["multiply_adds"], arrays["kept"])
    np.testing.assert_array_equal(arrays["accuracy"][:, 0], 1)
    assert np.all(arrays["accuracy"][:, 1] > 0.95)
    assert np.all(arrays["accuracy"][:, 2] < 0.95)  # over all: the kernel a is gone; of each: one class is


def test_weights_that_are_zero_cost_nothing():
    trained, examples = network()
    pruned = Trained(trained.apply, jax.tree.map(lambda p: jnp.where(p > 0.5, p, 0.0), trained.params), {})
    arrays = _compression.compression(pruned, examples, (0.0, 0.25), lambda done: None)
    np.testing.assert_array_equal(arrays["multiply_adds"], 4)


def test_the_front():
    row = lambda accuracy, cost: {"accuracy": accuracy, "kept": cost, "multiply_adds": cost}  # noqa: E731
    compression = {
        "over_all": {"0": row(0.9, 100), "0.5": row(0.92, 50), "0.9": row(0.5, 10)},
        "per_parameter": {"0": row(0.9, 100), "0.5": row(0.8, 40), "0.9": row(0.5, 11)},
    }
    front = _compression.pareto({"compression": compression})
    assert [(r["name"], r["level"]) for r in front] == [("over all", 0.5), ("per parameter", 0.5), ("over all", 0.9)]


@pytest.mark.slow
def test_a_low_curvature_network_is_measured_too(tmp_path):
    """Its kernels run through a loop, for their norm, before they are used."""
    text = tiny.CONFIG.replace("app.MLP(widths=(8,))", "app.LowCurvatureConvNet(widths=(2, 2))")
    text = text.replace('        gates=(app.Gates(parameters="dense_0/kernel"),),\n', "")
    tiny.write_config(tmp_path, text)
    finished = tiny.command("train", "tiny.py", "--workdir", "work", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    found = json.loads((tmp_path / "work" / "results.json").read_text())["sparsity"]
    assert found["per_parameter"]["head/kernel"]["multiply_adds"] > 0


def test_the_run_is_pruned_at_its_best_checkpoint(tmp_path):
    """A checkpoint from before the target never wins, and the report shows what is left."""
    tiny.write_config(tmp_path)
    finished = tiny.command("run", "tiny.py", "--workdir", "work", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    results = json.loads((tmp_path / "work" / "results.json").read_text())
    head = results["sparsity"]["per_parameter"]["head/kernel"]
    assert (head["kept"], head["gated"]) == (40, 80)
    assert results["best_step"] >= app.Pruning(target=0.5).settled(24)
    assert results["sparsity"]["multiply_adds_kept"] == results["sparsity"]["kept"]
    page = (tmp_path / "work" / "report.html").read_text()
    assert "multiplications per example" in page
    assert (tmp_path / "work" / "figures" / "compression.png").stat().st_size > 1000
