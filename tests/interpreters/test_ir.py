"""Traced programs against the Python functions they were traced from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import interpreters

pytestmark = pytest.mark.core

X = jnp.array([0.3, -1.2, 2.0])


@jax.custom_jvp
def scaled(x):
    return 2 * x


scaled.defjvp(lambda primals, tangents: (2 * primals[0], 5 * tangents[0]))


@jax.custom_vjp
def clipped(x):
    return jnp.clip(x, -1, 1)


clipped.defvjp(lambda x: (jnp.clip(x, -1, 1), None), lambda _, g: (7 * g,))

FUNCTIONS = {
    "plain": lambda x: jnp.sum(jnp.sin(x) * x),
    "literals": lambda x: 3.0 * x[0] + 2.0,
    "constants": lambda x: jnp.sum(x * np.array([1.0, 2.0, 3.0], np.float32).astype(x.dtype)),
    "several outputs": lambda x: {"max": jnp.max(x), "pair": (jnp.sort(x), x[::-1])},
    "unused": lambda x: (jnp.cos(x), jnp.ones(2))[1],
    "identity": lambda x: x,
    "jit": lambda x: jax.jit(lambda y: jnp.tanh(y) @ y)(x),
    "scan": lambda x: jax.lax.scan(lambda c, a: (c * a, c + a), x[0], x),
    "while": lambda x: jax.lax.while_loop(lambda c: jnp.sum(c**2) < 100.0, lambda c: c * 2 + 1, x),
    "cond": lambda x: jax.lax.cond(x[0] > 0, jnp.sin, jnp.cos, x),
    "checkpoint": lambda x: jax.checkpoint(lambda y: jnp.sin(jnp.sin(y)))(x),
    "custom_jvp": scaled,
    "custom_vjp": clipped,
    "linear_solve": lambda x: jax.lax.custom_linear_solve(
        lambda v: (1 + x**2) * v, x, lambda _, b: b / (1 + x**2), symmetric=True
    ),
    "random": lambda x: x + jax.random.normal(jax.random.key(0), (3,), x.dtype),
}


def assert_same(got, expected, rtol=1e-6):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6)


def total(f):
    return lambda x: sum(jnp.sum(leaf) for leaf in jax.tree.leaves(f(x)))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_program_computes_the_function(name):
    f = FUNCTIONS[name]
    program = interpreters.trace(f, X)
    assert_same(program(X), f(X))
    both = jax.jit(lambda x: (program(x[0]), jax.vmap(program)(x), f(x[0]), jax.vmap(f)(x)))(jnp.stack([X, X + 1]))
    assert_same(both[:2], both[2:])


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "while"])
def test_a_program_has_the_derivatives_of_the_function(name):
    f = FUNCTIONS[name]
    program = interpreters.trace(f, X)
    assert_same(*jax.jit(lambda x: (jax.grad(total(program))(x), jax.grad(total(f))(x)))(X))
    if name != "custom_vjp":
        assert_same(*jax.jit(lambda x: (jax.jvp(program, (x,), (x + 2,)), jax.jvp(f, (x,), (x + 2,))))(X))


def test_a_loop_is_differentiated_forwards():
    f = FUNCTIONS["while"]
    assert_same(jax.jvp(interpreters.trace(f, X), (X,), (X + 2,)), jax.jvp(f, (X,), (X + 2,)))


def test_the_python_body_runs_once():
    calls = []

    def f(x):
        calls.append(1)
        return jnp.sin(x)

    program = interpreters.trace(f, X)
    program(X)
    jax.jit(jax.grad(total(program)))(X + 1)
    assert len(calls) == 1


def test_shapes_are_enough_to_trace():
    program = interpreters.trace(lambda a, b: a @ b["w"], jax.ShapeDtypeStruct((2, 3), X.dtype), {"w": X})
    np.testing.assert_allclose(program(jnp.ones((2, 3)), {"w": X}), [1.1, 1.1], rtol=1e-6)


def test_trees_of_arguments_and_results():
    program = interpreters.trace(lambda a, b: {"out": [a["u"] * b, None]}, {"u": X}, 2.0)
    result = program({"u": X}, 3.0)
    assert result["out"][1] is None
    np.testing.assert_allclose(result["out"][0], 3 * X)


@pytest.mark.parametrize("args", [(), (X, X), ({"u": X},)])
def test_other_arguments_than_traced_are_refused(args):
    program = interpreters.trace(jnp.sin, X)
    with pytest.raises(TypeError, match=r"was traced for arguments of structure PyTreeDef.*; got PyTreeDef"):
        program(*args)


def test_a_rule_takes_the_place_of_equations():
    program = interpreters.trace(lambda x: jnp.sin(x) + 2 * jnp.exp(jnp.sin(x)), X)
    seen = []

    def rule(equation, inputs):
        seen.append(equation.primitive.name)
        return [10 * inputs[0]] if equation.primitive.name == "sin" else None

    np.testing.assert_allclose(program.interpret(rule, X), 10 * X + 2 * np.exp(10 * np.asarray(X)), rtol=1e-5)
    assert seen.count("sin") == 2
    assert "exp" in seen


def test_a_rule_sees_a_call_as_one_equation():
    program = interpreters.trace(lambda x: jax.jit(jnp.sin)(x), X)
    seen = []
    program.interpret(lambda equation, inputs: seen.append(equation.params), X)
    assert len(seen) == 1


def test_the_context_of_an_equation_is_kept():
    """The random bits of a key depend on a setting that JAX stores with the equation."""

    def f(data):
        with jax.threefry_partitionable(not jax.config.jax_threefry_partitionable):
            return jax.random.bits(jax.random.wrap_key_data(data, impl="threefry2x32"), (5,))

    data = jnp.array([1, 2], jnp.uint32)
    other = jax.random.bits(jax.random.wrap_key_data(data, impl="threefry2x32"), (5,))
    assert np.any(f(data) != other)
    np.testing.assert_array_equal(interpreters.trace(f, data)(data), f(data))


def test_detached_values_are_constant_under_differentiation():
    def inner(scale, x):
        program = interpreters.trace(lambda y: jnp.sum(scale * y**2), x)
        return interpreters.detached(program)(x)

    def attached(scale, x):
        return interpreters.trace(lambda y: jnp.sum(scale * y**2), x)(x)

    squares = float(np.sum(np.asarray(X, np.float64) ** 2))
    value, gradients = jax.value_and_grad(inner, (0, 1))(3.0, X)
    assert float(value) == pytest.approx(3 * squares, rel=1e-6)
    assert float(gradients[0]) == 0
    np.testing.assert_allclose(gradients[1], 6 * X, rtol=1e-6)
    assert float(jax.grad(attached)(3.0, X)) == pytest.approx(squares, rel=1e-6)
    assert float(jax.jit(jax.grad(inner))(3.0, X)) == 0
    assert float(jax.jvp(lambda s: inner(s, X), (3.0,), (1.0,))[1]) == 0


def test_detached_values_nested_in_calls_are_constant_too():
    def inner(scale):
        program = interpreters.trace(lambda y: jax.jit(lambda z: jnp.sum(jnp.sin(scale) * z))(y), X)
        return interpreters.detached(program)(X)

    assert float(jax.grad(inner)(0.5)) == 0
    assert float(inner(0.5)) == pytest.approx(np.sin(0.5) * float(X.sum()), rel=1e-6)


def test_detaching_a_constant_free_program_changes_nothing():
    program = interpreters.detached(interpreters.trace(FUNCTIONS["several outputs"], X))
    assert_same(program(X), FUNCTIONS["several outputs"](X))
    with pytest.raises(TypeError, match="traced for arguments of structure"):
        program(X, X)
