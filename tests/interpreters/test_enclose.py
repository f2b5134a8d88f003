"""Bounds put together: what is asked of the function, and the walk without its matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.interpreters import _bounds, enclose

DTYPE = jnp.float64 if jax.config.jax_enable_x64 else jnp.float32
WEIGHTS = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8, 8)) / 2, DTYPE)


def network(x):
    for w in WEIGHTS:
        x = jnp.tanh(jnp.dot(x, w))
    return jnp.sum(x)


@pytest.fixture(scope="module", autouse=True)
def standard():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def enclosed(radius=1e-3, telescoping=True, is_box=False):
    x = jnp.asarray(np.random.default_rng(1).normal(size=8), DTYPE)
    return enclose("example", network, x, jnp.asarray(radius, DTYPE), is_box, telescoping)


def test_layer_by_layer_they_are_looser():
    tight, loose = enclosed(0.01), enclosed(0.01, telescoping=False)
    assert float(tight.lipschitz[1]) < 0.9 * float(loose.lipschitz[1])
    assert float(tight.lipschitz[0]) == pytest.approx(float(loose.lipschitz[0]), rel=1e-6)


def test_streamed_they_are_the_same(monkeypatch):
    """With the matrices between nonlinear equations, and without keeping them."""
    kept = enclosed(0.01)
    monkeypatch.setattr(_bounds, "MOST_ELEMENTS", 0)
    streamed = enclosed(0.01)
    for name in ("value", "lipschitz", "curvature"):
        np.testing.assert_allclose(getattr(kept, name), getattr(streamed, name), rtol=1e-5)


def test_a_box_is_inside_the_ball_of_its_corners():
    box, ball = enclosed(0.01, is_box=True), enclosed(0.01 * 8**0.5)
    assert float(box.lipschitz[1]) <= float(ball.lipschitz[1]) * (1 + 1e-6)
    assert float(box.value[1]) <= float(ball.value[1]) + 1e-6


def test_one_array_is_asked_for():
    with pytest.raises(TypeError, match="`example` needs a function that returns one floating-point array"):
        enclose("example", lambda x: jnp.argmax(x), jnp.ones(2), jnp.ones(()), False, True)
