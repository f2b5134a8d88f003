"""LIME against scikit-learn on its own masks, against all masks, and where it must be exact."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.linear_model

from jaxinterp.attribution import lime, with_stderr

X64 = jax.config.jax_enable_x64
TOLERANCE = 1e-10 if X64 else 2e-4
X = np.array([0.5, -1.0, 2.0, 0.3, 1.4])
B = np.array([0.1, 0.0, -0.5, 0.3, 0.2])
W = np.random.default_rng(0).normal(size=(7, 5))


def f(x, xp=jnp):
    return xp.sum(xp.tanh(W.astype(x.dtype) @ x)) + x[0] * x[2]


def fit(masks, targets, weights, ridge=0.0):
    """The coefficients by scikit-learn."""
    oracle = sklearn.linear_model.Ridge(ridge, solver="svd") if ridge else sklearn.linear_model.LinearRegression()
    return oracle.fit(masks, targets, sample_weight=weights).coef_


def drawn(seed, n, features):
    """The masks as the documentation defines them: fair coins from the key folded with the sample and the leaf."""
    keys = [jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), i), 0) for i in range(n)]
    return np.stack([np.asarray(jax.random.uniform(k, (features,), jnp.float32) < 0.5, float) for k in keys])


def weights_of(masks, width):
    return np.exp(-(masks.shape[1] - masks.sum(1)) / (2 * width**2))


def values_of(masks):
    return np.array([f(np.where(z == 1, X, B), np) for z in masks])


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("ridge", [0.0, 0.7])
@pytest.mark.parametrize("width", [None, 0.9])
def test_it_is_the_fit_of_scikit_learn_to_its_own_masks(ridge, width):
    """The default width is 0.75 times the root of the number of features; the ridge is in units of the weights."""
    masks = drawn(1, 30, 5)
    wanted = fit(masks, values_of(masks), weights_of(masks, width or 0.75 * 5**0.5), ridge)
    explain = jax.jit(lime(f, num_samples=30, kernel_width=width, ridge=ridge, chunk_size=7))
    got = explain(jax.random.key(1), jnp.asarray(X, float), baseline=jnp.asarray(B, float))
    np.testing.assert_allclose(got, wanted, rtol=TOLERANCE, atol=TOLERANCE)


GROUPS = np.array([2, 0, 1, 0, 2])


@pytest.mark.core
@pytest.mark.numerics
def test_with_groups_it_is_the_fit_to_the_masks_of_the_groups():
    """With as many features as groups, also in the default width."""
    masks = drawn(2, 30, 3)
    coefficients = fit(masks, values_of(masks[:, GROUPS]), weights_of(masks, 0.75 * 3**0.5))
    explain = jax.jit(lime(f, num_samples=30, num_groups=3))
    got = explain(
        jax.random.key(2), jnp.asarray(X, float), baseline=jnp.asarray(B, float), groups=jnp.asarray(GROUPS, jnp.int32)
    )
    np.testing.assert_allclose(got, coefficients[GROUPS], rtol=TOLERANCE, atol=TOLERANCE)


@functools.cache
def estimated(width):
    explain = jax.jit(with_stderr(lime(f, num_samples=20_000, kernel_width=width, chunk_size=None)))
    return explain(jax.random.key(3), jnp.asarray(X, float), baseline=jnp.asarray(B, float))


@pytest.mark.parametrize("width", [None, 0.8])
def test_many_masks_are_as_good_as_all(width):
    """4 standard errors of 5 coefficients fail for one key in 3000; the kernel is seen beyond 10 of them."""
    masks = np.array(list(itertools.product([0.0, 1.0], repeat=5)))
    estimate = estimated(width)
    error = np.asarray(estimate.stderr, np.float64)
    wanted = fit(masks, values_of(masks), weights_of(masks, width or 0.75 * 5**0.5))
    got = np.asarray(estimate.mean, np.float64)
    assert np.all(np.abs(got - wanted) < 4 * error)
    for wrong in (weights_of(masks, 0.5), weights_of(masks, 1e3)):
        assert np.max(np.abs(got - fit(masks, values_of(masks), wrong)) / error) > 10


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("grouped", [False, True])
def test_linear_functions_of_trees_are_explained_exactly(grouped):
    """Groups reach across arrays and arguments; each entry of a group carries what the whole group contributes."""
    rng = np.random.default_rng(4)
    like = (np.zeros((2, 3)), {"v": np.zeros(4)})
    a, x, b = (jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), like) for _ in range(3))
    groups = (np.array([[0, 1, 1], [3, 2, 2]]), {"v": np.array([3, 0, 4, 4])})
    single = jax.tree.map(lambda s, t, u: s * (t - u), a, x, b)
    total = np.zeros(5)
    for g, s in zip(jax.tree.leaves(groups), jax.tree.leaves(single), strict=True):
        np.add.at(total, g, s)
    wanted = jax.tree.map(lambda g, s: total[g] if grouped else s, groups, single)

    def linear(v, shift, u):
        parts = jax.tree.map(lambda s, t: jnp.sum(jnp.asarray(s, t.dtype) * t), a, (u, v))
        return sum(jax.tree.leaves(parts)) + shift

    to_jax = functools.partial(jax.tree.map, lambda leaf: jnp.asarray(leaf, float))
    arrays = {"baseline": to_jax(b)}
    if grouped:
        arrays["groups"] = jax.tree.map(lambda g: jnp.asarray(g, jnp.int32), groups)
    explain = jax.jit(lime(linear, (2, 0), num_samples=40, num_groups=5 if grouped else None))
    got = explain(jax.random.key(5), to_jax(x[1]), 3.0, to_jax(x[0]), **arrays)
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=10 * TOLERANCE, atol=10 * TOLERANCE)


@pytest.mark.core
def test_standard_errors_of_a_group_are_spread_like_its_coefficient():
    explain = jax.jit(with_stderr(lime(f, num_samples=200, num_groups=3)))
    estimate = explain(jax.random.key(6), jnp.asarray(X, float), groups=jnp.asarray(GROUPS, jnp.int32))
    for values in (estimate.mean, estimate.stderr):
        assert values.shape == (5,)
        assert values[0] == values[4]
        assert values[1] == values[3]
        assert len(np.unique(values)) == 3
    assert np.all(np.asarray(estimate.stderr) > 0)
    assert int(estimate.num_samples) == 200


@pytest.mark.core
def test_a_ridge_replaces_samples():
    explain = jax.jit(lime(f, num_samples=4, ridge=0.1))
    masks = drawn(7, 4, 5)
    wanted = fit(masks, np.array([f(z * X, np) for z in masks]), weights_of(masks, 0.75 * 5**0.5), 0.1)
    np.testing.assert_allclose(explain(jax.random.key(7), jnp.asarray(X, float)), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.core
@pytest.mark.parametrize("num_samples", [5, 3])
def test_too_few_masks_are_refused(num_samples):
    with pytest.raises(
        ValueError, match=f"`lime` cannot determine the 6 coefficients .* from {num_samples} samples: take more"
    ):
        lime(f, num_samples=num_samples)(jax.random.key(0), jnp.asarray(X, float))


@pytest.mark.core
def test_groups_need_their_number_and_the_number_groups():
    x, groups = jnp.ones(3), jnp.array([0, 1, 1])
    message = "^`lime` needs `num_groups` when it is built and `groups` at the call, both or neither; got "
    with pytest.raises(TypeError, match=message + "num_groups=None and groups given"):
        lime(jnp.sum)(jax.random.key(0), x, groups=groups)
    with pytest.raises(TypeError, match=message + "num_groups=2 and groups missing"):
        lime(jnp.sum, num_groups=2)(jax.random.key(0), x)


@pytest.mark.core
def test_groups_are_checked():
    x, explain = jnp.ones(3), lime(jnp.sum, num_groups=2)
    for groups, error, message in [
        (jnp.array([0, 1, 2]), ValueError, r"`groups` .* must lie in 0\.\.1 \(num_groups=2\); got values from 0 to 2"),
        (jnp.array([-1, 0, 1]), ValueError, r"got values from -1 to 1"),
        (jnp.array([0, 1]), ValueError, r"`groups` .* must have shape \(3,\); got \(2,\)"),
        (jnp.array([0.0, 1.0, 1.0]), TypeError, "`groups` .* must be integers; got dtype float"),
    ]:
        with pytest.raises(error, match=message):
            explain(jax.random.key(0), x, groups=groups)
    with pytest.raises(ValueError, match="`num_groups` must be at least 1; got 0"):
        lime(jnp.sum, num_groups=0)(jax.random.key(0), x, groups=jnp.array([0, 0, 0]))


@pytest.mark.core
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "`num_samples` must be at least 1; got 0"),
        ({"chunk_size": 0}, "`chunk_size` must be at least 1; got 0"),
        ({"ridge": -1.0}, "`ridge` must be finite and >= 0; got -1"),
        ({"kernel_width": -1.0}, "`kernel_width` must be positive; got -1"),
        ({"kernel_width": 0.0}, "`kernel_width` must be positive; got 0"),
    ],
)
def test_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        lime(jnp.sum, **options)(jax.random.key(0), jnp.ones(3))


@pytest.mark.core
def test_inputs_are_refused_by_name():
    with pytest.raises(TypeError, match=r"^`lime` needs floating-point arrays"):
        lime(jnp.sum)(jax.random.key(0), jnp.arange(3))
    with pytest.raises(TypeError, match="needs a function that returns a scalar"):
        lime(jnp.sin)(jax.random.key(0), jnp.ones(3))
    with pytest.raises(ValueError, match=r"`baseline` of shape \(2,\) does not broadcast"):
        lime(jnp.sum)(jax.random.key(0), jnp.ones(3), baseline=jnp.ones(2))


@pytest.mark.core
@pytest.mark.parametrize("groups", [[0, 5, 1], [0, -1, 1]])
def test_a_group_outside_is_nan_where_it_cannot_be_refused(groups):
    run = jax.jit(lambda g: lime(jnp.sum, num_groups=2)(jax.random.key(0), jnp.ones(3), groups=g))
    assert np.isnan(run(jnp.array(groups))).all()
    assert np.isfinite(run(jnp.array([0, 1, 1]))).all()


@pytest.mark.core
@pytest.mark.parametrize(("dtype", "count"), [(jnp.uint8, 256), (jnp.int8, 128)])
def test_groups_of_any_integer_type(dtype, count):
    """The number of groups is beyond the type."""
    groups = np.arange(count) % 100
    run = lime(jnp.sum, num_groups=count, num_samples=count + 50)
    wanted = run(jax.random.key(0), jnp.ones(count), groups=jnp.asarray(groups))
    np.testing.assert_array_equal(run(jax.random.key(0), jnp.ones(count), groups=jnp.asarray(groups, dtype)), wanted)
    assert np.isfinite(wanted).all()
