"""Classes of models against scikit-learn and NumPy on the same samples, and functions that they contain."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.linear_model
import sklearn.metrics
import sklearn.preprocessing

from jaxinterp import local

pytestmark = [pytest.mark.core, pytest.mark.numerics]

X64 = jax.config.jax_enable_x64
TOLERANCE = 1e-8 if X64 else 1e-3
X = jnp.array([1.0, -0.5, 0.3])
RNG = np.random.default_rng(0)
SLOPE = RNG.normal(size=3)
HESSIAN = (lambda m: m + m.T)(RNG.normal(size=(3, 3)))
RANK_ONE = -1.5 * np.outer(SLOPE, SLOPE)


def wavy(x):
    return jnp.sum(jnp.sin(2 * x)) + x[0] * x[1] ** 2


def quadratic(hessian):
    h, b = jnp.asarray(hessian, float), jnp.asarray(SLOPE, float)
    return lambda x: 3.0 + jnp.dot(b, x) + jnp.dot(x, jnp.dot(h, x, precision="highest")) / 2


def sampled(f, n=60, seed=1, stddev=0.6, **options):
    weight = local.exponential_weight(1.0)
    options = {"slopes": True, "ends": True, **options}
    return jax.jit(local.samples(f, neighbourhood=local.gaussian, num_samples=n, weight=weight, **options))(
        jax.random.key(seed), X, stddev=stddev
    )


def fitted(model, samples, loss="squared_error"):
    return jax.jit(lambda samples: model.fitted(samples, loss))(samples)


def in_numpy(samples):
    """Offsets, values, weights and slopes in float64."""
    return [np.asarray(a, np.float64) for a in (samples.offsets, samples.values, samples.weights, samples.slopes)]


def close(a, b, factor=1.0):
    np.testing.assert_allclose(a, b, rtol=factor * TOLERANCE, atol=factor * TOLERANCE)


WAVY = sampled(wavy)


@pytest.mark.parametrize("ridge", [0.0, 0.7])
@pytest.mark.parametrize("intercept", ["free", "anchored", "zero"])
def test_linear_models_of_scikit_learn(intercept, ridge):
    z, y, w, _ = in_numpy(WAVY)
    origin = np.asarray(X, np.float64)
    top = float(WAVY.anchor_value)
    rows, rise = {"free": (z, y), "anchored": (z, y - top), "zero": (z + origin, y)}[intercept]
    oracle = sklearn.linear_model.Ridge(ridge, fit_intercept=intercept == "free", solver="svd", tol=1e-12)
    oracle.fit(rows, rise, sample_weight=w)
    model = fitted(local.Linear(intercept, ridge=ridge), WAVY)
    close(model.slope, oracle.coef_)
    predicted = oracle.predict(rows) + (top if intercept == "anchored" else 0)
    close(jax.vmap(model.surrogate)(WAVY.coordinates), predicted)
    assert float(model(X)) == pytest.approx(float(model.intercept), rel=1e-5)
    if intercept != "free":
        fixed_point, value = (X, top) if intercept == "anchored" else (jnp.zeros(3), 0.0)
        assert float(model(fixed_point)) == pytest.approx(value, abs=1e-5)
    assert float(model.r_squared) == pytest.approx(sklearn.metrics.r2_score(y, predicted, sample_weight=w), abs=1e-4)


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


@pytest.mark.parametrize("ridge", [0.0, 0.7])
def test_a_complete_model_is_least_squares_under_a_constraint(ridge):
    """By the equations of Lagrange; the ridge is on the directions that the constraint leaves."""
    z, y, w, _ = in_numpy(WAVY)
    top, bottom = (float(v) for v in WAVY.ends())
    anchor = np.asarray(X, np.float64)
    model = fitted(local.Linear("anchored", complete=True, ridge=ridge), WAVY)
    system = np.zeros((4, 4))
    system[:3, :3] = z.T @ (w[:, None] * z) + ridge * np.eye(3)
    system[:3, 3] = system[3, :3] = anchor
    expected = np.linalg.solve(system, np.append(z.T @ (w * (y - top)), top - bottom))[:3]
    close(model.slope, expected)
    assert float(jnp.dot(model.slope, X)) == pytest.approx(top - bottom, rel=1e-5)
    assert float(model(X)) == pytest.approx(top, rel=1e-5)
    assert float(model(jnp.zeros(3))) == pytest.approx(bottom, abs=1e-5)


def test_gradient_matching_is_the_weighted_mean_of_the_gradients():
    z, y, w, slopes = in_numpy(WAVY)
    mean = np.average(slopes, axis=0, weights=w)
    for intercept, value in [
        ("free", np.average(y - z @ mean, weights=w)),
        ("anchored", float(wavy(X))),
        ("zero", np.asarray(X) @ mean),
    ]:
        model = fitted(local.Linear(intercept), WAVY, "gradient_matching")
        close(model.slope, mean)
        assert float(model.intercept) == pytest.approx(value, rel=1e-4)
        assert float(model.condition) == 1
    share = w / w.sum()
    spread = np.sqrt((share[:, None] ** 2 * (slopes - mean) ** 2).sum(0) * 60 / 59)
    close(model.stderr, spread)


@pytest.mark.parametrize("count", [1, 2, 4, 5, 9])
def test_selected_features_are_those_of_least_angle_regression(count):
    rng = np.random.default_rng(2)
    mixing, direction = (jnp.asarray(rng.normal(size=shape), float) for shape in ((5, 5), (5,)))
    f = lambda x: jnp.dot(direction, jnp.dot(mixing, x)) + jnp.sum(jnp.cos(x))  # noqa: E731
    weight = local.exponential_weight(2.0)
    samples = local.samples(f, neighbourhood=local.gaussian, num_samples=50, weight=weight)(
        jax.random.key(2), jnp.zeros(5), stddev=1.0
    )
    z, y, w = (np.asarray(a, np.float64) for a in (samples.offsets, samples.values, samples.weights))
    root = np.sqrt(w)
    centred = root[:, None] * (z - np.average(z, axis=0, weights=w))
    order = sklearn.linear_model.lars_path(centred, root * (y - np.average(y, weights=w)), method="lar")[1]
    chosen = sorted(order[:count])
    oracle = sklearn.linear_model.LinearRegression().fit(z[:, chosen], y, sample_weight=w)
    model = fitted(local.Linear(num_features=count), samples)
    expected = np.zeros(5)
    expected[chosen] = oracle.coef_
    close(model.slope, expected)
    assert np.array_equal(np.flatnonzero(model.slope), chosen)
    assert np.array_equal(np.flatnonzero(model.stderr), chosen)


@pytest.mark.parametrize("share", [0.02, 0.3])
def test_the_lasso_of_scikit_learn(share):
    z, y, w, _ = in_numpy(WAVY)
    shift = y - np.average(y, weights=w)
    penalty = share * float(np.abs((w * shift) @ (z - np.average(z, axis=0, weights=w)) / w.sum()).max())
    lasso = sklearn.linear_model.Lasso(penalty, tol=1e-14, max_iter=100_000)
    oracle = lasso.fit(z, y, sample_weight=w)
    model = fitted(local.SparseLinear(penalty), WAVY)
    close(model.slope, oracle.coef_)
    assert float(model.intercept) == pytest.approx(oracle.intercept_, rel=1e-4, abs=1e-4)
    assert float(model.residual) < 1e-5
    assert np.all(np.isnan(model.stderr))
    expected = sklearn.metrics.r2_score(y, oracle.predict(z), sample_weight=w)
    assert float(model.r_squared) == pytest.approx(expected, abs=1e-4)

    def first(values):
        return local.SparseLinear(penalty).fitted(dataclasses.replace(WAVY, values=values), "squared_error").slope[0]

    by_values = jax.jit(jax.grad(first))(WAVY.values)
    step = 1e-5
    for i in range(5):
        ends = [lasso.fit(z, y + s * step * np.eye(60)[i], sample_weight=w).coef_[0] for s in (-1, 1)]
        assert float(by_values[i]) == pytest.approx((ends[1] - ends[0]) / (2 * step), rel=1e-2, abs=1e-4)


HESSIANS = {"full": HESSIAN, "diagonal": np.diag([2.0, -1.0, 0.5]), 1: RANK_ONE, 2: np.diag([3.0, 0.0, -1.0])}


@pytest.mark.parametrize("loss", ["squared_error", "gradient_matching"])
@pytest.mark.parametrize("kind", HESSIANS)
def test_quadratic_functions_are_found(kind, loss):
    hessian = HESSIANS[kind]
    model = fitted(local.Quadratic(kind), sampled(quadratic(hessian)), loss)
    close(model.surrogate.hessian(), hessian, 3)
    x = np.asarray(X, np.float64)
    close(model.slope, SLOPE + hessian @ x, 3)
    assert float(model.intercept) == pytest.approx(3 + SLOPE @ x + x @ hessian @ x / 2, rel=3e-4)
    assert float(model.r_squared) == pytest.approx(1, abs=1e-5)
    assert np.all(np.asarray(model.stderr) < 5 * TOLERANCE)
    assert np.isfinite(float(model.condition))
    far = jnp.array([2.0, 1.0, -1.0])
    assert float(model(far)) == pytest.approx(float(quadratic(hessian)(far)), rel=3e-3)


def test_a_rank_beyond_the_coordinates_is_all_of_them():
    model = fitted(local.Quadratic(5), sampled(quadratic(HESSIAN)))
    close(model.surrogate.hessian(), HESSIAN, 3)
    assert local.Quadratic(5).num_coefficients("squared_error", 3) == 10


def test_the_leading_directions_are_kept():
    """Of diag(3, -1, 0.1) two ranks keep the first two, up to the noise of the samples."""
    model = fitted(local.Quadratic(2), sampled(quadratic(np.diag([3.0, -1.0, 0.1])), n=3000))
    np.testing.assert_allclose(model.surrogate.hessian(), np.diag([3.0, -1.0, 0.0]), atol=0.1)
    directions = np.asarray(model.surrogate.directions)
    close(directions.T @ directions, np.eye(2))


@pytest.mark.parametrize("interactions", [True, False])
def test_quadratic_least_squares_of_scikit_learn(interactions):
    z, y, w, _ = in_numpy(WAVY)
    rows = (
        sklearn.preprocessing.PolynomialFeatures(2, include_bias=False).fit_transform(z)
        if interactions
        else np.concatenate([z, z**2], axis=1)
    )
    oracle = sklearn.linear_model.LinearRegression().fit(rows, y, sample_weight=w)
    model = fitted(local.Quadratic("full" if interactions else "diagonal"), WAVY)
    close(model.slope, oracle.coef_[:3])
    close(jax.vmap(model.surrogate)(WAVY.coordinates), oracle.predict(rows))
    expected = sklearn.metrics.r2_score(y, oracle.predict(rows), sample_weight=w)
    assert float(model.r_squared) == pytest.approx(expected, abs=1e-4)


def test_quadratic_gradient_matching_regresses_the_gradients():
    z, _, w, slopes = in_numpy(WAVY)
    oracle = sklearn.linear_model.LinearRegression().fit(z, slopes, sample_weight=w)
    hessian = (oracle.coef_ + oracle.coef_.T) / 2
    model = fitted(local.Quadratic(), WAVY, "gradient_matching")
    close(model.surrogate.hessian(), hessian)
    close(model.slope, np.average(slopes - z @ hessian, axis=0, weights=w))
    diagonal = fitted(local.Quadratic("diagonal"), WAVY, "gradient_matching")
    alone = [
        sklearn.linear_model.LinearRegression().fit(z[:, [j]], slopes[:, j], sample_weight=w).coef_[0] for j in range(3)
    ]
    close(diagonal.surrogate.curvature, alone)


def test_additive_least_squares_of_scikit_learn():
    """The same functions in another basis: linear splines with the same knots."""
    z, y, w, _ = in_numpy(sampled(wavy, n=200))
    model = fitted(local.Additive(3), sampled(wavy, n=200))
    knots = np.quantile(z, [0.25, 0.5, 0.75], axis=0)
    close(model.surrogate.knots, knots.T)
    splines = sklearn.preprocessing.SplineTransformer(degree=1, knots=np.stack([z.min(0), *knots, z.max(0)]))
    rows = splines.fit_transform(z)
    oracle = sklearn.linear_model.LinearRegression().fit(rows, y, sample_weight=w)
    points = jnp.asarray(z + np.asarray(X, np.float64), float)
    close(jax.vmap(model.surrogate)(points), oracle.predict(rows), 5)
    expected = sklearn.metrics.r2_score(y, oracle.predict(rows), sample_weight=w)
    assert float(model.r_squared) == pytest.approx(expected, abs=1e-4)


def test_an_additive_piecewise_linear_function_is_found():
    knots = fitted(local.Additive(2), sampled(wavy, n=200)).surrogate.knots
    bends = jnp.array([[2.0, -3.0], [0.0, 1.5], [-1.0, 0.0]])

    def bent(x):
        return 0.5 + jnp.sum(x) + jnp.sum(bends * jax.nn.relu((x - X)[:, None] - knots))

    model = fitted(local.Additive(2), sampled(bent, n=200))
    close(model.surrogate.knots, knots)
    close(model.surrogate.bends, bends, 5)
    close(model.slope, np.ones(3), 5)
    assert float(model.r_squared) == pytest.approx(1, abs=1e-5)
    far = jnp.array([2.0, -1.5, 0.9])
    assert float(model(far)) == pytest.approx(float(bent(far)), rel=1e-3)
    effects = model.surrogate.effects(far)
    assert float(jnp.sum(effects)) == pytest.approx(float(bent(far) - bent(X)), rel=1e-3)


def test_a_logistic_function_is_found():
    b = jnp.asarray(SLOPE, float)
    model = fitted(local.Logistic(), sampled(lambda x: jax.nn.sigmoid(0.4 + jnp.dot(b, x))), "cross_entropy")
    close(model.slope, SLOPE)
    assert float(model.intercept) == pytest.approx(0.4 + SLOPE @ np.asarray(X, np.float64), rel=1e-3)
    assert float(model.r_squared) == pytest.approx(1, abs=1e-5)
    assert float(model.residual) < 1e-5
    assert np.all(np.asarray(model.stderr) < TOLERANCE)
    assert isinstance(model.surrogate, local.LogisticModel)


@pytest.mark.parametrize("ridge", [0.0, 0.5])
def test_logistic_regression_of_scikit_learn(ridge):
    samples = sampled(lambda x: jax.nn.sigmoid(wavy(x)))
    z, y, w, _ = in_numpy(samples)
    oracle = sklearn.linear_model.LogisticRegression(
        C=1 / ridge if ridge else np.inf, solver="newton-cholesky", tol=1e-12
    )
    weights = np.concatenate([w * y, w * (1 - y)])
    oracle.fit(np.concatenate([z, z]), np.repeat([1, 0], 60), sample_weight=weights)
    model = fitted(local.Logistic(ridge), samples, "cross_entropy")
    close(model.slope, oracle.coef_[0])
    predicted = oracle.predict_proba(z)[:, 1]
    close(jax.vmap(model.surrogate)(samples.coordinates), predicted)
    expected = sklearn.metrics.r2_score(y, predicted, sample_weight=w)
    assert float(model.r_squared) == pytest.approx(expected, abs=1e-4)


def test_what_is_no_probability_is_refused_or_nan():
    samples = sampled(lambda x: x[0])
    with pytest.raises(ValueError, match="`Logistic` fits probabilities; the function has values from"):
        local.Logistic().fitted(samples, "cross_entropy")
    assert np.all(np.isnan(fitted(local.Logistic(), samples, "cross_entropy").slope))


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


@pytest.mark.parametrize(
    ("model", "losses"),
    [
        (local.Linear(), {"squared_error", "gradient_matching"}),
        (local.Linear("anchored"), {"squared_error", "gradient_matching"}),
        (local.SparseLinear(0.1), {"squared_error"}),
        (local.Quadratic(), {"squared_error", "gradient_matching"}),
        (local.Additive(), {"squared_error"}),
        (local.Logistic(), {"cross_entropy"}),
    ],
)
def test_losses_without_a_fit_are_refused(model, losses):
    for loss in ("squared_error", "gradient_matching", "cross_entropy"):
        if loss in losses:
            assert isinstance(model.needs_slopes(loss), bool)
        else:
            with pytest.raises(ValueError, match=f"`{type(model).__name__}` cannot be fitted by the loss '{loss}'"):
                model.needs_slopes(loss)
    with pytest.raises(ValueError, match="`loss` must be one of 'squared_error', 'gradient_matching', 'cross_entropy'"):
        model.needs_slopes("hinge")


@pytest.mark.parametrize(
    "model",
    [local.Linear("anchored", complete=True), local.Linear(ridge=0.1), local.Linear(num_features=1)],
)
def test_options_that_gradient_matching_does_not_have(model):
    with pytest.raises(ValueError, match='`complete`, `ridge` and `num_features` of `Linear` need the loss "squared'):
        model.needs_slopes("gradient_matching")


@pytest.mark.parametrize(
    ("model", "loss", "count"),
    [
        (local.Linear(), "squared_error", 6),
        (local.Linear(), "gradient_matching", 1),
        (local.Linear(ridge=0.1), "squared_error", 1),
        (local.Linear(ridge=0), "squared_error", 6),
        (local.Linear(ridge=0), "gradient_matching", 1),
        (local.Linear("anchored"), "squared_error", 5),
        (local.Linear("anchored", complete=True), "squared_error", 4),
        (local.Linear("zero"), "squared_error", 5),
        (local.Linear(num_features=2), "squared_error", 3),
        (local.Linear(num_features=20), "squared_error", 6),
        (local.Quadratic(), "squared_error", 21),
        (local.Quadratic(), "gradient_matching", 6),
        (local.Quadratic("diagonal"), "squared_error", 11),
        (local.Quadratic("diagonal"), "gradient_matching", 2),
        (local.Quadratic(2), "squared_error", 9),
        (local.Additive(3), "squared_error", 21),
        (local.Logistic(), "cross_entropy", 6),
        (local.Logistic(ridge=0), "cross_entropy", 6),
    ],
)
def test_how_many_samples_it_takes(model, loss, count):
    assert model.num_coefficients(loss, 5) == count
    assert isinstance(model.needs_slopes(loss), bool)


def test_a_traced_ridge():
    run = jax.jit(lambda ridge: local.Linear(ridge=ridge).fitted(WAVY, "squared_error").slope)
    close(run(0.7), fitted(local.Linear(ridge=0.7), WAVY).slope)


def test_bad_options_are_refused():
    for build, message in [
        (lambda: local.Linear("none"), "`intercept` must be one of 'free', 'anchored', 'zero'; got 'none'"),
        (lambda: local.Linear(ridge=-1.0), "`ridge` must be finite and >= 0"),
        (lambda: local.Linear(num_features=0), "`num_features` must be at least 1"),
        (lambda: local.Linear(complete=True), "A `complete` linear model is anchored"),
        (lambda: local.Linear("zero", num_features=2), "selects features beside a free intercept"),
        (lambda: local.SparseLinear(-0.1), "`penalty` must be finite and >= 0"),
        (lambda: local.SparseLinear(0.1, max_sweeps=0), "`max_sweeps` must be at least 1"),
        (lambda: local.Quadratic("half"), "`hessian` must be one of 'full', 'diagonal'; got 'half'"),
        (lambda: local.Quadratic(0), "`hessian` must be at least 1"),
        (lambda: local.Quadratic(ridge=np.inf), "`ridge` must be finite and >= 0"),
        (lambda: local.Additive(0), "`num_knots` must be at least 1"),
        (lambda: local.Additive(ridge=-1.0), "`ridge` must be finite and >= 0"),
        (lambda: local.Logistic(-1.0), "`ridge` must be finite and >= 0"),
        (lambda: local.Logistic(max_steps=0), "`max_steps` must be at least 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            build()
    with pytest.raises(TypeError, match="`num_knots` must be a Python integer"):
        local.Additive(2.5)
