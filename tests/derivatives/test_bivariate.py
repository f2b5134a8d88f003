"""The bivariate normal distribution function against quadrature, and where it is known."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from jaxinterp.derivatives import _bivariate

pytestmark = [pytest.mark.core, pytest.mark.numerics]

X64 = jax.config.jax_enable_x64
TOLERANCE = 1e-13 if X64 else 3e-7
RHOS = [0.0, 0.3, -0.5, 0.92, -0.93, 0.99, -0.999, 1 - 1e-6, -1 + 1e-6]
LIMITS = [(-2.1, 0.3), (0.0, 0.0), (0.5, 0.5), (0.5, -0.5), (1.5, 1.4), (3.0, -1.0), (-3.0, -3.2), (6.0, 0.1)]
CDF = jax.jit(jax.vmap(_bivariate.bivariate_normal))


def by_quadrature(h, k, rho):
    """The mean over X of P[Y <= k | X], in pieces around the step that it becomes for correlations near one."""
    width = np.sqrt((1 - rho) * (1 + rho))
    centre = k / rho if rho else 0.0
    cuts = sorted({-12.0, h, *(float(np.clip(centre + m * width, -12, h)) for m in (-40, -8, -2, 0, 2, 8, 40))})
    density = lambda x: stats.norm.pdf(x) * stats.norm.cdf((k - rho * x) / width)  # noqa: E731
    return sum(integrate.quad(density, a, b, epsabs=1e-15, limit=200)[0] for a, b in itertools.pairwise(cuts))


@pytest.mark.parametrize("rho", RHOS)
def test_quadrature_agrees(rho):
    h, k = np.array(LIMITS).T
    rounded = float(jnp.asarray(rho, float))
    got = CDF(*(jnp.asarray(a, float) for a in (h, k, np.full(len(h), rho))))
    wanted = [by_quadrature(*(float(jnp.asarray(v, float)) for v in pair), rounded) for pair in LIMITS]
    np.testing.assert_allclose(got, wanted, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("rho", [1.0, -1.0])
def test_one_variable_in_two_names(rho):
    h, k = np.array(LIMITS).T
    got = CDF(*(jnp.asarray(a, float) for a in (h, k, np.full(len(h), rho))))
    together, apart = stats.norm.cdf(np.minimum(h, k)), np.maximum(stats.norm.cdf(h) + stats.norm.cdf(k) - 1, 0)
    np.testing.assert_allclose(got, together if rho > 0 else apart, rtol=0, atol=TOLERANCE)


def test_infinite_limits_and_what_is_no_number():
    inf, nan = jnp.inf, jnp.nan
    h, k, rho = jnp.array([(inf, 0.3, 0.5), (-inf, 0.3, 0.5), (inf, -inf, 0.1), (nan, 0.0, 0.1), (0.0, 0.0, nan)]).T
    got = np.asarray(CDF(h, k, rho))
    np.testing.assert_allclose(got[:3], [stats.norm.cdf(0.3), 0, 0], atol=TOLERANCE)
    assert np.all(np.isnan(got[3:]))


@pytest.mark.parametrize("rho", [0.4, 0.95, -0.97])
def test_the_derivatives(rho):
    gradient = jax.jit(jax.grad(lambda v: _bivariate.bivariate_normal(*v)))(jnp.array([0.3, -0.2, rho]))
    v = np.array([0.3, -0.2, rho])
    steps = 1e-5 * np.eye(3)
    wanted = [(by_quadrature(*(v + e)) - by_quadrature(*(v - e))) / 2e-5 for e in steps]
    np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-6)
    at_infinity = jax.grad(lambda v: _bivariate.bivariate_normal(*v))(jnp.array([jnp.inf, 0.2, rho]))
    np.testing.assert_allclose(at_infinity, [0, stats.norm.pdf(0.2), 0], atol=1e-6)


def test_far_limits_and_single_variables():
    """Where one factor overflows and the other is 0; and the derivatives where both variables are one."""
    h, k, rho = jnp.array([(14.0, -14.0, 0.95), (14.0, 14.0, -0.95), (20.0, 20.0, -0.99), (1e20, 1e20, 0.95)]).T
    np.testing.assert_allclose(CDF(h, k, rho), [stats.norm.cdf(-14), 1, 1, 1], atol=1e-12)
    slope = jax.grad(lambda v: _bivariate.bivariate_normal(*v))
    for point in [(1.0, -1.0, -1.0), (0.0, 0.0, -1.0), (-1.0, 2.0, -1.0), (1.0, 1.0, 1.0), (1.0, 1.0, -1.0000001)]:
        assert np.all(np.isfinite(slope(jnp.array(point))))
    np.testing.assert_allclose(slope(jnp.array([1.0, 0.5, -1.0]))[:2], stats.norm.pdf([1.0, 0.5]), rtol=1e-5)
