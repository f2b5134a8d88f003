"""Masks are found wherever an optimiser keeps them."""

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxinterp import sparsity

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("standard_promotion")]


def test_masks_of_nested_optimisers():
    params = {"a": {"kernel": jnp.ones((4, 2))}, "b": {"kernel": jnp.ones(6), "masks": jnp.ones(3)}}
    shot = sparsity.one_shot(0.5, step=1)
    inner = sparsity.prune(optax.adam(0.1), shot, predicate=lambda path, _: path == "a/kernel")
    outer = sparsity.prune(inner, shot, predicate=lambda path, _: path == "b/kernel")
    rewired = sparsity.rewire(optax.sgd(0.1, momentum=0.9), 0.5, key=jax.random.key(0), end=5)
    state = optax.chain(outer, optax.scale(0.5)).init(params), rewired.init(params)
    masks = sparsity.optimizer_masks(state)
    shapes = [jax.tree.map(jnp.shape, mask) for mask in masks]
    assert shapes[:2] == [
        {"a": {"kernel": None}, "b": {"kernel": (6,), "masks": None}},
        {"a": {"kernel": (4, 2)}, "b": {"kernel": None, "masks": None}},
    ]
    assert len(masks) == 3
    assert sparsity.count(params, masks[2]).sparsity == 0.5
    assert sparsity.count(params, *masks[:2]).gated == 14


def test_none_where_nothing_is_pruned():
    assert sparsity.optimizer_masks(optax.adam(0.1).init({"masks": jnp.ones(3)})) == ()
