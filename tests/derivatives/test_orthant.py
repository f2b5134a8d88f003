"""Orthant probabilities against exact values, the goldens of scipy, and finite differences."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from jaxinterp.derivatives import orthant

pytestmark = [pytest.mark.numerics]

X64 = jax.config.jax_enable_x64


@functools.cache
def compiled(num_points=10_000, runs=None):
    cdf = orthant(num_points=num_points)
    return jax.jit(cdf if runs is None else jax.vmap(cdf, (0, None, None)))


def estimated(limits, covariance, seed=0, num_points=10_000):
    return compiled(num_points)(jax.random.key(seed), jnp.asarray(limits, float), jnp.asarray(covariance, float))


def equicorrelated(d, rho=0.5):
    return rho + (1 - rho) * np.eye(d)


def cases(goldens, dimensions):
    """Limits, covariance and probability of the golden cases of these dimensions; the exact one where it is known."""
    exact = dict(zip(goldens["exact_index"].tolist(), goldens["exact_value"].tolist(), strict=True))
    for i, value in enumerate(goldens["cdf"]):
        limits = goldens[f"case{i:02d}_z"]
        if len(limits) in dimensions:
            yield limits, goldens[f"case{i:02d}_cov"], exact.get(i, value)


@pytest.mark.parametrize("dimension", [2, 3, 9, 20])
def test_the_golden_cases(golden, dimension):
    found = [
        (estimated(limits, covariance), wanted) for limits, covariance, wanted in cases(golden("mvn"), [dimension])
    ]
    errors = np.array([float(estimate.mean) - wanted for estimate, wanted in found])
    assert len(errors) == 12
    assert np.sqrt(np.mean(errors**2)) < (1e-6 if dimension == 2 else 1e-4)
    assert np.max(np.abs(errors)) < (1e-6 if dimension == 2 else 3e-4)


@pytest.mark.slow
@pytest.mark.parametrize("dimension", [3, 9, 20, 99])
def test_the_golden_cases_with_more_points(golden, dimension):
    """At 99 dimensions scipy's own error is 1.2e-4."""
    for limits, covariance, wanted in cases(golden("mvn"), [dimension]):
        assert abs(float(estimated(limits, covariance, num_points=100_000).mean) - wanted) < 2e-4


@pytest.mark.core
@pytest.mark.parametrize("d", [1, 2, 3, 5, 12])
def test_equal_correlations_of_a_half_at_the_origin(d):
    """1/(d + 1): the last of d + 1 exchangeable variables is the largest."""
    found = estimated(np.zeros(d), equicorrelated(d))
    assert float(found.mean) == pytest.approx(1 / (d + 1), abs=1e-4)
    assert int(found.num_samples) == (0 if d <= 2 else 8 * 1249)
    assert (float(found.stderr) == 0) == (d <= 2)


def test_the_standard_error_is_right():
    """Within 3 standard errors in 95 % of the runs, over smooth and nearly singular cases."""
    rng = np.random.default_rng(0)
    covered = []
    for rank in (4, 6, 7, 12):
        factor = rng.normal(size=(6, rank))
        covariance = factor @ factor.T + 1e-5 * np.eye(6)
        limits = jnp.asarray(rng.uniform(-0.5, 2, 6) * np.sqrt(np.diag(covariance)), float)
        exact = compiled(200_000)(jax.random.key(99), limits, jnp.asarray(covariance, float)).mean
        runs = compiled(1000, 60)(jax.random.split(jax.random.key(5), 60), limits, jnp.asarray(covariance, float))
        covered.append(np.abs(runs.mean - exact) <= 3 * runs.stderr + 1e-6)
        assert np.all(runs.stderr < 5e-3)
    assert np.mean(covered) >= 0.95


@pytest.mark.core
def test_independent_variables():
    limits = np.array([0.3, -0.2, 1.5, 0.0])
    scales = np.array([1.0, 2.0, 0.5, 1e-3])
    found = estimated(limits, np.diag(scales**2))
    assert float(found.mean) == pytest.approx(np.prod(stats.norm.cdf(limits / scales)), abs=1e-6)


@pytest.mark.core
def test_singular_covariances():
    """Copies, and their negatives: the limits on one variable are an interval; a constant is 0."""
    b = np.array([0.7, 0.9, 0.4, 1.1, 5.0])
    signs = np.array([1.0, 1.0, -1.0, 1.0, -1.0])
    found = estimated(b, np.outer(signs, signs))
    upper, lower = b[signs > 0].min(), -b[signs < 0].min()
    assert float(found.mean) == pytest.approx(stats.norm.cdf(upper) - stats.norm.cdf(lower), abs=1e-5)
    void = estimated([0.5, 0.2, 1.0, 0.3], np.diag([1.0, 0.0, 1.0, 1.0]))
    assert float(void.mean) == pytest.approx(np.prod(stats.norm.cdf([0.5, 1.0, 0.3])), abs=1e-5)
    assert float(estimated([0.5, -0.2, 1.0, 0.3], np.diag([1.0, 0.0, 1.0, 1.0])).mean) == 0


@pytest.mark.core
@pytest.mark.parametrize("left", [1e-2, 1.001e-3, 9.99e-4, 1e-5])
def test_a_variable_nearly_determined_by_another(left):
    """X2 = X1 up to a little of its variance, with the same limit; value and derivatives against an integral."""
    b = np.array([0.3, 0.3, 0.2, 0.6])

    def parts(left):
        return np.array([1.0, np.sqrt(1 - left), 0.6, -0.7]), np.array([0.0, left, 1 - 0.6**2, 1 - 0.7**2])

    def covariance(left):
        loading, rest = parts(left)
        return np.outer(loading, loading) + np.diag(rest)

    def exact(b, left):
        loading, rest = (part[1:] for part in parts(left))

        def inner(x):
            return stats.norm.pdf(x) * np.prod(stats.norm.cdf((b[1:] - loading * x) / np.sqrt(rest)))

        return integrate.quad(inner, -9, b[0], points=[min(b[1], b[0]) - 1e-6], epsabs=1e-12, limit=400)[0]

    value = lambda b, sigma: orthant()(jax.random.key(3), b, sigma).mean  # noqa: E731
    found, slopes = jax.value_and_grad(value, (0, 1))(jnp.asarray(b, float), jnp.asarray(covariance(left), float))
    assert float(found) == pytest.approx(exact(b, left), abs=3e-5)
    expected = [(exact(b + h, left) - exact(b - h, left)) / 2e-4 for h in 1e-4 * np.eye(4)]
    np.testing.assert_allclose(slopes[0], expected, atol=2e-3)
    more, less = 1.01 * left, 0.99 * left
    along = np.sum(np.asarray(slopes[1], np.float64) * (covariance(more) - covariance(less)))
    assert along == pytest.approx(exact(b, more) - exact(b, less), rel=0.05)


@pytest.mark.core
def test_a_batch_with_a_singular_covariance():
    """That all of them are then cut changes nothing, nor their derivatives."""
    limits, covariances = jnp.ones((3, 4)), jnp.stack([equicorrelated(4, rho) for rho in (0.3, 0.6, 1.0)])
    keys = jax.random.split(jax.random.key(0), 3)
    run = jax.jit(jax.vmap(jax.value_and_grad(lambda *args: orthant(num_points=2000)(*args).mean, (1, 2))))
    together, apart = run(keys, limits, covariances), run(keys[:2], limits[:2], covariances[:2])
    chex.assert_trees_all_close(jax.tree.map(lambda a: a[:2], together), apart, rtol=0, atol=2e-6)
    assert float(together[0][2]) == pytest.approx(stats.norm.cdf(1), abs=1e-5)


@pytest.mark.core
def test_small_probabilities_have_digits():
    """Where nothing has to be cut; against an integral over the common factor."""
    d, rho, b = 4, 0.4, -6.0
    z = np.linspace(-15, 5, 20_001)
    inner = stats.norm.logcdf((b - np.sqrt(rho) * z) / np.sqrt(1 - rho))
    wanted = np.trapezoid(np.exp(d * inner + stats.norm.logpdf(z)), z)
    assert wanted < 1e-12
    assert float(estimated(np.full(d, b), equicorrelated(d, rho)).mean) == pytest.approx(wanted, rel=0.01)


@pytest.mark.core
def test_a_sum_of_others_is_determined_by_them():
    """X3 = X1 + X2 <= c, beside X1 <= a and X2 <= b, against a grid."""
    rows = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    found = estimated([0.5, 0.8, 0.3], rows @ rows.T)
    x = np.linspace(-8, 0.5, 200_001)
    inner = stats.norm.pdf(x) * stats.norm.cdf(np.minimum(0.8, 0.3 - x))
    assert float(found.mean) == pytest.approx(np.trapezoid(inner, x), abs=1e-4)


@pytest.mark.core
def test_infinite_limits_and_what_is_no_number():
    covariance = equicorrelated(4, 0.3)
    three = float(estimated([0.2, 0.4, -0.1], covariance[:3, :3]).mean)
    assert float(estimated([0.2, 0.4, np.inf, -0.1], covariance).mean) == pytest.approx(three, abs=1e-4)
    assert float(estimated([0.2, -np.inf, 0.5, -0.1], covariance).mean) == 0
    assert np.isnan(estimated([0.2, np.nan, 0.5, -0.1], covariance).mean)
    indefinite = equicorrelated(4, -0.5)  # an eigenvalue of -0.5
    assert np.isnan(estimated([0.2, 0.1, 0.5, -0.1], indefinite).mean)
    for wrong in (np.diag([1.0, -1.0, 1.0, 1.0]), -np.eye(4), np.fliplr(np.diag([0.9, 0.0, 0.0, 0.9]))):
        assert np.isnan(estimated([0.2, -0.1, 0.5, -0.1], wrong).mean)
        assert np.isnan(estimated([0.2, -0.1, -np.inf, -0.1], wrong).stderr)


@pytest.mark.core
def test_order_and_scale_do_not_matter():
    rng = np.random.default_rng(3)
    factor, limits = rng.normal(size=(5, 7)), rng.normal(size=5)
    covariance = factor @ factor.T
    wanted = float(estimated(limits, covariance).mean)
    order, scale = rng.permutation(5), rng.uniform(0.1, 10, 5)
    assert float(estimated(limits[order], covariance[np.ix_(order, order)]).mean) == pytest.approx(wanted, abs=1e-4)
    assert float(estimated(limits * scale, covariance * np.outer(scale, scale)).mean) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.core
@pytest.mark.parametrize("d", [1, 2, 4])
def test_the_derivatives(d):
    """With respect to a limit the density there times the probability of the others given it (Plackett, 1954)."""
    rng = np.random.default_rng(d)
    factor, limits = rng.normal(size=(d, d + 2)), rng.normal(size=d) + 1
    covariance = factor @ factor.T
    covariance = covariance / np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    value = lambda b, s: orthant(num_points=20_000)(jax.random.key(0), b, s).mean  # noqa: E731
    by_limits, by_covariance = jax.jit(jax.grad(value, (0, 1)))(jnp.asarray(limits), jnp.asarray(covariance))
    for i in range(d):
        rest = np.delete(np.arange(d), i)
        column = covariance[rest, i]
        inner = covariance[np.ix_(rest, rest)] - np.outer(column, column)
        given = estimated(limits[rest] - column * limits[i], inner, num_points=20_000).mean if d > 1 else 1.0
        assert float(by_limits[i]) == pytest.approx(float(stats.norm.pdf(limits[i]) * given), abs=3e-4)
    if d > 1:
        pair, rest = [0, 1], np.arange(2, d)
        block = covariance[np.ix_(pair, pair)]
        density = stats.multivariate_normal(np.zeros(2), block).pdf(limits[:2])
        given = 1.0
        if d > 2:
            to_pair = covariance[np.ix_(rest, pair)] @ np.linalg.inv(block)
            inner = covariance[np.ix_(rest, rest)] - to_pair @ covariance[np.ix_(pair, rest)]
            given = float(estimated(limits[rest] - to_pair @ limits[:2], inner, num_points=20_000).mean)
        got = float(by_covariance[0, 1] + by_covariance[1, 0])
        assert got == pytest.approx(density * given, abs=1e-3)


@pytest.mark.core
def test_batches_and_compiled_programs():
    limits, covariance = jnp.array([[0.1, 0.5, 1.0], [2.0, -1.0, 0.3]]), jnp.asarray(equicorrelated(3), float)
    cdf = orthant(num_points=500)
    keys = jax.random.split(jax.random.key(4), 2)
    batch = jax.jit(jax.vmap(cdf, (0, 0, None)))(keys, limits, covariance)
    for i in range(2):
        one = cdf(jax.random.clone(keys[i]), limits[i], covariance)
        np.testing.assert_allclose(batch.mean[i], one.mean, atol=1e-6)
        np.testing.assert_allclose(batch.stderr[i], one.stderr, rtol=1e-2, atol=1e-7)


@pytest.mark.core
def test_what_is_refused():
    with pytest.raises(ValueError, match="two shifts or more"):
        orthant(num_shifts=1)
    with pytest.raises(ValueError, match="3 points for each of 8 shifts"):
        orthant(num_points=20)
    cdf = orthant()
    with pytest.raises(TypeError, match="random key"):
        cdf(0, jnp.zeros(3), jnp.eye(3))
    with pytest.raises(ValueError, match=r"limits \[d\] and a covariance \[d, d\]"):
        cdf(jax.random.key(0), jnp.zeros(3), jnp.eye(4))
    with pytest.raises(ValueError, match="from 1 to 200"):
        cdf(jax.random.key(0), jnp.zeros(201), jnp.eye(201))
    with pytest.raises(TypeError, match="floating-point"):
        cdf(jax.random.key(0), jnp.zeros(3, int), jnp.eye(3))


@pytest.mark.core
@pytest.mark.parametrize("d", [1, 2, 3])
def test_derivatives_beside_infinite_limits_and_constants(d):
    value = lambda b, s: orthant(num_points=500)(jax.random.key(0), b, s).mean  # noqa: E731
    covariance = jnp.asarray(equicorrelated(d, 0.3), float)
    for last in (jnp.inf, -jnp.inf):
        slopes = jax.grad(value, (0, 1))(jnp.full((d,), 0.5).at[-1].set(last), covariance)
        assert all(np.all(np.isfinite(slope)) for slope in slopes)
    constant = covariance.at[-1].set(0.0).at[:, -1].set(0.0)
    assert all(np.all(np.isfinite(s)) for s in jax.grad(value, (0, 1))(jnp.full((d,), 0.5), constant))


@pytest.mark.core
def test_what_is_no_covariance_in_few_dimensions():
    assert np.isnan(estimated([0.0, 0.0], [[1.0, 3.0], [3.0, 1.0]]).mean)
    assert np.isnan(estimated([0.5], [[-1.0]]).mean)
    assert np.isnan(estimated([0.5], [[-1.0]]).stderr)


@pytest.mark.core
@pytest.mark.parametrize("d", [2, 4])
def test_the_derivative_by_a_covariance_is_symmetric(d):
    covariance, b = jnp.asarray(equicorrelated(d, 0.3), float), jnp.linspace(-0.5, 1, d)
    slope = jax.jit(jax.grad(lambda c: orthant(num_points=2000)(jax.random.key(0), b, c).mean))(covariance)
    np.testing.assert_array_equal(slope, slope.T)
    apart = jnp.zeros((d, d)).at[0, 1].set(1e-2).at[1, 0].set(1e-2)
    up, down = (float(estimated(b, covariance + sign * apart, num_points=2000).mean) for sign in (1, -1))
    assert float(jnp.sum(slope * apart)) == pytest.approx((up - down) / 2, rel=0.02)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_an_asymmetric_covariance_of_any_scale_is_refused(scale):
    with pytest.raises(ValueError, match="`covariance` of `orthant` must be symmetric"):
        orthant()(jax.random.key(0), jnp.zeros(2), scale * jnp.array([[1.0, 0.9], [0.1, 1.0]]))
    assert np.isnan(estimated([0.2, 0.2], [[0.0, 0.5], [0.5, 1.0]]).mean)  # what is constant has no covariance
