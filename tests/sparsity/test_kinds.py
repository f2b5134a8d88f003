"""Hard concrete gates, Beta priors and the tri-state ReLU against their formulas."""

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


@pytest.mark.core
@pytest.mark.parametrize(("width", "depth"), [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)])
def test_the_states_of_the_relu(width, depth):
    x = jnp.array([-2.0, -0.5, 0.0, 3.0])
    expected = {0.0: 0 * x, 1.0: x if depth else jnp.maximum(x, 0)}[width]
    f = lambda w, d: sparsity.tri_state_relu(x, sparsity.threshold(w), sparsity.threshold(d))  # noqa: E731
    np.testing.assert_array_equal(f(jnp.asarray(width), jnp.asarray(depth)), expected)
    up = jnp.array([1.0, -2.0, 0.5, 3.0])
    by_width, by_depth = jax.grad(lambda w, d: jnp.vdot(up, f(w, d)), (0, 1))(jnp.asarray(width), jnp.asarray(depth))
    assert float(by_width) == pytest.approx(float(jnp.vdot(up, jnp.where(x >= 0, x, depth * x))))
    assert float(by_depth) == pytest.approx(float(jnp.vdot(up, width * jnp.minimum(x, 0))))


def test_gates_fall_and_rise_around_the_unstable_point():
    """Without a loss, α = 1 and β = 0.4: from 0.69 to 0 and from 0.71 to 1."""
    gates, depths = [jnp.array([0.69, 0.71])], [jnp.asarray(0.0)]

    def loss(gates):
        return sparsity.bimodal_penalty(gates) + 0.4 * sparsity.complexity_penalty(gates, depths)

    slope = jax.jit(jax.grad(loss))
    for _ in range(2000):
        gates = sparsity.project(jax.tree.map(lambda g, s: g - 0.01 * s, gates, slope(gates)))
    assert gates[0].tolist() == [0.0, 1.0]
    assert float(sparsity.complexity_penalty([jnp.ones(3)], [jnp.asarray(0.7)])) == 0


def test_input_units():
    gates = sparsity.attach({"kernel": jnp.ones((3, 2))}, granularity=sparsity.per_input_unit)
    masked = sparsity.apply({"kernel": jnp.ones((3, 2))}, {"kernel": gates["kernel"].at[1].set(0)})
    np.testing.assert_array_equal(masked["kernel"] == 0, [[False] * 2, [True] * 2, [False] * 2])


def test_what_is_refused():
    with pytest.raises(ValueError, match="`temperature` of `HardConcrete` must be positive"):
        sparsity.HardConcrete(temperature=0.0)
    with pytest.raises(ValueError, match="needs low < 0 and high > 1"):
        sparsity.HardConcrete(low=0.1)
    with pytest.raises(ValueError, match="`alpha` of `beta_penalty` must be positive"):
        sparsity.beta_penalty([jnp.ones(1)], alpha=0.0, beta=1.0)
    with pytest.raises(ValueError, match="`per_input_unit` needs a kernel"):
        sparsity.per_input_unit((3,))
