"""Integrated gradients against closed forms, a loop in NumPy, and the axiom of completeness."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import derivatives
from jaxinterp.attribution import integrated_gradients

X64 = jax.config.jax_enable_x64
TOLERANCE = 1e-12 if X64 else 1e-5
RULES = {
    "gauss_legendre": derivatives.gauss_legendre,
    "midpoint": derivatives.midpoint,
    "trapezoid": derivatives.trapezoid,
}


@functools.cache
def network(activation, seed=0):
    """A network 6-16-16-1 of one input: in JAX, and its value and gradient in NumPy, float64."""
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=(m, n)) / np.sqrt(n) for m, n in [(16, 6), (16, 16), (1, 16)]]
    biases = [0.5 * rng.normal(size=m) for m in (16, 16)]
    act, act_np, slope = {
        "tanh": (jnp.tanh, np.tanh, lambda h: 1 - np.tanh(h) ** 2),
        "relu": (jax.nn.relu, lambda h: np.maximum(h, 0), lambda h: (h > 0) * 1.0),
    }[activation]

    def f(x):
        for w, b in zip(weights[:2], biases, strict=True):
            x = act(jnp.asarray(w, x.dtype) @ x + jnp.asarray(b, x.dtype))
        return (jnp.asarray(weights[2], x.dtype) @ x)[0]

    def value(x):
        for w, b in zip(weights[:2], biases, strict=True):
            x = act_np(w @ x + b)
        return float((weights[2] @ x)[0])

    def gradient(x):
        first = weights[0] @ x + biases[0]
        second = weights[1] @ act_np(first) + biases[1]
        back = weights[1].T @ (weights[2][0] * slope(second))
        return weights[0].T @ (back * slope(first))

    return f, value, gradient


def points(count, seed=1):
    return np.random.default_rng(seed).normal(size=(count, 6))


def totals(f, num_steps, x, baseline, rule=derivatives.gauss_legendre):
    """The sums of the maps of many points, compiled."""
    explain = integrated_gradients(f, num_steps=num_steps, quadrature=rule, chunk_size=None)
    run = jax.jit(jax.vmap(lambda a, b: jnp.sum(explain(a, baseline=b))))
    return np.asarray(run(jnp.asarray(x, float), jnp.asarray(baseline, float)), np.float64)


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("rule", RULES)
def test_it_is_the_weighted_sum_of_gradients_along_the_segment(rule):
    f, _, gradient = network("tanh")
    x, baseline = points(2)
    nodes, weights = {
        "gauss_legendre": [0.5 * (a + [1, 0][i]) for i, a in enumerate(np.polynomial.legendre.leggauss(7))],
        "midpoint": ((np.arange(7) + 0.5) / 7, np.full(7, 1 / 7)),
        "trapezoid": (np.linspace(0, 1, 7), np.array([0.5, 1, 1, 1, 1, 1, 0.5]) / 6),
    }[rule]
    mean = sum(w * gradient(baseline + t * (x - baseline)) for t, w in zip(nodes, weights, strict=True))
    explain = jax.jit(integrated_gradients(f, num_steps=7, quadrature=RULES[rule]))
    got = explain(jnp.asarray(x, float), baseline=jnp.asarray(baseline, float))
    np.testing.assert_allclose(got, (x - baseline) * mean, rtol=10 * TOLERANCE, atol=TOLERANCE)


@pytest.mark.core
@pytest.mark.numerics
def test_a_quadratic_needs_one_node():
    """The gradient is linear in t, so the map is (x - b)·∇f((x + b)/2)."""
    rng = np.random.default_rng(2)
    a, c, x, b = rng.normal(size=(4, 4)), rng.normal(size=4), rng.normal(size=4), rng.normal(size=4)
    wanted = (x - b) * ((a + a.T) @ (x + b) / 2 + c)

    def f(z):
        return jnp.vdot(z, jnp.asarray(a, z.dtype) @ z) + jnp.vdot(jnp.asarray(c, z.dtype), z)

    for rule, steps in [("gauss_legendre", 1), ("midpoint", 1), ("trapezoid", 2), ("midpoint", 9)]:
        explain = integrated_gradients(f, num_steps=steps, quadrature=RULES[rule])
        got = explain(jnp.asarray(x, float), baseline=jnp.asarray(b, float))
        np.testing.assert_allclose(got, wanted, rtol=10 * TOLERANCE, atol=TOLERANCE)


@pytest.mark.core
def test_the_default_baseline_is_zero():
    """For Π xᵢ of three inputs every entry gets a third of the product."""
    got = integrated_gradients(jnp.prod, num_steps=2)(jnp.array([2.0, -3.0, 0.5]))
    np.testing.assert_allclose(got, [-1.0, -1.0, -1.0], rtol=1e-5)


@pytest.mark.core
@pytest.mark.numerics
def test_complete_for_a_smooth_network():
    f, value, _ = network("tanh")
    x, baseline = points(20), points(20, seed=2)
    change = np.array([value(a) - value(b) for a, b in zip(x, baseline, strict=True)])
    gap = totals(f, 64, x, baseline) - change
    assert np.max(np.abs(gap)) < (1e-12 if X64 else 1e-4 * np.max(np.abs(change)))
    coarse = totals(f, 2, x, baseline) - change
    assert np.max(np.abs(coarse)) > 1e-4 * np.max(np.abs(change))


@pytest.mark.parametrize("rule", ["gauss_legendre", "midpoint"])
def test_the_gap_of_a_relu_network_falls_like_one_over_the_steps(rule):
    """The mean over 100 segments, for a single one the error jumps with the places of its kinks."""
    f, value, _ = network("relu")
    x, baseline = points(100), points(100, seed=2)
    change = np.array([value(a) - value(b) for a, b in zip(x, baseline, strict=True)])
    gaps = [np.mean(np.abs(totals(f, n, x, baseline, RULES[rule]) - change)) for n in (4, 16, 64, 256)]
    for coarse, fine in itertools.pairwise(gaps):
        assert 0.05 * coarse < fine < 0.5 * coarse


@pytest.mark.core
@pytest.mark.numerics
def test_the_path_moves_several_arguments_together():
    """For f = Σ ab the map of a is (a - a₀)(b + b₀)/2 if b moves too, and (a - a₀)b if it does not."""
    a, b = np.array([1.0, 2.0, -1.0]), np.array([0.5, -1.5, 3.0])
    f = lambda s, a, b: s * (jnp.sum(a["p"] * b) + a["q"] ** 2)  # noqa: E731
    args = (jnp.asarray(2.0), {"p": jnp.asarray(a, float), "q": jnp.asarray(3.0)}, jnp.asarray(b, float))
    a0 = np.array([0.2, 0.0, -0.5])
    baseline = (jnp.asarray(4.0), {"p": jnp.asarray(a0, float), "q": 1.0})
    by_b, by_a = integrated_gradients(f, (2, 1), num_steps=3)(*args, baseline=baseline)
    np.testing.assert_allclose(by_a["p"], 2 * (a - a0) * (b + 4) / 2, rtol=10 * TOLERANCE)
    assert float(by_a["q"]) == pytest.approx(2 * (9 - 1), rel=10 * TOLERANCE)
    np.testing.assert_allclose(by_b, 2 * (b - 4) * (a + a0) / 2, rtol=10 * TOLERANCE, atol=TOLERANCE)
    alone = integrated_gradients(f, 1, num_steps=3)(*args, baseline=baseline[1])
    np.testing.assert_allclose(alone["p"], 2 * (a - a0) * b, rtol=10 * TOLERANCE)


@pytest.mark.core
def test_a_baseline_is_spread_over_a_tree():
    x = {"p": jnp.array([[1.0, 2.0], [3.0, 4.0]]), "q": jnp.asarray(5.0)}
    f = lambda z: jnp.sum(z["p"] ** 2) + z["q"] ** 2  # noqa: E731
    explain = integrated_gradients(f, num_steps=2)
    for baseline, p0, q0 in [(1, 1.0, 1.0), ({"p": jnp.array([1.0, -1.0]), "q": 2}, [[1.0, -1.0]] * 2, 2.0)]:
        got = explain(x, baseline=baseline)
        np.testing.assert_allclose(got["p"], np.asarray(x["p"]) ** 2 - np.square(p0), rtol=1e-5, atol=1e-5)
        assert float(got["q"]) == pytest.approx(25 - q0**2, rel=1e-5)
    same = explain(x, baseline=x)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(same))


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("chunk_size", [1, 3, 10, 1000])
def test_chunks_do_not_change_the_map(chunk_size):
    f, _, _ = network("tanh")
    x = jnp.asarray(points(1)[0], float)
    got, whole = (jax.jit(integrated_gradients(f, num_steps=10, chunk_size=c))(x) for c in (chunk_size, None))
    np.testing.assert_allclose(got, whole, rtol=0, atol=TOLERANCE * np.max(np.abs(whole)))


def test_the_map_is_differentiable():
    """In the parameter w of Σ w³x⁴, where the map is w³x⁴; the loop over chunks is differentiated too."""
    x = jnp.array([1.0, 2.0])
    explain = integrated_gradients(lambda w, x: jnp.sum(w**3 * x**4), 1, num_steps=9, chunk_size=2)
    np.testing.assert_allclose(jax.jit(jax.jacobian(explain))(2.0, x), 12.0 * np.asarray(x) ** 4, rtol=1e-4)
    np.testing.assert_allclose(jax.jacobian(explain, 1)(2.0, x), np.diag(32.0 * np.asarray(x) ** 3), rtol=1e-4)


def test_many_steps_of_bfloat16_are_summed_in_float32():
    """A running sum of 2000 terms of 1/2000 in bfloat16 stops at 1/4."""
    x = jnp.array([1.0, 3.0], jnp.bfloat16)
    explain = integrated_gradients(lambda z: jnp.sum(z), num_steps=2000, quadrature=derivatives.midpoint, chunk_size=1)
    got = jax.jit(explain)(x)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(got, float), [1.0, 3.0], rtol=0.01)


@pytest.mark.core
def test_counts_are_refused_when_it_is_built():
    for options, error, message in [
        ({"num_steps": 0}, ValueError, "`num_steps` must be at least 1; got 0"),
        ({"num_steps": 2.0}, TypeError, "`num_steps` must be a Python integer"),
        ({"chunk_size": 0}, ValueError, "`chunk_size` must be at least 1; got 0"),
        ({"num_steps": 1, "quadrature": derivatives.trapezoid}, ValueError, "at least 2 nodes"),
    ]:
        with pytest.raises(error, match=message):
            integrated_gradients(jnp.sum, **options)


@pytest.mark.core
def test_inputs_are_refused_by_name():
    explain = integrated_gradients(lambda x: jnp.sum(x["u"]))
    x = {"u": jnp.ones((2, 3))}
    with pytest.raises(
        ValueError, match=r"`baseline` of shape \(2,\) does not broadcast to the input\['u'\].*\(2, 3\)"
    ):
        explain(x, baseline=jnp.ones(2))
    with pytest.raises(ValueError, match=r"`baseline` must be a scalar, an array, or a pytree prefix"):
        explain(x, baseline={"w": 0.0})
    with pytest.raises(TypeError, match=r"^`integrated_gradients` needs floating-point arrays"):
        explain({"u": jnp.ones(2, int)})
    with pytest.raises(TypeError, match=r"^`integrated_gradients` needs a function that returns a scalar"):
        integrated_gradients(jnp.sin)(jnp.ones(2))
