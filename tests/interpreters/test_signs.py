"""What is said never to be negative never is."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax import lax

from jaxinterp import interpreters
from tests.interpreters import programs
from tests.interpreters.programs import STEPS, ZOO, B, W, X, compiled, random

pytestmark = [pytest.mark.core, pytest.mark.numerics]


def known_outputs(f, x=X, given=False):
    """Which outputs of f are known not to be negative."""
    program = interpreters.graph(f, x)[0]
    known = interpreters.nonnegative(program, program.inputs if given else ())
    return [v in known for v in program.outputs]


def assert_never_negative(f, points, given=False):
    """No known variable is negative at any of the points."""
    program = interpreters.graph(f, points[0])[0]
    known = interpreters.nonnegative(program, program.inputs if given else ())
    real = [v for v in known if not jnp.issubdtype(program.avals[v].dtype, jnp.complexfloating)]

    @compiled
    def smallest(points):
        def at(x):
            values = program.evaluate([x])
            return {v: jnp.nanmin(jnp.asarray(values[v], float), initial=np.inf) for v in real}

        return jax.tree.map(jnp.min, jax.vmap(at)(points))

    for v, least in smallest(points).items():
        assert least >= 0, program.producers[v].name


@pytest.mark.parametrize("name", ZOO)
def test_what_is_known_holds_at_many_points(name):
    points = random((30, 3, 4), 5, 2.0)
    assert_never_negative(ZOO[name], points)
    assert_never_negative(ZOO[name], jnp.abs(points), given=True)


@hypothesis.settings(max_examples=10, deadline=None, derandomize=True, database=None)
@hypothesis.given(
    st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=6), st.integers(0, 2**31), st.booleans()
)
def test_what_is_known_holds_in_random_programs(steps, seed, given):
    f, _ = programs.random_program(steps, (3, 4), seed)
    points = random((20, 3, 4), seed)
    assert_never_negative(f, jnp.abs(points) if given else points, given)


POSITIVE = {
    "rectified": jax.nn.relu,
    "rectified by hand": lambda x: jnp.maximum(0, x),
    "squares": lambda x: (x**2, x**4, jnp.square(x)),
    "exponentials": lambda x: (jnp.exp(x), jnp.abs(x) ** 1.5, jax.nn.sigmoid(x)),
    "magnitudes": lambda x: (jnp.abs(x), jnp.sqrt(x), jnp.cosh(x)),
    "softmax": jax.nn.softmax,
    "pooled": lambda x: (
        programs.pooled(jax.nn.relu(x), lax.max, -jnp.inf),
        jnp.mean(jax.nn.relu(x), axis=0),
        jnp.max(jax.nn.relu(x) + 1),
    ),
    "moved about": lambda x: jnp.pad(jnp.concatenate([x**2, jnp.exp(x)])[::-1].T.reshape(3, 8)[jnp.array([2, 0])], 1),
    "chosen by x": lambda x: jnp.where(x > 0, x**2, jax.nn.relu(x)),
    "scaled": lambda x: jnp.cumsum(x**2 * 0.5 / (1 + jnp.exp(x)), axis=1),
    "custom": lambda x: jax.jit(jax.nn.relu)(jax.checkpoint(jax.nn.relu)(x)),
    "at least one": lambda x: jnp.maximum(x, jnp.maximum(-x, 0.5)),
}


@pytest.mark.parametrize("name", POSITIVE)
def test_positive_programs_are_recognised(name):
    assert all(known_outputs(POSITIVE[name]))


UNKNOWN = {
    "input": lambda x: x,
    "bias": lambda x: jax.nn.relu(x) + B,
    "difference": lambda x: jax.nn.relu(x) - jnp.exp(x),
    "dense": lambda x: jax.nn.relu(x) @ W,
    "odd power": lambda x: (x**3, jnp.sin(x), jnp.log(jnp.exp(x))),
    "negative number": lambda x: x**2 * -1.0,
    "filled": lambda x: jnp.take(x**2, jnp.array([0, 9]), axis=0, mode="fill", fill_value=-5.0),
    "padded": lambda x: jnp.pad(x**2, 1, constant_values=-1.0),
    "pooled over padding alone": lambda x: programs.pooled(x**2, lax.max, -jnp.inf, (1, 1), (1, 1), ((1, 0), (0, 0))),
    "pooled with holes": lambda x: lax.reduce_window(
        x**2, np.asarray(-np.inf, x.dtype), lax.max, (1, 1), (1, 1), "VALID", base_dilation=(2, 1)
    ),
    "smaller one": lambda x: jnp.minimum(x**2, x),
    "custom": lambda x: (programs.steep(x), programs.cubed(x), programs.reversal(x)),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_may_be_negative_is_not_claimed(name):
    f = UNKNOWN[name]
    assert not any(known_outputs(f))
    least = jax.tree.map(jnp.min, f(random((3, 4), 5, 2.0)))
    assert all(value < 0 for value in jax.tree.leaves(least))


def test_what_is_given_is_passed_on():
    for f in (lambda x: x * 2, lambda x: x[:, ::-1].T / 3 + x[0, 0], lambda x: jnp.tanh(x) * jnp.sqrt(x)):
        assert not any(known_outputs(f))
        assert all(known_outputs(f, given=True))
    for f in (programs.steep, programs.cubed, programs.reversal):  # looked into
        assert all(known_outputs(f, given=True))
    assert not any(known_outputs(lambda x: x - 1, given=True))


def test_derivatives_that_close_over_arrays():
    @jax.custom_vjp
    def shifted(x):
        return x**2 + jnp.abs(W[:3])

    shifted.defvjp(lambda x: (shifted(x), x), lambda x, g: (2 * x * g,))
    assert all(known_outputs(shifted))
