"""How far a Hessian moves: nothing at radius zero, and what it is a sum of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.interpreters import _bounds, _second_order, _templates

X64 = jax.config.jax_enable_x64
DTYPE = jnp.float64 if X64 else jnp.float32
RNG = np.random.default_rng(4)
WEIGHTS = [jnp.asarray(RNG.normal(size=s) / 2, DTYPE) for s in ((4, 6), (6, 5), (5, 2))]
BETA = 3.0


@pytest.fixture(scope="module", autouse=True)
def standard():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def network(x):
    for w in WEIGHTS[:-1]:
        x = jax.nn.softplus(BETA * (x @ w)) / BETA
    return x @ WEIGHTS[-1]


def change(radius):
    x = jnp.asarray(RNG.normal(size=4), DTYPE)
    r = jnp.asarray(radius, DTYPE)
    return x, _second_order.hessian_change(_bounds.walk(*_templates.canonical(network, x), r, r, True))


def test_the_hessian_is_a_sum_over_the_activations():
    """H = Σ_i β J_iᵀ diag(δ_i ⊙ φ'(z_i)(1 - φ'(z_i))) J_i for softplus, exactly."""
    x = jnp.asarray(RNG.normal(size=4), DTYPE)
    first = lambda x: x @ WEIGHTS[0]  # noqa: E731
    second = lambda z: (jax.nn.softplus(BETA * z) / BETA) @ WEIGHTS[1]  # noqa: E731
    last = lambda z: ((jax.nn.softplus(BETA * z) / BETA) @ WEIGHTS[2])[0]  # noqa: E731
    total = 0
    for before, after in ((first, lambda z: last(second(z))), (lambda x: second(first(x)), last)):
        z, jacobian = before(x), jax.jacobian(before)(x)
        slope = jax.nn.sigmoid(BETA * z)
        adjoint = jax.grad(after)(z)  # with respect to what the activation reads
        total = total + jacobian.T @ jnp.diag(adjoint / slope * BETA * slope * (1 - slope)) @ jacobian
    np.testing.assert_allclose(total, jax.hessian(network)(x)[0], atol=1e-10 if X64 else 1e-5)


def test_at_radius_zero_it_does_not_move():
    x, (moved, most) = change(0.0)
    assert np.all(np.asarray(moved) < (1e-10 if X64 else 1e-3))
    norms = np.linalg.norm(jax.hessian(network)(x), ord=2, axis=(1, 2))
    assert np.all(norms <= np.asarray(most) * (1 + 1e-5))


def test_it_moves_further_in_a_larger_ball():
    moves = [np.asarray(change(radius)[1][0]).max() for radius in (1e-3, 1e-2, 1e-1)]
    assert moves[0] < moves[1] < moves[2]
