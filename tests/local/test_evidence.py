"""What comes with a model: the share explained, effective samples, the condition, of easy and of hopeless fits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import local
from tests.local.fitting import (
    WAVY,
    X,
    fitted,
    in_numpy,
    sampled,
    wavy,
)

pytestmark = [pytest.mark.core, pytest.mark.numerics]


def test_the_condition_and_the_number_of_effective_samples():
    z, _, w, _ = in_numpy(WAVY)
    root = np.sqrt(w)[:, None]
    rows = root * (z - np.average(z, axis=0, weights=w))
    model = fitted(local.Linear(), WAVY)
    assert float(model.condition) == pytest.approx(np.linalg.cond(rows), rel=1e-4)
    assert float(model.effective_samples) == pytest.approx(w.sum() ** 2 / (w**2).sum(), rel=1e-5)
    assert float(fitted(local.Linear("anchored"), WAVY).condition) == pytest.approx(np.linalg.cond(root * z), rel=1e-4)
    damped = np.concatenate([rows, np.sqrt(0.7) * np.eye(3)])
    assert float(fitted(local.Linear(ridge=0.7), WAVY).condition) == pytest.approx(np.linalg.cond(damped), rel=1e-4)
    sparse = fitted(local.SparseLinear(0.1), WAVY)
    assert float(sparse.condition) == pytest.approx(np.linalg.cond(rows), rel=1e-3)
    few = dataclasses.replace(WAVY, weights=jnp.zeros(60).at[:5].set(2.0))
    assert float(fitted(local.Linear(), few).effective_samples) == pytest.approx(5, rel=1e-5)


EVERY = [
    (local.Linear(), "squared_error"),
    (local.Linear(), "gradient_matching"),
    (local.Linear("anchored", complete=True), "squared_error"),
    (local.Linear(num_features=2), "squared_error"),
    (local.SparseLinear(0.01), "squared_error"),
    (local.Quadratic(), "squared_error"),
    (local.Quadratic(), "gradient_matching"),
    (local.Quadratic(1), "squared_error"),
    (local.Additive(2), "squared_error"),
    (local.Logistic(), "cross_entropy"),
]


@pytest.mark.parametrize(("model", "loss"), EVERY)
def test_a_constant_function_has_no_slope_and_no_share_explained(model, loss):
    found = fitted(model, sampled(lambda x: 0.3 + 0 * x[0]), loss)
    np.testing.assert_allclose(found.slope, np.zeros(3), atol=1e-6)
    assert np.isnan(float(found.r_squared))
    assert float(found(X)) == pytest.approx(0.3, rel=1e-5)


IN_CLOSED_FORM = [
    (model, loss)
    for model, loss in EVERY
    if loss == "squared_error" and not isinstance(model, local.SparseLinear) and model != local.Linear(num_features=2)
]


@pytest.mark.parametrize(("model", "loss"), IN_CLOSED_FORM)
@pytest.mark.parametrize("seed", range(3))
def test_coordinates_that_are_not_told_apart(model, loss, seed):
    """The second coordinate is the first: the condition is infinite, the slope is shared and finite."""
    samples = sampled(wavy, seed=seed)
    first = jnp.array([0, 0, 2])
    samples = dataclasses.replace(
        samples, offsets=samples.offsets[:, first], slopes=samples.slopes[:, first], anchor=X[first]
    )
    found = fitted(model, samples, loss)
    assert all(not np.any(np.isnan(leaf)) for leaf in jax.tree.leaves(found))
    assert np.all(np.isfinite(found.slope))
    assert np.isinf(float(found.condition))
    assert float(found.slope[0]) == pytest.approx(float(found.slope[1]), rel=1e-2, abs=1e-3)
