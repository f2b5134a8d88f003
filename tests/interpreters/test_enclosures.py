"""Rules that pass enclosures on, against dense samples of the operands."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.interpreters import _curves, _enclosures

X64 = jax.config.jax_enable_x64
DTYPE = jnp.float64 if X64 else jnp.float32


@pytest.fixture(scope="module", autouse=True)
def standard():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def enclosure(seed, spread, slope=1.0):
    """An array [3] whose gradients, in two inputs, are known at the centre and move by a tenth."""
    rng = np.random.default_rng(seed)
    centre, tangent = jnp.asarray(rng.normal(size=3), DTYPE), jnp.asarray(slope * rng.normal(size=(2, 3)), DTYPE)
    size = jnp.sqrt(jnp.sum(tangent**2, 0))
    rows = jnp.stack([jnp.full(3, spread, DTYPE), size + 0.1, jnp.full(3, 0.1, DTYPE), jnp.ones(3, DTYPE)])
    norm = jnp.linalg.norm(tangent, ord=2)
    norms = jnp.asarray([norm + 0.2, 0.2, 1.0], DTYPE)
    return _enclosures.Enclosure(centre, centre, tangent, rows, norms, jnp.asarray(True))


def test_nothing_times_infinity_is_nothing():
    a, b = jnp.asarray([0.0, 2.0, jnp.inf]), jnp.asarray([jnp.inf, 3.0, 1.0])
    np.testing.assert_array_equal(_enclosures.times(a, b), [0.0, 6.0, jnp.inf])


def test_intervals():
    low, high = jnp.asarray([1.0, -jnp.inf, -jnp.inf, -jnp.inf]), jnp.asarray([3.0, 2.0, jnp.inf, -jnp.inf])
    middle, half = _enclosures.interval(low, high, jnp.asarray([1.5, 1.0, 0.0, -jnp.inf]))
    np.testing.assert_array_equal(middle, [2.0, 1.0, 0.0, -jnp.inf])
    np.testing.assert_array_equal(half, [1.0, jnp.inf, jnp.inf, 0.0])


def test_a_product_of_two_arrays():
    """Values and gradients of all operands that their enclosures allow."""
    a, b = enclosure(0, 0.3), enclosure(1, 0.5)
    found, bend = _enclosures.elementwise(
        a.centre * b.centre, _enclosures.range_of_product(a, b), *_enclosures.product(a, b)
    )
    rng = np.random.default_rng(2)
    for _ in range(200):
        p = a.centre + rng.uniform(-0.3, 0.3, 3)
        q = b.centre + rng.uniform(-0.5, 0.5, 3)
        assert np.all((p * q <= found.high + 1e-5) & (p * q >= found.low - 1e-5))
        moves = rng.normal(size=(2, 2, 3))
        moves = 0.1 * moves / np.linalg.norm(moves, axis=1, keepdims=True)
        gradient = q * (a.tangent + moves[0]) + p * (b.tangent + moves[1])
        at_centre = b.centre * a.tangent + a.centre * b.tangent
        np.testing.assert_allclose(found.tangent, at_centre, rtol=1e-5)
        assert np.all(np.linalg.norm(gradient, axis=0) <= found.rows[1] + 1e-5)
        assert np.all(np.linalg.norm(gradient - at_centre, axis=0) <= found.rows[2] + 1e-5)
    assert np.all(bend.rows >= 0)


@pytest.mark.parametrize("name", ["tanh", "exp", "sin"])
def test_a_known_function_of_an_array(name):
    known, a = _curves.PRIMITIVES[name], enclosure(3, 0.4)
    found, _ = _enclosures.elementwise(known.value(a.centre), known.range(a.low, a.high), *_enclosures.curve(known, a))
    grid = a.centre[None] + jnp.linspace(-0.4, 0.4, 101)[:, None].astype(DTYPE)
    assert np.all(known.value(grid) <= found.high + 1e-5)
    assert np.all(known.value(grid) >= found.low - 1e-5)
    steepest = jnp.max(jnp.abs(known.first(grid)), 0) * a.rows[1]
    assert np.all(steepest <= found.rows[1] + 1e-5)
    np.testing.assert_allclose(found.tangent, known.first(a.centre) * a.tangent, rtol=1e-5)


def test_choices_take_the_slopes_of_what_may_be_chosen():
    a, b = enclosure(4, 0.0), enclosure(5, 0.0, slope=3.0)
    unstable = jnp.asarray([True, False, True])
    taken = lambda arrays: jnp.where(a.centre > b.centre, *arrays)  # noqa: E731
    found, bend = _enclosures.choice(
        jnp.maximum(a.centre, b.centre),
        [a, b],
        taken,
        lambda arrays: jnp.maximum(*arrays),
        unstable,
        (jnp.maximum(a.low, b.low), jnp.maximum(a.high, b.high)),
        True,
    )
    most = np.maximum(a.rows[1], b.rows[1])
    np.testing.assert_allclose(found.rows[1], np.where(unstable, most, taken([a.rows[1], b.rows[1]])), rtol=1e-6)
    np.testing.assert_allclose(bend.rows, np.where(unstable, 2 * most, 0), rtol=1e-6)
    assert np.isinf(found.norms[2])
    assert np.array_equal(np.isinf(found.rows[3]), unstable)
