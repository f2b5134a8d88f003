"""Neighbourhoods: what they draw, with which law, and in which coordinates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxinterp import local, tree

X = {"u": jnp.array([1.0, -2.0, 3.0]), "v": (jnp.array([[0.5], [4.0]]),)}
GROUPS = {"u": jnp.array([0, 0, 2]), "v": (jnp.array([[1], [2]]),)}


def flat(t):
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(t)])


def drawn(neighbourhood, n, x=X, **arrays):
    """n samples, the leaves stacked."""
    keys = jax.random.split(jax.random.key(1), n)
    return jax.jit(jax.vmap(lambda key: neighbourhood(key, x, **arrays)))(keys)


def rows(t):
    return np.concatenate([np.asarray(leaf, np.float64).reshape(len(leaf), -1) for leaf in jax.tree.leaves(t)], axis=1)


@pytest.mark.core
@pytest.mark.parametrize(
    "neighbourhood",
    [lambda key, x: local.gaussian(key, x, stddev=0.3), local.segment, local.binary_mask],
    ids=["gaussian", "segment", "binary_mask"],
)
def test_one_key_one_sample(neighbourhood):
    one = neighbourhood(jax.random.key(0), X)
    for other in (neighbourhood(jax.random.key(0), X), jax.jit(neighbourhood)(jax.random.key(0), X)):
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
    assert np.any(flat(one.point) != flat(neighbourhood(jax.random.key(4), X).point))
    assert isinstance(one, local.Perturbation)
    for t in (one.point, one.coordinates, one.anchor):
        assert jax.tree.structure(t) == jax.tree.structure(X)
        assert jax.tree.map(jnp.shape, t) == jax.tree.map(jnp.shape, X)


@pytest.mark.core
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_the_point_has_the_dtype_of_the_input(dtype):
    x = jnp.array([1.0, 2.0], dtype)
    for neighbourhood in (
        lambda key, x: local.gaussian(key, x, stddev=0.3),
        local.segment,
        local.binary_mask,
        lambda key, x: local.binary_mask(key, x, groups=jnp.array([0, 0]), num_groups=1),
    ):
        sample = neighbourhood(jax.random.key(2), x)
        assert sample.point.dtype == dtype
        assert sample.coordinates.dtype == sample.anchor.dtype


@pytest.mark.core
def test_gaussian_noise_is_scaled_and_added():
    """The same noise at another scale: a prefix of the input sets it per leaf and per entry."""
    stddev = {"u": jnp.array([0.1, 0.0, 2.0]), "v": 0.5}
    unit = local.gaussian(jax.random.key(3), tree.zeros_like(X), stddev=1.0)
    sample = local.gaussian(jax.random.key(3), X, stddev=stddev)
    np.testing.assert_allclose(flat(sample.point), flat(X) + [0.1, 0, 2, 0.5, 0.5] * flat(unit.point), rtol=1e-5)
    np.testing.assert_array_equal(flat(sample.coordinates), flat(sample.point))
    np.testing.assert_array_equal(flat(sample.anchor), flat(X))


def test_gaussian_noise_is_normal_and_independent():
    """Kolmogorov-Smirnov per entry and correlations between entries; right code fails for one key in ten thousand."""
    noise = (rows(drawn(local.gaussian, 2000, stddev=0.5).point) - flat(X)) / 0.5
    assert min(scipy.stats.kstest(column, "norm").pvalue for column in noise.T) > 1e-5
    correlation = np.corrcoef(noise.T) - np.eye(5)
    assert np.abs(correlation).max() < 5 / np.sqrt(2000)


@pytest.mark.core
@pytest.mark.parametrize("stddev", [-0.1, np.nan, np.inf])
def test_the_scale_is_finite_and_not_negative(stddev):
    with pytest.raises(ValueError, match=r"`stddev` must be finite and >= 0; got"):
        local.gaussian(jax.random.key(0), X, stddev=stddev)


@pytest.mark.core
def test_the_scale_is_a_prefix():
    with pytest.raises(ValueError, match=r"`stddev` of shape \(2,\) does not broadcast to the input\['u'\]"):
        local.gaussian(jax.random.key(0), X, stddev={"u": jnp.ones(2), "v": 1.0})
    with pytest.raises(ValueError, match="`stddev` must be a scalar, an array, or a pytree prefix"):
        local.gaussian(jax.random.key(0), X, stddev={"u": 1.0})


@pytest.mark.core
@pytest.mark.numerics
def test_along_a_segment():
    x, b = jnp.array([1.0, 4.0]), jnp.array([3.0, -4.0])
    for t, expected in [(0.0, [3, -4]), (0.25, [2.5, -2]), (1.0, [1, 4])]:
        np.testing.assert_allclose(local.along_segment(t, x, b), expected, rtol=1e-6)
        point = local.along_segment(jnp.float32(t), {"x": x}, {"x": b})
        np.testing.assert_allclose(point["x"], expected, rtol=1e-6)
    # In bfloat16, x - b would be rounded to 300 and to 302 before the multiplication.
    x, b = jnp.array([1.0078125], jnp.bfloat16), jnp.array([-300.0], jnp.bfloat16)
    assert local.along_segment(1.0, x, b).tolist() == [1.0078125]
    assert local.along_segment(1.0, x, b).dtype == jnp.bfloat16


def test_the_segment_is_uniform_from_the_baseline_to_the_input():
    """All entries share one t in [0, 1]; Kolmogorov-Smirnov, right code fails for one key in a million."""
    baseline = {"u": jnp.array([2.0, 2.0, 2.0]), "v": -1.0}
    sample = drawn(local.segment, 2000, baseline=baseline)
    b = np.array([2.0, 2, 2, -1, -1])
    t = (rows(sample.point) - b) / (flat(X) - b)
    np.testing.assert_allclose(t, np.repeat(t[:, :1], 5, axis=1), atol=1e-5)
    assert scipy.stats.kstest(t[:, 0], "uniform").pvalue > 1e-6
    np.testing.assert_array_equal(rows(sample.coordinates), rows(sample.point))
    np.testing.assert_array_equal(rows(sample.anchor)[0], flat(X))
    from_zero = rows(drawn(local.segment, 50).point) / flat(X)
    assert np.all((from_zero >= 0) & (from_zero <= 1))


@pytest.mark.core
def test_masked_inputs():
    keep = {"a": jnp.array([1.0, 0.0, 1.0])}
    point = local.masked(keep, {"a": jnp.array([1.0, jnp.nan, 3.0])}, {"a": jnp.array([7.0, 8.0, jnp.inf])})
    assert point["a"].tolist() == [1.0, 8.0, 3.0]


def test_masks_are_uniform():
    """All 32 masks, chi-square; right code fails for one key in a million."""
    sample = drawn(local.binary_mask, 3200)
    masks = rows(sample.coordinates)
    assert set(masks.ravel()) == {0.0, 1.0}
    counts = np.bincount((masks @ 2 ** np.arange(5)).astype(int), minlength=32)
    assert scipy.stats.chisquare(counts).pvalue > 1e-6
    np.testing.assert_array_equal(rows(sample.point), masks * flat(X))
    assert np.all(rows(sample.anchor) == 1)


@pytest.mark.core
def test_a_removed_feature_takes_the_baseline():
    baseline = {"u": jnp.array([7.0, 8.0, 9.0]), "v": -1.0}
    sample = drawn(local.binary_mask, 40, baseline=baseline)
    masks = rows(sample.coordinates)
    np.testing.assert_array_equal(rows(sample.point), np.where(masks == 1, flat(X), [7, 8, 9, -1, -1]))


@pytest.mark.core
def test_groups_are_kept_or_removed_together():
    sample = drawn(lambda key, x: local.binary_mask(key, x, baseline=9.0, groups=GROUPS, num_groups=4), 64)
    masks = np.asarray(sample.coordinates)
    assert masks.shape == (64, 4)
    assert len({tuple(row) for row in masks.tolist()}) > 8
    np.testing.assert_array_equal(rows(sample.point), np.where(masks[:, [0, 0, 2, 1, 2]] == 1, flat(X), 9))
    assert np.all(np.asarray(sample.anchor) == np.ones((64, 4)))
    # A feature is kept in half of the samples: 5 standard deviations, one key in a million.
    assert np.all(np.abs(masks.mean(0) - 0.5) < 5 * 0.5 / np.sqrt(64))


@pytest.mark.core
def test_masks_of_groups_do_not_need_bfloat16():
    x = jnp.ones(3, jnp.bfloat16)
    sample = local.binary_mask(jax.random.key(0), x, groups=jnp.array([0, 1, 1]), num_groups=2)
    assert sample.coordinates.dtype == jnp.float32


@pytest.mark.core
def test_groups_need_their_number():
    with pytest.raises(TypeError, match="`binary_mask` needs `num_groups` when it is built and `groups` at the call"):
        local.binary_mask(jax.random.key(0), X, groups=GROUPS)
    with pytest.raises(ValueError, match="`num_groups` must be at least 1; got 0"):
        local.binary_mask(jax.random.key(0), X, groups=GROUPS, num_groups=0)


@pytest.mark.core
def test_groups_are_integers_like_the_input():
    x = jnp.ones(3)
    with pytest.raises(ValueError, match=r"`groups` of `binary_mask` must have shape \(3,\); got \(2,\)"):
        local.binary_mask(jax.random.key(0), x, groups=jnp.array([0, 1]), num_groups=2)
    with pytest.raises(ValueError, match="`groups` of `binary_mask` must have the structure"):
        local.binary_mask(jax.random.key(0), X, groups=jnp.array([0, 1]), num_groups=2)
    with pytest.raises(TypeError, match="`groups` of `binary_mask` must be integers; got dtype float32"):
        local.binary_mask(jax.random.key(0), x, groups=jnp.zeros(3, jnp.float32), num_groups=2)


@pytest.mark.core
@pytest.mark.parametrize(("groups", "low", "high"), [([0, 1, 2], 0, 2), ([-1, 0, 1], -1, 1)])
def test_groups_lie_in_their_range(groups, low, high):
    message = rf"must lie in 0..1 \(num_groups=2\); got values from {low} to {high}"
    with pytest.raises(ValueError, match=message):
        local.binary_mask(jax.random.key(0), jnp.ones(3), groups=jnp.array(groups), num_groups=2)


def test_groups_that_are_traced_pass():
    """Under jit their values are unknown."""
    run = jax.jit(lambda g: local.binary_mask(jax.random.key(5), jnp.ones(3), groups=g, num_groups=2))
    sample = run(jnp.array([0, 1, 1]))
    np.testing.assert_array_equal(sample.point, np.asarray(sample.coordinates)[[0, 1, 1]])


@pytest.mark.core
def test_without_groups_every_entry_is_a_feature():
    groups, count = local.feature_groups("method", None, None, X)
    assert count == 5
    assert jax.tree.structure(groups) == jax.tree.structure(X)
    assert jax.tree.map(jnp.shape, groups) == jax.tree.map(jnp.shape, X)
    assert flat(groups).tolist() == [0, 1, 2, 3, 4]
    given, count = local.feature_groups("method", GROUPS, 4, X)
    assert given is GROUPS
    assert count == 4


@pytest.mark.core
def test_groups_and_their_number_come_together():
    for groups, num_groups in [(GROUPS, None), (None, 4)]:
        with pytest.raises(TypeError, match=r"^`method` needs `num_groups` when it is built and `groups` at the call"):
            local.feature_groups("method", groups, num_groups, X)
    with pytest.raises(ValueError, match=r"`groups` of `method` must lie in 0..1"):
        local.feature_groups("method", GROUPS, 2, X)


@pytest.mark.core
def test_a_box_is_scaled_and_added():
    radius = {"u": jnp.array([0.1, 0.0, 2.0]), "v": 0.5}
    unit = local.box(jax.random.key(3), tree.zeros_like(X), radius=1.0)
    sample = local.box(jax.random.key(3), X, radius=radius)
    np.testing.assert_allclose(flat(sample.point), flat(X) + [0.1, 0, 2, 0.5, 0.5] * flat(unit.point), rtol=1e-5)
    np.testing.assert_array_equal(flat(sample.coordinates), flat(sample.point))
    np.testing.assert_array_equal(flat(sample.anchor), flat(X))
    for radius in (-0.1, np.inf):
        with pytest.raises(ValueError, match=r"`radius` must be finite and >= 0; got"):
            local.box(jax.random.key(0), X, radius=radius)


def test_a_box_is_uniform_and_independent():
    """Kolmogorov-Smirnov per entry and correlations between entries; right code fails for one key in ten thousand."""
    noise = (rows(drawn(local.box, 2000, radius=0.5).point) - flat(X)) / 0.5
    assert min(scipy.stats.kstest(column, "uniform", (-1, 2)).pvalue for column in noise.T) > 1e-5
    assert np.abs(np.corrcoef(noise.T) - np.eye(5)).max() < 5 / np.sqrt(2000)


def test_scaling_is_uniform_from_low_to_one():
    """All entries share one α, and the coordinates are α; right code fails for one key in a million."""
    baseline = {"u": jnp.array([2.0, 2.0, 2.0]), "v": -1.0}
    sample = drawn(local.scaling, 2000, baseline=baseline, low=0.4)
    alpha = rows(sample.coordinates)
    np.testing.assert_array_equal(alpha, np.repeat(alpha[:, :1], 5, axis=1))
    assert scipy.stats.kstest(alpha[:, 0], "uniform", (0.4, 0.6)).pvalue > 1e-6
    b = np.array([2.0, 2, 2, -1, -1])
    np.testing.assert_allclose(rows(sample.point), b + alpha * (flat(X) - b), rtol=1e-5, atol=1e-6)
    assert np.all(rows(sample.anchor) == 1)


@pytest.mark.core
@pytest.mark.numerics
def test_scaling_has_the_slope_of_the_input_times_the_gradient():
    sample = local.scaling(jax.random.key(6), jnp.array([1.0, 3.0]), baseline=jnp.array([2.0, -1.0]))
    f = lambda x: x[0] * x[1] ** 2  # noqa: E731
    slope = jax.grad(sample.in_coordinates(f))(sample.coordinates)
    a, b = np.asarray(sample.point, np.float64)
    np.testing.assert_allclose(slope, [-(b**2), 4 * 2 * a * b], rtol=1e-5)


@pytest.mark.core
@pytest.mark.numerics
def test_a_span_moves_along_its_tangents():
    rng = np.random.default_rng(0)
    tangents = {"u": rng.normal(size=(2, 3)), "v": (rng.normal(size=(2, 2, 1)),)}
    shaped = jax.tree.map(lambda a: jnp.asarray(a, float), tangents)
    sample = local.tangent_span(jax.random.key(7), X, tangents=shaped, stddev=0.5)
    z = np.asarray(sample.coordinates, np.float64)
    matrix = np.concatenate([tangents["u"], tangents["v"][0][:, :, 0]], axis=1)
    np.testing.assert_allclose(flat(sample.point), flat(X) + z @ matrix, rtol=1e-5)
    assert sample.anchor.tolist() == [0, 0]
    f = lambda x: jnp.sum(x["u"] ** 2) + jnp.prod(x["v"][0])  # noqa: E731
    assert float(sample.in_coordinates(f)(sample.coordinates)) == pytest.approx(float(f(sample.point)), rel=1e-5)
    assert float(sample.in_coordinates(f)(sample.anchor)) == pytest.approx(float(f(X)), rel=1e-5)
    np.testing.assert_allclose(sample.coordinates_of(sample.point), z, rtol=1e-4, atol=1e-5)
    elsewhere = jax.tree.map(lambda a: a + 1, X)
    nearest = np.linalg.lstsq(matrix.T, np.ones(5))[0]
    np.testing.assert_allclose(sample.coordinates_of(elsewhere), nearest, rtol=1e-4, atol=1e-5)


def test_the_coordinates_of_a_span_are_normal():
    tangents = jnp.eye(3)[:2]
    z = rows(drawn(local.tangent_span, 2000, x=jnp.ones(3), tangents=tangents, stddev=0.5).coordinates) / 0.5
    assert min(scipy.stats.kstest(column, "norm").pvalue for column in z.T) > 1e-5
    assert abs(np.corrcoef(z.T)[0, 1]) < 5 / np.sqrt(2000)


@pytest.mark.core
def test_a_span_refuses():
    with pytest.raises(ValueError, match="`tangents` of `tangent_span` must have the structure"):
        local.tangent_span(jax.random.key(0), X, tangents=jnp.ones((2, 5)), stddev=1.0)
    with pytest.raises(ValueError, match="`stddev` must be finite and >= 0"):
        local.tangent_span(jax.random.key(0), jnp.ones(2), tangents=jnp.eye(2), stddev=-1.0)


@pytest.mark.core
@pytest.mark.numerics
def test_a_function_of_coordinates_and_the_coordinates_of_a_point():
    sample = local.gaussian(jax.random.key(8), X, stddev=0.3)
    assert sample.in_coordinates(jnp.sum) is jnp.sum
    assert sample.coordinates_of(X) is X
    masked = local.binary_mask(jax.random.key(8), X, baseline=9.0, groups=GROUPS, num_groups=4)
    total = lambda x: jnp.sum(x["u"]) - jnp.sum(x["v"][0])  # noqa: E731
    value = masked.in_coordinates(total)(masked.coordinates)
    assert float(value) == pytest.approx(float(total(masked.point)), rel=1e-5)
    mask = jnp.array([0.25, 0.5, 1.0, 1.0])
    half = np.array([0.25, 0.25, 1, 0.5, 1])
    entries = half * flat(X) + (1 - half) * 9
    assert float(masked.in_coordinates(total)(mask)) == pytest.approx(entries[:3].sum() - entries[3:].sum(), rel=1e-5)
    point = {"u": jnp.asarray(entries[:3], float), "v": (jnp.asarray(entries[3:, None], float),)}
    np.testing.assert_allclose(masked.coordinates_of(point), mask, rtol=1e-4)


@pytest.mark.core
@pytest.mark.numerics
def test_a_background_of_masks_is_averaged():
    data = jnp.array([[1.0, -2.0], [3.0, 0.5], [0.0, 1.0]])
    x = jnp.array([2.0, 5.0])
    f = lambda x: x[0] * x[1] ** 2  # noqa: E731
    for seed in range(4):
        sample = local.binary_mask(jax.random.key(seed), x, background=data)
        kept = np.asarray(sample.coordinates) == 1
        mixed = np.where(kept, x, data)
        value = sample.in_coordinates(f)(sample.coordinates)
        assert float(value) == pytest.approx(np.mean(mixed[:, 0] * mixed[:, 1] ** 2), rel=1e-5)
        np.testing.assert_allclose(sample.point, mixed.mean(0), rtol=1e-5)


@pytest.mark.core
def test_after_a_transformation_only_the_arrays_are_left():
    masked = drawn(local.binary_mask, 3)
    for lost in (masked.in_coordinates, masked.coordinates_of):
        with pytest.raises(ValueError, match="went through a transformation of JAX, which takes its arrays alone"):
            lost(X)
    plain = drawn(local.gaussian, 3, stddev=1.0)
    assert plain.function is None
    assert plain.locate is None
    assert plain.weight.shape == (3,)


def test_a_ball_is_filled_evenly():
    """The squared distance over r² has the mean n/(n + 2), each entry the variance r²/(n + 2); pytrees are one ball."""
    x = {"u": jnp.ones((2, 2)), "v": jnp.asarray(-1.0)}
    keys = jax.random.split(jax.random.key(0), 4000)
    points = jax.jit(jax.vmap(lambda k: local.ball(k, x, radius=3.0).point))(keys)
    change = np.concatenate([np.asarray(points["u"]).reshape(4000, 4) - 1, np.asarray(points["v"])[:, None] + 1], 1)
    squares = (change**2).sum(1) / 9
    assert squares.max() <= 1 + 1e-5
    assert squares.mean() == pytest.approx(5 / 7, abs=float(4 * squares.std() / 4000**0.5))
    np.testing.assert_allclose(np.cov(change.T), 9 / 7 * np.eye(5), atol=0.15)
    np.testing.assert_allclose(change.mean(0), 0, atol=4 * (9 / 7 / 4000) ** 0.5)


def test_noise_with_the_covariance_of_a_factor():
    factor = np.array([[1.0, 0.0], [-0.5, 0.2], [2.0, 1.0]])
    keys = jax.random.split(jax.random.key(1), 20_000)
    draw = jax.jit(jax.vmap(lambda k: local.correlated_gaussian(k, jnp.ones(3), factor=jnp.asarray(factor)).point))
    change = np.asarray(draw(keys), np.float64) - 1
    np.testing.assert_allclose(np.cov(change.T), factor @ factor.T, atol=0.15)
    assert np.linalg.matrix_rank(change, tol=1e-2) == 2


def test_several_dtypes_and_one_radius():
    x = {"u": jnp.ones(2, jnp.bfloat16), "v": jnp.zeros(1, jnp.float32)}
    for point in (
        local.correlated_gaussian(jax.random.key(0), x, factor=jnp.eye(3)).point,
        local.ball(jax.random.key(0), x, radius=2).point,
    ):
        assert jax.tree.map(lambda leaf: leaf.dtype, point) == jax.tree.map(lambda leaf: leaf.dtype, x)
        assert np.all(np.isfinite(flat(point)))
    with pytest.raises(ValueError, match="`radius` must be one number"):
        local.ball(jax.random.key(0), X, radius=jnp.ones(3))
