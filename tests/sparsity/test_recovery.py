"""What sparse-network gates recover of a planted regression, where the lasso does not (method notes, 4(e)3).

Five of 50 weights, of size 0.5 to 2, from 200 rows with noise of 0.01. With independent columns the lasso, too, has
the support at many of its levels, though where it is sparse its weights are shrunken. With a decoy, a column closer to
two of the five together than either is alone, it takes the decoy and keeps it: its support is right at no level, so at
none that cross validation could choose (Zhao & Yu, 2006).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sklearn.linear_model

from jaxinterp import sparsity

pytestmark = pytest.mark.usefixtures("standard_promotion")

SEEDS, ROWS, COLUMNS, PLANTED = 5, 200, 50, 5


def planted(seed, has_decoy):
    rng = np.random.default_rng(seed)
    support = rng.choice(COLUMNS, PLANTED, replace=False)
    weights = np.zeros(COLUMNS)
    weights[support] = rng.uniform(0.5, 2, PLANTED) * rng.choice([-1, 1], PLANTED)
    x = rng.normal(size=(ROWS, COLUMNS))
    if has_decoy:
        decoy, first, second = np.flatnonzero(weights == 0)[0], *support[:2]
        towards = np.sign(weights[first]) * x[:, first] + np.sign(weights[second]) * x[:, second]
        x[:, decoy] = 2 / 3 * towards + 1 / 3 * x[:, decoy]
    return x, x @ weights + 0.01 * rng.normal(size=ROWS), weights


@functools.cache
def problems(has_decoy):
    """Inputs [seed, row, column], outputs [seed, row] and weights [seed, column]."""
    return tuple(np.stack(part) for part in zip(*[planted(seed, has_decoy) for seed in range(SEEDS)], strict=True))


@jax.jit
@jax.vmap
def trained(x, y, start):
    """Weights and gates by gradient descent on one loss, and the mean of the gates over the last steps.

    The gate of a small weight hovers at 1/2: it closes for one step, the loss pushes it open, and it falls again, for
    about 200 steps. So the mean decides.
    """
    optimizer, params = optax.sgd(0.05), {"kernel": start}

    def loss(both):
        params, gates = both
        residual = x @ sparsity.apply(params, sparsity.threshold(gates))["kernel"] - y
        penalty = 1e-2 * sparsity.bimodal_penalty(gates) + 5e-3 * sparsity.sparsity_penalty(gates)
        return jnp.mean(residual**2) + penalty

    def step(_, carried):
        both, mean, state = carried
        updates, state = optimizer.update(jax.grad(loss)(both), state)
        params, gates = optax.apply_updates(both, updates)
        gates = sparsity.project(gates)
        return (params, gates), optax.incremental_update(gates, mean, 0.003), state

    both = (params, sparsity.attach(params, initial=0.6))
    (params, _), mean, _ = jax.lax.fori_loop(0, 6000, step, (both, both[1], optimizer.init(both)))
    return params["kernel"], mean["kernel"]


def relative_error(found, weights):
    return np.linalg.norm(found - weights, axis=-1) / np.linalg.norm(weights, axis=-1)


@pytest.mark.numerics
@pytest.mark.parametrize("has_decoy", [False, True])
def test_gates_recover_the_support(has_decoy):
    """From least squares, in 5 of 5 seeds; gates that are not of the support are at 0."""
    x, y, weights = problems(has_decoy)
    start = np.stack([np.linalg.lstsq(a, b)[0] for a, b in zip(x, y, strict=True)])
    params, gates = trained(*(jnp.asarray(part, float) for part in (x, y, start)))
    mask = sparsity.threshold({"kernel": gates})
    np.testing.assert_array_equal(mask["kernel"], weights != 0)
    assert not np.any(np.asarray(gates)[weights == 0] > 1e-3)
    found = sparsity.apply({"kernel": params}, mask)["kernel"]
    assert np.max(relative_error(np.asarray(found, np.float64), weights)) < 0.02


@pytest.mark.parametrize("seed", range(SEEDS))
def test_the_lasso_shrinks_and_takes_the_decoy(seed):
    for has_decoy in (False, True):
        x, y, weights = (part[seed] for part in problems(has_decoy))
        levels = np.max(np.abs(x.T @ y)) / ROWS * np.geomspace(1, 1e-5, 100)
        found = sklearn.linear_model.lasso_path(x, y, alphas=levels, max_iter=10_000)[1].T
        sparsest = found[np.count_nonzero(found, axis=1) == PLANTED][0]
        assert relative_error(sparsest, weights) > 0.3
        is_exact = np.all((found != 0) == (weights != 0), axis=1)
        assert np.any(is_exact) != has_decoy
