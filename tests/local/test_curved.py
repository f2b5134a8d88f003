"""Quadratic and additive models against scikit-learn on the same samples, and functions that they contain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.linear_model
import sklearn.metrics
import sklearn.preprocessing

from jaxinterp import local
from tests.local.fitting import (
    HESSIAN,
    RANK_ONE,
    RNG,
    SLOPE,
    TOLERANCE,
    WAVY,
    X64,
    X,
    close,
    fitted,
    in_numpy,
    quadratic,
    sampled,
    wavy,
)

pytestmark = [pytest.mark.core, pytest.mark.numerics]


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


def symmetric_least_squares(z, slopes, w):
    """b and the symmetric H nearest to the slopes, with one unknown for each pair of entries."""
    n, p = z.shape
    first, second = np.triu_indices(p)
    rows = np.zeros((n, p, p + len(first)))
    rows[:, np.arange(p), np.arange(p)] = 1
    for k, (i, j) in enumerate(zip(first, second, strict=True)):
        rows[:, i, p + k] = z[:, j]
        rows[:, j, p + k] = z[:, i]
    root = np.sqrt(w)[:, None]
    solution = np.linalg.lstsq((root[:, :, None] * rows).reshape(n * p, -1), (root * slopes).ravel(), rcond=None)[0]
    hessian = np.zeros((p, p))
    hessian[first, second] = hessian[second, first] = solution[p:]
    return solution[:p], hessian


@pytest.mark.parametrize("stddev", [0.6, np.array([1.0, 0.3, 0.05])])
def test_quadratic_gradient_matching_finds_the_nearest_symmetric_hessian(stddev):
    samples = sampled(wavy, stddev=jnp.asarray(stddev, float))
    z, _, w, slopes = in_numpy(samples)
    b, hessian = symmetric_least_squares(z, slopes, w)
    model = fitted(local.Quadratic(), samples, "gradient_matching")
    close(model.surrogate.hessian(), hessian, 3)
    close(model.slope, b, 3)
    assert float(model.condition) == pytest.approx(
        np.linalg.cond(np.sqrt(w)[:, None] * (z - np.average(z, axis=0, weights=w))), rel=1e-2
    )


def test_quadratic_gradient_matching_of_a_diagonal():
    z, _, w, slopes = in_numpy(WAVY)
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
        offset = (x - X)[:, None]
        return 0.5 + jnp.sum(x) + jnp.sum(bends * jax.nn.relu(jnp.where(knots > 0, offset - knots, knots - offset)))

    model = fitted(local.Additive(2), sampled(bent, n=200))
    close(model.surrogate.knots, knots)
    close(model.surrogate.bends, bends, 5)
    close(model.slope, np.ones(3), 5)
    assert float(model.r_squared) == pytest.approx(1, abs=1e-5)
    far = jnp.array([2.0, -1.5, 0.9])
    assert float(model(far)) == pytest.approx(float(bent(far)), rel=1e-3)
    effects = model.surrogate.effects(far)
    assert float(jnp.sum(effects)) == pytest.approx(float(bent(far) - bent(X)), rel=1e-3)


def test_an_additive_model_of_masks_is_linear():
    """Knots at the ends of the range, where all quantiles of masks are, bend nothing."""
    fit = local.fit(jnp.sum, neighbourhood=local.binary_mask, model=local.Additive(3), num_samples=60)
    model = jax.jit(fit)(jax.random.key(0), jnp.array([1.0, -2.0, 0.5]))
    close(model.slope, [1.0, -2.0, 0.5])


def test_the_slope_of_an_additive_model_is_its_derivative_at_the_anchor():
    fit = local.fit(lambda x: jnp.sum(x**2), neighbourhood=local.gaussian, model=local.Additive(4), num_samples=400)
    model = jax.jit(fit)(jax.random.key(0), jnp.zeros(2), stddev=1.0)
    close(model.slope, jax.grad(lambda z: model(z))(jnp.zeros(2)))
    assert np.all(np.abs(model.slope) < 0.5)


def test_the_gradient_of_a_fitted_hessian():
    """Of the symmetric least squares, whose eigenvectors have no derivative where eigenvalues meet."""
    z = jnp.concatenate([jnp.eye(2), -jnp.eye(2)])  # their second moments are equal
    slopes = jnp.asarray(RNG.normal(size=(4, 2)), float)

    def corner(shift):
        samples = local.Samples(z + shift * jnp.eye(4, 2), jnp.zeros(4), slopes, jnp.ones(4), jnp.zeros(2))
        return local.Quadratic().fitted(samples, "gradient_matching").surrogate.hessian()[0, 1]

    step = 1e-5 if X64 else 1e-2
    by_difference = (corner(step) - corner(-step)) / (2 * step)
    assert float(jax.jit(jax.grad(corner))(0.0)) == pytest.approx(float(by_difference), rel=1e-2, abs=1e-3)
