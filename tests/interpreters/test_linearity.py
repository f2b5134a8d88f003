"""What is called linear has the same derivative everywhere, and what is not has not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxinterp import interpreters
from tests.interpreters import programs
from tests.interpreters.programs import ZOO, B, W, X, compiled, random

pytestmark = [pytest.mark.core, pytest.mark.numerics]

TOLERANCE = 1e-10 if X.dtype == jnp.float64 else 2e-4
UNKNOWN = ("scan", "while", "cond", "custom_vjp_call", "custom_vjp_call_jaxpr")
"""Loops always count as nonlinear; a `custom_vjp` has no forward derivative to compare with."""


def moving(program):
    """The equations with a derivative."""
    return [n for n in program.nodes if not any(map(program.active.isdisjoint, (n.inputs, n.outputs)))]


def answers(f, *args):
    """For each equation with a derivative: its name, and whether it counts as linear."""
    program = interpreters.graph(f, *args)[0]
    return [(node.name, interpreters.is_linear(node, program)) for node in moving(program)]


def change_of_derivative(program, node, here, there):
    """How far the derivative of a node at two points is apart, its other operands fixed, along one direction."""
    places = [i for i, v in enumerate(node.inputs) if v in program.active]

    def along(values):
        def of_moving(*inputs):
            operands = [here[v] for v in node.inputs]
            for i, value in zip(places, inputs, strict=True):
                operands[i] = value
            return [out for out in node(*operands) if jnp.issubdtype(out.dtype, jnp.inexact)]

        primals = [values[node.inputs[i]] for i in places]
        tangents = [random(a.shape, i).astype(a.dtype) for i, a in enumerate(primals)]
        return jax.jvp(of_moving, tuple(primals), tuple(tangents))[1]

    pairs = list(zip(along(here), along(there), strict=True))
    change = sum(jnp.sum(jnp.abs(a - b)) for a, b in pairs)
    return change / (1e-6 + sum(jnp.sum(jnp.abs(a)) for a, _ in pairs))


@pytest.mark.parametrize("name", ZOO)
def test_derivatives_of_linear_equations_are_the_same_everywhere(name):
    """And those of others are not, but for `max` and `abs`, which may be in the same case at both points."""
    program = interpreters.graph(ZOO[name], X)[0]
    nodes = [node for node in moving(program) if node.name not in UNKNOWN]

    @compiled
    def changes(x, other):
        here, there = program.evaluate([x]), program.evaluate([other])
        return [change_of_derivative(program, node, here, there) for node in nodes]

    found = changes(X, random((3, 4), 77, 2.0))
    for node, change in zip(nodes, found, strict=True):
        is_constant = bool(change < TOLERANCE)
        answer = interpreters.is_linear(node, program)
        assert answer == is_constant or (is_constant and node.name in ("max", "abs")), (node.name, float(change))


def test_loops_count_as_nonlinear():
    def f(x):
        x = lax.scan(lambda c, row: (c + row, row), x[0], x)[1]
        x = lax.cond(x[0, 0] > 0, lambda x: 2 * x, lambda x: 3 * x, x)
        return lax.while_loop(lambda x: jnp.sum(x) < 1, lambda x: 2 * x, x)

    found = dict(answers(f, X))
    assert [found[name] for name in ("scan", "cond", "while")] == [False] * 3


def test_a_reverse_derivative_that_depends_on_the_input_is_nonlinear():
    ((_, answer),) = answers(programs.cubed, X)
    assert not answer


CASES = {
    "product with a constant": (lambda x: x * B, True),
    "product with itself": (lambda x: x * x, False),
    "quotient by a constant": (lambda x: x / 3, True),
    "quotient by x": (lambda x: 3 / x, False),
    "dense": (lambda x: lax.dot(x, W), True),
    "attention": (lambda x: lax.dot_general(x, x, (((1,), (1,)), ((), ()))), False),
    "choice by a constant mask": (lambda x: lax.select(W[:3] > 0, x, 2 + 0 * W[:3]), True),
    "convolution": (programs.convolved, True),
    "inverse transform": (lambda x: jnp.fft.irfft(lax.complex(x, 0 * x)), True),
    "scatter": (lambda x: W.at[1].set(x[0]), True),
    "scatter multiplying": (lambda x: x.at[1].multiply(x[0]), False),
    "solution of fixed equations": (lambda x: lax.linalg.triangular_solve(W, x, lower=True), True),
    "solution of moving equations": (lambda x: lax.linalg.triangular_solve(W + x[:1], W, lower=True), False),
    "triangle": (lambda x: jnp.tril(x), True),
    "reverse sum": (lambda x: lax.cumsum(x, reverse=True), True),
    "largest": (lambda x: lax.cummax(x), False),
    "product of entries": (lambda x: jnp.prod(x), False),
    "rectifier": (jax.nn.relu, False),
    "magnitude": (jnp.abs, False),
    "cube root": (lax.cbrt, False),
    "bits": (lambda x: jnp.floor(x), True),  # its derivative is zero everywhere
}


@pytest.mark.parametrize("name", CASES)
def test_examples(name):
    f, expected = CASES[name]
    assert all(answer for _, answer in answers(f, X)) == expected


def test_what_a_custom_derivative_says_counts():
    """`steep` doubles and has a constant derivative; a rounding with the derivative 1 is linear too."""
    assert answers(programs.steep, X) == [("custom_jvp_call", True)]

    @jax.custom_jvp
    def straight_through(x):
        return jnp.round(x)

    straight_through.defjvp(lambda primals, tangents: (jnp.round(primals[0]), tangents[0]))
    assert answers(straight_through, X) == [("custom_jvp_call", True)]


def test_an_operand_without_a_derivative_is_a_constant():
    def f(x):
        return (x * lax.stop_gradient(x), x @ lax.stop_gradient(x).T, x / lax.stop_gradient(x))

    assert [answer for name, answer in answers(f, X) if name in ("mul", "dot_general", "div")] == [True] * 3


def test_equations_with_keys_and_integers():
    def f(x, n):
        key = jax.random.fold_in(jax.random.key(0), n)
        return lax.dynamic_slice(x * jax.random.normal(key, x.shape, x.dtype), (n, 0), (1, 4))

    assert all(answer for _, answer in answers(f, X, jnp.asarray(1)))


def test_nothing_is_computed():
    """The derivative is traced for shapes alone."""
    program = interpreters.graph(lambda x: lax.cbrt(x), jax.ShapeDtypeStruct((1 << 40,), np.float32))[0]
    assert not interpreters.is_linear(program.nodes[0], program)
