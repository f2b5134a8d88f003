"""Ascent in a ball, on functions whose largest value there is known; its use by attacks is tested with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.derivatives import projected_ascent

SLOPE = jnp.array([3.0, -4.0])


@pytest.mark.core
@pytest.mark.parametrize(("norm", "most"), [("l2", 5.0), ("linf", 7.0)])
def test_linear_functions(norm, most):
    climb = projected_ascent(norm=norm)
    point, value = climb(jax.random.key(0), lambda x: jnp.vdot(SLOPE, x), jnp.zeros(2), radius=1.0)
    assert float(value) == pytest.approx(most, rel=1e-3)
    assert float(jnp.vdot(SLOPE, point)) == pytest.approx(float(value), rel=1e-6)


def test_boxes_and_restarts():
    g = lambda x: jnp.sum(jnp.cos(5 * x))  # noqa: E731
    x = jnp.full(2, 0.6)

    def run(num_restarts):
        climb = projected_ascent(num_restarts=num_restarts, step_size=0.05, num_steps=60)
        return climb(jax.random.key(0), g, x, radius=1.0, low=0.0, high=2.0)

    point, most = run(8)
    assert np.all((np.asarray(point) >= 0) & (np.asarray(point) <= 2))
    assert float(run(1)[1]) <= float(most)
    assert float(most) == pytest.approx(2.0, abs=0.01)
    with pytest.raises(ValueError, match="`low` must not be above `high`"):
        projected_ascent()(jax.random.key(0), g, x, radius=1.0, low=1.0, high=0.0)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"norm": "l1"}, "norm"),
        ({"num_steps": 0}, "num_steps"),
        ({"num_restarts": 0}, "num_restarts"),
        ({"step_size": 0.0}, "step_size"),
    ],
)
def test_options_are_checked_when_it_is_built(options, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        projected_ascent(**options)
