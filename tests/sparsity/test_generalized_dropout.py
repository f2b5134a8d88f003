"""Beta priors: their modes, and their values by SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from jaxinterp import sparsity


@pytest.mark.parametrize(
    ("alpha", "beta", "mode"), [(1.0, 3.0, 0.0), (3.0, 1.0, 1.0), (3.0, 3.0, 0.5), (0.5, 0.5, 0.0)]
)
def test_the_modes_of_the_priors(alpha, beta, mode):
    """Descent on the penalty alone from 0.3."""
    gates = {"k": jnp.asarray([0.3])}
    slope = jax.jit(jax.grad(lambda g: sparsity.beta_penalty(g, alpha=alpha, beta=beta)))
    for _ in range(3000):
        gates = sparsity.project(jax.tree.map(lambda k, s: k - 2e-3 * s, gates, slope(gates)))
    assert float(gates["k"][0]) == pytest.approx(mode, abs=0.01)


def test_the_penalty_is_that_of_the_distribution():
    k = np.linspace(0.1, 0.9, 5)
    for alpha, beta in ((2.0, 3.0), (0.4, 0.7)):
        found = sparsity.beta_penalty([jnp.asarray(k, jnp.float32), None], alpha=alpha, beta=beta)
        expected = -np.sum(stats.beta.logpdf(k, alpha, beta) + special.betaln(alpha, beta))
        assert float(found) == pytest.approx(expected, rel=1e-5)
    assert float(sparsity.beta_penalty([jnp.asarray(k, jnp.float32)], alpha=1.0, beta=1.0)) == 0


def test_what_is_refused():
    with pytest.raises(ValueError, match="`alpha` of `beta_penalty` must be positive"):
        sparsity.beta_penalty([jnp.ones(1)], alpha=0.0, beta=1.0)
