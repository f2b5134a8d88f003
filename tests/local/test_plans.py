"""The masks of KernelSHAP: which are listed, which are sampled, and what they weigh."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import local
from jaxinterp.local import _plans

pytestmark = [pytest.mark.core, pytest.mark.numerics]


def drawn(features, n, seed=0):
    """The masks and weights of a design, and how many of the masks are listed."""
    design, x = local.coalitions(n), jnp.ones(features)
    sampled = jax.jit(local.samples(jnp.sum, neighbourhood=design))(jax.random.key(seed), x)
    return np.asarray(sampled.coordinates), np.asarray(sampled.weights, np.float64), design.fixed(x)


def shares(features):
    """The share of each size in the kernel summed over its masks."""
    total = np.array([1 / (k * (features - k)) for k in range(1, features)])
    return total / total.sum()


SIZES = [(5, 16), (5, 20), (5, 29), (6, 41), (9, 100), (9, 300), (12, 200), (20, 64)]


@pytest.mark.parametrize(("features", "n"), [(d, 2**d - 2) for d in range(2, 10)] + [(6, 100)])
def test_with_enough_samples_every_mask_comes_once(features, n):
    masks, weights, fixed = drawn(features, n)
    assert len(masks) == fixed == 2**features - 2
    assert len(np.unique(masks, axis=0)) == len(masks)
    sizes = masks.sum(1).astype(int)
    assert sizes.min() == 1
    assert sizes.max() == features - 1
    wanted = [1 / (math.comb(features, k) * k * (features - k)) for k in sizes]
    np.testing.assert_allclose(weights, wanted / np.sum(wanted), rtol=1e-12 if jax.config.jax_enable_x64 else 1e-6)


@pytest.mark.parametrize(("features", "n"), SIZES)
def test_masks_come_with_their_complements_and_none_is_empty_or_full(features, n):
    masks, _, fixed = drawn(features, n)
    assert len(masks) in (n, n - 1)
    assert (len(masks) - fixed) % 2 == 0
    assert set(np.unique(masks)) == {0, 1}
    assert masks.sum(1).min() >= 1
    assert masks.sum(1).max() <= features - 1
    np.testing.assert_array_equal(masks[fixed::2] + masks[fixed + 1 :: 2], 1)
    listed = {tuple(mask) for mask in masks[:fixed]}
    assert len(listed) == fixed
    assert listed == {tuple(1 - np.array(mask)) for mask in listed}
    assert not listed & {tuple(mask) for mask in masks[fixed:]}


@pytest.mark.parametrize(("features", "n"), SIZES)
def test_a_size_weighs_its_share_of_the_kernel_whatever_its_number_of_masks(features, n):
    masks, weights, _ = drawn(features, n)
    sizes = masks.sum(1).astype(int)
    taken = np.unique(sizes)
    total = [weights[sizes == k].sum() for k in taken]
    np.testing.assert_allclose(total, shares(features)[taken - 1], rtol=1e-5)
    for k in taken:
        np.testing.assert_allclose(weights[sizes == k], weights[sizes == k][0], rtol=1e-5)
    if n >= 16 * features:  # enough for a pair of each size
        assert len(taken) == features - 1


def test_the_masks_of_a_size_are_equally_likely():
    """Within 5 standard errors over 500 keys, each of the 30 masks has the weight of the kernel."""
    sampled = local.samples(jnp.sum, neighbourhood=local.coalitions(16))
    keys = jax.vmap(jax.random.key)(jnp.arange(500))
    found = jax.jit(jax.vmap(lambda k: dataclasses.replace(sampled(k, jnp.ones(5)), anchor=None)))(keys)
    numbers = np.asarray(found.offsets + 1).astype(int) @ (1 << np.arange(5))
    for s in range(1, 31):
        size = s.bit_count()
        weight = np.sum(np.where(numbers == s, np.asarray(found.weights, np.float64), 0), 1)
        wanted = shares(5)[size - 1] / math.comb(5, size)
        assert abs(weight.mean() - wanted) < 5 * weight.std() / math.sqrt(500) + 1e-6


@pytest.mark.parametrize("features", [3, 4, 5, 6])
def test_any_number_of_samples_makes_a_design(features):
    for n in range(2, 2**features):
        chosen = _plans.plan_of(features, n)
        assert n - 1 <= chosen.size <= n or chosen.size == 2**features - 2
        assert np.all(np.isfinite(chosen.cumulative))


def test_another_key_gives_other_pairs_and_the_same_list():
    (one, _, fixed), (other, _, _) = drawn(9, 100, 0), drawn(9, 100, 1)
    np.testing.assert_array_equal(one[:fixed], other[:fixed])
    assert np.any(one[fixed:] != other[fixed:])


@pytest.mark.parametrize(("features", "n"), [(8, 150), (6, 40), (10, 300)])
def test_no_mask_is_paid_for_twice_where_a_size_has_few(features, n):
    """Also where a mask and its complement are of the same size."""
    plan = _plans.plan_of(features, n)
    masks, _, _ = drawn(features, n)
    few = [k for k, subsets in zip(plan.sizes, plan.subsets, strict=True) if subsets is not None]
    assert few
    sizes = np.minimum(masks.sum(1), features - masks.sum(1))
    for k in few:
        of_size = masks[sizes == k]
        assert len(np.unique(of_size, axis=0)) == len(of_size)
