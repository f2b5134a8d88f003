"""The gradient and its product with the input, against closed forms and finite differences in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.attribution import gradient, gradient_times_input

pytestmark = [pytest.mark.core, pytest.mark.numerics]

TOLERANCE = 1e-12 if jax.config.jax_enable_x64 else 1e-5
X = {"u": jnp.array([[0.5, -1.0, 2.0], [0.1, 0.0, -0.3]]), "v": jnp.asarray(0.7)}
W = jnp.array([1.0, -2.0, 0.5])


def f(w, x):
    return jnp.sum(jnp.sin(x["u"]) * w[None] ** 2) * x["v"]


def exact():
    """∂f/∂w, ∂f/∂u and ∂f/∂v in float64."""
    w, u, v = (np.asarray(a, np.float64) for a in (W, X["u"], X["v"]))
    return 2 * w * np.sin(u).sum(0) * v, np.cos(u) * w**2 * v, np.sum(np.sin(u) * w**2)


def assert_tree_close(got, wanted, tolerance=TOLERANCE):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def test_the_gradient_of_a_tree():
    _, by_u, by_v = exact()
    assert_tree_close(gradient(f, 1)(W, X), {"u": by_u, "v": by_v})
    assert_tree_close(
        gradient_times_input(f, 1)(W, X), {"u": by_u * np.asarray(X["u"], np.float64), "v": by_v * float(X["v"])}
    )


def test_several_arguments_come_back_in_the_order_asked_for():
    by_w, by_u, by_v = exact()
    assert_tree_close(gradient(f, (1, 0))(W, X), ({"u": by_u, "v": by_v}, by_w))
    both = gradient_times_input(f, (1, 0))(W, X)
    assert_tree_close(both[1], by_w * np.asarray(W, np.float64))
    assert_tree_close(gradient(f, (0,))(W, X), (by_w,))


def test_a_python_number_is_an_input():
    assert float(gradient(lambda x: x**3)(2.0)) == pytest.approx(12, rel=TOLERANCE)
    assert float(gradient_times_input(lambda x: x**3)(2.0)) == pytest.approx(24, rel=TOLERANCE)


def test_a_network_against_finite_differences():
    rng = np.random.default_rng(0)
    first, second, x = rng.normal(size=(7, 4)), rng.normal(size=7), rng.normal(size=4)

    def network(z, xp):
        return xp.sum(xp.tanh(first.astype(z.dtype) @ z) * second.astype(z.dtype))

    step = 1e-5
    slopes = [(network(x + step * e, np) - network(x - step * e, np)) / (2 * step) for e in np.eye(4)]
    point = jnp.asarray(x, float)
    got = gradient(lambda z: network(z, jnp))(point)
    np.testing.assert_allclose(got, slopes, rtol=1e-4 if TOLERANCE > 1e-6 else 1e-8)
    np.testing.assert_allclose(gradient_times_input(lambda z: network(z, jnp))(point), got * point, rtol=1e-6)


def test_without_biases_a_relu_network_is_the_sum_of_gradient_times_input():
    """It is homogeneous of degree one; a bias breaks this."""
    rng = np.random.default_rng(1)
    weights = [rng.normal(size=shape) for shape in [(8, 5), (6, 8), (1, 6)]]
    x = rng.normal(size=5)

    def network(z, bias=0.0):
        for w in weights[:-1]:
            z = jax.nn.relu(jnp.asarray(w, z.dtype) @ z + bias)
        return (jnp.asarray(weights[-1], z.dtype) @ z)[0]

    value = x
    for w in weights[:-1]:
        value = np.maximum(w @ value, 0)
    value = float((weights[-1] @ value)[0])
    total = float(jnp.sum(gradient_times_input(network)(jnp.asarray(x, float))))
    assert total == pytest.approx(value, rel=10 * TOLERANCE)
    biased = float(jnp.sum(gradient_times_input(lambda z: network(z, 0.5))(jnp.asarray(x, float))))
    assert abs(biased - float(network(jnp.asarray(x, float), 0.5))) > 0.01 * abs(value)


def test_the_maps_are_differentiable():
    """With f = Σ x³ the derivatives of 3x² and of 3x³."""
    x = jnp.array([1.0, -2.0])
    cubic = lambda z: jnp.sum(z**3)  # noqa: E731
    np.testing.assert_allclose(jax.jacobian(gradient(cubic))(x), np.diag([6.0, -12.0]), rtol=TOLERANCE)
    np.testing.assert_allclose(jax.jacobian(gradient_times_input(cubic))(x), np.diag([9.0, 36.0]), rtol=TOLERANCE)


@pytest.mark.parametrize("method", [gradient, gradient_times_input])
def test_what_is_refused_is_named(method):
    name = method.__name__
    with pytest.raises(TypeError, match=rf"^`{name}` needs floating-point arrays, .*leaf `\['tokens'\]`.*int32"):
        method(lambda x: jnp.sum(x["u"]))({"u": jnp.ones(2), "tokens": jnp.zeros(2, jnp.int32)})
    with pytest.raises(TypeError, match=rf"^`{name}` needs a function that returns a scalar.*shape \(2,\)"):
        method(lambda x: x)(jnp.ones(2))
    with pytest.raises(ValueError, match=rf"^`{name}` was built with argnums=1, .* called with 1 argument"):
        method(jnp.sum, 1)(jnp.ones(2))
