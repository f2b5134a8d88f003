"""Loops written out against the loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxinterp import interpreters
from tests.interpreters import programs
from tests.interpreters.programs import DIFFERENTIABLE, EPS, ZOO, B, W, X, assert_close, compiled, total

pytestmark = [pytest.mark.core, pytest.mark.numerics]


def block(h, row):
    with jax.named_scope("block"):
        h = jnp.tanh(h @ W + row)
    return h, (h * row, jnp.argmax(h))


LOOPS = {
    "forwards": lambda x: lax.scan(block, x[0], x),
    "backwards": lambda x: lax.scan(block, x[0], x, reverse=True),
    "with constants": lambda x: lax.scan(lambda c, row: (c * x[0] + B[0], c * row), x[1], x),
    "without rows": lambda x: lax.scan(lambda c, _: (jnp.sin(c), None), x, None, length=3),
    "without a carry": lambda x: lax.scan(lambda c, row: (None, jnp.cos(row)), None, x),
    "of a tree": lambda x: lax.scan(lambda c, r: ({"a": c["a"] + r[0]}, (r[1], c)), {"a": x[0]}, (x, x**2)),
    "of no steps": lambda x: lax.scan(block, x[0], x[:0]),
    "one inside another": lambda x: lax.scan(lambda c, r: lax.scan(block, c + r, x[:2]), x[0], x)[1],
    "inside a branch": lambda x: lax.cond(x[0, 0] > -9, lambda x: lax.scan(block, x[0], x)[0], lambda x: x[0], x),
    "inside a call": lambda x: jax.checkpoint(jax.jit(lambda x: lax.scan(block, x[0], x)))(x),
    "of keys": lambda x: lax.scan(
        lambda c, k: (c + jax.random.normal(k, c.shape, c.dtype), None), x, jax.random.split(jax.random.key(0), 3)
    ),
    "mapped": lambda x: lax.map(lambda row: jnp.sum(row**2), x),
    "of steps with their own derivative": lambda x: lax.scan(lambda c, r: (programs.cubed(c) + r, c), x[0] / 3, x),
}


@pytest.mark.parametrize("name", LOOPS)
def test_loops_and_their_derivatives(name):
    f = LOOPS[name]
    g = interpreters.unrolled(f)

    @compiled
    def both(x):
        return [(h(x), jax.value_and_grad(total(h))(x)) for h in (g, f)]

    assert_close(*both(X), 100 * EPS)
    names = [node.name for node in interpreters.graph(g, X)[0].nodes]
    assert ("scan" in names) == (name == "of no steps")


@pytest.mark.parametrize("name", ["scan", "cond", "map", "linalg", "custom_vjp", "calls", "random"])
def test_other_programs_stay_as_they_are(name):
    assert name in DIFFERENTIABLE
    f = ZOO[name]
    assert_close(*compiled(lambda x: (interpreters.unrolled(f)(x), f(x)))(X), 100 * EPS)


def test_a_loop_inside_a_loop_of_unknown_length():
    def f(x):
        def step(c):
            return lax.scan(lambda c, row: (1.1 * c + row**2, None), c, x)[0]

        return lax.while_loop(lambda c: jnp.sum(c) < 50, step, x[0])

    assert_close(*compiled(lambda x: (interpreters.unrolled(f)(x), f(x)))(X), 100 * EPS)


def test_the_inside_of_a_loop_has_sites():
    f = LOOPS["forwards"]
    found = [str(site) for site in interpreters.sites(interpreters.unrolled(f))(X) if site.primitive == "tanh"]
    assert found == [f"block:tanh#{i}" for i in range(3)]
    assert not [site for site in interpreters.sites(f)(X) if site.primitive == "tanh"]
    values = interpreters.intermediates(interpreters.unrolled(f), select=found)(X)
    h = X[0]
    for i, row in enumerate(X):
        h = jnp.tanh(h @ W + row)
        np.testing.assert_allclose(values[interpreters.Site("block", "tanh", i)], h, rtol=1e-4)


def test_a_scope_around_a_loop_is_kept():
    def f(x):
        with jax.named_scope("net"):
            return lax.scan(block, x[0], x)[0]

    found = [str(site) for site in interpreters.sites(interpreters.unrolled(f))(X) if site.primitive == "tanh"]
    assert found == [f"net/block:tanh#{i}" for i in range(3)]


def test_a_loop_longer_than_the_limit_is_refused():
    f = LOOPS["forwards"]
    assert_close(interpreters.unrolled(f, max_length=3)(X), f(X), 100 * EPS)
    match = r"`unrolled` met a loop of 3 steps at .*test_unrolled\.py:\d+.*; the limit is max_length=2"
    with pytest.raises(ValueError, match=match):
        interpreters.unrolled(f, max_length=2)(X)
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="`max_length` must be at least 1"):
            interpreters.unrolled(f, max_length=wrong)
    with pytest.raises(TypeError, match="`max_length` must be a Python integer"):
        interpreters.unrolled(f, max_length=2.0)


def test_several_arguments_and_trees():
    def f(w, tree):
        return {"h": lax.scan(lambda c, r: (jnp.tanh(c @ w + r), None), tree["h"], tree["rows"])[0]}

    tree = {"h": X[0], "rows": X}
    assert_close(*compiled(lambda w, tree: (interpreters.unrolled(f)(w, tree), f(w, tree)))(W, tree), 100 * EPS)


def test_the_function_runs_once():
    calls = []

    def f(x):
        calls.append(1)
        return LOOPS["forwards"](x)

    interpreters.unrolled(f)(X)
    assert len(calls) == 1
