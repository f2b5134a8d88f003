"""Known functions are found in programs, and nothing else is taken for them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.interpreters import _templates

FOUND = {
    "softplus": jax.nn.softplus,
    "scaled softplus": lambda x: jax.nn.softplus(10.0 * x) / 10.0,
    "gelu": jax.nn.gelu,
    "exact gelu": functools.partial(jax.nn.gelu, approximate=False),
    "silu": jax.nn.silu,
    "elu": jax.nn.elu,
    "log_sigmoid": jax.nn.log_sigmoid,
    "tanh": jnp.tanh,
    "cube": lambda x: x**3,
}


THREE = np.asarray([[3.0]], np.float32)  # an array that a function closes over


def canonical(f):
    return _templates.canonical(lambda x: f(2.0 * x), jnp.ones((3, 2)))[0]


@pytest.mark.parametrize("name", sorted(FOUND))
def test_found_and_equal(name):
    f = FOUND[name]
    with jax.numpy_dtype_promotion("standard"):
        program = canonical(f)
        found = _templates.curves(program)
        x = jnp.linspace(-3, 3, 6).reshape(3, 2)
        values = program.evaluate([x])
        last = max(found)
        source, curve = found[last]
        np.testing.assert_allclose(curve.value(values[source]), values[last], rtol=1e-5, atol=1e-6)
    rest = [node.name for node in program.nodes if node.outputs[0] > last]
    assert set(rest) <= {"mul", "div", "neg", "copy", "convert_element_type"}


def test_what_only_looks_alike_is_not_taken():
    """Another constant, another exponent, another wiring."""
    for f in (lambda x: jnp.logaddexp(x, 0.5), lambda x: x * jax.nn.sigmoid(x + 1.0)):
        with jax.numpy_dtype_promotion("standard"):
            program = canonical(f)
        out = program.outputs[0]
        assert out not in _templates.curves(program)


@pytest.mark.core
@pytest.mark.parametrize(
    "f",
    [
        lambda x: jax.nn.softmax(x) @ x.T,
        lambda x: jnp.clip(x, -0.5, 0.5) / (1.0 + jnp.abs(x)),
        lambda x: jnp.max(x, 1) * jnp.min(x),
        lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (2, 2), (1, 2), [(1, 0), (0, 1)]),
        lambda x: jnp.einsum("ij,kj->jik", x, jnp.sin(x)),
        lambda x: jnp.power(x * x + 1.0, 1.5),
        lambda x: jnp.power(x, jnp.asarray(3.0)),  # of negative numbers too
        lambda x: jnp.power(x, jnp.full((2,), -2.0)),
        lambda x: jnp.power(x, THREE),
    ],
)
def test_the_program_in_few_primitives_computes_the_same(f):
    x = jax.random.normal(jax.random.key(0), (3, 2))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        program, leaves = _templates.canonical(f, x)
        assert {"div", "clamp", "reduce_max", "reduce_window_max", "abs", "pow"}.isdisjoint(
            node.name for node in program.nodes if program.dependent_inputs(node)
        )
        np.testing.assert_allclose(program.evaluate(leaves)[program.outputs[0]], f(x), rtol=1e-5, atol=1e-6)
