"""Certified bounds: never exceeded, equal to the truth where they can be, and tight near the centre."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxinterp import geometry, heads

X64 = jax.config.jax_enable_x64
DTYPE = jnp.float64 if X64 else jnp.float32
ROUNDING = 1e-10 if X64 else 2e-4
INPUTS = 8


@pytest.fixture(scope="module", autouse=True)
def standard():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def weights(seed, *shape, gain=1.0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) * (gain / shape[0]) ** 0.5, DTYPE)


def convolved(x, seed, outputs, **options):
    kernel = weights(seed, 3, 3, x.shape[-1], outputs) / 2
    given = {"window_strides": (1, 1), "padding": "SAME", **options}
    return jax.lax.conv_general_dilated(x[None], kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **given)[0]


def standardised(x):
    middle = jnp.mean(x, -1, keepdims=True)
    return (x - middle) * jax.lax.rsqrt(jnp.mean((x - middle) ** 2, -1, keepdims=True) + 0.1)


def mlp(depth, activation, x, width=12, seed=0):
    for layer in range(depth):
        x = activation(x @ weights(10 * seed + layer, x.shape[0], width, gain=2.0) + 0.1)
    return x @ weights(10 * seed + 9, x.shape[0])


def residual(x):
    image = x.reshape(4, 2, 1)
    stem = jax.nn.softplus(4 * convolved(image, 1, 3)) / 4
    branch = jnp.tanh(convolved(stem, 2, 3)) * jnp.linspace(0.5, 1.5, 3) + 0.1
    joined = jax.nn.gelu(jnp.concatenate([convolved(branch, 3, 3) + stem, branch], -1))
    strided = convolved(joined, 4, 2, window_strides=(2, 2))
    return jnp.mean(strided, (0, 1)) @ weights(5, 2, 3)


def pooled(x):
    image = jax.nn.relu(convolved(x.reshape(4, 2, 1), 1, 2))
    most = jax.lax.reduce_window(image, -jnp.inf, jax.lax.max, (2, 2, 1), (2, 2, 1), "VALID")
    return most.reshape(-1) @ weights(2, 4, 3)


def attention(x):
    tokens = standardised(x.reshape(2, 4) @ weights(1, 4, 4))
    queries, keys, values = (tokens @ weights(seed, 4, 4) for seed in (2, 3, 4))
    return ((jax.nn.softmax(queries @ keys.T / 2, -1) @ values) + tokens).reshape(-1) @ weights(5, 8, 2)


def rational(x):
    h = jnp.sin(x @ weights(1, INPUTS, 5)) * jax.nn.sigmoid(x[:5])
    return jnp.sum(h / (1 + h**2) + jnp.exp(-h * h) + jnp.sqrt(1 + h**2) * jnp.log1p(h**2))


def kinked(x):
    h = x @ weights(1, INPUTS, 5)
    return jnp.sum(jax.nn.leaky_relu(h)) + jnp.max(jnp.abs(h)) + jnp.sum(jnp.clip(h, -0.3, 0.3))


def switched(x):
    """Choices of what nonlinear equations wrote, which others read."""
    h = jnp.tanh(x @ weights(1, INPUTS, 5))
    chosen = jnp.where(x[:5] > 0.2, jnp.sin(3 * h), jnp.where(h > 0, h * x[:5], jax.nn.softplus(h)))
    return jnp.sum(jnp.tanh(chosen @ weights(2, 5, 4)) * jnp.maximum(chosen[:4], h[:4] ** 2))


def masked(x):
    """Weights of past tokens alone: what comes later has the score minus infinity."""
    tokens = x.reshape(4, 2)
    scores = jnp.where(jnp.tri(4) > 0, tokens @ tokens.T, -jnp.inf)
    return jnp.sum(jax.nn.softmax(scores, -1) @ tokens, 0)


def affine(x):
    return (x @ weights(1, INPUTS, 6) + 1.0) @ weights(2, 6, 3) - 2.0


FUNCTIONS = {
    "tanh": functools.partial(mlp, 2, jnp.tanh),
    "softplus": functools.partial(mlp, 3, lambda z: jax.nn.softplus(5 * z) / 5),
    "gelu": functools.partial(mlp, 2, functools.partial(jax.nn.gelu, approximate=False)),
    "elu": functools.partial(mlp, 1, jax.nn.elu),
    "relu": functools.partial(mlp, 2, jax.nn.relu),
    "residual": residual,
    "pooled": pooled,
    "attention": attention,
    "rational": rational,
    "kinked": kinked,
    "switched": switched,
    "loss": lambda x: heads.cross_entropy(lambda x: jnp.tanh(x @ weights(1, INPUTS, 6)) @ weights(2, 6, 3))(x, 1),
    "masked": masked,
}


LONG = ("attention", "loss", "masked", "rational", "switched")  # to compile


def names(*without):
    """The functions; those that take long to compile are for the slow tests."""
    chosen = sorted(set(FUNCTIONS) - set(without))
    return [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in chosen]


@functools.cache
def compiled(name, **options):
    f = affine if name == "affine" else FUNCTIONS[name]
    return jax.jit(lambda x, radius: geometry.bounds(f, **options)(x, radius=radius))


@functools.cache
def measured(name):
    """Values, norms of the Jacobian and of the Hessian of the output with the largest, and a step that raises both."""
    f = FUNCTIONS[name]

    def norms(x):
        vector = lambda x: jnp.atleast_1d(f(x))  # noqa: E731
        jacobian, hessian = jax.jacobian(vector)(x), jax.hessian(vector)(x)
        return vector(x), jnp.linalg.norm(jacobian, ord=2), jnp.max(jnp.linalg.norm(hessian, ord=2, axis=(1, 2)))

    def steeper(x):
        return jax.grad(lambda x: jnp.sum(jax.jacobian(lambda x: jnp.atleast_1d(f(x)))(x) ** 2))(x)

    return jax.jit(jax.vmap(norms)), jax.jit(jax.vmap(steeper))


def searched(name, x, radius, seed, is_box=False):
    """Points of the ball: random ones, and where ascent on the norm of the Jacobian leads from them."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(32, INPUTS))

    def inside(change):
        if is_box:
            return np.clip(change, -radius, radius)
        norms = np.linalg.norm(change, axis=1, keepdims=True)
        return change * np.minimum(1, radius / np.maximum(norms, 1e-30))

    change = inside(directions * radius * 10) * np.concatenate([np.ones(24), rng.uniform(size=8)])[:, None]
    found = [change]
    for _ in range(4):
        slope = np.nan_to_num(np.asarray(measured(name)[1](jnp.asarray(x + change, DTYPE)), np.float64))
        change = inside(change + radius / 2 * slope / np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-30))
        found.append(change)
    return measured(name)[0](jnp.asarray(x + np.concatenate(found), DTYPE))


def point(seed):
    return np.random.default_rng(100 + seed).normal(size=INPUTS)


@pytest.mark.numerics
@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("radius", [1e-3, 0.1, 2.0])
def test_nothing_exceeds_the_bounds(name, radius):
    x = point(0)
    found = compiled(name)(jnp.asarray(x, DTYPE), radius)
    values, slopes, bends = searched(name, x, radius, 1)
    slack = ROUNDING * (1 + np.abs(values).max())
    assert np.all(values <= np.asarray(found.value.upper) + slack)
    assert np.all(values >= np.asarray(found.value.lower) - slack)
    assert np.max(slopes) <= float(found.lipschitz.upper) * (1 + ROUNDING)
    assert np.nanmax(bends) <= float(found.curvature.upper) * (1 + 10 * ROUNDING) + 10 * ROUNDING
    assert float(found.lipschitz.lower) <= np.max(slopes) * (1 + 10 * ROUNDING) + ROUNDING
    assert float(found.curvature.lower) <= float(found.curvature.upper)


SHORT = tuple(sorted(set(FUNCTIONS) - {"elu", "relu", "pooled", *LONG}))


@pytest.mark.numerics
@pytest.mark.parametrize("among", [SHORT, pytest.param(LONG, marks=pytest.mark.slow)], ids=["short", "long"])
@settings(max_examples=40, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**20), exponent=st.floats(-4, 1))
def test_nothing_exceeds_the_bounds_anywhere(among, data, seed, exponent):
    name = data.draw(st.sampled_from(among))
    x, radius = 2 * point(seed), 10.0**exponent
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = compiled(name)(jnp.asarray(x, DTYPE), radius)
        values, slopes, bends = searched(name, x, radius, seed)
    slack = ROUNDING * (1 + np.abs(values).max())
    assert np.all(values <= np.asarray(found.value.upper) + slack)
    assert np.all(values >= np.asarray(found.value.lower) - slack)
    assert np.max(slopes) <= float(found.lipschitz.upper) * (1 + ROUNDING) + ROUNDING
    assert np.nanmax(bends) <= float(found.curvature.upper) * (1 + 10 * ROUNDING) + 10 * ROUNDING


@pytest.mark.parametrize("name", [pytest.param("residual", marks=pytest.mark.slow), "kinked"])
def test_boxes(name):
    x, radius = point(3), 0.05
    found = compiled(name, norm="linf")(jnp.asarray(x, DTYPE), radius)
    values, slopes, _ = searched(name, x, radius, 1, is_box=True)
    assert np.all(values <= np.asarray(found.value.upper) + ROUNDING)
    assert np.all(values >= np.asarray(found.value.lower) - ROUNDING)
    assert np.max(slopes) <= float(found.lipschitz.upper) * (1 + ROUNDING)
    in_ball = compiled(name)(jnp.asarray(x, DTYPE), radius)
    assert float(in_ball.lipschitz.upper) <= float(found.lipschitz.upper) * (1 + ROUNDING)


@pytest.mark.parametrize("name", ["tanh", "softplus", pytest.param("residual", marks=pytest.mark.slow), "relu"])
def test_from_layer_to_layer_they_are_valid_and_looser(name):
    x, radius = point(4), 0.05
    loose = compiled(name, telescoping=False)(jnp.asarray(x, DTYPE), radius)
    tight = compiled(name)(jnp.asarray(x, DTYPE), radius)
    values, slopes, bends = searched(name, x, radius, 1)
    assert np.max(slopes) <= float(loose.lipschitz.upper) * (1 + ROUNDING)
    assert np.nanmax(bends) <= float(loose.curvature.upper) * (1 + ROUNDING) + ROUNDING
    assert np.all(values <= np.asarray(loose.value.upper) + ROUNDING)
    assert float(tight.lipschitz.upper) <= float(loose.lipschitz.upper) * (1 + ROUNDING)
    assert float(tight.curvature.upper) <= float(loose.curvature.upper) * (1 + ROUNDING)


@pytest.mark.core
@pytest.mark.parametrize("radius", [0.0, 1.0, jnp.inf])
def test_an_affine_function_has_the_bounds_it_attains(radius):
    first, second = weights(1, INPUTS, 6), weights(2, 6, 3)
    found = compiled("affine")(jnp.asarray(point(0), DTYPE), radius)
    truth = np.linalg.norm(np.asarray(first, np.float64) @ np.asarray(second, np.float64), 2)
    assert float(found.lipschitz.lower) == pytest.approx(truth, rel=1e-6 if X64 else 1e-5)
    assert float(found.lipschitz.upper) == pytest.approx(truth, rel=1e-6 if X64 else 1e-5)
    assert (float(found.curvature.lower), float(found.curvature.upper)) == (0.0, 0.0)
    if radius == 1:
        rows = np.linalg.norm(np.asarray(first @ second), axis=0)
        np.testing.assert_allclose(found.value.upper - found.value.lower, 2 * rows, rtol=1e-4)


@pytest.mark.numerics
@pytest.mark.parametrize("name", names("pooled", "kinked", "switched", "relu"))
def test_they_tend_to_the_truth_as_the_radius_goes_to_zero(name):
    found = compiled(name)(jnp.asarray(point(5), DTYPE), 1e-5)
    assert float(found.lipschitz.upper) <= 1.01 * float(found.lipschitz.lower)


@pytest.mark.numerics
@pytest.mark.skipif(not X64, reason="float32 rounds more than the radius moves")
@pytest.mark.parametrize("activation", [jnp.tanh, jax.nn.softplus, jax.nn.gelu, lambda z: jax.nn.softplus(10 * z) / 10])
@pytest.mark.parametrize("depth", [1, 3, 6])
def test_gradients_of_deep_networks(activation, depth):
    """Within 1 % at radius 1e-5, and within 2 times at 0.01."""
    run = jax.jit(lambda x, r: geometry.bounds(functools.partial(mlp, depth, activation, width=32))(x, radius=r))
    x = jnp.asarray(np.random.default_rng(depth).normal(size=20))
    for radius, ratio in ((1e-5, 1.01), (0.01, 2.0)):
        found = run(x, radius)
        assert float(found.lipschitz.upper) <= ratio * float(found.lipschitz.lower)


@pytest.mark.numerics
@pytest.mark.parametrize("activation", [jnp.tanh, jax.nn.softplus, jax.nn.gelu, lambda z: jax.nn.softplus(5 * z) / 5])
def test_curvature_of_one_hidden_layer(activation):
    """Within 2 times the largest that is attained, at radius 0.01."""
    f = lambda x, first, second: activation(x @ first + 0.1) @ second  # noqa: E731
    run = jax.jit(functools.partial(geometry.bounds(f), radius=0.01))
    for seed in range(3):
        kernels = weights(10 * seed, INPUTS, 12, gain=2.0), weights(10 * seed + 9, 12)
        found = run(jnp.asarray(point(seed), DTYPE), *kernels)
        assert float(found.curvature.upper) <= 2 * float(found.curvature.lower)


def test_what_stop_gradient_stops_still_moves():
    """The derivative that JAX takes of x·stop_gradient(x) is x, and its second derivative zero."""
    f = lambda x: x[0] * jax.lax.stop_gradient(x[0])  # noqa: E731
    found = jax.jit(functools.partial(geometry.bounds(f), radius=0.5))(jnp.asarray([2.0]))
    assert float(found.lipschitz.upper) == pytest.approx(2.5, rel=1e-4)
    assert float(found.value.lower) <= 2.25
    assert float(found.value.upper) >= 6.25


def test_relu_is_linear_up_to_its_nearest_kink_and_says_so_beyond():
    f = lambda x: jnp.sum(jax.nn.relu(x - 1.0))  # noqa: E731
    bounds = jax.jit(lambda radius: geometry.bounds(f)(jnp.asarray([3.0, 0.0]), radius=radius))
    near = bounds(0.9)
    assert (float(near.lipschitz.upper), float(near.curvature.upper)) == (pytest.approx(1.0, rel=1e-4), 0.0)
    far = bounds(1.1)
    assert float(far.lipschitz.upper) == pytest.approx(2**0.5, rel=1e-4)
    assert np.isinf(far.curvature.upper)


def test_global_bounds_are_finite_where_derivatives_are_bounded():
    everywhere = compiled("softplus")(jnp.asarray(point(0), DTYPE), jnp.inf)
    assert np.isfinite(everywhere.lipschitz.upper)
    assert np.isfinite(everywhere.curvature.upper)
    cubes = jax.jit(functools.partial(geometry.bounds(lambda x: jnp.sum(x**3)), radius=jnp.inf))
    assert np.isinf(cubes(jnp.ones(2)).lipschitz.upper)


def test_transformations_of_jax():
    """Under `vmap` and `jit` as one by one."""
    points = jnp.stack([jnp.asarray(point(i), DTYPE) for i in range(3)])
    together = jax.jit(jax.vmap(compiled("tanh"), (0, None)))(points, 0.1)
    for i in range(3):
        alone = compiled("tanh")(points[i], 0.1)
        for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
            np.testing.assert_allclose(a, b[i], rtol=1e-5)


@pytest.mark.slow
def test_the_upper_bound_has_a_derivative():
    x = jnp.asarray(point(0), DTYPE)

    @jax.jit
    @jax.value_and_grad
    def upper(scale):
        return geometry.bounds(lambda x: jnp.sum(jnp.tanh(scale * x)))(x, radius=0.1).lipschitz.upper

    step = 1e-3
    numeric = (float(upper(1.0 + step)[0]) - float(upper(1.0 - step)[0])) / (2 * step)
    assert float(upper(1.0)[1]) == pytest.approx(numeric, rel=0.05)


def test_several_arguments_and_trees():
    f = lambda a, b: jnp.tanh(a["u"] @ b + a["v"])  # noqa: E731
    a, b = {"u": jnp.ones(2), "v": jnp.zeros(())}, jnp.asarray([1.0, -2.0])
    one = jax.jit(functools.partial(geometry.bounds(f), radius=0.1))(a, b)
    gradient = jax.grad(f)(a, b)
    assert float(one.lipschitz.lower) == pytest.approx(
        float(jnp.sqrt(jnp.sum(gradient["u"] ** 2) + gradient["v"] ** 2)), rel=1e-4
    )
    both = jax.jit(functools.partial(geometry.bounds(f, (0, 1)), radius=0.1))(a, b)
    assert float(both.lipschitz.upper) > float(one.lipschitz.upper)


def test_a_function_that_ignores_its_input():
    found = geometry.bounds(lambda x: jnp.ones(2))(jnp.ones(3), radius=1.0)
    assert (float(found.lipschitz.upper), float(found.curvature.upper)) == (0.0, 0.0)


def test_bad_arguments():
    f = FUNCTIONS["tanh"]
    with pytest.raises(ValueError, match=r"`norm` must be one of 'l2', 'linf'; got 'l1'"):
        geometry.bounds(f, norm="l1")
    with pytest.raises(ValueError, match=r"`radius` must be >= 0; got -1"):
        geometry.bounds(f)(jnp.ones(INPUTS), radius=-1.0)
    with pytest.raises(ValueError, match=r"`radius` must be one number"):
        geometry.bounds(f)(jnp.ones(INPUTS), radius=jnp.ones(2))
    with pytest.raises(TypeError, match=r"`bounds` needs floating-point arrays"):
        geometry.bounds(f)(jnp.ones(INPUTS, int), radius=1.0)
    with pytest.raises(TypeError, match=r"`bounds` needs a function that returns one floating-point array"):
        geometry.bounds(lambda x: (x, x))(jnp.ones(2), radius=1.0)
    half = lambda x: jnp.sum(jnp.tanh(x.astype(jnp.bfloat16)).astype(x.dtype))  # noqa: E731
    for x, dtype in ((jnp.ones(2), "bfloat16"), (jnp.ones(2, jnp.float16), "float16")):
        with pytest.raises(TypeError, match=f"computed in float32 or float64, but it holds an array of {dtype}"):
            geometry.bounds(half if dtype == "bfloat16" else jnp.sum)(x, radius=1.0)
    with pytest.raises(NotImplementedError, match=r"no rule for the primitive `sort`"):
        geometry.bounds(lambda x: jnp.sort(x)[0])(jnp.ones(2), radius=1.0)
