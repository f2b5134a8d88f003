"""Logistic regression of probabilities against scikit-learn, which gets each sample twice, and the sandwich formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.linear_model

from jaxinterp import local
from jaxinterp.local import _logistic

pytestmark = [pytest.mark.core, pytest.mark.numerics]

X64 = jax.config.jax_enable_x64
EPS = float(np.finfo(np.float64 if X64 else np.float32).eps)
TOLERANCE = 1e-7 if X64 else 1e-3
SOLVE = jax.jit(_logistic.logistic_regression, static_argnames=("tolerance", "max_steps"))


def problem(seed, samples=30, features=3):
    rng = np.random.default_rng(seed)
    design = rng.normal(size=(samples, features))
    logits = 0.5 + 2 * design @ rng.normal(size=features) + rng.normal(size=samples)
    return design, 1 / (1 + np.exp(-logits)), rng.uniform(0.1, 2, size=samples)


def solved(design, targets, weights, ridge=0.0, max_steps=100):
    arrays = (jnp.asarray(a, float) for a in (design, targets, weights))
    return SOLVE(*arrays, ridge, tolerance=10 * EPS, max_steps=max_steps)


def oracle(design, targets, weights, ridge=0.0):
    """A sample of probability p is one success of weight wp and one failure of weight w(1 - p)."""
    model = sklearn.linear_model.LogisticRegression(
        C=1 / ridge if ridge else np.inf, solver="newton-cholesky", tol=1e-12, max_iter=1000
    )
    labels = np.repeat([1, 0], len(design))
    both = np.concatenate([weights * targets, weights * (1 - targets)])
    model.fit(np.concatenate([design, design]), labels, sample_weight=both)
    return np.append(model.intercept_, model.coef_[0])


@pytest.mark.parametrize("ridge", [0.0, 0.1, 5.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_coefficients_of_scikit_learn(seed, ridge):
    design, targets, weights = problem(seed)
    b, _, _, residual, count = solved(design, targets, weights, ridge)
    np.testing.assert_allclose(b, oracle(design, targets, weights, ridge), rtol=TOLERANCE, atol=TOLERANCE)
    assert float(residual) < 20 * EPS
    assert 0 < int(count) < 50


def test_the_covariance_is_the_sandwich_and_the_condition_that_of_numpy():
    design, targets, weights = problem(4)
    b, covariance, condition, _, _ = solved(design, targets, weights, 0.3)
    rows = np.column_stack([np.ones(len(design)), design])
    p = 1 / (1 + np.exp(-rows @ oracle(design, targets, weights, 0.3)))
    damping = 0.3 * np.diag([0, 1, 1, 1])
    hessian = rows.T @ ((weights * p * (1 - p))[:, None] * rows) + damping
    meat = rows.T @ ((weights * (p - targets))[:, None] ** 2 * rows)
    bread = np.linalg.inv(hessian)
    n = len(design)
    np.testing.assert_allclose(covariance, bread @ meat @ bread * n / (n - 4), rtol=10 * TOLERANCE, atol=TOLERANCE)
    middle = np.average(design, axis=0, weights=weights)
    width = np.sqrt(np.average((design - middle) ** 2, axis=0, weights=weights))
    rows = np.column_stack([np.ones(n), (design - middle) / width])
    root = np.concatenate([np.sqrt(weights * p * (1 - p))[:, None] * rows, np.sqrt(damping) / np.append(1, width)])
    assert float(condition) == pytest.approx(np.linalg.cond(root), rel=TOLERANCE * 10)
    assert b.shape == (4,)


def test_a_logistic_function_is_found():
    design, _, weights = problem(5)
    slope = np.array([1.5, -2.0, 0.0])
    b, covariance, _, _, _ = solved(design, 1 / (1 + np.exp(-(0.4 + design @ slope))), weights)
    np.testing.assert_allclose(b, np.append(0.4, slope), atol=TOLERANCE)
    assert np.abs(covariance).max() < TOLERANCE


def test_the_derivative_is_that_of_the_optimum():
    design, targets, weights = problem(6)
    arrays = tuple(jnp.asarray(a, float) for a in (design, targets, weights))
    entry = lambda z, y, w: solved(z, y, w, 0.2)[0][1]  # noqa: E731
    by_design, by_targets, by_weights = jax.grad(entry, (0, 1, 2))(*arrays)
    step = 1e-5

    def rise(change_design, change_targets, change_weights):
        ends = [
            oracle(design + s * change_design, targets + s * change_targets, weights + s * change_weights, 0.2)[1]
            for s in (-step, step)
        ]
        return (ends[1] - ends[0]) / (2 * step)

    for i in range(3):
        unit = np.eye(30)[i]
        assert float(by_targets[i]) == pytest.approx(rise(0, unit, 0), rel=5e-3, abs=1e-5)
        assert float(by_weights[i]) == pytest.approx(rise(0, 0, unit), rel=5e-3, abs=1e-5)
        assert float(by_design[i, 1]) == pytest.approx(rise(np.outer(unit, [0, 1, 0]), 0, 0), rel=5e-3, abs=1e-5)


def test_labels_that_a_plane_separates_need_a_ridge():
    design, _, weights = problem(7)
    labels = (design[:, 0] > 0).astype(float)
    b, _, _, residual, _ = solved(design, labels, weights, 0.5)
    np.testing.assert_allclose(b, oracle(design, labels, weights, 0.5), rtol=TOLERANCE, atol=TOLERANCE)
    assert float(residual) < 20 * EPS
    b, *_ = solved(design, labels, weights, max_steps=50)
    assert np.all(np.isfinite(b))
    assert float(b[1]) > 5


def test_large_coordinates():
    """Far from the start Newton's step would overshoot; halving it keeps the objective falling."""
    design, targets, weights = problem(8)
    far = 100 * design
    b, _, _, residual, count = solved(far, targets, weights)
    expected = oracle(design, targets, weights)
    np.testing.assert_allclose(np.asarray(b) * [1, 100, 100, 100], expected, rtol=10 * TOLERANCE, atol=10 * TOLERANCE)
    assert float(residual) < 100 * EPS
    assert int(count) < 30


def test_dependent_columns_share_the_slope():
    design, targets, weights = problem(9, features=2)
    b, _, _, residual, _ = solved(np.column_stack([design, design[:, 0]]), targets, weights)
    narrow = oracle(design, targets, weights)
    np.testing.assert_allclose(b, [narrow[0], narrow[1] / 2, narrow[2], narrow[1] / 2], rtol=1e-2, atol=1e-2)
    assert float(residual) < 100 * EPS


def test_few_steps_are_reported():
    design, targets, weights = problem(10)
    _, _, _, residual, count = solved(design, targets, weights, max_steps=1)
    assert int(count) == 1
    assert float(residual) > 10 * EPS


def test_many_problems_at_once():
    problems = [problem(seed) for seed in range(3)]
    arrays = [jnp.stack([jnp.asarray(p[i], float) for p in problems]) for i in range(3)]
    together = jax.vmap(lambda z, y, w: solved(z, y, w)[0])(*arrays)
    for found, given in zip(together, problems, strict=True):
        np.testing.assert_allclose(found, oracle(*given), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("scales", [[1e-4, 1e-4, 1e-4], [1e3, 0.5, 1e-3]])
def test_the_units_of_the_columns_do_not_matter(scales):
    design, targets, weights = problem(2)
    b, covariance, condition, *_ = solved(design, targets, weights)
    factor = np.append(1, scales)
    other, wide, same, left, _ = solved(design * scales, targets, weights)
    np.testing.assert_allclose(other * factor, b, rtol=100 * TOLERANCE, atol=100 * TOLERANCE)
    np.testing.assert_allclose(wide * np.outer(factor, factor), covariance, rtol=0.02, atol=1e-4)
    assert float(condition) == pytest.approx(float(same), rel=1e-2)
    assert float(left) < 20 * EPS


def test_samples_that_are_not_random_leave_no_error():
    fit = local.fit(
        lambda x: jax.nn.sigmoid(x[0] - x[1] ** 2),
        neighbourhood=local.all_masks(),
        loss="cross_entropy",
        model=local.Logistic(),
    )
    assert np.all(np.asarray(fit(jax.random.key(0), jnp.array([1.0, 0.5])).stderr) == 0)
