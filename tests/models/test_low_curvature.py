"""Low-curvature layers: their norms against dense matrices, their limits, and what training keeps."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxinterp import models

pytestmark = pytest.mark.usefixtures("standard_promotion")

X64 = jax.config.jax_enable_x64


def activation(beta):
    return models.as_function(models.CentredSoftplus(beta))


@pytest.mark.parametrize(("beta", "limit", "gap"), [(1e3, jax.nn.relu, 7e-4), (1e-3, lambda x: x / 2, 2e-3)])
def test_the_activation_between_relu_and_a_line(beta, limit, gap):
    net = activation(beta)
    x = jnp.linspace(-3, 3, 61)
    y = jax.vmap(lambda v: net.apply(net.params, net.state, v))(x)
    assert float(jnp.max(jnp.abs(y - limit(x)))) <= gap
    assert float(net.apply(net.params, net.state, jnp.zeros(()))) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("beta", [0.5, 5.0])
def test_the_curvature_of_the_activation_relative_to_its_slope(beta):
    """s''/s' = β(1 - σ(βx)) <= β."""
    net = activation(beta)
    s = lambda x: net.apply(net.params, net.state, x)  # noqa: E731
    x = jnp.linspace(-20 / beta, 20 / beta, 201)
    ratio = jax.vmap(jax.grad(jax.grad(s)))(x) / jax.vmap(jax.grad(s))(x)
    np.testing.assert_allclose(ratio, beta * jax.nn.sigmoid(-beta * x), rtol=1e-3, atol=1e-3 * beta)
    assert float(jnp.max(ratio)) <= beta * (1 + 1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"strides": 2},
        {"dilation": 2},
        {"padding": "VALID"},
        {"strides": (1, 2), "padding": ((2, 0), (1, 1))},
        {"kernel_size": (1, 1)},
    ],
)
def test_the_norm_of_a_spectral_convolution_is_one(options):
    """As a dense matrix, in evaluation mode, also after training has moved the kernel."""
    model = models.SpectralConv(3, 4, image=(8, 8), **options, rngs=nnx.Rngs(0))
    train, net = models.as_training_function(model), models.as_function(model)
    params, state = net.params, net.state

    def dense_norm():
        f = lambda x: net.apply(params, state, x).ravel()  # noqa: E731
        matrix = jax.jit(jax.jacobian(f))(jnp.zeros((8, 8, 3))).reshape(-1, 192)
        return np.linalg.norm(np.asarray(matrix, np.float64), 2)

    assert dense_norm() == pytest.approx(1, abs=1e-3)

    @jax.jit
    def step(params, state, key):
        def loss(params):
            y, new = train.apply(params, state, key, jax.random.normal(jax.random.fold_in(key, 1), (4, 8, 8, 3)))
            return jnp.mean((y - 1) ** 2), new

        slope, new = jax.grad(loss, has_aux=True)(params)
        return optax.apply_updates(params, jax.tree.map(lambda g: -0.5 * g, slope)), new

    for i in range(20):
        params, state = step(params, state, jax.random.key(i))
    assert dense_norm() == pytest.approx(1, abs=1e-3)


def test_one_step_of_power_iteration_for_each_update():
    """The estimate in training comes from below and tends to the truth; the state is what it needs to go on."""
    model = models.SpectralConv(2, 3, image=(6, 6), rngs=nnx.Rngs(1))
    train = models.as_training_function(model)
    state, norms = train.state, []
    x = jax.random.normal(jax.random.key(0), (1, 6, 6, 2))
    plain = model.operator(model.kernel[...])(x)
    for _ in range(60):
        y, state = train.apply(train.params, state, jax.random.key(0), x)
        norms.append(float(jnp.linalg.norm(plain) / jnp.linalg.norm(y)))
    assert all(b >= a * (1 - 1e-5) for a, b in itertools.pairwise(norms))
    matrix = jax.jacobian(lambda v: model.operator(model.kernel[...])(v[None]).ravel())(x[0]).reshape(-1, 72)
    assert norms[-1] == pytest.approx(np.linalg.norm(np.asarray(matrix), 2), rel=5e-3)


@pytest.mark.parametrize(("gamma", "expected"), [(0.5, 0.5), (100.0, 3.0)])
def test_the_slope_of_a_normalisation(gamma, expected):
    """min(γ, L) with L the largest |scale|/√(variance + ε), 3 here."""
    net = models.as_function(models.LipschitzBatchNorm(2, gamma=gamma, rngs=nnx.Rngs(0)))
    params, state = net.params, net.state
    params["norm"]["scale"] = jnp.asarray([-3.0, 1.0])
    state["norm"]["var"] = jnp.asarray([1.0, 4.0]) - 1e-5
    matrix = jax.jacobian(lambda x: net.apply(params, state, x))(jnp.zeros(2))
    assert np.linalg.norm(np.asarray(matrix), 2) == pytest.approx(expected, rel=1e-5)
