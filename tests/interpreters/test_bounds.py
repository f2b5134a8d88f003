"""The walk through a program: what it keeps, what it finds to be nonlinear, and the telescoping sum itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.interpreters import _bounds, _templates

X64 = jax.config.jax_enable_x64
DTYPE = jnp.float64 if X64 else jnp.float32
RNG = np.random.default_rng(1)
FIRST, SECOND = (jnp.asarray(RNG.normal(size=s) / 2, DTYPE) for s in ((4, 5), (5, 3)))


@pytest.fixture(scope="module", autouse=True)
def standard():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def network(x):
    return jnp.sum(jax.nn.softplus(jnp.tanh(x @ FIRST) @ SECOND))


def walked(f, x, radius=0.01, telescoping=True):
    return _bounds.walk(
        *_templates.canonical(f, x), jnp.asarray(radius, DTYPE), jnp.asarray(radius, DTYPE), telescoping
    )


def test_nonlinear_equations_and_the_derivative_of_the_result_by_each():
    x = jnp.asarray(RNG.normal(size=4), DTYPE)
    found = walked(network, x)
    assert len(found.bends) == 2
    hidden = jnp.tanh(x @ FIRST)
    after = jax.grad(lambda h: jnp.sum(jax.nn.softplus(h @ SECOND)))(hidden)
    np.testing.assert_allclose(found.adjoints[min(found.adjoints)].ravel(), after, rtol=1e-5)
    np.testing.assert_allclose(found.output.tangent.ravel(), jax.grad(network)(x), rtol=1e-5)


def test_the_telescoping_sum():
    """J(x') - J(x) = Σ_k M_k(x) (D_k(x') - D_k(x)) J_k(x'), on two layers."""
    x, other = (jnp.asarray(RNG.normal(size=4), DTYPE) for _ in range(2))
    layers = [
        (lambda x: x @ FIRST, jnp.tanh),
        (lambda h: h @ SECOND, jax.nn.softplus),
    ]

    def parts(x):
        slopes, incoming, jacobian = [], [], jnp.eye(4, dtype=DTYPE)
        for affine, activation in layers:
            jacobian = jax.jacobian(affine)(x) @ jacobian
            incoming.append(jacobian)
            x = affine(x)
            slopes.append(jnp.diag(jax.vmap(jax.grad(activation))(x)))
            x, jacobian = activation(x), slopes[-1] @ jacobian
        return slopes, incoming, jacobian

    at_x, at_other = parts(x), parts(other)
    to_result = [at_x[0][1] @ SECOND.T, jnp.eye(3, dtype=DTYPE)]
    total = sum(m @ (d1 - d0) @ j for m, d1, d0, j in zip(to_result, at_other[0], at_x[0], at_other[1], strict=True))
    np.testing.assert_allclose(at_other[2] - at_x[2], total, atol=1e-5)


def test_without_telescoping_no_derivatives_between_equations_are_looked_at():
    found = walked(network, jnp.ones(4, DTYPE), telescoping=False)
    assert not found.adjoints
    np.testing.assert_allclose(found.output.tangent, walked(network, jnp.ones(4, DTYPE)).output.tangent, rtol=1e-6)
    assert float(found.output.norms[1]) >= float(walked(network, jnp.ones(4, DTYPE)).output.norms[1])


def test_known_functions_hide_their_inside():
    """SiLU is a product in its program, and one equation here."""
    assert len(walked(lambda x: jnp.sum(jax.nn.silu(x)), jnp.ones(3, DTYPE)).bends) == 1
    assert len(walked(lambda x: jnp.sum(x * jnp.tanh(x)), jnp.ones(3, DTYPE)).bends) == 2


def test_predicates_are_certain_where_intervals_do_not_meet():
    f = lambda x: jnp.sum(jnp.where((x > 0) & (x < 5), x**2, -x))  # noqa: E731
    near = walked(f, jnp.asarray([1.0, -1.0, 7.0], DTYPE), 0.5)
    unstable = [bend.unstable for bend in near.bends.values() if bend.unstable is not None]
    np.testing.assert_array_equal(unstable[0], [False, False, False])
    far = walked(f, jnp.asarray([1.0, -1.0, 7.0], DTYPE), 1.5)
    unstable = [bend.unstable for bend in far.bends.values() if bend.unstable is not None]
    np.testing.assert_array_equal(unstable[0], [True, True, False])


def test_what_has_no_rule_is_named():
    with pytest.raises(NotImplementedError, match="no rule for the primitive `sort`"):
        walked(lambda x: jnp.sort(x)[0], jnp.ones(3, DTYPE))
    with pytest.raises(NotImplementedError, match="takes the input to dtype int32"):
        walked(lambda x: x[jnp.argmax(x)], jnp.ones(3, DTYPE))


def test_a_solve_is_linear_but_its_coefficients_are_not_its_constants():
    triangle = jnp.asarray([[1.0, 0.0], [-3.0, 0.5]], DTYPE)
    with pytest.raises(NotImplementedError, match="no rule for the primitive `triangular_solve`"):
        walked(lambda x: jax.scipy.linalg.solve_triangular(triangle, x, lower=True)[1], jnp.ones(2, DTYPE))
