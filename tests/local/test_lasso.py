"""The lasso and least-angle selection against scikit-learn, on second moments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.linear_model

from jaxinterp.local import _lasso

pytestmark = [pytest.mark.core, pytest.mark.numerics]

X64 = jax.config.jax_enable_x64
TOLERANCE = 1e-9 if X64 else 2e-4
EPS = float(np.finfo(np.float64 if X64 else np.float32).eps)
SOLVE = jax.jit(_lasso.lasso, static_argnames=("tolerance", "max_sweeps"))


def moments(seed, samples=40, features=6):
    rng = np.random.default_rng(seed)
    design = rng.normal(size=(samples, features)) @ rng.normal(size=(features, features))
    targets = design @ rng.normal(size=features) + rng.normal(size=samples)
    design, targets = design - design.mean(0), targets - targets.mean()
    return design, targets, design.T @ design / samples, design.T @ targets / samples


def solved(gram, cross, penalty, max_sweeps=10_000):
    gram, cross = (jnp.asarray(a, float) for a in (gram, cross))
    return SOLVE(gram, cross, penalty, tolerance=10 * EPS, max_sweeps=max_sweeps)


def oracle(design, targets, penalty):
    model = sklearn.linear_model.Lasso(penalty, fit_intercept=False, tol=1e-14, max_iter=1_000_000)
    return model.fit(design, targets).coef_


@pytest.mark.parametrize("share", [0.001, 0.05, 0.3, 0.8])
@pytest.mark.parametrize("seed", range(4))
def test_the_lasso_of_scikit_learn(seed, share):
    design, targets, gram, cross = moments(seed)
    penalty = share * np.abs(cross).max()
    b, residual, count = solved(gram, cross, penalty)
    expected = oracle(design, targets, penalty)
    np.testing.assert_allclose(b, expected, rtol=TOLERANCE, atol=TOLERANCE * np.abs(expected).max())
    np.testing.assert_array_equal(np.asarray(b) == 0, expected == 0)
    assert float(residual) < 100 * EPS
    assert 0 < int(count) < 10_000


def test_a_penalty_as_large_as_the_largest_moment_removes_everything():
    _, _, gram, cross = moments(1)
    b, residual, count = solved(gram, cross, 1.0001 * np.abs(cross).max())
    assert np.all(np.asarray(b) == 0)
    assert (float(residual), int(count)) == (0, 0)
    assert np.count_nonzero(solved(gram, cross, 0.99 * np.abs(cross).max())[0]) == 1


def test_without_a_penalty_it_is_least_squares():
    _, _, gram, cross = moments(2)
    b, _, _ = solved(gram, cross, 0.0)
    np.testing.assert_allclose(b, np.linalg.solve(gram, cross), rtol=50 * TOLERANCE, atol=50 * TOLERANCE)


def test_the_residual_is_how_much_the_optimality_conditions_are_missed():
    _, _, gram, cross = moments(7)
    penalty = 0.05 * np.abs(cross).max()
    b, residual, count = _lasso.lasso(
        jnp.asarray(gram, float), jnp.asarray(cross, float), penalty, tolerance=1e-12, max_sweeps=1
    )
    b = np.asarray(b, np.float64)
    slope = gram @ b - cross
    missed = np.where(b == 0, np.maximum(np.abs(slope) - penalty, 0), np.abs(slope + penalty * np.sign(b)))
    assert float(residual) == pytest.approx(missed.max() / np.abs(cross).max(), rel=1e-2, abs=1e-6)
    assert float(residual) > 1e-3
    assert int(count) == 1


def test_the_derivative_is_that_of_the_optimum():
    """By the moments with the targets, and by the moments of the features: central differences of scikit-learn."""
    design, targets, gram, cross = moments(4)
    penalty, step = 0.2 * np.abs(cross).max(), 1e-5
    entry = lambda g, c: solved(g, c, penalty)[0][0]  # noqa: E731
    assert 0 < np.count_nonzero(oracle(design, targets, penalty)) < 6
    by_gram, by_cross = jax.grad(entry, (0, 1))(jnp.asarray(gram, float), jnp.asarray(cross, float))

    def from_moments(g, c):
        root = np.linalg.cholesky(g).T
        return oracle(np.sqrt(6) * root, np.sqrt(6) * np.linalg.solve(root.T, c), penalty)[0]

    unit = np.eye(6)
    expected = [
        (from_moments(gram, cross + step * e) - from_moments(gram, cross - step * e)) / (2 * step) for e in unit
    ]
    np.testing.assert_allclose(by_cross, expected, rtol=1e-3, atol=1e-4)
    change = np.outer(unit[0], unit[1]) + np.outer(unit[1], unit[0])
    rise = (from_moments(gram + step * change, cross) - from_moments(gram - step * change, cross)) / (2 * step)
    assert float(by_gram[0, 1] + by_gram[1, 0]) == pytest.approx(rise, rel=2e-3, abs=1e-4)


@pytest.mark.parametrize("seed", range(12))
def test_the_derivative_of_the_sum_of_the_chosen(seed):
    """On the chosen set b = G⁻¹(c - α·signs), whether or not the last sweep was already exact."""
    _, _, gram, cross = moments(seed)
    penalty = 0.2 * np.abs(cross).max()
    total = lambda c: jnp.sum(solved(gram, c, penalty)[0])  # noqa: E731
    chosen = np.flatnonzero(solved(gram, cross, penalty)[0])
    expected = np.zeros(6)
    expected[chosen] = np.linalg.solve(gram[np.ix_(chosen, chosen)], np.ones(len(chosen)))
    np.testing.assert_allclose(jax.grad(total)(jnp.asarray(cross, float)), expected, rtol=1e-3, atol=1e-4)


def test_doubled_and_empty_features_are_finite():
    design, targets, _, _ = moments(5, features=3)
    design = np.column_stack([design, design[:, 0], np.zeros(len(design))])
    gram, cross = design.T @ design / 40, design.T @ targets / 40
    penalty = 0.1 * np.abs(cross).max()
    b, residual, _ = solved(gram, cross, penalty)
    b = np.asarray(b, np.float64)
    narrow = oracle(design[:, :3], targets, penalty)
    np.testing.assert_allclose([b[0] + b[3], b[1], b[2]], narrow, rtol=100 * TOLERANCE, atol=100 * TOLERANCE)
    assert b[4] == 0
    assert float(residual) < 100 * EPS
    solve = lambda c: _lasso.lasso(jnp.asarray(gram, float), c, penalty, tolerance=1e-6, max_sweeps=100)[0]  # noqa: E731
    slope = jax.jit(jax.jacrev(solve))(jnp.asarray(cross, float))
    assert np.all(np.isfinite(slope)), "a singular system has no derivative, but no NaN either"


def test_a_target_of_zero():
    b, residual, count = solved(np.eye(3), np.zeros(3), 0.0)
    assert b.tolist() == [0, 0, 0]
    assert (float(residual), int(count)) == (0, 0)


def test_many_problems_at_once():
    problems = [moments(seed) for seed in range(3)]
    grams, crosses = (jnp.stack([jnp.asarray(p[i], float) for p in problems]) for i in (2, 3))
    together = jax.vmap(lambda g, c: solved(g, c, 0.1))(grams, crosses)
    for i, (_, _, gram, cross) in enumerate(problems):
        np.testing.assert_allclose(together[0][i], solved(gram, cross, 0.1)[0], rtol=100 * TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("seed", range(8))
def test_the_order_of_least_angle_regression(seed):
    design, targets, gram, cross = moments(seed, features=7)
    order = sklearn.linear_model.lars_path(design, targets, method="lar")[1]
    select = jax.jit(_lasso.least_angle, static_argnums=2)
    for count in range(1, 8):
        chosen = select(jnp.asarray(gram, float), jnp.asarray(cross, float), count)
        assert sorted(np.flatnonzero(chosen)) == sorted(order[:count])


def test_least_angle_differs_from_the_largest_moments():
    """A feature that is nearly a copy of the first enters late."""
    gram, cross = jnp.array([[1.0, 0.95, 0.0], [0.95, 1.0, 0.0], [0.0, 0.0, 1.0]]), jnp.array([1.0, 0.96, 0.5])
    assert _lasso.least_angle(gram, cross, 2).tolist() == [1, 0, 1]
    assert _lasso.least_angle(gram, cross, 9).tolist() == [1, 1, 1]


def test_a_feature_that_depends_on_others_does_not_enter():
    design, targets, _, _ = moments(7, features=4)
    design = design - design.mean(0)
    design = np.column_stack([design, -design[:, 0], design[:, 1]])
    gram, cross = design.T @ design, design.T @ (targets - targets.mean())
    for count in (2, 3, 4, 5):
        _, _, path = sklearn.linear_model.lars_path(design[:, :4], targets - targets.mean(), method="lar")
        entered = np.flatnonzero(np.any(path[:, : min(count, 4) + 1] != 0, axis=1))
        got = np.flatnonzero(_lasso.least_angle(jnp.asarray(gram, float), jnp.asarray(cross, float), count))
        assert {{4: 0, 5: 1}.get(i, i) for i in got.tolist()} == set(entered.tolist())
        assert len(got) == min(count, 4)
