"""Groups of equations: single ones, given ones with the rest, and their evaluation."""

import functools

import jax
import jax.numpy as jnp
import pytest

from jaxinterp import interpreters
from jaxinterp.interpreters import primitives
from tests.interpreters.programs import B, W, X, assert_close

pytestmark = [pytest.mark.core, pytest.mark.numerics]


def f(x):
    return jnp.sum(jax.nn.softmax(jnp.tanh(2 * (x @ W) + B) ** 2) * x[0, 0])


@functools.cache
def program():
    return interpreters.graph(f, X)[0]


def evaluated(groups):
    values = program().start([X])
    for group in groups:
        outputs = group.apply(values, [values[v] for v in group.inputs])
        values.update(zip(group.outputs, outputs, strict=True))
    return program().unflatten(values)


def test_equations_are_groups_of_one():
    groups = interpreters.equations(program())
    assert all(group.kind == "equation" and len(group.nodes) == 1 for group in groups)
    assert_close(evaluated(groups), f(X))


def test_what_is_not_in_a_given_group_stands_by_itself():
    whole = interpreters.regions(program())
    kept = [group for group in whole if group.kind == "normaliser"]
    groups = interpreters.grouped(program(), kept)
    assert [group.kind for group in groups].count("normaliser") == len(kept) == 1
    assert all(group.kind == "normaliser" or len(group.nodes) == 1 for group in groups)
    assert sum(len(group.nodes) for group in groups) == sum(len(group.nodes) for group in whole)
    assert_close(evaluated(groups), f(X))


def test_the_values_of_a_stopped_variable_pass_no_derivative_on():
    (group,) = (group for group in interpreters.regions(program()) if group.kind == "normaliser")
    (v,) = group.inputs
    values = program().evaluate([X])
    inside = frozenset(out for node in group.nodes for out in node.outputs)
    slope = jax.grad(lambda h: jnp.sum(group.apply(values, [h], inside)[0] ** 2))(values[v])
    assert not jnp.any(slope)
    assert jnp.any(jax.grad(lambda h: jnp.sum(group.apply(values, [h])[0] ** 2))(values[v]))


def test_groups_that_hold_a_primitive_are_taken_apart():
    """Its other elementwise equations stay what they are, one by one; other groups stay whole."""
    whole = interpreters.regions(program())
    assert interpreters.apart(program(), whole, [primitives.sin]) == whole
    groups = interpreters.apart(program(), whole, [primitives.tanh])
    names = {group.nodes[0].name: group.kind for group in groups if len(group.nodes) == 1}
    assert names["tanh"] == "equation"
    assert names["integer_pow" if "integer_pow" in names else "square"] == "activation"
    assert [group.kind for group in groups].count("normaliser") == 1
    assert_close(evaluated(groups), f(X))
