"""Classes of linear models against scikit-learn and NumPy on the same samples, and functions that they contain."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.linear_model
import sklearn.metrics
import sklearn.preprocessing

from jaxinterp import local
from tests.local.fitting import (
    SLOPE,
    TOLERANCE,
    WAVY,
    X,
    close,
    fitted,
    in_numpy,
    sampled,
    wavy,
)

pytestmark = [pytest.mark.core, pytest.mark.numerics]


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
