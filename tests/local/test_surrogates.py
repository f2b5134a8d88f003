"""Surrogate models against their formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxinterp import local

pytestmark = [pytest.mark.core, pytest.mark.numerics]

RNG = np.random.default_rng(0)
SLOPE, ANCHOR, POINT = RNG.normal(size=(3, 4))
OFFSET = POINT - ANCHOR
INTERCEPT = 0.7


def shaped(entries):
    return {"u": jnp.asarray(entries[:3], float), "v": jnp.asarray(entries[3], float)}


COMMON = {
    "slope": shaped(SLOPE),
    "intercept": jnp.asarray(INTERCEPT, float),
    "anchor": shaped(ANCHOR),
    "stderr": shaped(np.ones(4)),
}
LINEAR_VALUE = INTERCEPT + SLOPE @ OFFSET


def test_a_linear_model():
    model = local.LinearModel(**COMMON)
    assert float(model(shaped(POINT))) == pytest.approx(LINEAR_VALUE, rel=1e-5)
    assert float(model(shaped(ANCHOR))) == pytest.approx(INTERCEPT, rel=1e-6)


def test_a_logistic_model():
    model = local.LogisticModel(**COMMON)
    assert float(jax.jit(lambda z: model(z))(shaped(POINT))) == pytest.approx(1 / (1 + np.exp(-LINEAR_VALUE)), rel=1e-5)


FULL = (lambda m: m + m.T)(RNG.normal(size=(4, 4)))
INNER = (lambda m: m + m.T)(RNG.normal(size=(2, 2)))
DIRECTIONS = RNG.normal(size=(4, 2))


@pytest.mark.parametrize(
    ("curvature", "directions", "hessian"),
    [
        (FULL, None, FULL),
        (SLOPE, None, np.diag(SLOPE)),
        (INNER, DIRECTIONS, DIRECTIONS @ INNER @ DIRECTIONS.T),
    ],
    ids=["full", "diagonal", "low rank"],
)
def test_a_quadratic_model(curvature, directions, hessian):
    along = None if directions is None else jnp.asarray(directions, float)
    model = local.QuadraticModel(**COMMON, curvature=jnp.asarray(curvature, float), directions=along)
    expected = LINEAR_VALUE + OFFSET @ hessian @ OFFSET / 2
    assert float(jax.jit(lambda model, z: model(z))(model, shaped(POINT))) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(model.hessian(), hessian, rtol=1e-5, atol=1e-6)
    unravel = ravel_pytree(shaped(POINT))[1]
    by_jax = jax.hessian(lambda z: model(unravel(z)))(jnp.asarray(POINT, float))
    np.testing.assert_allclose(by_jax, hessian, rtol=1e-4, atol=1e-5)


def test_an_additive_model():
    knots, bends = np.sort(RNG.normal(size=(4, 3))), RNG.normal(size=(4, 3))
    model = local.AdditiveModel(**COMMON, knots=jnp.asarray(knots, float), bends=jnp.asarray(bends, float))
    bent = np.maximum(np.where(knots > 0, OFFSET[:, None] - knots, knots - OFFSET[:, None]), 0)
    effects = SLOPE * OFFSET + (bends * bent).sum(1)
    got = jax.jit(lambda model, z: model.effects(z))(model, shaped(POINT))
    assert jax.tree.structure(got) == jax.tree.structure(shaped(POINT))
    np.testing.assert_allclose(ravel_pytree(got)[0], effects, rtol=1e-4, atol=1e-6)
    assert float(model(shaped(POINT))) == pytest.approx(INTERCEPT + effects.sum(), rel=1e-5)
    assert float(model(shaped(ANCHOR))) == pytest.approx(INTERCEPT, rel=1e-6)
    assert np.all(ravel_pytree(model.effects(shaped(ANCHOR)))[0] == 0)
    slope = ravel_pytree(jax.grad(lambda z: model(z))(shaped(ANCHOR)))[0]
    np.testing.assert_allclose(slope, SLOPE, rtol=1e-5)


def test_a_local_model_passes_on_its_surrogate():
    one = jnp.ones(())
    surrogate = local.LogisticModel(**COMMON)
    model = local.LocalModel(surrogate, one, one, one, one, one)
    assert model.slope is surrogate.slope
    assert model.intercept is surrogate.intercept
    assert model.anchor is surrogate.anchor
    assert model.stderr is surrogate.stderr
    assert float(model(shaped(POINT))) == float(surrogate(shaped(POINT)))


def test_models_are_mapped():
    model = local.QuadraticModel(**COMMON, curvature=jnp.asarray(SLOPE, float), directions=None)
    pair = jax.tree.map(lambda a: jnp.stack([a, a]), model)
    points = jax.tree.map(lambda a, b: jnp.stack([a, b]), shaped(POINT), shaped(ANCHOR))
    values = jax.vmap(lambda model, z: model(z))(pair, points)
    np.testing.assert_allclose(values, [float(model(shaped(POINT))), INTERCEPT], rtol=1e-5)


def test_models_of_bfloat16_have_its_values():
    halves = jax.tree.map(lambda a: a.astype(jnp.bfloat16), COMMON)
    curved = local.QuadraticModel(**halves, curvature=jnp.ones(4, jnp.float32), directions=None)
    bent = local.AdditiveModel(**halves, knots=jnp.zeros((4, 1), jnp.float32), bends=jnp.ones((4, 1), jnp.float32))
    for model in (curved, bent):
        value = model(jax.tree.map(lambda a: a.astype(jnp.bfloat16), shaped(POINT)))
        assert value.dtype == jnp.bfloat16
        assert np.isfinite(float(value))
