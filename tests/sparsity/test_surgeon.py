"""Optimal brain surgery against brute force: each removal is the cheapest when all others are solved for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import sparsity

X64 = jax.config.jax_enable_x64
DTYPE = jnp.float64 if X64 else jnp.float32


def problem(seed=0, n=60, d=8, m=3):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(n, d)) @ (np.eye(d) + 0.5 * rng.normal(size=(d, d)))
    return jnp.asarray(a, DTYPE), jnp.asarray(rng.normal(size=(d, m)), DTYPE)


def brute_force(hessian, w, count):
    """The support and the weights after so many removals, by solving for each candidate."""
    support = list(range(len(w)))
    current = w
    for _ in range(count):
        best = None
        for q in support:
            rest = [i for i in support if i != q]
            solved = np.zeros_like(w)
            solved[rest] = np.linalg.solve(hessian[np.ix_(rest, rest)], hessian[rest] @ w)
            change = current - solved
            cost = change @ hessian @ change
            if best is None or cost < best[0]:
                best = (cost, rest, solved)
        _, support, current = best
    return support, current


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("count", [1, 3, 6])
def test_each_removal_is_the_cheapest(count):
    a, w = problem()
    found, mask = sparsity.brain_surgeon(a, w, sparsity=count / 8)
    dense = np.asarray(a, np.float64).T @ np.asarray(a, np.float64)
    hessian = dense + 1e-2 * np.trace(dense) / 8 * np.eye(8)
    for j in range(3):
        support, expected = brute_force(hessian, np.asarray(w[:, j], np.float64), count)
        assert np.flatnonzero(mask[:, j]).tolist() == support
        np.testing.assert_allclose(found[:, j], expected, atol=1e-9 if X64 else 1e-3)
    np.testing.assert_array_equal(found == 0, mask == 0)


def test_two_of_four():
    a, w = problem(1)
    found, mask = sparsity.brain_surgeon(a, w, n_of_m=(2, 4))
    np.testing.assert_array_equal(np.asarray(mask).reshape(2, 4, 3).sum(1), 2)
    change = jnp.sum((a @ (found - w)) ** 2)
    by_size = sparsity.n_of_m(2, 4)({"w": jnp.abs(w)}, 0.5)["w"]
    assert float(change) < 0.7 * float(jnp.sum((a @ (w * by_size - w)) ** 2))


def test_it_beats_magnitude():
    changes = []
    for seed in range(5):
        a, w = problem(seed)
        found, _ = sparsity.brain_surgeon(a, w, sparsity=0.5)
        mask = jax.vmap(lambda c: sparsity.over_all()({"w": jnp.abs(c)}, 0.5)["w"], 1, 1)(w)
        changes.append([float(jnp.sum((a @ (v - w)) ** 2)) for v in (found, w * mask)])
    surgeon, magnitude = np.mean(changes, 0)
    assert surgeon < 0.5 * magnitude


def test_nothing_removed_and_dead_inputs():
    a, w = problem(2)
    np.testing.assert_array_equal(sparsity.brain_surgeon(a, w, sparsity=0.0)[0], w)
    found, mask = sparsity.brain_surgeon(a.at[:, 5].set(0), w, sparsity=1 / 8, damping=1e-6)
    np.testing.assert_array_equal(mask[5], 0)
    np.testing.assert_allclose(found[np.arange(8) != 5], w[np.arange(8) != 5], atol=1e-5)


def test_what_is_refused():
    a, w = problem()
    for options in ({}, {"sparsity": 0.5, "n_of_m": (2, 4)}):
        with pytest.raises(ValueError, match="needs either `sparsity` or `n_of_m`"):
            sparsity.brain_surgeon(a, w, **options)
    with pytest.raises(ValueError, match="m to divide the 8 weights"):
        sparsity.brain_surgeon(a, w, n_of_m=(1, 3))
    with pytest.raises(ValueError, match="needs activations"):
        sparsity.brain_surgeon(a, w[:3], sparsity=0.5)
    with pytest.raises(ValueError, match="`sparsity` must be a fraction"):
        sparsity.brain_surgeon(a, w, sparsity=1.0)
    with pytest.raises(ValueError, match="`damping` must be positive"):
        sparsity.brain_surgeon(a, w, sparsity=0.5, damping=0.0)
