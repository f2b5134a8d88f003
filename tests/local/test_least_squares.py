"""Weighted least squares against scikit-learn, NumPy and the LIME coefficients of captum."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.linear_model
from hypothesis import strategies as st

from jaxinterp import local

X64 = jax.config.jax_enable_x64
SAMPLES, FEATURES = 12, 3
SOLVE = jax.jit(local.weighted_least_squares)


def problem(seed, samples=SAMPLES, features=FEATURES):
    rng = np.random.default_rng(seed)
    design = rng.normal(size=(samples, features)) + rng.normal(size=features)
    targets = design @ rng.normal(size=features) + 3 + rng.normal(size=samples)
    return design, targets, rng.uniform(0.05, 2, size=samples)


def solved(design, targets, weights, ridge=0.0):
    return SOLVE(*(jnp.asarray(a, float) for a in (design, targets, weights)), ridge)


def reference(design, targets, weights, ridge):
    """scikit-learn in float64, which does not penalise the intercept either."""
    model = sklearn.linear_model.Ridge(ridge, solver="svd") if ridge else sklearn.linear_model.LinearRegression()
    return model.fit(design, targets, sample_weight=weights)


def robust_errors(design, targets, weights, ridge=0.0):
    """The sandwich (X'WX + λ)⁻¹ X'W diag(e²) WX (X'WX + λ)⁻¹ · n/(n - p), written with explicit matrices."""
    rows = np.column_stack([np.ones(len(design)), design])
    bread = np.linalg.inv(rows.T @ (weights[:, None] * rows) + ridge * np.diag([0] + [1] * design.shape[1]))
    residual = targets - rows @ (bread @ rows.T @ (weights * targets))
    meat = rows.T @ ((weights * residual)[:, None] ** 2 * rows)
    n, p = rows.shape
    return np.sqrt(np.diagonal(bread @ meat @ bread) * n / (n - p))[1:]


@pytest.mark.core
@pytest.mark.numerics
@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(st.integers(0, 2**31), st.sampled_from([0.0, 0.01, 1.0, 30.0]))
def test_the_solution_of_scikit_learn(seed, ridge):
    design, targets, weights = problem(seed)
    got = solved(design, targets, weights, ridge)
    expected = reference(design, targets, weights, ridge)
    tolerance = 1e-10 if X64 else 3e-4
    np.testing.assert_allclose(got.coefficients, expected.coef_, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(got.intercept, expected.intercept_, rtol=tolerance, atol=tolerance)
    errors = robust_errors(design, targets, weights, ridge)
    np.testing.assert_allclose(got.stderr, errors, rtol=1e-8 if X64 else 3e-3, atol=tolerance)
    assert got.coefficients.shape == got.stderr.shape == (FEATURES,)
    assert got.intercept.shape == ()


@pytest.mark.core
def test_a_weight_of_two_counts_a_sample_twice():
    design, targets, _ = problem(1)
    counts = np.arange(SAMPLES) % 3  # zero removes it
    doubled = solved(np.repeat(design, counts, 0), np.repeat(targets, counts), np.ones(counts.sum()), 0.5)
    weighted = solved(design, targets, counts, 0.5)
    np.testing.assert_allclose(weighted.coefficients, doubled.coefficients, rtol=1e-4)
    np.testing.assert_allclose(weighted.intercept, doubled.intercept, rtol=1e-4)
    unweighted = solved(design, targets, np.ones(SAMPLES), 0.5)
    assert np.abs(np.asarray(unweighted.coefficients - weighted.coefficients)).max() > 1e-2


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_an_exact_linear_function_is_found(scale):
    design, _, weights = problem(2)
    slope = np.array([3.0, -1.0, 0.5])
    got = solved(scale * design, scale * design @ slope + 2.0, weights)
    tolerance = (1e-11 if X64 else 1e-5) * (1 + 1 / scale)  # the slope is lost below the rounding of the targets
    np.testing.assert_allclose(got.coefficients, slope, rtol=tolerance)
    assert float(got.intercept) == pytest.approx(2, abs=tolerance * (1 + scale))
    assert np.all(np.asarray(got.stderr) < tolerance)


@pytest.mark.numerics
@pytest.mark.parametrize("noise", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_dependent_columns_get_the_shortest_solution(seed, noise):
    """A column and its double: the pseudo-inverse of the centred design, with and without a remainder of the fit."""
    design, targets, weights = problem(seed, samples=40, features=2)
    targets = (1 - noise) * design @ [1.0, -2.0] + noise * targets
    design = np.column_stack([design, 2 * design[:, 0]])
    got = solved(design, targets, weights)
    root = np.sqrt(weights)
    centred = root[:, None] * (design - np.average(design, axis=0, weights=weights))
    expected = np.linalg.lstsq(centred, root * (targets - np.average(targets, weights=weights)), rcond=1e-10)[0]
    np.testing.assert_allclose(got.coefficients, expected, rtol=0, atol=1e-8 if X64 else 1e-3)


@pytest.mark.core
@pytest.mark.numerics
def test_a_column_of_zeros_gets_nothing():
    design, targets, weights = problem(3)
    wide = solved(np.insert(design, 1, 0.0, axis=1), targets, weights)
    narrow = solved(design, targets, weights)
    assert float(wide.coefficients[1]) == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(np.delete(wide.coefficients, 1), narrow.coefficients, rtol=1e-10 if X64 else 1e-4)
    assert np.isinf(wide.stderr).tolist() == [False, True, False, False]


@pytest.mark.core
def test_fewer_samples_than_coefficients_with_a_ridge():
    design, targets, weights = problem(4, samples=3, features=6)
    got = solved(design, targets, weights, 0.7)
    expected = reference(design, targets, weights, 0.7)
    np.testing.assert_allclose(got.coefficients, expected.coef_, rtol=1e-3, atol=1e-4)
    assert float(got.intercept) == pytest.approx(expected.intercept_, rel=1e-3)
    assert np.all(np.isinf(got.stderr))


@pytest.mark.numerics
def test_jit_vmap_and_gradient():
    design, targets, weights = problem(5)
    args = tuple(jnp.asarray(a, float) for a in (design, targets, weights))
    eager, jitted = local.weighted_least_squares(*args, 0.3), SOLVE(*args, 0.3)
    for a, b in zip(jax.tree.leaves(eager), jax.tree.leaves(jitted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)
    both = jax.vmap(lambda y: local.weighted_least_squares(args[0], y, args[2], 0.3))(jnp.stack([args[1], 2 * args[1]]))
    np.testing.assert_allclose(both.coefficients[0], jitted.coefficients, rtol=1e-4)
    np.testing.assert_allclose(both.coefficients[1], 2 * jitted.coefficients, rtol=1e-4)

    # The first coefficient is linear in the targets; in the weights, central differences of scikit-learn.
    by_targets, by_weights = jax.jit(
        jax.grad(lambda y, w: local.weighted_least_squares(args[0], y, w, 0.3).coefficients[0], (0, 1))
    )(args[1], args[2])
    unit = np.eye(SAMPLES)
    expected = [reference(design, e, weights, 0.3).coef_[0] for e in unit]
    np.testing.assert_allclose(by_targets, expected, rtol=1e-3, atol=1e-5)
    step = 1e-5
    ends = [[reference(design, targets, weights + s * step * e, 0.3).coef_[0] for e in unit] for s in (-1, 1)]
    np.testing.assert_allclose(by_weights, (np.array(ends[1]) - ends[0]) / (2 * step), rtol=5e-3, atol=1e-4)


def test_the_errors_are_right_where_the_noise_is_not_even():
    """2000 problems with noise that grows with |z|: the spread of the coefficients is the mean standard error.

    The spread is known to 1.6 % (one standard deviation); the estimate has a bias of order p/n = 2 %. The error of
    an even-noise formula would be a third too small.
    """
    rng = np.random.default_rng(6)
    design = rng.normal(size=(100, 1))
    noise = rng.normal(size=(2000, 100)) * np.abs(design[:, 0])
    run = jax.jit(jax.vmap(lambda y: local.weighted_least_squares(jnp.asarray(design, float), y, jnp.ones(100), 0.0)))
    got = run(jnp.asarray(design[:, 0] + noise, float))
    spread = np.std(np.asarray(got.coefficients[:, 0]))
    assert np.mean(np.asarray(got.coefficients[:, 0])) == pytest.approx(1, abs=5 * spread / np.sqrt(2000))
    assert np.sqrt(np.mean(np.asarray(got.stderr[:, 0]) ** 2)) == pytest.approx(spread, rel=0.12)
    even = np.sqrt(np.mean(design**2) / np.sum(design**2))
    assert even < 0.75 * spread


GOLDENS = {
    "lime_linear_euclid_kw1": ("euclid", 1.0, 0.0),
    "lime_ridge1_euclid_kw1": ("euclid", 1.0, 1.0),
    "lime_ridge0p01_euclid_kw2": ("euclid", 2.0, 0.01),
    "lime_linear_cosine_kw1": ("cosine", 1.0, 0.0),
    "lime_allmasks_linear_euclid_kw1": ("euclid", 1.0, 0.0),
}


@pytest.mark.numerics
@pytest.mark.parametrize("name", GOLDENS)
def test_lime_as_captum_computes_it(golden, name):
    """From the saved masks: the network, the weights and the fit by NumPy and by this solver."""
    arrays = golden("shap_lime")
    kind, width, ridge = GOLDENS[name]
    expected = arrays[f"{name}_own_f64"]
    found = np.zeros_like(expected)
    for i, x in enumerate(arrays["x"]):
        masks = arrays["all_masks"] if "allmasks" in name else arrays["lime_masks"][i]
        points = masks * x
        hidden = np.tanh(np.tanh(points @ arrays["W0"].T + arrays["b0"]) @ arrays["W1"].T + arrays["b1"])
        outputs = hidden @ arrays["W2"].T + arrays["b2"]
        if kind == "euclid":
            distance = np.linalg.norm(points - x, axis=1)
        else:
            norms = np.linalg.norm(points, axis=1) * np.linalg.norm(x)
            distance = 1 - points @ x / np.where(norms == 0, 1, norms)
        weights = np.exp(-(distance**2) / (2 * width**2))
        for output in range(2):
            found[i, :, output] = solved(masks, outputs[:, output], weights, ridge).coefficients
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=(1e-9 if X64 else 2e-5) * scale)
    np.testing.assert_allclose(found, arrays[name], rtol=0, atol=1e-4 * scale)


@pytest.mark.core
def test_what_the_rows_do_not_determine_has_no_standard_error():
    """A column that does not vary beside others, a column and its double, and as many coefficients as samples."""
    design, targets, weights = problem(5)
    got = solved(np.column_stack([design, 1e-9 * design[:, 0]]), targets, weights)
    assert np.isinf(got.stderr).tolist() == [False, False, False, True]
    got = solved(np.column_stack([design[:, :2], 2 * design[:, 0]]), targets, weights)
    assert np.isinf(got.stderr).tolist() == [True, False, True]
    assert np.isinf(solved(design[:4], targets[:4], weights[:4]).stderr).all()
    assert np.isfinite(solved(design, targets, weights).stderr).all()


@pytest.mark.core
def test_a_column_that_is_constant_up_to_rounding_gets_nothing():
    design, targets, weights = problem(6)
    got = solved(np.column_stack([design, np.full(len(design), 0.1)]), targets, weights)
    assert got.coefficients[3] == 0
    got = solved(np.ones((20, 3)), np.arange(20.0), np.ones(20))
    np.testing.assert_array_equal(got.coefficients, np.zeros(3))
    assert float(got.intercept) == pytest.approx(9.5, rel=1e-5)


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("ridge", [0.0, 2.0])
def test_without_an_intercept(ridge):
    design, targets, weights = problem(7)
    got = local.weighted_least_squares(
        *(jnp.asarray(a, float) for a in (design, targets, weights)), ridge, intercept=False
    )
    oracle = sklearn.linear_model.Ridge(ridge, fit_intercept=False, solver="svd")
    tolerance = 1e-9 if X64 else 1e-3
    np.testing.assert_allclose(got.coefficients, oracle.fit(design, targets, weights).coef_, tolerance, tolerance)
    assert float(got.intercept) == 0
    scaled = np.sqrt(weights)[:, None] * design
    bread = np.linalg.inv(scaled.T @ scaled + ridge * np.eye(FEATURES))
    influence = bread @ (scaled * (np.sqrt(weights) * (targets - oracle.predict(design)))[:, None]).T
    expected = np.sqrt((influence**2).sum(1) * SAMPLES / (SAMPLES - FEATURES))
    np.testing.assert_allclose(got.stderr, expected, rtol=1e-8 if X64 else 3e-3)


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("ridge", [0.0, 2.0])
def test_the_condition_of_numpy(ridge):
    design, targets, weights = problem(8)
    root = np.sqrt(weights)[:, None]
    rows = np.concatenate([root * (design - np.average(design, axis=0, weights=weights)), np.sqrt(ridge) * np.eye(3)])
    assert float(solved(design, targets, weights, ridge).condition) == pytest.approx(np.linalg.cond(rows), rel=1e-4)


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("seed", range(5))
def test_the_condition_of_dependent_columns_is_infinite(seed):
    design, targets, weights = problem(seed, samples=30)
    got = solved(np.column_stack([design, design @ [1.0, -1.0, 0.5]]), targets, weights)
    assert np.isinf(float(got.condition))
    assert np.all(np.isfinite(got.coefficients))
    assert np.isinf(float(solved(design[:2], targets[:2], weights[:2]).condition))
    assert np.isfinite(float(solved(design[:2], targets[:2], weights[:2], 0.1).condition))
    nearly = np.column_stack([design, design[:, 0] + 0.01 * np.random.default_rng(seed).normal(size=30)])
    assert 20 < float(solved(nearly, targets, weights).condition) < 2000


@pytest.mark.core
@pytest.mark.numerics
def test_a_basis_gives_other_coefficients_and_their_errors():
    """For a square basis, those of the design in the other coordinates."""
    design, targets, weights = problem(9)
    basis = np.random.default_rng(9).normal(size=(FEATURES, FEATURES))
    arrays = [jnp.asarray(a, float) for a in (design @ basis, targets, weights)]
    got = local.weighted_least_squares(*arrays, basis=jnp.asarray(basis, float))
    expected = solved(design, targets, weights)
    tolerance = 1e-8 if X64 else 3e-3
    np.testing.assert_allclose(got.coefficients, expected.coefficients, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(got.stderr, expected.stderr, rtol=tolerance)
    np.testing.assert_allclose(got.intercept, expected.intercept, rtol=tolerance)
    dependent = local.weighted_least_squares(arrays[0][:, :2], *arrays[1:], basis=jnp.ones((5, 2)))
    assert dependent.coefficients.shape == dependent.stderr.shape == (5,)
    assert len({round(float(b), 4) for b in dependent.coefficients}) == 1


@pytest.mark.core
@pytest.mark.numerics
def test_fixed_samples_and_clusters_in_the_standard_error():
    """The influence of a sample, its column of the pseudo-inverse times its residual, in explicit sums."""
    design, targets, weights = problem(10, samples=14)
    arrays = [jnp.asarray(a, float) for a in (design, targets, weights)]
    rows = np.column_stack([np.ones(14), design])
    bread = np.linalg.inv(rows.T @ (weights[:, None] * rows))
    residual = targets - rows @ (bread @ rows.T @ (weights * targets))
    influence = (bread @ rows.T * (weights * residual))[1:]
    tolerance = 1e-8 if X64 else 3e-3
    for fixed, cluster in [(4, 1), (0, 2), (4, 2), (5, 3)]:
        parts = influence[:, fixed:].reshape(3, -1, cluster).sum(2)
        independent = 14 // cluster
        expected = np.sqrt((parts**2).sum(1) * independent / (independent - 4)) if independent > 4 else [np.inf] * 3
        got = local.weighted_least_squares(*arrays, fixed=fixed, cluster=cluster)
        np.testing.assert_allclose(got.stderr, expected, rtol=tolerance)
        np.testing.assert_allclose(got.coefficients, solved(design, targets, weights).coefficients, rtol=tolerance)
    assert local.weighted_least_squares(*arrays, fixed=14).stderr.tolist() == [0, 0, 0]
    few = [a[:4] for a in arrays]
    assert local.weighted_least_squares(*few, fixed=4).stderr.tolist() == [0, 0, 0]


def test_clusters_are_needed_where_samples_depend_on_each_other():
    """2000 problems in which pairs of samples share their noise: clusters know its spread, single samples do not."""
    rng = np.random.default_rng(11)
    design = np.repeat(rng.normal(size=(50, 1)), 2, axis=0)
    targets = jnp.asarray(design[:, 0] + np.repeat(rng.normal(size=(2000, 50)), 2, axis=1), float)
    spreads = {}
    for cluster in (1, 2):
        fit = lambda y, cluster=cluster: local.weighted_least_squares(  # noqa: E731
            jnp.asarray(design, float), y, jnp.ones(100), cluster=cluster
        )
        got = jax.jit(jax.vmap(fit))(targets)
        spreads[cluster] = np.sqrt(np.mean(np.asarray(got.stderr, np.float64) ** 2))
        spread = np.std(np.asarray(got.coefficients))
    assert spreads[2] == pytest.approx(spread, rel=0.12)
    assert spreads[1] < 0.8 * spread


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("scales", [(1.0, 1.0), (1.0, 40.0), (30.0, 60.0), (1.0, 1e3), (1e3, 1e3)])
def test_any_condition_alone_and_in_a_batch(scales):
    """Well-conditioned rows are solved in another way than the others; the answer does not tell which."""
    one = [problem(seed) for seed in (7, 8)]
    designs = jnp.stack([jnp.asarray(d * np.array([1, 1, s]), float) for (d, _, _), s in zip(one, scales, strict=True)])
    targets, weights = (jnp.stack([jnp.asarray(given[i], float) for given in one]) for i in (1, 2))
    batch = jax.jit(jax.vmap(local.weighted_least_squares))(designs, targets, weights)
    nested = jax.vmap(jax.vmap(local.weighted_least_squares))(designs[None], targets[None], weights[None])
    for i, scale in enumerate(scales):
        given = [np.asarray(a[i], np.float64) for a in (designs, targets, weights)]
        tolerance = (1e-15 if X64 else 1e-6) * scale
        alone = SOLVE(designs[i], targets[i], weights[i], 0.0)
        rows = np.sqrt(given[2])[:, None] * (given[0] - np.average(given[0], axis=0, weights=given[2]))
        for found in (alone, jax.tree.map(lambda a, i=i: a[i], batch), jax.tree.map(lambda a, i=i: a[0, i], nested)):
            got, wanted = np.asarray(found.coefficients), reference(*given, 0.0).coef_
            np.testing.assert_allclose(got * [1, 1, scale], wanted * [1, 1, scale], rtol=0, atol=20 * tolerance)
            np.testing.assert_allclose(found.condition, np.linalg.cond(rows), rtol=20 * tolerance)


@pytest.mark.core
def test_no_columns():
    got = local.weighted_least_squares(jnp.zeros((3, 0)), jnp.array([1.0, 2.0, 6.0]), jnp.ones(3))
    assert got.coefficients.shape == got.stderr.shape == (0,)
    assert float(got.intercept) == pytest.approx(3)


@pytest.mark.core
@pytest.mark.numerics
def test_a_prior_keeps_the_coefficients_orthogonal_to_its_rows():
    """As a heavy sample without a target would; it does not count as a sample."""
    design, targets, weights = problem(12, samples=30)
    dependent = np.column_stack([design, design[:, 0]])
    arrays = [jnp.asarray(a, float) for a in (dependent, targets, weights)]
    got = local.weighted_least_squares(*arrays, prior=jnp.array([[1.0, 0.0, 0.0, -1.0]]))
    expected = solved(design, targets, weights)
    tolerance = 1e-8 if X64 else 1e-3
    halves = np.asarray(expected.coefficients)[[0, 1, 2, 0]] * [0.5, 1, 1, 0.5]
    np.testing.assert_allclose(got.coefficients, halves, rtol=tolerance, atol=tolerance)
    assert np.isfinite(float(got.condition))
    one_sided = local.weighted_least_squares(*arrays, prior=jnp.array([[0.0, 0.0, 0.0, 1.0]]))
    np.testing.assert_allclose(one_sided.coefficients[:3], expected.coefficients, rtol=tolerance, atol=tolerance)
    assert float(one_sided.coefficients[3]) == pytest.approx(0, abs=tolerance)


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("kept", [4, 5, 9])
def test_samples_without_a_weight_are_not_there(kept):
    """Neither in the standard error; four samples determine four coefficients and leave no residual."""
    design, targets, weights = problem(7, samples=30)
    some = np.where(np.arange(30) < kept, weights, 0)
    found, alone = solved(design, targets, some), solved(design[:kept], targets[:kept], weights[:kept])
    np.testing.assert_allclose(found.coefficients, alone.coefficients, rtol=1e-7 if X64 else 1e-3)
    np.testing.assert_allclose(found.stderr, alone.stderr, rtol=1e-6 if X64 else 1e-3)
    assert np.all(np.isinf(np.asarray(found.stderr)) == (kept == 4))


@pytest.mark.core
@pytest.mark.numerics
def test_the_derivative_at_a_weight_of_zero():
    """As beside it: the fit moves as soon as the sample counts."""
    design, targets, weights = (jnp.asarray(a, float) for a in problem(8))
    slope = jax.jit(jax.grad(lambda w: jnp.sum(local.weighted_least_squares(design, targets, w).coefficients)))
    at, beside = slope(weights.at[:3].set(0)), slope(weights.at[:3].set(1e-6))
    np.testing.assert_allclose(at, beside, rtol=1e-4 if X64 else 1e-2, atol=1e-4)
    assert np.all(np.abs(np.asarray(at[:3])) > 1e-3)
