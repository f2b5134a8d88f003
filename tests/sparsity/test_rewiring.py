"""Sparse training: as many connections as before, moved where they should be."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxinterp import sparsity

pytestmark = pytest.mark.usefixtures("standard_promotion")

PARAMS = {"kernel": jax.random.normal(jax.random.key(0), (8, 5)), "bias": jnp.ones(5)}


def run(optimizer, steps, gradient):
    params, state = PARAMS, optimizer.init(PARAMS)
    masks = [state.masks["kernel"]]
    update = jax.jit(optimizer.update)
    for _ in range(steps):
        updates, state = update({"kernel": gradient, "bias": jnp.zeros(5)}, state, params)
        params = optax.apply_updates(params, updates)
        masks.append(state.masks["kernel"])
    return params, np.stack(masks)


@pytest.mark.core
@pytest.mark.parametrize("by_gradient", [True, False])
def test_the_number_of_connections_stays(by_gradient):
    gradient = jax.random.normal(jax.random.key(5), (8, 5))
    optimizer = sparsity.rewire(
        optax.sgd(1e-3), 0.6, key=jax.random.key(1), by_gradient=by_gradient, every=2, end=20, fraction=0.5
    )
    params, masks = run(optimizer, 30, gradient)
    np.testing.assert_array_equal(masks.sum((1, 2)), 16)
    assert np.all((params["kernel"] == 0) == (masks[-1] == 0))
    moved = np.abs(np.diff(masks, axis=0)).sum((1, 2))
    assert moved[1] > 0
    assert np.all(moved[::2] == 0)  # only each second update
    assert np.all(moved[20:] == 0)


def test_growth_follows_the_gradient():
    """The first move drops the smallest weights and takes the largest gradients among what is not connected."""
    gradient = jnp.arange(40.0).reshape(8, 5)
    optimizer = sparsity.rewire(optax.sgd(0.0), 0.5, key=jax.random.key(1), every=1, end=10, fraction=0.5)
    _, masks = run(optimizer, 1, gradient)
    count = round(20 * 0.25 * (1 + np.cos(np.pi / 10)))
    weights = np.where(masks[0] > 0, np.abs(PARAMS["kernel"]), np.inf).ravel()
    kept = masks[0].ravel().copy()
    kept[np.argsort(weights)[:count]] = 0
    wishes = np.where(kept > 0, -1, np.arange(40.0))
    kept[np.argsort(-wishes)[:count]] = 1
    np.testing.assert_array_equal(masks[1].ravel(), kept)


def test_what_is_refused():
    with pytest.raises(ValueError, match="`sparsity` must be a fraction"):
        sparsity.rewire(optax.sgd(0.1), 1.0, key=jax.random.key(0), end=1)
    with pytest.raises(TypeError, match="key"):
        sparsity.rewire(optax.sgd(0.1), 0.5, key=0, end=1)
    optimizer = sparsity.rewire(optax.sgd(0.1), 0.5, key=jax.random.key(0), end=1)
    with pytest.raises(ValueError, match="`rewire` needs the parameters"):
        optimizer.update(PARAMS, optimizer.init(PARAMS))
