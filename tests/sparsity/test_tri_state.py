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


@pytest.mark.numerics
def test_a_layer_whose_relu_is_the_identity_goes_into_the_next():
    rng = np.random.default_rng(0)
    shapes = ((5, 7), (7,), (7, 3), (3,))
    kernel, bias, next_kernel, next_bias = layers = [jnp.asarray(rng.normal(size=shape), float) for shape in shapes]
    x = jnp.asarray(rng.normal(size=(20, 5)), float)
    widths = jnp.asarray([1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0], float)
    for width in (widths, 1.0):
        hidden = sparsity.tri_state_relu(x @ kernel + bias[None], jnp.asarray(width, float), jnp.ones((), float))
        before = hidden @ next_kernel + next_bias[None]
        one_kernel, one_bias = jax.jit(sparsity.merge_linear_layers)(*layers, width=width)
        np.testing.assert_allclose(
            x @ one_kernel + one_bias[None], before, atol=2e-5 if before.dtype != float else 1e-12
        )


@pytest.mark.parametrize(
    ("place", "shape"), [(0, (5, 6)), (0, (3, 3, 5, 7)), (1, (1, 7)), (2, (3, 7)), (3, (7,)), (4, (3,))]
)
def test_layers_that_do_not_fit_are_not_merged(place, shape):
    given = [jnp.ones(s) for s in ((5, 7), (7,), (7, 3), (3,), (7,))]
    given[place] = jnp.ones(shape)
    with pytest.raises(ValueError, match="`merge_linear_layers` needs a kernel"):
        sparsity.merge_linear_layers(*given[:4], width=given[4])
    with pytest.raises(TypeError, match="`merge_linear_layers` needs floating-point"):
        sparsity.merge_linear_layers(jnp.ones((5, 7), int), *given[1:4])
