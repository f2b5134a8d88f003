"""Robustness by class against loops, and the penalty against Taylor and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import robustness
from tests.robustness.scores import DTYPE, POINTS, B, W, linear

X64 = jax.config.jax_enable_x64


@pytest.mark.core
def test_the_mean_of_each_class():
    rng = np.random.default_rng(0)
    p, labels = rng.uniform(size=40), rng.integers(0, 3, 40)
    labels[0] = 3
    found = jax.jit(robustness.by_class, static_argnums=2)(jnp.asarray(p, DTYPE), jnp.asarray(labels), 5)
    for c in range(3):
        own = p[labels == c]
        assert float(found.mean[c]) == pytest.approx(own.mean(), rel=1e-5)
        assert float(found.stderr[c]) == pytest.approx(own.std(ddof=1) / len(own) ** 0.5, rel=1e-4)
    assert found.count.tolist() == [*np.bincount(labels, minlength=4)[:4], 0]
    assert np.isnan(found.stderr[3])
    assert np.isnan(found.mean[4])


def in_two_arguments(params, state, x):
    return jnp.dot(params, x, precision="highest") + state


@pytest.mark.core
@pytest.mark.numerics
def test_the_penalty_is_the_logarithm_of_taylor_at_the_label():
    params, state = jnp.asarray(W, DTYPE), jnp.asarray(B, DTYPE)
    run = jax.jit(lambda x, label: robustness.fragility(0.7)(in_two_arguments, params, state, None, x, label))
    for x in POINTS[:3]:
        point = jnp.asarray(x, DTYPE)
        predicted = int(np.argmax(W @ x + B))
        p = float(robustness.taylor(linear)(point, stddev=0.7).probability)
        assert float(run(point, predicted)) == pytest.approx(-np.log(p), rel=1e-4, abs=1e-5)
        other = (predicted + 1) % 5
        z = [(W[other] - W[i]) @ x + B[other] - B[i] for i in range(5) if i != other]
        z = np.array(z) / [0.7 * np.linalg.norm(W[other] - W[i]) for i in range(5) if i != other]
        assert float(run(point, other)) == pytest.approx(np.log1p(np.exp(-z).sum()), rel=1e-4)


@pytest.mark.numerics
def test_its_gradient_in_the_parameters():
    """It goes through the gradients of the margins: a derivative of second order."""
    inner = np.random.default_rng(3).normal(size=(6, 4))
    outer = jnp.asarray(np.random.default_rng(4).normal(size=(3, 6)), DTYPE)
    apply = lambda params, state, x: jnp.dot(outer, jnp.tanh(jnp.dot(params, x, precision="highest")))  # noqa: E731
    x = jnp.asarray([0.3, -0.2, 0.8, 0.1], DTYPE)
    value = jax.jit(lambda params: robustness.fragility(0.5)(apply, params, {}, None, x, 1))
    slope = jax.grad(value)(jnp.asarray(inner, DTYPE))
    step = 1e-6 if X64 else 1e-2
    for i, j in [(0, 0), (3, 2), (5, 1)]:
        change = np.zeros_like(inner)
        change[i, j] = step
        wanted = (
            float(value(jnp.asarray(inner + change, DTYPE))) - float(value(jnp.asarray(inner - change, DTYPE)))
        ) / (2 * step)
        assert float(slope[i, j]) == pytest.approx(wanted, rel=1e-2 if not X64 else 1e-5, abs=1e-3 if not X64 else 1e-8)


def test_what_is_refused():
    with pytest.raises(ValueError, match="`stddev` of `fragility` must be positive"):
        robustness.fragility(0.0)
    with pytest.raises(ValueError, match="a label for each probability"):
        robustness.by_class(jnp.ones(3), jnp.ones(2, int), 2)


def test_the_penalty_of_many_classes():
    """All of them count: the sigmoid, unlike a normal CDF, takes any number."""
    rows = np.random.default_rng(1).normal(size=(300, 8)) / 3
    apply = lambda params, state, x: jnp.dot(params, x, precision="highest")  # noqa: E731
    x = np.random.default_rng(2).normal(size=8)
    z = [(rows[0] - r) @ x / (0.5 * np.linalg.norm(rows[0] - r)) for r in rows[1:]]
    got = robustness.fragility(0.5)(apply, jnp.asarray(rows, DTYPE), {}, None, jnp.asarray(x, DTYPE), 0)
    assert float(got) == pytest.approx(np.log1p(np.exp(-np.array(z)).sum()), rel=1e-4)


@pytest.mark.core
@pytest.mark.parametrize("label", [-1, 5])
def test_a_label_that_is_no_class_is_nan(label):
    run = jax.jit(lambda x, y: robustness.fragility(0.7)(in_two_arguments, jnp.asarray(W, DTYPE), 0.0, None, x, y))
    assert np.isnan(run(jnp.asarray(POINTS[0], DTYPE), label))


def test_labels_must_be_classes():
    p = jnp.array([0.5, 1.0])
    with pytest.raises(ValueError, match=r"must be between 0 and 1; got \[7\]"):
        robustness.by_class(p, jnp.array([0, 7]), 2)
    with pytest.raises(TypeError, match="must be integers; got dtype float32"):
        robustness.by_class(p, jnp.array([0.0, 1.0], jnp.float32), 2)
    with pytest.raises(TypeError, match="`stddev` of `fragility` must be a number"):
        robustness.fragility("a")
    with pytest.raises(ValueError, match="The label 9 of `fragility` is not one of the"):
        robustness.fragility(0.5)(
            in_two_arguments, jnp.asarray(W, DTYPE), 0.0, None, jnp.asarray(POINTS[0], DTYPE), jnp.asarray(9)
        )


@pytest.mark.core
def test_the_gradient_of_the_penalty_on_a_saturated_network():
    """The margin and its gradient are of the order of 1e-20; against the limit, where that factor cancels."""

    def network(params, state, x):
        return jnp.stack([jnp.sum(jax.nn.sigmoid(params * x)), jnp.zeros_like(params)])

    run = jax.jit(
        jax.grad(lambda p: robustness.fragility(0.05)(network, p, {}, jax.random.key(0), -jnp.ones(2, DTYPE), 0))
    )
    for p in (40.0, 50.0, 60.0):  # f = 2 exp(-p) and its gradient exp(-p) p (1, 1)
        z = 2 / (0.05 * p * 2**0.5)
        assert float(run(jnp.asarray(p, DTYPE))) == pytest.approx(z / p / (1 + np.exp(z)), rel=1e-3)


@pytest.mark.core
def test_a_traced_label_that_is_no_class():
    found = jax.jit(robustness.by_class, static_argnums=2)(jnp.array([1.0, 0.5]), jnp.array([0, 7]), 2)
    assert np.all(np.isnan(found.mean))


@pytest.mark.core
@pytest.mark.parametrize(("stddev", "wanted"), [(1e29, 0.5), (1e-30, 1.0)])
def test_scales_at_the_ends_of_float32(stddev, wanted):
    """2e38, beside which the margin is nothing, and 2e-39, which has no reciprocal."""
    slope = 1e9 if stddev > 1 else 1e-9
    f = lambda x: jnp.stack([slope * x[0], -slope * x[0]])  # noqa: E731
    found = jax.jit(lambda x: robustness.taylor(f)(x, stddev=stddev).probability)(jnp.ones(1, DTYPE))
    assert float(found) == pytest.approx(wanted)
