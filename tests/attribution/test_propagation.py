"""The backward pass that the propagation methods share: which equations keep their derivative, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxinterp import interpreters
from jaxinterp.attribution._propagation import SELECTING, cores, kept_or_missing, num_factors, pulled, traced
from jaxinterp.interpreters import Rules, primitives
from tests.attribution.networks import POINTS, assert_close, block, mlp, random

pytestmark = [pytest.mark.core, pytest.mark.numerics]

X = jnp.asarray(POINTS[0], float)


def only_node(f, name, x=X):
    """The program of f, and its one node of that name."""
    program, _ = interpreters.graph(f, x)
    (node,) = [node for node in program.nodes if node.name == name]
    return program, node


@pytest.mark.parametrize("grouping", [interpreters.regions, interpreters.equations, interpreters.activations])
def test_without_rules_it_is_the_gradient(grouping):
    program, x = traced("method", mlp(), 0, (X,))
    got = jax.jit(lambda x: pulled(program, grouping(program), lambda group: None, x))(x)
    assert_close(got, jax.grad(mlp())(X))


ACTIVATIONS = {
    "scaled": (lambda x: -jax.nn.relu(3 * x) / 2 + 1, [["mul"], ["custom_jvp_call"], ["neg", "div", "add"]]),
    "gate": (lambda x: x * jax.nn.sigmoid(x), 1),
    "softplus of steepness 10": (lambda x: jax.nn.softplus(10 * x) / 10, 3),
    "two halves": (lambda x: jnp.concatenate([jax.nn.relu(x), jax.nn.relu(-x)]), 3),
    "two of one array": (lambda x: jnp.concatenate([jnp.tanh(x), jnp.sin(2 * x) - 1]), 4),
    "with itself": (lambda x: x + jnp.tanh(x), 1),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_apart_from_affine_maps_and_from_each_other(name):
    """In parts that hold every node once and have the derivative of the whole."""
    f, expected = ACTIVATIONS[name]
    program, _ = interpreters.graph(lambda x: jnp.sum(jnp.sin(jnp.cumsum(f(x)))), X)
    whole = interpreters.regions(program)
    parts = cores(program, whole)
    assert sorted(n.outputs for g in parts for n in g.nodes) == sorted(n.outputs for g in whole for n in g.nodes)
    of_first = [g for g in parts if g.kind != "equation" and g.nodes[0].outputs[0] <= whole[0].nodes[-1].outputs[0]]
    if isinstance(expected, list):
        assert [[node.name for node in group.nodes] for group in of_first] == expected
        assert [group.kind for group in of_first] == ["affine", "activation", "affine"]
    else:
        assert len(of_first) == expected
    got = pulled(program, parts, lambda group: None, X)
    assert_close(got, jax.grad(lambda x: jnp.sum(jnp.sin(jnp.cumsum(f(x)))))(X))


def test_the_parts_of_a_transformer_have_its_derivative():
    x = random((5, 8), 3)
    program, _ = interpreters.graph(block(), x)
    for grouping in (interpreters.regions, interpreters.activations):
        got = jax.jit(lambda x, g=grouping: pulled(program, cores(program, g(program)), lambda group: None, x))(x)
        assert_close(got, jax.grad(block())(x), 1e-4 if x.dtype == jnp.float32 else None)


def test_a_rule_takes_the_place_of_a_derivative():
    """Here activations pass the signal as it is: the product of the matrices."""
    program, x = traced("method", mlp(), 0, (X,))

    def straight(group):
        return (lambda call: tuple(call.cotangents)) if group.kind == "activation" else None

    got = pulled(program, interpreters.regions(program), straight, x)
    assert_close(got, jax.grad(mlp(lambda z: z))(X))


def test_the_result_is_like_the_argument():
    args = jnp.asarray(2.0), {"a": X, "b": (X[:2],)}
    program, x = traced("method", lambda s, x: s * jnp.sum(x["a"]) * jnp.sum(x["b"][0] ** 2), (1, 0), args)
    got = pulled(program, interpreters.equations(program), lambda group: None, x)
    assert jax.tree.structure(got) == jax.tree.structure((args[1], args[0]))
    assert_close(got[1], jnp.sum(X) * jnp.sum(X[:2] ** 2))


LINEAR = {
    "slice": lambda x: x[1:3],
    "concatenate": lambda x: jnp.concatenate([x, x]),
    "reduce_sum": lambda x: lax.reduce_sum(x, (0,)),
    "cumsum": lambda x: lax.cumsum(x),
    "dot_general": lambda x: random((3, 5), 1) @ x,
    "mul": lambda x: x * random((5,), 2),
    "div": lambda x: x / random((5,), 2),
    "fft": lambda x: jnp.fft.fft(x),
    "triangular_solve": lambda x: lax.linalg.triangular_solve(
        jnp.eye(5, dtype=x.dtype) + jnp.triu(random((5, 5), 4), 1), x[:, None], left_side=True
    ),
}
CHOICES = {
    "reduce_max": jnp.max,
    "max": lambda x: lax.max(x, x[::-1]),
    "sort": lambda x: lax.sort(x),
    "top_k": lambda x: lax.top_k(x, 2)[0],
    "cummin": lambda x: lax.cummin(x),
    "reduce_window_max": lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (2,), (1,), "VALID"),
    "clamp": lambda x: lax.clamp(x - 1, random((5,), 3), x + 1),
}
CURVED = {
    "mul": lambda x: x * x[::-1],
    "div": lambda x: random((5,), 2) / x,
    "exp": jnp.exp,
    "atan2": lambda x: lax.atan2(x, x[::-1]),
    "cumprod": lambda x: lax.cumprod(x),
    "dot_general": lambda x: jnp.dot(x, x),
    "scan": lambda x: lax.scan(lambda c, a: (c * a, None), x[0], x)[0],
}


@pytest.mark.parametrize("name", [*LINEAR, *CHOICES])
def test_linear_maps_and_choices_keep_their_derivative(name):
    program, node = only_node({**LINEAR, **CHOICES}[name], name)
    assert kept_or_missing(program, node, Rules("example")) is None
    assert (name in SELECTING) == (name in CHOICES)


@pytest.mark.parametrize("name", CURVED)
def test_what_is_curved_needs_a_rule(name):
    program, node = only_node(CURVED[name], name)
    with pytest.raises(NotImplementedError, match=rf"^`example` has no rule for the primitive `{name}`, used at "):
        kept_or_missing(program, node, Rules("example"))


@pytest.mark.parametrize("name", ["cumprod", "cumsum"])
def test_a_rule_of_the_table_comes_first(name):
    program, node = only_node(getattr(lax, name), name)
    table = Rules("example")
    rule = table.define(getattr(primitives, name))(lambda call: tuple(call.cotangents))
    assert kept_or_missing(program, node, table) is rule


@pytest.mark.parametrize(("axes", "count"), [((0,), 4), ((1,), 5), ((0, 1), 20), ((), 1)])
def test_how_many_numbers_a_product_multiplies(axes, count):
    _, node = only_node(lambda x: lax.reduce_prod_p.bind(x, axes=axes), "reduce_prod", jnp.asarray(POINTS, float))
    assert num_factors(node) == count


def test_what_is_traced_is_a_scalar_of_floats():
    with pytest.raises(TypeError, match=r"^`method` needs a function that returns a scalar"):
        traced("method", jnp.sin, 0, (X,))
    with pytest.raises(TypeError, match=r"^`method` needs floating-point arrays"):
        traced("method", jnp.sum, 0, (jnp.arange(3),))
    program, x = traced("method", lambda a, b: jnp.sum(a * b), 1, (np.ones(3), 2.0))
    assert isinstance(x, jax.Array)
    assert len(program.inputs) == 1
