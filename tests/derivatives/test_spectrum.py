"""Several eigenvalues, densities and traces against dense eigenvalues."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import derivatives

X64 = jax.config.jax_enable_x64
DTYPE = jnp.float64 if X64 else jnp.float32
RNG = np.random.default_rng(0)
ROTATION = np.linalg.qr(RNG.normal(size=(30, 30)))[0]
VALUES = np.concatenate([[10.0, -9.0, 6.0], RNG.normal(size=27)])
MATRIX = jnp.asarray(ROTATION @ np.diag(VALUES) @ ROTATION.T, DTYPE)
LIKE = jnp.zeros(30, DTYPE)


def product(v):
    return jnp.dot(MATRIX, v, precision="highest")


@pytest.mark.core
def test_the_largest_eigenpairs():
    found = jax.jit(derivatives.eigenpairs(product, 3, num_iterations=30))(jax.random.key(0), LIKE)
    np.testing.assert_allclose(found.values, [10.0, -9.0, 6.0], rtol=1e-9 if X64 else 1e-4)
    for value, vector, residual in zip(found.values, found.vectors, found.residuals, strict=True):
        assert float(jnp.linalg.norm(vector)) == pytest.approx(1, rel=1e-5)
        assert float(jnp.linalg.norm(product(vector) - value * vector)) == pytest.approx(float(residual), abs=1e-4)
    assert int(found.num_iterations) == 30
    assert np.all(np.asarray(found.residuals) < (1e-8 if X64 else 1e-3))


def test_residuals_tell_of_too_few_iterations():
    found = derivatives.eigenpairs(product, 3, num_iterations=6)(jax.random.key(0), LIKE)
    for value, residual in zip(found.values, found.residuals, strict=True):
        assert np.min(np.abs(VALUES - float(value))) <= float(residual) + 1e-4
    assert float(found.residuals[2]) > 1e-2


def test_trees_of_several_dtypes():
    diagonal = {"u": jnp.asarray([1.0, 5.0]), "v": jnp.asarray([-7.0])}
    like = {"u": jnp.zeros(2, jnp.float32), "v": jnp.zeros(1, jnp.bfloat16)}
    matvec = lambda t: jax.tree.map(lambda d, a: (d * a.astype(d.dtype)).astype(a.dtype), diagonal, t)  # noqa: E731
    found = derivatives.eigenpairs(matvec, 2)(jax.random.key(0), like)
    np.testing.assert_allclose(found.values, [-7.0, 5.0], rtol=0.02)
    assert found.vectors["v"].shape == (2, 1)


@pytest.mark.parametrize("function", [lambda t: t, lambda t: t**2, lambda t: jnp.exp(-t)])
def test_traces_of_functions(function):
    found = jax.jit(derivatives.spectral_density(product, num_samples=40, num_iterations=20))(jax.random.key(1), LIKE)
    truth = float(np.sum(function(VALUES)))
    estimate = found.trace_of(function)
    assert abs(float(estimate.mean) - truth) < 4 * float(estimate.stderr) + 1e-3
    np.testing.assert_allclose(jnp.sum(found.weights, 1), 1.0, rtol=1e-4)


def test_densities_integrate_to_one_and_peak_where_eigenvalues_are():
    found = derivatives.spectral_density(product, num_samples=30, num_iterations=25)(jax.random.key(1), LIKE)
    points = jnp.linspace(-15, 15, 1501, dtype=DTYPE)
    density = np.asarray(found.density(points, 0.5))
    truth = np.mean(np.exp(-0.5 * ((np.asarray(points)[:, None] - VALUES) / 0.5) ** 2), 1) / (0.5 * (2 * np.pi) ** 0.5)
    assert np.sum(density) * 0.02 == pytest.approx(1, rel=1e-3)
    assert np.sum(np.abs(density - truth)) * 0.02 < 0.25


def test_less_variance_where_the_eigenvalues_decay():
    """Both are unbiased; on a matrix of low rank and a little more the sketch leaves little to estimate."""
    low = jnp.asarray(ROTATION @ np.diag(np.r_[50.0, 40.0, 30.0, 0.1 * RNG.normal(size=27)]) @ ROTATION.T, DTYPE)
    matvec = lambda v: jnp.dot(low, v, precision="highest")  # noqa: E731
    truth = float(jnp.trace(low))
    sketched = jax.jit(derivatives.hutch_plus_plus(matvec, num_products=18))
    plain = jax.jit(derivatives.trace(matvec, num_samples=18))
    errors = {"sketched": [], "plain": []}
    for key in jax.random.split(jax.random.key(3), 20):
        found = sketched(key, LIKE)
        errors["sketched"].append(float(found.mean) - truth)
        assert abs(errors["sketched"][-1]) < 6 * float(found.stderr) + 0.05
        errors["plain"].append(float(plain(jax.random.clone(key), LIKE).mean) - truth)
    assert np.std(errors["sketched"]) < 0.1 * np.std(errors["plain"])


def test_exhausted_spaces_go_on():
    """The identity has one eigenvector in any Krylov space."""
    found = derivatives.eigenpairs(lambda v: 2.0 * v, 3, num_iterations=3)(jax.random.key(0), jnp.zeros(5))
    np.testing.assert_allclose(found.values, 2.0, rtol=1e-5)
    np.testing.assert_allclose(jnp.dot(found.vectors, found.vectors.T), np.eye(3), atol=1e-5)


def test_what_is_refused():
    with pytest.raises(ValueError, match="an iteration for each of 5 pairs; got 3"):
        derivatives.eigenpairs(product, 5, num_iterations=3)
    with pytest.raises(ValueError, match="31 pairs of an operator on 30 entries"):
        derivatives.eigenpairs(product, 31)(jax.random.key(0), LIKE)
    with pytest.raises(ValueError, match="6 products or more; got 5"):
        derivatives.hutch_plus_plus(product, num_products=5)
    with pytest.raises(TypeError, match="`spectral_density` takes a random key"):
        derivatives.spectral_density(product)(LIKE, LIKE)


@pytest.mark.core
def test_traces_and_eigenvalues_have_derivatives():
    """Of a·A by a: tr A, but for the probes, and the eigenvalue; a density is a constant."""

    def scaled(method, read):
        return jax.jit(jax.value_and_grad(lambda a: read(method(lambda v: a * product(v))(jax.random.key(3), LIKE))))

    value, slope = scaled(lambda f: derivatives.hutch_plus_plus(f, num_products=90), lambda e: e.mean)(1.0)
    assert float(value) == pytest.approx(VALUES.sum(), rel=1e-4)
    assert float(slope) == pytest.approx(VALUES.sum(), rel=1e-4)
    value, slope = scaled(lambda f: derivatives.eigenpairs(f, 2, num_iterations=30), lambda e: e.values[1])(1.0)
    assert float(value) == pytest.approx(-9, rel=1e-4)
    assert float(slope) == pytest.approx(-9, rel=1e-4)
