"""Elementwise functions: their derivatives against automatic ones, their ranges against dense samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.interpreters import _curves

X64 = jax.config.jax_enable_x64
DTYPE = jnp.float64 if X64 else jnp.float32
ABOVE = {"log": 0.0, "log1p": -1.0, "sqrt": 0.0, "rsqrt": 0.0}
CURVES = {
    **_curves.PRIMITIVES,
    **{getattr(f, "__name__", "gelu_erf"): curve for f, curve in _curves.FUNCTIONS},
    **{f"power{y}": _curves.power(y) for y in (-2, -1, 2, 3, 4)},
}


@pytest.fixture(scope="module", autouse=True)
def standard():
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.parametrize("name", sorted(CURVES))
def test_derivatives(name):
    curve = CURVES[name]
    low = ABOVE.get(name, -4.0) + 0.05
    x = jnp.asarray(np.setdiff1d(np.linspace(low, low + 8, 81), [0.0]), DTYPE)
    for derivative, of in ((curve.first, curve.value), (curve.second, curve.first)):
        wanted = jax.vmap(jax.grad(of))(x)
        np.testing.assert_allclose(derivative(x), wanted, rtol=1e-9 if X64 else 1e-4, atol=1e-10 if X64 else 1e-5)


@pytest.mark.core
@pytest.mark.parametrize("name", sorted(CURVES))
def test_ranges_hold_and_are_attained(name):
    """On random intervals; where the function turns at one point only the ends of the range are values of it."""
    curve = CURVES[name]
    rng = np.random.default_rng(0)
    ends = np.sort(rng.normal(scale=3, size=(40, 2)), axis=1)
    if name in ABOVE:
        ends = np.sort(np.abs(ends), axis=1) + ABOVE[name] + 0.1
    if name.startswith("power-"):
        ends = np.sort(np.abs(ends), axis=1) + 0.3
    grid = jnp.asarray(ends[:, :1] + (ends[:, 1:] - ends[:, :1]) * np.linspace(0, 1, 2001), DTYPE)
    low, high = grid[:, 0], grid[:, -1]
    for h, ranged in (
        (curve.value, curve.range),
        (curve.first, curve.first_range),
        (curve.second, curve.second_range),
    ):
        least, greatest = ranged(low, high)
        values = np.asarray(h(grid), np.float64)
        scale = 1e-6 * (1 + np.abs(values).max(1))
        assert np.all(np.asarray(least) <= values.min(1) + scale)
        assert np.all(np.asarray(greatest) >= values.max(1) - scale)
        if not curve.is_periodic and name != "elu":  # whose second derivative jumps
            slack = 1e-3 * (np.abs(values).max(1) + 1)
            assert np.all(np.asarray(least) >= values.min(1) - slack)
            assert np.all(np.asarray(greatest) <= values.max(1) + slack)


@pytest.mark.parametrize(
    "name", ["tanh", "logistic", "softplus", "gelu", "gelu_erf", "silu", "elu", "erf", "sin", "cos"]
)
def test_derivatives_are_bounded_everywhere(name):
    """Over the whole line, against a wide grid."""
    curve = CURVES[name]
    everywhere = (jnp.asarray(-jnp.inf, DTYPE), jnp.asarray(jnp.inf, DTYPE))
    grid = jnp.linspace(-40, 40, 20001, dtype=DTYPE)
    for h, ranged in ((curve.first, curve.first_range), (curve.second, curve.second_range)):
        least, greatest = ranged(*everywhere)
        values = np.asarray(h(grid))
        assert float(least) == pytest.approx(values.min(), abs=2e-3)
        assert float(greatest) == pytest.approx(values.max(), abs=2e-3)
        assert float(least) <= values.min() + 1e-6 <= values.max() <= float(greatest) + 2e-6


def test_nothing_is_known_across_a_pole():
    for name, low, high in (("log", -1.0, 2.0), ("sqrt", -0.5, 1.0), ("power-1", -1.0, 1.0)):
        least, greatest = CURVES[name].first_range(jnp.asarray(low, DTYPE), jnp.asarray(high, DTYPE))
        assert (float(least), float(greatest)) == (-np.inf, np.inf)


def test_a_range_may_reach_to_infinity():
    low, high = CURVES["softplus"].range(jnp.asarray(-jnp.inf, DTYPE), jnp.asarray(jnp.inf, DTYPE))
    assert (float(low), float(high)) == (0.0, np.inf)
    low, high = CURVES["silu"].range(jnp.asarray(-jnp.inf, DTYPE), jnp.asarray(1.0, DTYPE))
    assert float(low) == pytest.approx(-0.278464543, rel=1e-5)
    assert float(high) == pytest.approx(0.731058579, rel=1e-5)
