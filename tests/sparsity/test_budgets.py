"""Masks of an exact size, against sorting in NumPy."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies

from jaxinterp import sparsity
from jaxinterp.sparsity._budgets import highest

SCORES = {
    "a": jax.random.normal(jax.random.key(0), (7, 5)),
    "b": jax.random.normal(jax.random.key(1), (4, 3, 2)),
    "none": None,
}


def number(masks):
    return sum(int(m.sum()) for m in jax.tree.leaves(masks))


@pytest.mark.core
@pytest.mark.parametrize("level", [0.0, 0.25, 0.5, 0.9, 0.99])
def test_over_all_keeps_the_highest(level):
    masks = jax.jit(sparsity.over_all())(SCORES, level)
    assert masks["none"] is None
    flat = np.concatenate([np.ravel(SCORES[name]) for name in "ab"])
    kept = np.concatenate([np.ravel(masks[name]) for name in "ab"]) > 0
    assert kept.sum() == 59 - round(level * 59)
    assert not kept.sum() or kept.all() or flat[kept].min() >= flat[~kept].max()


@pytest.mark.parametrize("level", [0.0, 0.5, 0.9])
def test_per_parameter(level):
    masks = sparsity.per_parameter()(SCORES, level)
    assert int(masks["a"].sum()) == 35 - round(level * 35)
    assert int(masks["b"].sum()) == 24 - round(level * 24)


@pytest.mark.parametrize("level", [0.3, 0.6, 0.9])
def test_erdos_renyi_densities(level):
    """One scale for all parameters that are not dense, and the sparsity asked for."""
    shapes = {"first": (3, 3, 3, 16), "wide": (3, 3, 64, 64), "dense": (64, 10)}
    scores = {name: jax.random.normal(jax.random.key(3), shape) for name, shape in shapes.items()}
    masks = jax.jit(sparsity.erdos_renyi())(scores, level)
    total = sum(np.prod(s) for s in shapes.values())
    assert abs(number(masks) - (1 - level) * total) <= 3
    ratios = []
    for name, shape in shapes.items():
        density = float(masks[name].mean())
        if density < 1:
            ratios.append(density * np.prod(shape) / sum(shape))
    np.testing.assert_allclose(ratios, ratios[0], rtol=0.02)


def test_two_of_four():
    scores = {"kernel": jax.random.normal(jax.random.key(0), (8, 3)), "conv": jnp.arange(24.0).reshape(1, 3, 8, 1)}
    masks = sparsity.n_of_m(2, 4, axis=-2)(scores, 0.5)
    groups = np.asarray(masks["kernel"]).reshape(2, 4, 3)
    np.testing.assert_array_equal(groups.sum(1), 2)
    values = np.asarray(scores["kernel"]).reshape(2, 4, 3)
    assert np.all(np.where(groups > 0, values, np.inf).min(1) >= np.where(groups > 0, -np.inf, values).max(1))
    np.testing.assert_array_equal(np.asarray(masks["conv"])[0, 0, :, 0], [0, 0, 1, 1, 0, 0, 1, 1])
    np.testing.assert_array_equal(sparsity.n_of_m(2, 4)({"k": jnp.ones((4, 1))}, 0.0)["k"], 1)


@hypothesis.given(strategies.lists(strategies.integers(-3, 3), min_size=1, max_size=12), strategies.integers(0, 12))
@hypothesis.settings(max_examples=30, deadline=None)
def test_ties_are_kept_in_order_and_the_number_is_exact(values, count):
    kept = np.asarray(highest(jnp.asarray(values, float), min(count, len(values))))
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    np.testing.assert_array_equal(np.flatnonzero(kept), sorted(order[: min(count, len(values))]))


def test_bad_arguments():
    for level in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="must be a fraction from 0 to below 1"):
            sparsity.over_all()(SCORES, level)
    with pytest.raises(ValueError, match="There are no scores"):
        sparsity.per_parameter()({"a": None}, 0.5)
    with pytest.raises(ValueError, match="The scores of `a/b` hold NaN"):
        sparsity.over_all()({"a": {"b": jnp.array([1.0, jnp.nan])}}, 0.5)
    with pytest.raises(ValueError, match="needs 0 < n < m"):
        sparsity.n_of_m(4, 4)
    with pytest.raises(ValueError, match=r"cannot divide axis -2 of \['kernel'\] with shape \(6, 2\) into groups of 4"):
        sparsity.n_of_m(2, 4)({"kernel": jnp.ones((6, 2))}, 0.5)
