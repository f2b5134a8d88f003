"""LIME and C-LIME against scikit-learn on their own samples, in the limit, and where they must be exact."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.linear_model

from jaxinterp.attribution import c_lime, lime, smooth_grad, with_stderr

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
    """The masks: the bits of a random word from the key folded with the sample."""
    words = [int(jax.random.bits(jax.random.fold_in(jax.random.key(seed), i), (1,), jnp.uint32)[0]) for i in range(n)]
    return np.array([[word >> i & 1 for i in range(features)] for word in words], float)


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


ROWS = np.random.default_rng(8).normal(size=(4, 5))


@pytest.mark.core
@pytest.mark.numerics
def test_with_a_background_it_explains_the_mean_over_its_rows():
    masks = drawn(2, 30, 3)
    values = np.mean([[f(np.where(z == 1, X, row), np) for z in masks[:, GROUPS]] for row in ROWS], 0)
    wanted = fit(masks, values, weights_of(masks, 0.75 * 3**0.5))[GROUPS]
    explain = jax.jit(lime(f, num_samples=30, num_groups=3))
    arrays = {"background": jnp.asarray(ROWS, float), "groups": jnp.asarray(GROUPS, jnp.int32)}
    got = explain(jax.random.key(2), jnp.asarray(X, float), **arrays)
    np.testing.assert_allclose(got, wanted, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.core
@pytest.mark.numerics
def test_a_background_of_one_row_is_a_baseline():
    explain = jax.jit(lime(f, num_samples=30))
    x, b = jnp.asarray(X, float), jnp.asarray(B, float)
    one = explain(jax.random.key(0), x, background=b[None])
    np.testing.assert_allclose(one, explain(jax.random.key(0), x, baseline=b), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.core
def test_backgrounds_are_checked():
    for background, message in [
        (jnp.ones(3), "`background` of `lime` must have the shape of the input with a leading axis"),
        (jnp.ones((0, 3)), "must have the shape of the input with a leading axis of one or more rows"),
        ((jnp.ones((2, 3)),), "`background` of `lime` must have the structure"),
    ]:
        with pytest.raises(ValueError, match=message):
            lime(jnp.sum)(jax.random.key(0), jnp.ones(3), background=background)


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("ridge", [0.0, 0.7])
def test_features_are_selected_by_the_least_angle_path_of_scikit_learn(count, ridge):
    """The path is that of the weighted, centred data; the fit to the selected features is as for all of them."""
    masks = drawn(1, 30, 5)
    values, weights = values_of(masks), weights_of(masks, 0.75 * 5**0.5)
    root = np.sqrt(weights / weights.sum())
    centred = root[:, None] * (masks - np.average(masks, axis=0, weights=weights))
    targets = root * (values - np.average(values, weights=weights))
    chosen = list(sklearn.linear_model.lars_path(centred, targets, method="lar", max_iter=min(count, 5))[1])
    assert len(chosen) == min(count, 5)
    wanted = np.zeros(5)
    wanted[chosen] = fit(masks[:, chosen], values, weights, ridge)
    explain = jax.jit(with_stderr(lime(f, num_samples=30, num_features=count, ridge=ridge)))
    got = explain(jax.random.key(1), jnp.asarray(X, float), baseline=jnp.asarray(B, float))
    np.testing.assert_allclose(got.mean, wanted, rtol=TOLERANCE, atol=TOLERANCE)
    np.testing.assert_array_equal(np.asarray(got.stderr) > 0, wanted != 0)


@pytest.mark.core
def test_few_selected_features_need_few_masks():
    explain = lime(lambda x: 3 * x[2], num_samples=30, num_features=1)
    got = explain(jax.random.key(0), jnp.ones(40))
    np.testing.assert_allclose(got, 3 * np.eye(40)[2], atol=1e-4)
    with pytest.raises(ValueError, match=r"`lime` cannot determine the 2 coefficients .* from 1 samples"):
        lime(jnp.sum, num_samples=1, num_features=1)(jax.random.key(0), jnp.ones(40))
    with pytest.raises(ValueError, match="`num_features` must be at least 1; got 0"):
        lime(jnp.sum, num_features=0)


@pytest.mark.core
@pytest.mark.numerics
def test_bfloat16_stays_bfloat16():
    explain = jax.jit(lime(lambda x: jnp.sum(x * jnp.array([1.0, -2.0, 3.0], x.dtype)), num_samples=60))
    got = explain(jax.random.key(0), jnp.ones(3, jnp.bfloat16))
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(got, float), [1, -2, 3], atol=0.05)


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
    explain = lime(jnp.sum, num_groups=count, num_samples=count + 50)
    run = jax.jit(lambda groups: explain(jax.random.key(0), jnp.ones(count), groups=groups))
    wanted = run(jnp.asarray(groups))
    np.testing.assert_array_equal(run(jnp.asarray(groups, dtype)), wanted)
    assert np.isfinite(wanted).all()


# C-LIME


def noise(seed, n, size):
    """The noise as the documentation of samples defines it: normal, from the key folded with the sample and leaf."""
    keys = [jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), i), 0) for i in range(n)]
    return np.stack([np.asarray(jax.random.normal(k, (size,), jnp.float32), np.float64) for k in keys])


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("chunk_size", [1, 7, None])
def test_c_lime_is_the_fit_of_scikit_learn_to_its_own_noise(chunk_size):
    shift = 0.3 * noise(1, 40, 5)
    wanted = fit(shift, np.array([f(X + row, np) for row in shift]), np.ones(40))
    explain = jax.jit(c_lime(f, num_samples=40, chunk_size=chunk_size))
    got = explain(jax.random.key(1), jnp.asarray(X, float), stddev=0.3)
    np.testing.assert_allclose(got, wanted, rtol=10 * TOLERANCE, atol=1e-6 if X64 else 1e-4)


@pytest.mark.numerics
def test_c_lime_tends_to_smooth_grad():
    """4 pooled standard errors of 5 entries; and both see the curvature, which the gradient does not."""
    x, wide = jnp.asarray(X, float), 0.7
    ours = jax.jit(with_stderr(c_lime(f, num_samples=20_000, chunk_size=None)))(jax.random.key(0), x, stddev=wide)
    smooth = jax.jit(with_stderr(smooth_grad(f, num_samples=20_000, chunk_size=None)))
    smooth = smooth(jax.random.key(1), x, stddev=wide)
    pooled = np.sqrt(np.asarray(ours.stderr) ** 2 + np.asarray(smooth.stderr) ** 2)
    assert np.all(np.abs(np.asarray(ours.mean) - np.asarray(smooth.mean)) < 4 * pooled)
    assert np.max(np.abs(np.asarray(ours.mean) - np.asarray(jax.grad(f)(x))) / np.asarray(ours.stderr)) > 10
    assert int(ours.num_samples) == 20_000


@pytest.mark.core
@pytest.mark.numerics
def test_c_lime_explains_steps_and_linear_functions():
    """The slope of a step of height 1 at x is the density of the noise there; a linear function has its own."""
    step = jax.jit(with_stderr(c_lime(lambda x: jnp.where(x[0] > 0, 1.0, 0.0), num_samples=4000)))
    found = step(jax.random.key(0), jnp.zeros(2), stddev=0.5)
    wanted = np.array([1 / (0.5 * np.sqrt(2 * np.pi)), 0])
    assert np.all(np.abs(np.asarray(found.mean) - wanted) < 4 * np.asarray(found.stderr))
    tree = {"u": jnp.ones((2, 2)), "v": jnp.asarray(3.0)}
    slopes = {"u": jnp.array([[1.0, -2.0], [0.5, 0.0]]), "v": jnp.asarray(4.0)}
    linear = lambda shift, t: jnp.sum(t["u"] * slopes["u"]) + t["v"] * slopes["v"] + shift  # noqa: E731
    explain = c_lime(linear, 1, num_samples=30)
    stddev = {"u": 0.1, "v": 2.0}
    got = jax.jit(lambda key: explain(key, jnp.asarray(5.0), tree, stddev=stddev))(jax.random.key(0))
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(slopes), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)


@pytest.mark.core
@pytest.mark.numerics
def test_the_errors_of_c_lime_are_its_spread_over_keys():
    explain = with_stderr(c_lime(f, num_samples=100, chunk_size=None))
    keys = jax.vmap(jax.random.key)(jnp.arange(300))
    found = jax.jit(jax.vmap(lambda k: explain(k, jnp.asarray(X, float), stddev=0.5)))(keys)
    means, errors = np.asarray(found.mean, np.float64), np.asarray(found.stderr, np.float64)
    ratio = np.sqrt((errors**2).mean(0)) / means.std(0)
    assert np.all((ratio > 0.7) & (ratio < 1.4)), ratio


@pytest.mark.core
def test_c_lime_refuses():
    x = jnp.ones(3)
    with pytest.raises(ValueError, match=r"`c_lime` cannot determine the 4 coefficients .* from 3 samples"):
        c_lime(jnp.sum, num_samples=3)(jax.random.key(0), x, stddev=1.0)
    with pytest.raises(ValueError, match="`num_samples` must be at least 1; got 0"):
        c_lime(jnp.sum, num_samples=0)
    with pytest.raises(ValueError, match="`stddev` must be finite and >= 0"):
        c_lime(jnp.sum)(jax.random.key(0), x, stddev=-1.0)
    with pytest.raises(TypeError, match="`c_lime` needs floating-point arrays"):
        c_lime(jnp.sum)(jax.random.key(0), jnp.arange(3), stddev=1.0)
    with pytest.raises(TypeError, match="needs a function that returns a scalar"):
        c_lime(jnp.sin)(jax.random.key(0), x, stddev=1.0)


@pytest.mark.parametrize("method", [lime, c_lime, smooth_grad])
def test_a_forgotten_key_is_named_by_the_method(method):
    with pytest.raises(TypeError, match=f"`{method.__name__}` takes a random key as its first argument"):
        method(jnp.sum, num_samples=10)(jnp.ones(2))
