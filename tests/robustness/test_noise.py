"""Noise in standard normal coordinates: its covariance, and gradients in those coordinates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.robustness._noise import gaussian_noise
from tests.robustness.scores import DTYPE

pytestmark = pytest.mark.core

X = {"a": jnp.asarray([1.0, 2.0], DTYPE), "b": jnp.asarray([[3.0]], DTYPE)}
FACTOR = np.random.default_rng(0).normal(size=(3, 2))
SIGMA = {"a": jnp.asarray([0.5, 2.0], DTYPE), "b": 3.0}
KINDS = [
    ({"stddev": SIGMA, "factor": None}, np.diag([0.5, 2.0, 3.0])),
    ({"stddev": None, "factor": jnp.asarray(FACTOR, DTYPE)}, FACTOR),
]


@pytest.mark.parametrize(("given", "matrix"), KINDS, ids=["stddev", "factor"])
def test_the_derivative_of_the_noisy_input_is_the_factor(given, matrix):
    noise = gaussian_noise("example", X, **given)
    zeros = jax.tree.map(jnp.zeros_like, noise.like)
    flat = lambda z: jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(noise.at(z))])  # noqa: E731
    np.testing.assert_allclose(flat(zeros), [1.0, 2.0, 3.0])
    slopes = jnp.concatenate([j.reshape(3, -1) for j in jax.tree.leaves(jax.jacobian(flat)(zeros))], 1)
    np.testing.assert_allclose(slopes, matrix, rtol=1e-6)
    rows = jax.tree.map(lambda leaf: jnp.stack([leaf, -2 * leaf]), X)
    gradient = np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(noise.rows(rows), np.stack([gradient, -2 * gradient]) @ matrix, rtol=1e-5)


def test_low_precision_is_added_to_in_its_own_and_multiplied_in_float32():
    x = jnp.asarray([1.0, 2.0], jnp.bfloat16)
    noise = gaussian_noise("example", x, None, jnp.ones((2, 1), jnp.bfloat16))
    assert noise.like.dtype == jnp.float32
    assert noise.at(jnp.ones(1, jnp.float32)).dtype == jnp.bfloat16
    assert noise.rows(x[None]).dtype == jnp.float32


@pytest.mark.parametrize("given", [{"stddev": None, "factor": None}, {"stddev": 1.0, "factor": jnp.ones((3, 1))}])
def test_one_of_both_is_needed(given):
    with pytest.raises(TypeError, match="`example` needs the noise: either `stddev=` or `factor=`"):
        gaussian_noise("example", X, **given)
