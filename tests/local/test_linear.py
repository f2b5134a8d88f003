"""Tangent and secant models against dense derivatives, scikit-learn on the same samples, and their limits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.linear_model
from jax.flatten_util import ravel_pytree

from jaxinterp import local

X64 = jax.config.jax_enable_x64
TOLERANCE = 1e-9 if X64 else 2e-4
X = {"u": jnp.array([1.0, -0.5]), "v": jnp.asarray(0.3)}
W = jnp.array([2.0, -1.0])


def f(w, x):
    return jnp.sum(jnp.sin(w * x["u"])) + x["v"] ** 2 * x["u"][0]


def gradient(w, x):
    """∇f in float64."""
    w, u, v = (np.asarray(a, np.float64) for a in (w, x["u"], x["v"]))
    return np.append(w * np.cos(w * u) + [v**2, 0], 2 * v * u[0])


def flat(t):
    return np.asarray(ravel_pytree(t)[0], np.float64)


@pytest.mark.core
@pytest.mark.numerics
def test_the_tangent():
    model = jax.jit(local.tangent(f, 1))(W, X)
    value = np.sum(np.sin([2.0, 0.5])) + 0.09
    np.testing.assert_allclose(flat(model.slope), gradient(W, X), rtol=1e-5)
    assert float(model.intercept) == pytest.approx(value, rel=1e-6)
    np.testing.assert_array_equal(flat(model.anchor), flat(X))
    assert np.all(flat(model.stderr) == 0)
    assert float(model(X)) == pytest.approx(value, rel=1e-6)
    other = {"u": jnp.array([2.0, 0.0]), "v": jnp.asarray(-1.0)}
    expected = value + gradient(W, X) @ (flat(other) - flat(X))
    assert float(model(other)) == pytest.approx(expected, rel=1e-5)
    assert float(local.tangent(f, 1)(W, X)(other)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.core
def test_tangents_of_several_arguments_and_of_a_batch():
    model = local.tangent(f, (1, 0))(W, X)
    assert isinstance(model.slope, tuple)
    np.testing.assert_allclose(flat(model.slope[0]), gradient(W, X), rtol=1e-5)
    np.testing.assert_allclose(model.slope[1], [np.cos(2.0), -0.5 * np.cos(0.5)], rtol=1e-5)
    batch = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), X)
    models = jax.vmap(local.tangent(f, 1), (None, 0))(W, batch)
    doubled = jax.tree.map(lambda a: 2 * a, X)
    np.testing.assert_allclose(flat(jax.tree.map(lambda a: a[1], models.slope)), gradient(W, doubled), rtol=1e-5)
    values = jax.vmap(lambda model, x: model(x))(models, batch)
    np.testing.assert_allclose(values, [f(W, X), f(W, doubled)], rtol=1e-5)


@pytest.mark.core
def test_models_of_bfloat16_are_evaluated_in_float32():
    """A sum of a thousand steps of 1/256 would stop at 1 in bfloat16."""
    x = jnp.zeros(1000, jnp.bfloat16)
    model = local.tangent(lambda x: jnp.sum(x.astype(jnp.float32)))(x)
    assert model.slope.dtype == jnp.bfloat16
    assert float(model(x + 1 / 256)) == pytest.approx(1000 / 256, rel=1e-6)


@pytest.mark.core
def test_the_tangent_refuses():
    with pytest.raises(TypeError, match=r"`tangent` needs a function that returns a scalar.* shape \(2,\)"):
        local.tangent(lambda x: x)(W)
    with pytest.raises(TypeError, match="`tangent` needs floating-point arrays"):
        local.tangent(jnp.sum)(jnp.arange(3))


NEIGHBOURHOODS = {
    "gaussian": (local.gaussian, {"stddev": 0.4}),
    "masks": (local.binary_mask, {"baseline": {"u": jnp.array([0.2, 0.1]), "v": -1.0}}),
    "groups": (
        functools.partial(local.binary_mask, num_groups=2),
        {"groups": {"u": jnp.array([0, 1]), "v": jnp.asarray(1)}},
    ),
}


def replayed(neighbourhood, weight, n, seed, **arrays):
    """The samples as they are defined: offsets, values and weights in float64."""

    def one(i):
        sample = neighbourhood(jax.random.fold_in(jax.random.key(seed), i), X, **arrays)
        return (
            ravel_pytree(sample.coordinates)[0] - ravel_pytree(sample.anchor)[0],
            f(W, sample.point),
            weight(sample, X),
        )

    one = jax.jit(one)
    return [np.stack([np.asarray(a, np.float64) for a in column]) for column in zip(*map(one, range(n)), strict=True)]


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("name", NEIGHBOURHOODS)
@pytest.mark.parametrize("ridge", [0.0, 0.5])
def test_the_secant_is_the_fit_of_scikit_learn_to_the_same_samples(name, ridge):
    neighbourhood, arrays = NEIGHBOURHOODS[name]
    weight = local.exponential_weight(1.3)
    design, targets, weights = replayed(neighbourhood, weight, 20, 3, **arrays)
    oracle = sklearn.linear_model.Ridge(ridge, solver="svd") if ridge else sklearn.linear_model.LinearRegression()
    oracle.fit(design, targets, sample_weight=weights)
    fit = local.secant(f, 1, neighbourhood=neighbourhood, num_samples=20, weight=weight, ridge=ridge, chunk_size=7)
    model = jax.jit(fit)(jax.random.key(3), W, X, **arrays)
    np.testing.assert_allclose(flat(model.slope), oracle.coef_, rtol=TOLERANCE, atol=TOLERANCE)
    assert float(model.intercept) == pytest.approx(oracle.intercept_, rel=TOLERANCE, abs=TOLERANCE)
    anchor = np.ones(design.shape[1]) if name in ("masks", "groups") else flat(X)
    np.testing.assert_array_equal(flat(model.anchor), anchor)
    assert jax.tree.structure(model.slope) == jax.tree.structure(model.anchor) == jax.tree.structure(model.stderr)


@pytest.mark.core
@pytest.mark.numerics
def test_chunks_do_not_change_the_secant():
    models = [
        jax.jit(local.secant(f, 1, neighbourhood=local.gaussian, num_samples=10, chunk_size=chunk))(
            jax.random.key(4), W, X, stddev=0.5
        )
        for chunk in (1, 3, 7, 10, None)
    ]
    for model in models[:-1]:
        for a, b in zip(jax.tree.leaves(model), jax.tree.leaves(models[-1]), strict=True):
            np.testing.assert_allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.core
def test_jit_and_vmap_are_a_loop():
    fit = local.secant(f, 1, neighbourhood=local.gaussian, num_samples=9, chunk_size=4)
    batch = jax.tree.map(lambda a: jnp.stack([a, a + 1, 2 * a]), X)
    keys = jax.random.split(jax.random.key(5), 3)
    mapped = jax.jit(jax.vmap(lambda key, x: fit(key, W, x, stddev=0.5)))(jax.random.clone(keys), batch)
    jitted = jax.jit(lambda key, x: fit(key, W, x, stddev=0.5))
    for i, one in enumerate([lambda key, x: fit(key, W, x, stddev=0.5), jitted, jitted]):
        single = one(keys[i], jax.tree.map(lambda a, i=i: a[i], batch))
        for a, b in zip(jax.tree.leaves(mapped), jax.tree.leaves(single), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-3, atol=1e-4)


@pytest.mark.core
@pytest.mark.parametrize("chunk_size", [3, None])
def test_linear_functions_are_found_exactly(chunk_size):
    slope = {"u": jnp.array([3.0, -2.0]), "v": jnp.asarray(0.5)}
    linear = lambda x: jnp.sum(slope["u"] * x["u"]) + slope["v"] * x["v"] + 4  # noqa: E731
    fit = local.secant(linear, neighbourhood=local.gaussian, num_samples=8, chunk_size=chunk_size)
    model = jax.jit(fit)(jax.random.key(6), X, stddev={"u": 0.3, "v": 1.0})
    np.testing.assert_allclose(flat(model.slope), flat(slope), rtol=1e-4)
    assert float(model.intercept) == pytest.approx(float(linear(X)), rel=1e-4)
    assert np.all(flat(model.stderr) < 1e-3)
    assert float(model(jax.tree.map(jnp.zeros_like, X))) == pytest.approx(4, rel=1e-3)


def test_several_arguments_are_perturbed_together():
    fit = local.secant(lambda a, b, c: 2 * a + 3 * c + b**2, (2, 0), neighbourhood=local.gaussian, num_samples=9)
    model = jax.jit(fit)(jax.random.key(7), 1.0, 5.0, -1.0, stddev=(0.5, 0.1))
    np.testing.assert_allclose(flat(model.slope), [3, 2], rtol=1e-4)
    assert float(model.intercept) == pytest.approx(24, rel=1e-5)
    np.testing.assert_allclose(flat(model.anchor), [-1, 1])


def test_the_secant_tends_to_the_gradient_of_the_smoothed_function():
    """E ∇ sin(w(x + σε)) = w cos(wx) e^(-w²σ²/2), far from the gradient; 5 standard errors, one key in a million.

    The standard error is checked by the spread of 400 fits, which is known to 3.5 % (one standard deviation).
    """
    x, w, sigma = jnp.array([0.4, -0.3]), jnp.array([1.5, 2.5]), 0.5
    fit = local.secant(lambda x: jnp.sum(jnp.sin(w * x)), neighbourhood=local.gaussian, num_samples=300)
    run = jax.jit(jax.vmap(lambda key: fit(key, x, stddev=sigma)))
    models = run(jax.random.split(jax.random.key(8), 400))
    slopes = np.asarray(models.slope, np.float64)
    w, x = np.asarray(w, np.float64), np.asarray(x, np.float64)
    smoothed = w * np.cos(w * x) * np.exp(-((w * sigma) ** 2) / 2)
    spread = slopes.std(0)
    assert np.all(np.abs(smoothed - w * np.cos(w * x)) > 10 * spread / 20)
    np.testing.assert_allclose(slopes.mean(0), smoothed, rtol=0, atol=(5 * spread / 20 + 0.01 * np.abs(smoothed)).max())
    errors = np.sqrt(np.mean(np.asarray(models.stderr, np.float64) ** 2, axis=0))
    np.testing.assert_allclose(errors, spread, rtol=0.18)


def test_on_a_segment_the_slope_is_along_it():
    """The samples say nothing of other directions, and the shortest of all solutions has no part in them."""
    x, baseline = jnp.array([1.0, 2.0, -1.0, 0.5]), jnp.array([0.5, 1.0, 0.0, 0.0])
    fit = local.secant(lambda x: jnp.sum(jnp.sin(3 * x)), neighbourhood=local.segment, num_samples=60)
    slope = np.asarray(jax.jit(fit)(jax.random.key(12), x, baseline=baseline).slope, np.float64)
    direction = np.asarray(x - baseline, np.float64)
    along = direction * (slope @ direction) / (direction @ direction)
    np.testing.assert_allclose(slope, along, atol=1e-3 * np.abs(along).max())


def test_small_neighbourhoods_give_the_tangent():
    fit = local.secant(f, 1, neighbourhood=local.gaussian, num_samples=50)
    model = jax.jit(fit)(jax.random.key(9), W, X, stddev=1e-2)
    np.testing.assert_allclose(flat(model.slope), gradient(W, X), atol=0.03)
    assert float(model.intercept) == pytest.approx(float(f(W, X)), abs=1e-3)


@pytest.mark.numerics
def test_the_secant_is_differentiable():
    """With f = a·|x|² the slope is linear in a: its derivative is the slope for a = 1."""
    fit = lambda a: local.secant(  # noqa: E731
        lambda x: a * jnp.sum(x**2), neighbourhood=local.gaussian, num_samples=8, chunk_size=3
    )(jax.random.key(10), jnp.array([1.0, -2.0]), stddev=0.3)
    derivative = jax.jit(jax.jacrev(lambda a: fit(a).slope))(3.0)
    np.testing.assert_allclose(derivative, jax.jit(fit)(1.0).slope, rtol=1e-4)


def test_inputs_of_bfloat16():
    x = jnp.array([1.0, 2.0], jnp.bfloat16)
    fit = local.secant(
        lambda x: jnp.sum(x * jnp.array([3.0, -1.0], x.dtype)), neighbourhood=local.gaussian, num_samples=40
    )
    model = jax.jit(fit)(jax.random.key(11), x, stddev=0.5)
    assert model.slope.dtype == model.anchor.dtype == model.stderr.dtype == model.intercept.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(model.slope, float), [3, -1], atol=0.1)


def test_convolutions_in_the_loop_are_in_its_fast_layout():
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(2, 1, 3, 3)), float)
    energy = lambda x: jnp.sum(jax.lax.conv(x, kernel, (1, 1), "SAME") ** 2)  # noqa: E731
    fit = local.secant(energy, neighbourhood=local.gaussian, num_samples=6, ridge=1.0, chunk_size=2)
    program = jax.make_jaxpr(lambda x: fit(jax.random.key(0), x, stddev=1.0))(jnp.ones((1, 1, 4, 4)))

    def layouts(jaxpr):
        for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
            if equation.primitive.name == "conv_general_dilated":
                yield tuple(equation.params["dimension_numbers"])
            leaves = jax.tree.leaves(dict(equation.params), is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr"))
            for inner in leaves:
                if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                    yield from layouts(inner)

    assert set(layouts(program)) == {((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))}


@pytest.mark.core
def test_too_few_samples_are_refused():
    message = r"`secant` cannot determine the 4 coefficients of Linear.* in 3 coordinates from 3 samples: take more"
    with pytest.raises(ValueError, match=message):
        local.secant(f, 1, neighbourhood=local.gaussian, num_samples=3)(jax.random.key(0), W, X, stddev=1.0)
    for options in ({"num_samples": 3, "ridge": 0.1}, {"num_samples": 4}):
        fit = local.secant(f, 1, neighbourhood=local.gaussian, **options)
        assert np.all(np.isfinite(flat(jax.jit(fit)(jax.random.key(0), W, X, stddev=1.0).slope)))
    grouped = local.secant(f, 1, neighbourhood=NEIGHBOURHOODS["groups"][0], num_samples=2)
    with pytest.raises(ValueError, match=r"cannot determine the 3 coefficients of .* from 2 samples"):
        grouped(jax.random.key(0), W, X, **NEIGHBOURHOODS["groups"][1])


@pytest.mark.core
def test_the_secant_refuses():
    build = functools.partial(local.secant, neighbourhood=local.gaussian)
    with pytest.raises(ValueError, match="`num_samples` must be at least 1; got 0"):
        build(jnp.sum, num_samples=0)
    with pytest.raises(ValueError, match="`chunk_size` must be at least 1; got 0"):
        build(jnp.sum, num_samples=5, chunk_size=0)
    with pytest.raises(ValueError, match="`ridge` must be finite and >= 0; got -1"):
        build(jnp.sum, num_samples=5, ridge=-1.0)
    with pytest.raises(TypeError, match="`secant` takes a random key as its first argument"):
        build(jnp.sum, num_samples=5)(0, W, stddev=1.0)
    with pytest.raises(TypeError, match=r"`secant` needs a function that returns a scalar.* shape \(2,\)"):
        build(lambda x: x, num_samples=5)(jax.random.key(0), W, stddev=1.0)
    with pytest.raises(TypeError, match="`secant` needs floating-point arrays"):
        build(jnp.sum, num_samples=5)(jax.random.key(0), jnp.arange(2), stddev=1.0)
    with pytest.raises(TypeError, match="stddev"):
        build(jnp.sum, num_samples=5)(jax.random.key(0), W)
