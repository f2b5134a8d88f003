"""The tables of backward rules: one for each method, extended for one use or for good."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxinterp import attribution
from jaxinterp.attribution import rules
from jaxinterp.interpreters import Rules, primitives

pytestmark = pytest.mark.core

TABLES = ["lrp", "deep_lift", "guided_backprop", "deconvolution"]
METHOD = pytest.mark.parametrize("name", TABLES)
X = jnp.array([0.5, 4.0, 3.0])


def products(x):
    return lax.cumprod(x)[-1]


def derivative(call):
    return call.pull(call.cotangents)


@METHOD
def test_a_method_reads_the_table_of_its_name(name):
    """The table itself, when it is extended; not that of another method."""
    method, table = getattr(attribution, name), getattr(rules, name)
    assert isinstance(table, Rules)
    assert table.method == name
    kept = dict(table._rules)
    try:
        table.define(primitives.cumprod)(derivative)
        got = jax.jit(method(products))(X)
        slope = np.array([12.0, 1.5, 2.0])
        by_derivative = slope * X if name in ("lrp", "deep_lift") else slope
        np.testing.assert_allclose(got, by_derivative, rtol=1e-6)
        for other in TABLES:
            assert (primitives.cumprod in getattr(rules, other)) == (other == name)
    finally:
        table._rules.clear()
        table._rules.update(kept)
    with pytest.raises(NotImplementedError, match=rf"^`{name}` has no rule for the primitive `cumprod`"):
        method(products)(X)


@METHOD
def test_a_copy_is_for_one_use(name):
    method, table = getattr(attribution, name), getattr(rules, name).copy()
    table.define(primitives.cumprod, primitives.cumlogsumexp)(derivative)
    assert method(products, rules=table)(X).shape == (3,)
    with pytest.raises(NotImplementedError, match="cumprod"):
        method(products)(X)


@METHOD
def test_what_the_message_advises_can_be_written(name):
    """The primitive is named so that the code of the message runs."""
    method = getattr(attribution, name)
    with pytest.raises(NotImplementedError) as error:
        method(products)(X)
    advice = str(error.value).split("define one:\n\n")[1]
    assert advice.startswith(
        f"    @jaxinterp.attribution.rules.{name}.define(jaxinterp.interpreters.primitives.cumprod)\n"
    )


@METHOD
def test_a_rule_of_the_table_comes_before_the_methods_own(name):
    """Here the sum hands everything to its first entry."""
    table = getattr(rules, name).copy()

    @table.define(primitives.reduce_sum)
    def to_the_first(call):
        (x,), (c,) = call.inputs, call.cotangents
        return (jnp.zeros_like(x).at[0].set(c),)

    method = getattr(attribution, name)
    got = np.asarray(method(lambda x: jnp.sum(x), rules=table)(X))
    np.testing.assert_array_equal(got != 0, [True, False, False])


def gated(x):
    return -jnp.sum(x * jax.lax.logistic(x))


@METHOD
def test_a_rule_reaches_primitives_inside_activations(name):
    """With the derivatives of its two primitives, a gate that each method has its own way with has its derivative."""
    method, table = getattr(attribution, name), getattr(rules, name).copy()
    table.define(primitives.logistic, primitives.mul)(derivative)
    got = jax.jit(method(gated, rules=table))(X)
    slope = jax.grad(gated)(X)
    np.testing.assert_allclose(got, slope * X if name in ("lrp", "deep_lift") else slope, rtol=1e-6)
    assert not np.allclose(got, jax.jit(method(gated))(X))


@METHOD
def test_a_rule_must_return_a_cotangent_for_each_input(name):
    method = getattr(attribution, name)
    for wrong, message in [
        (lambda call: call.cotangents[0], r"got '?\w*(Array|Tracer)"),
        (lambda call: (call.cotangents[0][:1],), r"of the shapes \[\(3,\)\]; got \[\(1,\)\]"),
        (lambda call: (*call.cotangents, 1.0, 2.0), r"^A backward rule returns a tuple with one cotangent for each"),
    ]:
        table = getattr(rules, name).copy()
        table.define(primitives.cumprod)(wrong)
        with pytest.raises(TypeError, match=message):
            method(products, rules=table)(X)


@METHOD
@pytest.mark.parametrize("wrong", [{}, None, Rules("mine")])
def test_only_a_table_of_the_method_is_taken(name, wrong):
    with pytest.raises(
        TypeError, match=rf"^`rules` of `{name}` must be `attribution.rules.{name}` or a copy of it; got"
    ):
        getattr(attribution, name)(products, rules=wrong)
