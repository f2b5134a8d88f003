"""The rules of LRP against their formulas in NumPy, on a network with biases and inputs of either sign."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.attribution import lrp, lrp_rules
from jaxinterp.interpreters import Site
from tests.attribution.networks import MLP, POINTS, X64, assert_close, mlp

pytestmark = [pytest.mark.core, pytest.mark.numerics]


def stabilised(z, epsilon):
    return z + np.where(z < 0, -epsilon, epsilon)


def by_epsilon(epsilon):
    """Each rule of a layer in NumPy takes a [in], W [out, in], b [out] and R [out], and returns the R of its input."""

    def rule(a, W, b, R):
        contributions = W * a
        return contributions.T @ (R / stabilised(contributions.sum(1) + b, epsilon))

    return rule


def by_alpha_beta(alpha, beta, epsilon):
    def rule(a, W, b, R):
        contributions = W * a
        result = np.zeros_like(a)
        for factor, part in ((alpha, np.maximum), (-beta, np.minimum)):
            chosen = part(contributions, 0)
            result += factor * chosen.T @ (R / stabilised(chosen.sum(1) + part(b, 0), epsilon))
        return result

    return rule


def by_gamma(gamma, epsilon):
    """Where z > 0 positive contributions count 1 + γ times, where z < 0 negative ones."""

    def rule(a, W, b, R):
        contributions = W * a
        upward = (contributions.sum(1) + b >= 0)[:, None]

        def favoured(c):
            return c + gamma * np.where(upward, np.maximum(c, 0), np.minimum(c, 0))

        parts, offset = favoured(contributions), favoured(b[:, None])[:, 0]
        return parts.T @ (R / stabilised(parts.sum(1) + offset, epsilon))

    return rule


def by_box(low, high, epsilon):
    def rule(a, W, b, R):
        parts = W * a - low * np.maximum(W, 0) - high * np.minimum(W, 0)
        return parts.T @ (R / stabilised(parts.sum(1), epsilon))

    return rule


def forward(x):
    """What each layer reads, and the outputs."""
    activations = [x]
    for weight, offset in MLP:
        z = weight @ activations[-1] + offset
        activations.append(np.maximum(z, 0))
    return activations[:-1], z


def by_hand(rules, x, output):
    """The relevance of the input of the network, one rule for each layer."""
    activations, z = forward(x)
    relevance = np.where(np.arange(3) == output, z, 0)
    for rule, a, (weight, offset) in reversed(list(zip(rules, activations, MLP, strict=True))):
        relevance = rule(a, weight, offset, relevance)
    return relevance


def everywhere(rule):
    return [rule] * 3


CASES = {
    "0": (lrp_rules.uniform(lrp_rules.epsilon(0.0)), everywhere(by_epsilon(0.0))),
    "epsilon": (lrp_rules.uniform(lrp_rules.epsilon(0.3)), everywhere(by_epsilon(0.3))),
    "z_plus": (lrp_rules.uniform(lrp_rules.z_plus()), everywhere(by_alpha_beta(1, 0, 1e-6))),
    "alpha_beta": (lrp_rules.uniform(lrp_rules.alpha_beta()), everywhere(by_alpha_beta(2, 1, 1e-6))),
    "alpha_beta epsilon": (
        lrp_rules.uniform(lrp_rules.alpha_beta(1.5, 0.5, epsilon=0.2)),
        everywhere(by_alpha_beta(1.5, 0.5, 0.2)),
    ),
    "gamma": (lrp_rules.uniform(lrp_rules.gamma()), everywhere(by_gamma(0.25, 1e-6))),
    "gamma epsilon": (lrp_rules.uniform(lrp_rules.gamma(2.0, epsilon=0.1)), everywhere(by_gamma(2.0, 0.1))),
    "epsilon_plus": (lrp_rules.epsilon_plus(0.1), everywhere(by_epsilon(0.1))),
    "box": (
        lrp_rules.by_depth((0.0, lrp_rules.z_box(-4.0, 5.0, epsilon=0.1)), (0.3, lrp_rules.epsilon(0.1))),
        [by_box(-4, 5, 0.1), by_epsilon(0.1), by_epsilon(0.1)],
    ),
    "epsilon_gamma_box": (
        lrp_rules.epsilon_gamma_box(-4.0, 5.0, epsilon=0.1),
        [by_box(-4, 5, 0.1), by_epsilon(0.1), by_epsilon(0.1)],
    ),
    "by_depth": (
        lrp_rules.by_depth((0.0, lrp_rules.z_plus()), (0.3, lrp_rules.gamma(0.5)), (0.6, lrp_rules.epsilon(0.1))),
        [by_alpha_beta(1, 0, 1e-6), by_gamma(0.5, 1e-6), by_epsilon(0.1)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_rule_is_its_formula(name):
    """For outputs of both signs: the last layer has no ReLU behind it, so the rules for z < 0 are seen."""
    composite, rules = CASES[name]
    x, outputs = np.repeat(POINTS, 3, 0), np.tile(np.arange(3), len(POINTS))
    values = [forward(row)[1][output] for row, output in zip(x, outputs, strict=True)]
    assert min(values) < -0.5
    assert max(values) > 0.5
    got = jax.jit(jax.vmap(lrp(mlp(), composite=composite)))(jnp.asarray(x, float), jnp.asarray(outputs))
    wanted = [by_hand(rules, row, output) for row, output in zip(x, outputs, strict=True)]
    for row, by_formula in zip(got, wanted, strict=True):
        assert_close(row, by_formula, None if X64 else 1e-4)


def called(kernel, a, bias, R, is_positive=False):
    z = a @ kernel + bias
    return lrp_rules.LayerCall(lambda x, w: x @ w, kernel, bias, a, z, R / z, is_positive)


@pytest.mark.parametrize("name", ["z_plus", "alpha_beta", "gamma"])
def test_what_the_program_knows_of_the_sign_changes_nothing(name):
    """For an input that is not negative the short form of a rule is the long one."""
    rng = np.random.default_rng(3)
    kernel, bias, R = (jnp.asarray(rng.normal(size=size), float) for size in [(4, 3), 3, 3])
    a = jnp.asarray(np.abs(rng.normal(size=4)), float).at[1].set(0.0)
    rule = getattr(lrp_rules, name)()
    long, short = (rule(called(kernel, a, bias, R, is_positive)) for is_positive in (False, True))
    assert_close(a * short, a * long)


def test_a_denominator_of_zero_gives_zero():
    """No contribution, no bias and ε = 0: nothing to divide, and no NaN."""
    kernel, zeros = jnp.ones((2, 3)), jnp.zeros(3)
    call = lrp_rules.LayerCall(lambda x, w: x @ w, kernel, zeros, jnp.zeros(2), zeros, jnp.ones(3), False)
    for rule in [
        lrp_rules.epsilon(0.0),
        lrp_rules.z_plus(epsilon=0.0),
        lrp_rules.alpha_beta(epsilon=0.0),
        lrp_rules.gamma(epsilon=0.0),
        lrp_rules.z_box(-1.0, 1.0, epsilon=0.0),
    ]:
        assert np.all(np.isfinite(rule(call)))


def layer(kind="conv", index=0, count=10, reads_input=False):
    return lrp_rules.LinearLayer(kind, index, count, Site("net", "conv_general_dilated"), reads_input)


def test_epsilon_plus_is_z_plus_for_convolutions_only():
    composite = lrp_rules.epsilon_plus(0.5)
    assert composite(layer("conv")) == lrp_rules.AlphaBeta(1.0, 0.0, 0.5)
    assert composite(layer("dense")) == composite(layer("sum")) == lrp_rules.Epsilon(0.5)


def test_epsilon_gamma_box_takes_the_box_where_the_input_is_read():
    composite = lrp_rules.epsilon_gamma_box(-1.0, 2.0, epsilon=0.5, gamma=3.0)
    assert composite(layer("dense", reads_input=True)) == lrp_rules.ZBox(-1.0, 2.0, 0.5)
    assert composite(layer("conv", reads_input=True)) == lrp_rules.ZBox(-1.0, 2.0, 0.5)
    assert composite(layer("conv", 1)) == lrp_rules.Gamma(3.0, 0.5)
    assert composite(layer("dense", 2)) == lrp_rules.Epsilon(0.5)
    assert composite(layer("sum")).epsilon == 0.5


def test_by_depth_changes_at_the_relative_depth():
    rules = lrp_rules.z_plus(epsilon=0.1), lrp_rules.gamma(), lrp_rules.epsilon(0.2)
    composite = lrp_rules.by_depth((0.0, rules[0]), (0.25, rules[1]), (0.8, rules[2]))
    chosen = [rules.index(composite(layer("dense", i, 8))) for i in range(8)]
    assert chosen == [0, 0, 1, 1, 1, 1, 1, 2]
    assert composite(layer("sum", 0, 8)).epsilon == 0.1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: lrp_rules.epsilon(-1e-6), r"^`epsilon` must be >= 0; got -1e-06"),
        (lambda: lrp_rules.epsilon(float("nan")), r"^`epsilon` must be >= 0; got nan"),
        (lambda: lrp_rules.gamma(-0.1), r"^`gamma` must be >= 0; got -0.1"),
        (lambda: lrp_rules.gamma(epsilon=-1.0), r"^`epsilon` must be >= 0; got -1.0"),
        (lambda: lrp_rules.alpha_beta(2.0, 0.5), r"^`alpha_beta` conserves .* alpha - beta = 1; got 2.0 and 0.5"),
        (lambda: lrp_rules.alpha_beta(0.5, -0.5), r"^`beta` must be >= 0; got -0.5"),
        (lambda: lrp_rules.z_plus(epsilon=-1.0), r"^`epsilon` must be >= 0"),
        (lambda: lrp_rules.z_box(1.0, 1.0), r"^`z_box` needs low < high; got 1.0 and 1.0"),
        (lambda: lrp_rules.z_box(0.0, 1.0, epsilon=-1.0), r"^`epsilon` must be >= 0"),
        (lambda: lrp_rules.epsilon_gamma_box(1.0, 0.0), r"^`z_box` needs low < high"),
        (lambda: lrp_rules.by_depth(), r"^`by_depth` needs depths that start at 0 and increase; got \[\]"),
        (lambda: lrp_rules.by_depth((0.5, lrp_rules.z_plus())), r"start at 0 and increase; got \[0.5\]"),
        (
            lambda: lrp_rules.by_depth((0.0, lrp_rules.z_plus()), (0.0, lrp_rules.gamma())),
            r"start at 0 and increase; got \[0.0, 0.0\]",
        ),
    ],
)
def test_parameters_are_refused_when_a_rule_is_built(build, message):
    with pytest.raises(ValueError, match=message):
        build()
