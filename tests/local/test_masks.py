"""Masks over features: values of masks between 0 and 1, backgrounds, groups, and the way back from an input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import local

pytestmark = [pytest.mark.core, pytest.mark.numerics]

X = {"u": jnp.array([1.0, -2.0, 3.0]), "v": jnp.array([[0.5], [4.0]])}
GROUPS = {"u": jnp.array([0, 0, 2]), "v": jnp.array([[1], [2]])}
BASELINE = {"u": jnp.array([7.0, 8.0, 9.0]), "v": -1.0}
FLAT_X = np.array([1.0, -2.0, 3.0, 0.5, 4.0])
FLAT_BASELINE = np.array([7.0, 8.0, 9.0, -1.0, -1.0])
ENTRIES = np.array([0, 0, 2, 1, 2])
SOFT = jnp.array([0.25, 1.0, 0.5])


def flat(t):
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(t)])


def curved(x):
    return jnp.sum(jnp.sin(x["u"])) * jnp.sum(x["v"] ** 2)


def numpy_curved(entries):
    return np.sum(np.sin(entries[:3])) * np.sum(entries[3:] ** 2)


def test_a_mask_between_mixes_the_input_and_the_baseline():
    removing = local.masks("method", X, baseline=BASELINE, groups=GROUPS, num_groups=3)
    keep = np.asarray(SOFT, np.float64)[ENTRIES]
    expected = keep * FLAT_X + (1 - keep) * FLAT_BASELINE
    np.testing.assert_allclose(flat(removing.point(SOFT)), expected, rtol=1e-6)
    np.testing.assert_allclose(removing.function(curved)(SOFT), numpy_curved(expected), rtol=1e-5)


def test_without_groups_a_mask_is_like_the_input():
    removing = local.masks("method", X, baseline=BASELINE)
    assert removing.num_features == 5
    assert jax.tree.map(jnp.shape, removing.all_kept) == jax.tree.map(jnp.shape, X)
    assert np.all(flat(removing.all_kept) == 1)
    mask = removing.shaped(jnp.array([1.0, 0.0, 0.5, 0.0, 1.0]))
    np.testing.assert_allclose(flat(removing.point(mask)), [1, 8, 6, -1, 4])
    np.testing.assert_array_equal(flat(removing.point(removing.all_kept)), FLAT_X)


def test_with_groups_a_mask_has_one_number_per_feature():
    removing = local.masks("method", X, baseline=BASELINE, groups=GROUPS, num_groups=4)
    assert removing.num_features == 4
    np.testing.assert_array_equal(removing.all_kept, np.ones(4))
    spread = removing.spread(jnp.array([5.0, 6.0, 7.0, 8.0]))
    assert jax.tree.map(jnp.shape, spread) == jax.tree.map(jnp.shape, X)
    assert flat(spread).tolist() == [5, 5, 7, 6, 7]


def test_a_background_is_the_mean_of_the_values_over_its_rows():
    rng = np.random.default_rng(0)
    rows = {"u": rng.normal(size=(6, 3)), "v": rng.normal(size=(6, 2, 1))}
    removing = local.masks("method", X, background=jax.tree.map(lambda a: jnp.asarray(a, float), rows), **grouping())
    keep = np.asarray(SOFT, np.float64)[ENTRIES]
    entries = np.concatenate([rows["u"], rows["v"][:, :, 0]], axis=1)
    expected = np.mean([numpy_curved(keep * FLAT_X + (1 - keep) * row) for row in entries])
    np.testing.assert_allclose(jax.jit(removing.function(curved))(SOFT), expected, rtol=1e-5)
    mean_point = keep * FLAT_X + (1 - keep) * entries.mean(0)
    np.testing.assert_allclose(flat(removing.point(SOFT)), mean_point, rtol=1e-5)
    assert abs(numpy_curved(mean_point) - expected) > 0.01


def grouping():
    return {"groups": GROUPS, "num_groups": 3}


def test_the_mask_of_an_input():
    removing = local.masks("method", X, baseline=BASELINE, **grouping())
    np.testing.assert_allclose(removing.mask_of(removing.point(SOFT)), SOFT, rtol=1e-5)
    entries = local.masks("method", X, baseline=BASELINE)
    mask = entries.shaped(jnp.array([0.1, 0.9, 0.5, 0.0, 1.0]))
    np.testing.assert_allclose(flat(entries.mask_of(entries.point(mask))), flat(mask), atol=1e-5)


def test_entries_equal_to_the_baseline_tell_nothing_of_their_feature():
    removing = local.masks(
        "method",
        jnp.array([1.0, 2.0, 3.0]),
        baseline=jnp.array([1.0, 0.0, 3.0]),
        groups=jnp.array([0, 0, 1]),
        num_groups=2,
    )
    np.testing.assert_allclose(removing.mask_of(jnp.array([1.0, 0.5, 3.0])), [0.25, 1.0])


def test_the_value_of_a_mask_is_differentiable():
    """By the chain rule: the sum over the entries of a feature of (x - b)·∇f."""
    removing = local.masks("method", X, baseline=BASELINE, **grouping())
    got = jax.jit(jax.grad(removing.function(curved)))(SOFT)
    gradient = flat(jax.grad(curved)(removing.point(SOFT)))
    expected = np.bincount(ENTRIES, (FLAT_X - FLAT_BASELINE) * gradient)
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_features_that_removing_changes_are_active():
    x, baseline = jnp.array([1.0, 2.0, 3.0, 4.0]), jnp.array([1.0, 0.0, 3.0, 4.0])
    assert local.masks("method", x, baseline=baseline).active().tolist() == [0, 1, 0, 0]
    rows = jnp.stack([x, x.at[3].set(0)])
    assert local.masks("method", x, background=rows).active().tolist() == [0, 0, 0, 1]
    groups = {"groups": jnp.array([0, 0, 1, 2]), "num_groups": 4}
    assert local.masks("method", x, baseline=baseline, **groups).active().tolist() == [1, 0, 0, 0]


def test_masked_values_of_bfloat16_keep_their_dtype():
    x = jnp.array([1.0, 2.0, 3.0], jnp.bfloat16)
    removing = local.masks("method", x, groups=jnp.array([0, 1, 1]), num_groups=2)
    assert removing.all_kept.dtype == jnp.float32
    assert removing.point(removing.all_kept).dtype == jnp.bfloat16
    assert removing.spread(jnp.ones(2)).dtype == jnp.bfloat16


def test_many_groups_in_narrow_integers():
    x = jnp.arange(200.0)
    removing = local.masks("method", x, groups=jnp.arange(200, dtype=jnp.uint8), num_groups=300)
    np.testing.assert_array_equal(removing.point(jnp.ones(300)), x)


def test_a_group_outside_is_nan_while_traced():
    spread = jax.jit(lambda groups: local.spread_over(groups, jnp.array([1.0, 2.0]), jnp.zeros(4)))
    np.testing.assert_array_equal(spread(jnp.array([0, 2, -1, 1])), [1, np.nan, np.nan, 2])


def test_masked_passes_nan_on():
    kept = local.masked(jnp.array([1.0, 0.0, jnp.nan]), jnp.array([1.0, 2.0, 3.0]), jnp.array([7.0, 8.0, 9.0]))
    np.testing.assert_array_equal(kept, [1, 8, np.nan])


def test_a_grid_of_cells():
    np.testing.assert_array_equal(
        local.grid_groups((4, 3, 2), (2, 3, 1))[:, :, 0], [[0, 1, 2], [0, 1, 2], [3, 4, 5], [3, 4, 5]]
    )
    uneven = local.grid_groups((7, 5), (3, 2))
    assert np.bincount(uneven.ravel()).tolist() == [9, 6, 6, 4, 6, 4]
    assert uneven.dtype == np.int32


@pytest.mark.parametrize("cells", [(2,), (0, 1), (5, 1)])
def test_cells_fit_the_axes(cells):
    with pytest.raises(ValueError, match="`cells` of `grid_groups` must be one number per axis"):
        local.grid_groups((4, 4), cells)


def test_masks_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match=r"`background` of `method` must have the structure"):
        local.masks("method", X, background=jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="`baseline` must be a scalar, an array, or a pytree prefix"):
        local.masks("method", X, baseline={"u": 0.0})
    with pytest.raises(TypeError, match="`method` needs `num_groups` when it is built and `groups` at the call"):
        local.masks("method", X, groups=GROUPS)
