"""Flat programs against the functions they come from: values, addresses, and what depends on the input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxinterp import interpreters
from jaxinterp.interpreters import Site
from tests.interpreters.programs import ZOO, B, W, X, assert_close, compiled, random

pytestmark = [pytest.mark.core, pytest.mark.numerics]


def graph(f, *args):
    return interpreters.graph(f, *args)[0]


def addresses(f, *args, only=None):
    """The addresses of the equations, in order; of one primitive only, if wanted."""
    return [str(node.site()) for node in graph(f, *args).nodes if only in (None, node.name)]


def written(program):
    return [v for node in program.nodes for v in node.outputs]


@pytest.mark.parametrize("name", ZOO)
def test_a_program_computes_the_function(name):
    f = ZOO[name]

    @compiled
    def both(x):
        program, leaves = interpreters.graph(f, x)
        return program.unflatten(program.evaluate(leaves)), f(x)

    assert_close(*both(X), 0)


@pytest.mark.parametrize("name", ZOO)
def test_every_variable_is_written_once_and_before_it_is_read(name):
    program = graph(ZOO[name], X)
    known = [*program.constants, *program.inputs]
    for node in program.nodes:
        assert set(node.inputs) <= set(known)
        known += node.outputs
        assert [(a.shape, a.dtype) for a in node.shapes()] == [
            (program.avals[v].shape, program.avals[v].dtype) for v in (*node.inputs, *node.outputs)
        ]
    assert set(program.outputs) <= set(known)
    assert len(known) == len(set(known))
    assert set(known) <= set(program.avals)
    assert all(program.producers[v].outputs[i] == v for node in program.nodes for i, v in enumerate(node.outputs))


@pytest.mark.parametrize("call", [jax.jit, jax.checkpoint, lambda f: jax.jit(jax.checkpoint(jax.jit(f)))])
def test_calls_are_opened_and_their_variables_renamed(call):
    shift = W[:1]
    g = call(lambda y: jnp.sin(y) + shift)
    program = graph(lambda x: g(g(x) * 2), X)
    assert [node.name for node in program.nodes] == ["sin", "add", "mul", "sin", "add"]
    first, *_, last = program.nodes
    assert first.inputs == program.inputs
    assert last.outputs == program.outputs
    values = program.evaluate([X])
    inner = np.sin(np.asarray(X)) + np.asarray(shift)
    np.testing.assert_allclose(values[program.nodes[1].outputs[0]], inner, rtol=1e-5)
    np.testing.assert_allclose(values[program.outputs[0]], np.sin(2 * inner) + np.asarray(shift), rtol=1e-5)


def test_custom_derivatives_and_loops_stay_closed():
    names = [node.name for node in graph(lambda x: ZOO["scan"](jax.nn.relu(x)), X).nodes]
    assert "custom_jvp_call" in names
    assert "scan" in names
    assert "tanh" not in names
    assert "max" not in names
    (node,) = graph(ZOO["custom_vjp"], X).nodes[1:2]
    assert node.name.startswith("custom_vjp_call")


def test_inputs_are_the_leaves_in_order():
    program, leaves = interpreters.graph(lambda a, b: {"u": b["v"] * a[0], "w": a[1]}, (X, X + 1), {"v": X - 1})
    assert [float(leaf[0, 0] - X[0, 0]) for leaf in leaves] == pytest.approx([0, 1, -1], abs=1e-6)
    assert [node.name for node in program.nodes] == ["mul"]
    assert program.outputs == (program.nodes[0].outputs[0], program.inputs[1])
    assert_close(program.unflatten(program.evaluate(leaves)), {"u": (X - 1) * X, "w": X + 1}, 1e-6)


# ----------------------------------------------------------------------------------------------------------- addresses


def scoped(x):
    with jax.named_scope("a"):
        with jax.named_scope("b"):
            x = jnp.sin(x)
        x = jnp.sin(x)
        with jax.named_scope("b"):
            x = jnp.sin(jnp.sin(x))
    return jnp.sin(x)


SINES = ["a/b:sin#0", "a:sin#0", "a/b:sin#1", "a/b:sin#2", ":sin#0"]


def test_scopes_nest_and_occurrences_are_counted_within_one():
    assert addresses(scoped, X) == SINES


def in_scope(f):
    def inside(x):
        with jax.named_scope("outer"):
            return f(x)

    return inside


@pytest.mark.parametrize(
    "transform",
    [
        jax.jit,
        jax.checkpoint,
        jax.vmap,
        lambda f: jax.jit(jax.vmap(jax.jit(f))),
        lambda f: lambda x: jax.jvp(f, (x,), (x,))[0],
        lambda f: jax.value_and_grad(lambda x: jnp.sum(f(x))),
    ],
)
def test_scopes_are_found_under_transformations(transform):
    assert addresses(transform(scoped), X, only="sin") == SINES
    outer = [f"outer/{text}".replace("/:", ":") for text in SINES]
    assert addresses(in_scope(transform(scoped)), X, only="sin") == outer


def test_the_backward_pass_has_the_scopes_of_the_forward_one():
    found = addresses(jax.grad(lambda x: jnp.sum(scoped(x))), X, only="cos")
    assert sorted(found) == sorted(text.replace("sin", "cos") for text in SINES)


def test_one_compiled_function_has_the_scope_of_each_call():
    g = jax.jit(scoped)

    def f(x):
        with jax.named_scope("first"):
            x = g(x)
        with jax.named_scope("second"):
            return g(x)

    expected = [f"{name}/{text}".replace("/:", ":") for name in ("first", "second") for text in SINES]
    assert addresses(f, X) == expected


def test_einsum_adds_no_scopes():
    def f(x):
        with jax.named_scope("layer_0.query"):
            x = jnp.einsum("ab,bc->ac", x, W)
            return jnp.einsum("ab,cb->ac", x, x)

    assert addresses(f, X, only="dot_general") == [f"layer_0.query:dot_general#{i}" for i in range(2)]
    assert {node.path for node in graph(f, X).nodes} == {"layer_0.query"}


def test_a_scope_may_hold_a_whole_path():
    def f(x):
        with jax.named_scope("blocks_0/attn"), jax.named_scope("query-1"):
            return jnp.sin(x)

    assert addresses(f, X) == ["blocks_0/attn/query-1:sin#0"]


def test_a_scope_with_a_leading_slash_starts_anew():
    def shared(x):
        with jax.named_scope("/encoder/shared"), jax.named_scope("inner"):
            return jnp.sin(x)

    def f(x):
        with jax.named_scope("decoder"):
            return jnp.cos(jax.jit(shared)(shared(x)))

    assert addresses(f, X) == ["encoder/shared/inner:sin#0", "encoder/shared/inner:sin#1", "decoder:cos#0"]


@pytest.mark.parametrize(
    "site",
    [
        Site("", "sin"),
        Site("head", "add", 12),
        Site("blocks_0/attn/query", "dot_general", 1, 2),
        Site("a/b-c.d e", "scatter-add", 0, 1),
    ],
)
def test_an_address_can_be_read_back(site):
    assert Site.parse(str(site)) == site


def test_addresses_of_all_programs_can_be_read_back():
    for f in ZOO.values():
        for node in graph(f, X).nodes:
            for i in range(len(node.outputs)):
                assert Site.parse(str(node.site(i))) == node.site(i)
    assert str(Site("a", "sin")) == "a:sin#0"
    assert str(Site("a", "sort", 2, 1)) == "a:sort#2.1"


@pytest.mark.parametrize(
    "text", ["", "head", "head:add", "head:add#", "head:add#x", "head:#0", "a:b:add#0", "a:add#0."]
)
def test_another_text_is_no_address(text):
    with pytest.raises(ValueError, match=r"`path:primitive#occurrence`, such as `head:add#0`; got '"):
        Site.parse(text)


def test_addresses_are_unique():
    for f in ZOO.values():
        program = graph(f, X)
        found = [node.site(i) for node in program.nodes for i in range(len(node.outputs))]
        assert len(found) == len(set(found)) == len(written(program))


# ---------------------------------------------------------------------------------------------------------- dependence


def by_primitive(program, variables):
    return sorted(node.name for node in program.nodes if not variables.isdisjoint(node.outputs))


def test_what_depends_on_the_input_and_what_has_a_derivative():
    def f(x):
        weights = jnp.exp(W[0] * 2)  # no part of it depends on x
        stopped = lax.stop_gradient(jnp.tanh(x))
        index = jnp.argmax(x, axis=1)
        return jnp.sum(stopped * weights[None]) + jnp.sum(jnp.where(x > 0, jnp.sin(x), 0.0)), index

    program = graph(f, X)
    dependent = by_primitive(program, program.dependent)
    active = by_primitive(program, program.active)
    assert "exp" not in dependent
    assert {"tanh", "stop_gradient", "argmax", "gt", "sin", "select_n", "reduce_sum"} <= set(dependent)
    assert {"tanh", "sin", "select_n"} <= set(active)
    assert not {"exp", "stop_gradient", "argmax", "gt"} & set(active)
    (product,) = (node for node in program.nodes if node.name == "mul" and node.outputs[0] in program.dependent)
    assert product.outputs[0] not in program.active
    assert program.dependent_inputs(product) == (program.producers[product.inputs[0]].outputs[0],)


def test_integers_have_no_derivative():
    program = graph(lambda x, n: (x * jnp.floor(n).astype(x.dtype), n), X, jnp.arange(4.0)[None].astype(int))
    assert program.inputs[1] in program.dependent
    assert program.inputs[1] not in program.active
    (product,) = (node for node in program.nodes if node.name == "mul")
    assert set(program.dependent_inputs(product)) == set(product.inputs)


def test_an_operand_read_twice_is_one_input():
    (node,) = graph(lambda x: x * x, X).nodes
    program = graph(lambda x: x * x, X)
    assert node.inputs == program.inputs * 2
    assert program.dependent_inputs(node) == program.inputs
    assert program.uses()[program.inputs[0]] == 2
    assert program.uses()[program.outputs[0]] == 1


@pytest.mark.parametrize("name", [name for name in ZOO if name != "custom_vjp"])
def test_where_there_is_no_derivative_it_is_zero(name):
    """Of every variable: its tangent, with the operands' own, is zero if it does not count as active."""
    program = graph(ZOO[name], X)
    silent = [v for v in written(program) if v not in program.active]
    silent = [v for v in silent if jnp.issubdtype(program.avals[v].dtype, jnp.inexact)]

    @compiled
    def tangents(x):
        return jax.jvp(lambda x: [program.evaluate([x])[v] for v in silent], (x,), (jnp.cos(x),))[1]

    assert all(np.all(np.asarray(tangent) == 0) for tangent in tangents(X))
    outputs = [v for v in program.outputs if jnp.issubdtype(program.avals[v].dtype, jnp.inexact)]
    assert all(v in program.active for v in outputs) == (name != "constant")


def test_chosen_variables_count_as_constants():
    def f(x):
        return jnp.exp(jnp.sin(x)) + x

    program = graph(f, X)
    (sine,) = (node.outputs[0] for node in program.nodes if node.name == "sin")
    stopped = program.detached([sine])
    assert by_primitive(stopped, stopped.active) == ["add"]
    assert by_primitive(stopped, stopped.dependent) == ["add", "exp", "sin"]
    assert by_primitive(program, program.active) == ["add", "exp", "sin"]
    assert stopped.evaluate([X])[program.outputs[0]].tolist() == program.evaluate([X])[program.outputs[0]].tolist()


def test_stopped_gradients_can_be_counted_as_active():
    program = graph(lambda x: lax.stop_gradient(jnp.sin(x)), X)
    assert by_primitive(program, program.active) == ["sin"]
    assert by_primitive(program, program.unstopped().active) == ["sin", "stop_gradient"]
    assert program.unstopped().dependent == program.dependent


def test_what_does_not_depend_on_the_input_is_known_from_the_start():
    def f(x):
        scale = jnp.exp(W) + 1
        return jax.jit(lambda y: y @ scale + jnp.cos(B))(x)

    program = graph(f, X)
    values = program.start([X])
    assert set(values) == set(program.constants) | set(program.inputs) | {
        v for v in written(program) if v not in program.dependent
    }
    (scale,) = (node.inputs[1] for node in program.nodes if node.name == "dot_general")
    np.testing.assert_allclose(values[scale], np.exp(np.asarray(W)) + 1, rtol=1e-6)
    assert program.outputs[0] not in values


def test_numbers_written_into_the_program():
    def f(x):
        table = jnp.broadcast_to(jnp.asarray(2.5, x.dtype), (1, 4))
        return lax.max(x, jnp.zeros_like(x)) * table + B + 3 * x[0, 0]

    program = graph(f, X)
    named = {node.name: node for node in program.nodes}
    assert program.literal(named["max"].inputs[1]) == 0
    assert program.literal(named["max"].inputs[0]) is None
    products = [node for node in program.nodes if node.name == "mul"]
    assert {float(program.literal(v)) for node in products for v in node.inputs if v not in program.dependent} == {
        2.5,
        3,
    }
    added = [v for node in program.nodes if node.name == "add" for v in node.inputs if v not in program.dependent]
    assert [program.literal(v) for v in added] == [None]


def test_the_place_of_an_equation_can_be_taken():
    program, leaves = interpreters.graph(lambda x: jnp.sin(x) + jnp.exp(jnp.sin(x)), X)

    def visit(node, operands):
        return [10 * operands[0]] if node.name == "sin" else node(*operands)

    values = program.evaluate(leaves, visit)
    np.testing.assert_allclose(values[program.outputs[0]], 10 * X + np.exp(10 * np.asarray(X)), rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_numbers_keep_the_dtype_of_the_program(dtype):
    """A literal is a bare number; bound to a narrow array in a wide world it must not widen it."""
    x = X.astype(dtype)
    program, leaves = interpreters.graph(lambda x: (jax.nn.gelu(x) / 3 + 2, jnp.clip(x, -1, 0.5) ** 3), x)
    got = jax.jit(program.evaluate)(leaves)
    assert all(got[v].dtype == program.avals[v].dtype for v in written(program))
    assert {got[v].dtype for v in program.outputs} == {jnp.dtype(dtype)}


def test_weak_types_stay_as_they_were():
    x = random((3,))
    program, leaves = interpreters.graph(lambda x: 2.0 * x, x)
    assert jax.eval_shape(program.evaluate, leaves)[program.outputs[0]].dtype == x.dtype
