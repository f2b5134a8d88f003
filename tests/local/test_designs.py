"""Designs: which masks they list, which they sample, and with which weights, against enumeration."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import local

pytestmark = [pytest.mark.core, pytest.mark.numerics]

GROUPS = jnp.array([0, 1, 1, 2])


def flat(t):
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(t)])


def listed(design, x, seed=0, **arrays):
    """The masks and the weights of all perturbations of a design."""
    indices = jnp.arange(design.size(x), dtype=jnp.int32)
    found = jax.jit(jax.vmap(lambda i: design.draw(jax.random.key(seed), i, x, **arrays)))(indices)
    masks = jnp.concatenate([leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(found.coordinates)], axis=1)
    return np.asarray(masks, np.float64), np.asarray(found.weight, np.float64)


def kernel(d):
    """All masks but two, and their Shapley kernel, which sums to 1."""
    masks = np.array(list(itertools.product([0.0, 1.0], repeat=d))[1:-1])
    weights = np.array([(d - 1) / (math.comb(d, int(k)) * k * (d - k)) for k in masks.sum(1)])
    return masks, weights / weights.sum()


def test_one_hot_removes_each_feature_once():
    x = {"u": jnp.ones(2), "v": jnp.ones(())}
    masks, weights = listed(local.one_hot(), x)
    np.testing.assert_array_equal(masks, 1 - np.eye(3))
    np.testing.assert_array_equal(weights, np.ones(3))
    assert local.one_hot().fixed(x) == 3
    grouped = local.one_hot(num_groups=3)
    np.testing.assert_array_equal(listed(grouped, jnp.ones(4), groups=GROUPS)[0], 1 - np.eye(3))
    removed = grouped.draw(None, 1, jnp.ones(4), groups=GROUPS, baseline=-1.0)
    assert removed.point.tolist() == [1, -1, -1, 1]
    assert removed.anchor.tolist() == [1, 1, 1]


def test_all_masks_count_in_binary():
    masks, weights = listed(local.all_masks(), jnp.ones(4))
    expected = np.array(list(itertools.product([0, 1], repeat=4)))[:, ::-1]
    np.testing.assert_array_equal(masks, expected)
    np.testing.assert_array_equal(weights, np.ones(16))
    assert local.all_masks().fixed(jnp.ones(4)) == 16
    assert listed(local.all_masks(num_groups=3), jnp.ones(4), groups=GROUPS)[0].shape == (8, 3)


def test_not_too_many_masks():
    assert local.all_masks().size(jnp.ones(20)) == 2**20
    with pytest.raises(ValueError, match=r"All masks of 21 features are 2\^21; at most 20"):
        local.all_masks().size(jnp.ones(21))
    assert local.all_masks(num_groups=3).size(jnp.ones(100)) == 8


@pytest.mark.parametrize(
    ("d", "num_samples", "outer"),
    [
        (7, 30, 1),
        (8, 60, 1),
        (8, 150, 2),
        (6, 8, 0),
        (23, 1000, 1),
        (23, 10, 0),
        (7, 1000, 3),
        (12, 601, 2),
        (5, 21, 1),
    ],
)
def test_outer_sizes_are_listed_and_inner_sizes_sampled_in_pairs(d, num_samples, outer):
    """All masks with 1..outer features kept or removed; the rest with their complements. Each size has its share."""
    design = local.coalitions(num_samples)
    size, fixed = design.size(jnp.ones(d)), design.fixed(jnp.ones(d))
    masks, weights = listed(design, jnp.ones(d), seed=3)
    kept = masks.sum(1)
    inner = [k for k in range(1, d) if min(k, d - k) > outer]
    assert fixed == sum(math.comb(d, k) for k in range(1, d) if k not in inner)
    assert size == (num_samples - (num_samples - fixed) % 2 if inner else fixed) <= num_samples
    assert weights.sum() == pytest.approx(1, rel=1e-5)
    assert len({tuple(mask) for mask in masks[:fixed]}) == fixed
    assert not set(kept[:fixed]) & set(inner)
    assert set(kept[fixed:]) <= set(inner)
    np.testing.assert_array_equal(masks[fixed::2], 1 - masks[fixed + 1 :: 2])
    total = sum(1 / (k * (d - k)) for k in range(1, d))
    for k in range(1, d):
        share = weights[kept == k].sum()
        if num_samples >= 2 * d:  # otherwise there is not a pair for each size, and all weigh the same
            assert share == pytest.approx(1 / (k * (d - k)) / total, rel=1e-5)
        assert not len(weights[kept == k]) or np.ptp(weights[kept == k]) <= 1e-6 * weights.max()


@pytest.mark.parametrize(("d", "num_samples"), [(6, 18), (7, 30), (8, 12)])
def test_the_moments_of_coalitions_are_unbiased(d, num_samples):
    """E Σ w z zᵀ over 3000 keys is that of the kernel; 5 standard errors, one key in ten thousand."""
    design, x = local.coalitions(num_samples), jnp.ones(d)
    indices = jnp.arange(design.size(x), dtype=jnp.int32)

    def moment(key):
        found = jax.vmap(lambda i: design.draw(key, i, x))(indices)
        return jnp.dot((found.weight[:, None] * found.coordinates).T, found.coordinates)

    moments = np.asarray(jax.jit(jax.vmap(moment))(jax.random.split(jax.random.key(1), 3000)), np.float64)
    masks, weights = kernel(d)
    expected = masks.T @ (weights[:, None] * masks)
    error = moments.std(0) / np.sqrt(3000) + 1e-6
    assert moments.std(0).max() > 1e-3
    assert np.all(np.abs(moments.mean(0) - expected) < 5 * error)


def test_coalitions_of_groups():
    design = local.coalitions(6, num_groups=3)
    masks, _ = listed(design, jnp.ones(4), groups=GROUPS)
    assert masks.shape == (6, 3)
    found = design.draw(jax.random.key(0), 0, jnp.ones(4), groups=GROUPS, baseline=-1.0)
    np.testing.assert_array_equal(found.point, 2 * np.asarray(found.coordinates)[np.asarray(GROUPS)] - 1)


def test_the_nearest_rows():
    rng = np.random.default_rng(0)
    data, x = rng.normal(size=(30, 4)), rng.normal(size=4)
    split = lambda a: {"u": jnp.asarray(a[..., :3], float), "v": jnp.asarray(a[..., 3], float)}  # noqa: E731
    design = local.nearest(5)
    draw = jax.jit(lambda i: design.draw(jax.random.key(0), i, split(x), data=split(data)))
    expected = data[np.argsort(((data - x) ** 2).sum(1))[:5]]
    for i in range(design.size(x)):
        found = draw(i)
        np.testing.assert_allclose(flat(found.point), expected[i], rtol=1e-6)
        np.testing.assert_allclose(flat(found.coordinates), expected[i], rtol=1e-6)
        np.testing.assert_allclose(flat(found.anchor), x, rtol=1e-6)
    assert design.fixed(x) == 5


def test_designs_refuse():
    with pytest.raises(ValueError, match="`num_samples` must be at least 1; got 0"):
        local.coalitions(0)
    with pytest.raises(ValueError, match="`num_neighbours` must be at least 1; got 0"):
        local.nearest(0)
    with pytest.raises(ValueError, match="`nearest` needs 3 rows of `data`; got 2"):
        local.nearest(3).draw(None, 0, jnp.zeros(2), data=jnp.ones((2, 2)))
    with pytest.raises(ValueError, match="`num_groups` must be at least 1; got 0"):
        local.all_masks(num_groups=0).size(jnp.ones(2))
    with pytest.raises(TypeError, match="needs `num_groups` when it is built and `groups` at the call"):
        local.one_hot().draw(None, 0, jnp.ones(4), groups=GROUPS)
