"""A function, its samples in a neighbourhood, and the models fitted to them."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp import local

X64 = jax.config.jax_enable_x64
TOLERANCE = 1e-8 if X64 else 1e-3
X = jnp.array([1.0, -0.5, 0.3])
RNG = np.random.default_rng(0)
SLOPE = RNG.normal(size=3)
HESSIAN = (lambda m: m + m.T)(RNG.normal(size=(3, 3)))
RANK_ONE = -1.5 * np.outer(SLOPE, SLOPE)


def wavy(x):
    return jnp.sum(jnp.sin(2 * x)) + x[0] * x[1] ** 2


def quadratic(hessian):
    h, b = jnp.asarray(hessian, float), jnp.asarray(SLOPE, float)
    return lambda x: 3.0 + jnp.dot(b, x) + jnp.dot(x, jnp.dot(h, x, precision="highest")) / 2


def sampled(f, n=60, seed=1, stddev=0.6, **options):
    weight = local.exponential_weight(1.0)
    options = {"slopes": True, "ends": True, **options}
    return jax.jit(local.samples(f, neighbourhood=local.gaussian, num_samples=n, weight=weight, **options))(
        jax.random.key(seed), X, stddev=stddev
    )


def fitted(model, samples, loss="squared_error"):
    return jax.jit(lambda samples: model.fitted(samples, loss))(samples)


def in_numpy(samples):
    """Offsets, values, weights and slopes in float64."""
    return [np.asarray(a, np.float64) for a in (samples.offsets, samples.values, samples.weights, samples.slopes)]


def close(a, b, factor=1.0):
    np.testing.assert_allclose(a, b, rtol=factor * TOLERANCE, atol=factor * TOLERANCE)


WAVY = sampled(wavy)
