"""The ResNet-20 on 8 images near the boundary: the code of the authors in float64, and 10 000 samples of torch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxinterp import derivatives, robustness
from jaxinterp.robustness import _linearised

X64 = jax.config.jax_enable_x64
DTYPE = jnp.float64 if X64 else jnp.float32
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
LEVELS = {"s005": 0.05, "s01": 0.1}

pytestmark = [pytest.mark.numerics, pytest.mark.usefixtures("optimized")]


@pytest.fixture(scope="module")
def arrays(golden):
    return golden("p_robust")


@pytest.fixture(scope="module")
def logits(trained_resnet):
    """The network as a function of one image with values in [0, 1]."""
    network = trained_resnet()
    mean, std = (jnp.asarray(value, DTYPE)[None, None] for value in (MEAN, STD))
    return lambda x: network((x - mean) / std)


@pytest.fixture(scope="module")
def linearised(logits, arrays):
    """For a level of noise the estimate of each image, then what its normal CDF is given: z and the cosines."""
    pack = lambda z, r: jnp.concatenate([robustness.multivariate_sigmoid(z)[None], z, r.reshape(-1)])  # noqa: E731
    split = lambda p: (p[0], p[1:10], p[10:].reshape(9, 9))  # noqa: E731
    one = jax.jit(robustness.taylor(logits, cdf=pack))

    @functools.cache
    def at(level):
        images = jnp.asarray(arrays["x_pixel"], DTYPE)
        packed = [np.asarray(one(x, stddev=LEVELS[level]).probability, np.float64) for x in images]
        return tuple(np.stack(part) for part in zip(*map(split, packed), strict=True))

    return at


@pytest.mark.parametrize("level", LEVELS)
def test_taylor_with_the_multivariate_sigmoid(level, linearised, arrays):
    """The golden arrays are of float64; we lose 6e-7 of it in float32."""
    got, _, _ = linearised(level)
    np.testing.assert_allclose(got, arrays[f"{level}_p_taylor_mvs"], rtol=1e-12 if X64 else 1e-5)


@pytest.mark.parametrize("level", LEVELS)
def test_what_the_normal_cdf_is_given(level, linearised, arrays):
    """The authors add 1e-5 to the diagonal of the cosines."""
    _, z, cosines = linearised(level)
    wanted = arrays[f"{level}_taylor_z"]
    np.testing.assert_allclose(z, wanted, rtol=0, atol=(1e-12 if X64 else 1e-5) * wanted.max())
    wanted = arrays[f"{level}_taylor_cov"] - 1e-5 * np.eye(9)
    np.testing.assert_allclose(cosines, wanted, rtol=0, atol=1e-12 if X64 else 1e-5)


@pytest.mark.parametrize("level", LEVELS)
def test_taylor_with_the_normal_cdf_of_scipy(level, linearised, arrays):
    _, z, cosines = linearised(level)
    cdf = functools.partial(scipy.stats.multivariate_normal.cdf, abseps=1e-6, releps=1e-6, maxpts=10**5)
    got = [cdf(a, np.zeros(9), c + 1e-5 * np.eye(9)) for a, c in zip(z, cosines, strict=True)]
    np.testing.assert_allclose(got, arrays[f"{level}_p_taylor_tight"], rtol=0, atol=3e-5)


@pytest.mark.parametrize("level", LEVELS)
def test_taylor_with_our_normal_cdf(level, linearised, arrays):
    """Deterministic estimators match to 1e-3; the authors' ridge of 1e-5 moves the probability by less."""
    _, z, cosines = linearised(level)
    cdf = jax.jit(jax.vmap(derivatives.orthant()))
    keys = jax.random.split(jax.random.key(0), len(z))
    got = cdf(keys, jnp.asarray(z, DTYPE), jnp.asarray(cosines, DTYPE))
    np.testing.assert_allclose(got.mean, arrays[f"{level}_p_taylor_tight"], rtol=0, atol=3e-4)


@pytest.fixture(scope="module")
def linear_parts(logits):
    """The margins of a point to the prediction at an image, and their gradients."""

    @jax.jit
    def at(x, point):
        return derivatives.jacobian(lambda point: robustness.same_prediction(logits(x), logits(point)))(point)

    return at


@pytest.mark.parametrize("level", LEVELS)
def test_mmse_given_the_noise_of_the_authors(level, linear_parts, arrays):
    sigma = LEVELS[level]
    cdf = functools.partial(derivatives.orthant(), jax.random.key(0))

    @jax.jit
    def estimates(values, rows):
        both = [_linearised._probability(f, values, rows) for f in (cdf, robustness.multivariate_sigmoid)]
        return [found.probability for found in both]

    for i in range(0, len(arrays["index"]), 2):
        x, noise = (jnp.asarray(arrays[name][i], DTYPE) for name in ("x_pixel", "mmse_noise_std_normal"))
        parts = [linear_parts(x, x + sigma * e) for e in noise]
        values, rows = jax.tree.map(lambda *a: sum(a) / len(a), *parts)
        normal, sigmoid = estimates(values, sigma * rows.reshape(len(rows), -1))
        assert float(normal) == pytest.approx(float(arrays[f"{level}_p_mmse_tight"][i]), abs=1e-3)
        assert float(sigmoid) == pytest.approx(float(arrays[f"{level}_p_mmse_mvs"][i]), abs=1e-9 if X64 else 1e-3)


def test_softmax(logits, arrays):
    one = jax.jit(robustness.softmax(logits))
    got = [one(jnp.asarray(x, DTYPE), temperature=1.0).probability for x in arrays["x_pixel"]]
    np.testing.assert_allclose(got, arrays["p_softmax"], rtol=1e-12 if X64 else 1e-5)


SAMPLES = 64 if X64 else 256


@pytest.mark.parametrize("level", LEVELS)
def test_monte_carlo(level, logits, arrays):
    """4 pooled standard errors of 16 frequencies fail for one key in 1000. One image never survives."""
    run = jax.jit(robustness.monte_carlo(logits, num_samples=SAMPLES, chunk_size=64))
    wanted = arrays[f"{level}_p_mc"]
    for i in np.flatnonzero((wanted > 1e-3) | (arrays["index"] == arrays["index"][2])):
        estimate = run(jax.random.key(i), jnp.asarray(arrays["x_pixel"][i], DTYPE), stddev=LEVELS[level])
        p = float(estimate.probability)
        pooled = (SAMPLES * p + 10_000 * wanted[i]) / (SAMPLES + 10_000)
        stderr = (pooled * (1 - pooled) * (1 / SAMPLES + 1 / 10_000)) ** 0.5
        assert abs(p - wanted[i]) <= 4 * stderr
        assert float(estimate.stderr) == pytest.approx((p * (1 - p) / SAMPLES) ** 0.5, rel=1e-4)
        assert int(estimate.num_samples) == SAMPLES
