"""The claims of the main job, on its own configurations."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from jaxinterp import heads, tree
from jaxinterp.app import _stages
from jaxinterp.app._progress import Reporter
from jaxinterp.app._run import Run
from jaxinterp.app._workdir import Workdir
from jaxinterp.app.cli import load_config
from tests.app import tiny

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("standard_promotion")]

SEEDS = range(5)


def trained(root, config, seed):
    """Test accuracy, removed fraction of gated weights, and mean input-gradient norm of a training run."""
    experiment = dataclasses.replace(load_config(tiny.ROOT / "configs" / config), seed=seed)
    run = Run(config, experiment, Workdir(root / f"{config}-{seed}"), Reporter(), "")
    _stages.perform(run, ("train",))
    results = run.results()
    network, test = run.trained(), run.dataset.test

    def norm(params, state, x, y):
        return tree.norm(jax.grad(heads.log_prob(functools.partial(network.apply, params, state)))(x, y))

    norms = jax.jit(jax.vmap(norm, (None, None, 0, 0)))(network.params, network.state, test.x, test.y)
    return results["accuracy"]["mean"], results["sparsity"]["removed_fraction"], float(np.mean(norms))


@pytest.fixture(scope="module")
def five_seeds(tmp_path_factory):
    """Rows (accuracy, removed, gradient norm) of the gated and of the plain network."""
    root = tmp_path_factory.mktemp("digits")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), jax.debug_key_reuse(False):
        return {c: np.array([trained(root, c, seed) for seed in SEEDS]) for c in ("digits.py", "digits_plain.py")}


def test_accuracy_is_at_least_97_percent(five_seeds):
    print(five_seeds)
    assert five_seeds["digits.py"][:, 0].mean() >= 0.97
    assert five_seeds["digits.py"][0, 0] >= 0.97


def test_sixty_percent_of_the_gated_weights_go_for_at_most_a_point_of_accuracy(five_seeds):
    gated, plain = five_seeds["digits.py"], five_seeds["digits_plain.py"]
    assert gated[:, 1].min() >= 0.60
    assert gated[:, 0].mean() >= plain[:, 0].mean() - 0.01


def test_the_gradient_norm_is_at_least_halved(five_seeds):
    gated, plain = five_seeds["digits.py"], five_seeds["digits_plain.py"]
    assert plain[:, 2].mean() >= 2 * gated[:, 2].mean()
    assert plain[0, 2] >= 2 * gated[0, 2]
