"""Hard concrete gates against the distribution of the stretched logistic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from jaxinterp import sparsity


@pytest.mark.core
def test_hard_concrete_gates():
    """Their probability to be open, by sampling and by the distribution of the stretched logistic."""
    kind, logit = sparsity.HardConcrete(), 0.4
    gates = {"kernel": jnp.full(20_000, logit), "bias": None}
    draws = np.asarray(kind.sample(jax.random.key(0), gates)["kernel"])
    is_open = 1 - stats.logistic.cdf(2 / 3 * special.logit(0.1 / 1.2) - logit)
    assert float(kind.penalty(gates)) / 20_000 == pytest.approx(is_open, rel=1e-4)
    assert abs(np.mean(draws > 0) - is_open) < 4 * (is_open * (1 - is_open) / 20_000) ** 0.5
    assert 0 < np.mean(draws == 1) < 1
    assert float(kind.threshold({"k": jnp.asarray(logit)})["k"]) == pytest.approx(special.expit(logit) * 1.2 - 0.1)
    masks, slopes = jax.vjp(lambda g: kind.sample(jax.random.key(1), g), jnp.full(1000, logit))
    (slope,) = slopes(jnp.ones(1000))
    np.testing.assert_array_equal(np.asarray(slope) > 0, (np.asarray(masks) > 0) & (np.asarray(masks) < 1))


def test_what_is_refused():
    with pytest.raises(ValueError, match="`temperature` of `HardConcrete` must be positive"):
        sparsity.HardConcrete(temperature=0.0)
    with pytest.raises(ValueError, match="needs low < 0 and high > 1"):
        sparsity.HardConcrete(low=0.1)
