"""The stage that explains: what it gives to the methods, and what it refuses."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxinterp import attribution, heads
from jaxinterp.app import METHODS, Explain, _codec, _explain, _stages
from jaxinterp.app._dry_run import dry_run
from jaxinterp.app._progress import Reporter
from jaxinterp.app._run import STAGES, Run
from jaxinterp.app._workdir import Workdir
from tests.app import tiny

pytestmark = pytest.mark.usefixtures("standard_promotion")


def make_run(root, **changes):
    return Run("tiny", tiny.experiment(**changes), Workdir(root), Reporter(), "")


@pytest.fixture(scope="module")
def digits():
    return tiny.app.Digits().build()


def test_the_background_is_64_training_examples_spread_evenly(digits):
    rows = _explain.background(digits)
    train = digits.train.x
    assert rows.shape == (64, *digits.shape)
    places = [int(np.flatnonzero((train == row).all((1, 2, 3)))[0]) for row in rows]
    assert places[0] == 0
    assert set(np.diff(places)) == {len(train) // 64, len(train) // 64 + 1}
    np.testing.assert_array_equal(_explain.background(digits), rows)


def test_the_background_of_few_examples_is_all(digits):
    few = dataclasses.replace(digits, train=dataclasses.replace(digits.train, x=digits.train.x[:5]))
    np.testing.assert_array_equal(_explain.background(few), few.train.x)


def test_methods_with_a_background_get_it(digits):
    weights = np.random.default_rng(0).normal(size=(10, 8, 8, 1)).astype(np.float32)
    logits = lambda x: (weights * x).sum((1, 2, 3))  # noqa: E731
    x, key = digits.test.x[0], jax.random.key(0)
    work = _explain.quantities(Explain(methods=("permutation", "expected_gradients")), digits)
    arrays = jax.jit(lambda k: work["permutation"](logits, k, x, 3))(key)
    wanted = weights[3] * (x - digits.train.x[np.arange(64) * len(digits.train) // 64].mean(0))
    np.testing.assert_allclose(arrays["map"], wanted, atol=2e-5)
    arrays = jax.jit(lambda k: work["expected_gradients"](logits, k, x, 3))(key)
    explain = attribution.expected_gradients(heads.logit(logits))
    wanted = jax.jit(lambda k: explain(k, x, 3, background=_explain.background(digits)))(key)
    np.testing.assert_allclose(arrays["map"], wanted, atol=1e-5)


def test_every_method_fits_the_digits(tmp_path):
    """Traced, not compiled."""
    methods = tuple(name for name, method in METHODS.items() if method.domain != "site")
    run = make_run(tmp_path / "work", explain=Explain(methods=methods, num_examples=3))
    summary = dry_run(run, STAGES)
    for name in methods:
        assert name in summary


@pytest.mark.core
def test_a_method_for_images_refuses_a_table_before_anything_is_done(tmp_path):
    explain = Explain(methods=("gradient", "rise", "permutation"))
    run = make_run(tmp_path / "work", data=tiny.app.BreastCancer(), gates=(), explain=explain)
    message = (
        r"explain\.methods: 'rise' needs images, but the inputs of .* have shape \(30,\); "
        r"leave it out \(gradient, permutation would remain\)\."
    )
    with pytest.raises(_codec.ConfigError, match=message):
        dry_run(run, STAGES)
    with pytest.raises(_codec.ConfigError, match=message):
        _stages.perform(run, STAGES)
    assert not (tmp_path / "work").exists()
    alone = dataclasses.replace(explain, methods=("rise",))
    with pytest.raises(_codec.ConfigError, match=r"\(no method would remain\)"):
        _explain.require_suitable(alone, run.dataset)
