"""The states of the tri-state ReLU, their gradients, and the gates that choose them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import sparsity


@pytest.mark.core
@pytest.mark.parametrize(("width", "depth"), [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)])
def test_the_states_of_the_relu(width, depth):
    x = jnp.array([-2.0, -0.5, 0.0, 3.0])
    expected = {0.0: 0 * x, 1.0: x if depth else jnp.maximum(x, 0)}[width]
    f = lambda w, d: sparsity.tri_state_relu(x, sparsity.threshold(w), sparsity.threshold(d))  # noqa: E731
    np.testing.assert_array_equal(f(jnp.asarray(width), jnp.asarray(depth)), expected)
    up = jnp.array([1.0, -2.0, 0.5, 3.0])
    by_width, by_depth = jax.grad(lambda w, d: jnp.vdot(up, f(w, d)), (0, 1))(jnp.asarray(width), jnp.asarray(depth))
    assert float(by_width) == pytest.approx(float(jnp.vdot(up, jnp.where(x >= 0, x, depth * x))))
    assert float(by_depth) == pytest.approx(float(jnp.vdot(up, width * jnp.minimum(x, 0))))


def test_gates_fall_and_rise_around_the_unstable_point():
    """Without a loss, α = 1 and β = 0.4: from 0.69 to 0 and from 0.71 to 1."""
    gates, depths = [jnp.array([0.69, 0.71])], [jnp.asarray(0.0)]

    def loss(gates):
        return sparsity.bimodal_penalty(gates) + 0.4 * sparsity.complexity_penalty(gates, depths)

    slope = jax.jit(jax.grad(loss))
    for _ in range(2000):
        gates = sparsity.project(jax.tree.map(lambda g, s: g - 0.01 * s, gates, slope(gates)))
    assert gates[0].tolist() == [0.0, 1.0]
    assert float(sparsity.complexity_penalty([jnp.ones(3)], [jnp.asarray(0.7)])) == 0
