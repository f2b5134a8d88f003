"""Backward rules in the place of derivatives, against gradients written by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from jaxinterp import interpreters
from jaxinterp.interpreters import Rules, primitives
from tests.interpreters.programs import DIFFERENTIABLE, EPS, ZOO, B, W, X, assert_close, compiled, random, total

pytestmark = [pytest.mark.core, pytest.mark.numerics]

V = random((3, 4), 7)
GROUPINGS = (interpreters.regions, interpreters.equations)


def net(x, w=W):
    return jnp.vdot(jnp.tanh(x @ w + B), V)


def ruled(f, choose, *, grouping=interpreters.regions, reference=lambda group: None):
    """f with the derivatives that `choose` replaces."""

    def run(x):
        program, leaves = interpreters.graph(f, x)
        return interpreters.with_backward(program, grouping(program), choose, reference)(leaves)

    return run


def only(kind, rule):
    """Chooses a rule for the groups of one kind."""
    return lambda group: rule if group.kind == kind else None


def rule_one(call):
    return tuple(call.cotangents)


def rule_two(call):
    return call.pull(call.cotangents)


def squared(call):
    """A rule that looks at everything there is."""
    (z,), (out,), (c,) = call.inputs, call.outputs, call.cotangents
    return (c * z**2 + out,)


def by_hand(x, w=W):
    """The gradient of `net` with the rule `squared` for its activation."""
    z = x @ w + B
    return (V * z**2 + jnp.tanh(z)) @ w.T


# ------------------------------------------------------------------------------------------------------- replaced rules


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_without_rules_a_program_has_its_derivative(name):
    """Also with the ordinary derivative written as a rule, for every part, loops included."""
    f = total(ZOO[name])

    @compiled
    def gradients(x):
        pulled = [ruled(f, lambda group: rule_two, grouping=grouping) for grouping in GROUPINGS]
        return [jax.value_and_grad(g)(x) for g in (f, ruled(f, lambda group: None), *pulled)]

    expected, *got = gradients(X)
    for pair in got:
        assert_close(pair, expected, 1000 * EPS)


def test_a_rule_is_used_and_the_rest_keeps_its_derivative():
    g = ruled(net, only("activation", squared))
    batch = random((5, 3, 4), 2)

    @compiled
    def both(x):
        gradient, expected = jax.value_and_grad(g), lambda x: (net(x), by_hand(x))
        return (jax.vmap(gradient)(x), gradient(x[0])), (jax.vmap(expected)(x), expected(x[0]))

    assert_close(*both(batch))
    assert_close(jax.grad(g)(X), by_hand(X), 1e-12 if X.dtype == jnp.float64 else 1e-5)


def test_what_a_rule_sees():
    seen = {}

    def rule(call):
        seen[call.group.kind] = call
        assert len(call.inputs) == len(call.moving)
        assert set(call.moving) <= set(call.group.inputs)
        assert not set(call.values) & set(call.moving)
        for got, expected in zip(call.function(*call.inputs), call.outputs, strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-5)
        return call.pull(call.cotangents)

    def gated(x):
        return jnp.vdot(jnp.tanh(x @ W + B) * lax.stop_gradient(jnp.sin(x)), V)

    value, gradient = jax.value_and_grad(ruled(gated, lambda group: rule))(X)
    np.testing.assert_allclose(value, gated(X), rtol=1e-5)
    np.testing.assert_allclose(gradient, jax.grad(gated)(X), rtol=1e-4, atol=1e-6)
    assert set(seen) == {"equation", "affine", "activation"}
    assert any(np.array_equal(value, B) for value in map(np.asarray, seen["affine"].values.values()))
    np.testing.assert_allclose(seen["activation"].inputs[0], X @ W + B, rtol=1e-5)
    np.testing.assert_allclose(seen["activation"].outputs[0], np.tanh(X @ W + B), rtol=1e-5)


def test_parts_without_a_derivative_are_not_asked():
    asked = []

    def choose(group):
        asked.extend(node.name for node in group.nodes)

    def f(x):
        return jnp.sum(x * jnp.floor(jnp.cos(lax.stop_gradient(x))) + jnp.argmax(x).astype(x.dtype)) + jnp.sum(
            jnp.exp(W)
        )

    assert_close(jax.grad(ruled(f, choose, grouping=interpreters.equations))(X), jax.grad(f)(X))
    assert "stop_gradient" not in asked
    assert "argmax" not in asked
    assert "exp" not in asked
    assert {"mul", "reduce_sum"} <= set(asked)


def test_variables_counted_as_constants_pass_no_derivative():
    def f(x):
        return jnp.sum(jnp.exp(jnp.sin(x)) * x)

    program, leaves = interpreters.graph(f, X)
    (sine,) = (node.outputs[0] for node in program.nodes if node.name == "sin")
    program = program.detached([sine])
    run = interpreters.with_backward(program, interpreters.equations(program), lambda group: None)
    (gradient,) = jax.grad(run)(leaves)
    assert_close(gradient, jnp.exp(jnp.sin(X)))


def test_rules_keep_the_value_and_may_be_compiled_with_other_arguments():
    """The values that a rule sees are those of the call, not of the trace."""
    gradient = compiled(lambda x, w: jax.grad(ruled(lambda x: net(x, w), only("activation", squared)))(x))
    for w in (W, 2 * W):
        assert_close(gradient(X, w), by_hand(X, w), 1e-5 if X.dtype == jnp.float32 else 1e-12)


def test_narrow_numbers_and_bare_literals():
    """Literals are bare numbers in a program; passed through a rule they must not widen what they meet."""
    for dtype in (jnp.float32, jnp.bfloat16):
        x = X.astype(dtype)
        f = lambda x: jnp.sum(jax.nn.gelu(x) * 3 + 0.5)  # noqa: E731
        got, expected = jax.grad(ruled(f, lambda group: rule_two))(x), jax.grad(f)(x)
        assert got.dtype == dtype
        np.testing.assert_allclose(got.astype(jnp.float32), expected.astype(jnp.float32), rtol=0.02, atol=0.02)


# ------------------------------------------------------------------------------------------------- derivatives of rules


def doubled(call):
    return tuple(2 * c for c in call.pull(call.cotangents))


@pytest.mark.parametrize(
    ("choose", "expected"),
    [
        (only("activation", squared), by_hand),
        (lambda group: doubled if group.nodes[0].name == "dot_general" else None, lambda x, w: 4 * jax.grad(net)(x, w)),
    ],
)
def test_derivatives_of_a_rule_are_those_of_the_numbers_it_returns(choose, expected):
    """Second derivatives, in the input and in parameters, against those of the gradient written by hand."""

    def mapped(x, w):
        return jax.grad(ruled(lambda x: net(x, w), choose))(x)

    def derived(g, x, w):
        return (
            jax.jacrev(g)(x, w),
            jax.grad(lambda w: jnp.sum(g(x, w) ** 3))(w),
            jax.grad(lambda x: jnp.vdot(jax.grad(lambda x: jnp.sum(g(x, w) ** 2))(x), V))(x),
        )

    @compiled
    def both(x, w):
        return derived(mapped, x, w), derived(expected, x, w)

    assert_close(*both(X, W), 1e-11 if X.dtype == jnp.float64 else 2e-5)


def test_a_reference_reaches_the_rule_and_gets_its_cotangent():
    """A rule with a side output: what it returns after the inputs' cotangents."""

    def rule(call):
        (z,), (c,) = call.inputs, call.cotangents
        return c * call.reference["slope"], {"slope": c * z, "shift": jnp.zeros_like(z)}

    def value(x, reference):
        return ruled(net, only("activation", rule), reference=lambda group: reference)(x)

    reference = {"slope": random((3, 4), 9), "shift": X}

    @compiled
    def both(x, reference):
        expected = (V * reference["slope"]) @ W.T, {"slope": V * (x @ W + B), "shift": jnp.zeros_like(x)}
        return jax.grad(value, argnums=(0, 1))(x, reference), expected

    assert_close(*both(X, reference))


def test_a_reference_without_a_cotangent_gets_none():
    def value(x, reference):
        rule = lambda call: (call.cotangents[0] * call.reference,)  # noqa: E731
        return ruled(net, only("activation", rule), reference=lambda group: reference)(x)

    got = jax.grad(value, argnums=(0, 1))(X, V)
    assert_close(got, ((V * V) @ W.T, jnp.zeros_like(V)))


def test_a_part_with_several_inputs_and_outputs():
    def f(x):
        values, _ = lax.top_k((x @ W) * x, 2)
        return jnp.sum(values**2)

    def rule(call):
        if call.group.nodes[0].name == "mul":
            a, b = call.inputs
            (c,) = call.cotangents
            return c * b / 2, c * a / 2
        return call.pull(call.cotangents)

    g = ruled(f, lambda group: rule, grouping=interpreters.equations)
    assert_close(*compiled(lambda x: (jax.grad(g)(x), jax.grad(f)(x) / 2))(X))


# ------------------------------------------------------------------------------------------------------ user primitives


def new_primitive():
    """A primitive of a user's library, x**4 - x**2, that JAX can run and map, and not differentiate."""
    well = Primitive("double_well")
    well.def_impl(lambda x: x**4 - x**2)
    well.def_abstract_eval(lambda x: x)
    mlir.register_lowering(well, mlir.lower_fun(lambda x: x**4 - x**2, multiple_results=False))
    batching.primitive_batchers[well] = lambda args, dims: (well.bind(*args), dims[0])
    return well


def test_a_rule_for_a_primitive_of_the_user():
    well = new_primitive()
    rules = Rules("example")

    @rules.define(well)
    def true_derivative(call):
        (x,), (c,) = call.inputs, call.cotangents
        return (c * (4 * x**3 - 2 * x),)

    def f(x):
        return jnp.vdot(well.bind(x @ W), V)

    def choose(group):
        return rules[well] if group.nodes[0].equation.primitive is well else None

    @compiled
    def both(x):
        polynomial = lambda x: jnp.vdot((x @ W) ** 4 - (x @ W) ** 2, V)  # noqa: E731
        g = ruled(f, choose)
        return jax.vmap(jax.value_and_grad(g))(x), jax.vmap(jax.value_and_grad(polynomial))(x)

    assert_close(*both(random((2, 3, 4), 3)), 1e-11 if X.dtype == jnp.float64 else 1e-5)
    assert [str(site) for site in interpreters.sites(f)(X)][1] == ":double_well#0"
    with pytest.raises(
        NotImplementedError, match=r"`full_gradient` has no rule for the primitive `double_well`, .*:\d+"
    ):
        interpreters.full_gradient(f)(X)


# --------------------------------------------------------------------------------------------------------------- tables


def test_a_table_holds_what_was_defined_last():
    rules = Rules("example", {primitives.tanh: rule_one})
    assert rules.define(primitives.sin, primitives.cos)(rule_two) is rule_two
    assert set(rules) == {primitives.tanh, primitives.sin, primitives.cos}
    assert rules[primitives.sin] is rules[primitives.cos] is rule_two
    rules.define(primitives.tanh)(rule_two)
    assert rules[primitives.tanh] is rule_two
    assert primitives.exp not in rules
    with pytest.raises(KeyError):
        rules[primitives.exp]


def test_a_copy_is_independent():
    given = {primitives.tanh: rule_one}
    rules = Rules("example", given)
    copy = rules.copy()
    copy.define(primitives.tanh, primitives.exp)(rule_two)
    rules.define(primitives.sin)(rule_two)
    assert copy.method == rules.method == "example"
    assert set(copy) == {primitives.tanh, primitives.exp}
    assert set(rules) == {primitives.tanh, primitives.sin}
    assert rules[primitives.tanh] is rule_one
    assert given == {primitives.tanh: rule_one}


@pytest.mark.parametrize("wrong", ["tanh", jnp.tanh, None, lax.tanh])
def test_only_primitives_have_rules(wrong):
    rules = Rules("example")
    with pytest.raises(TypeError, match=r"`define` takes primitives, such as `interpreters.primitives.tanh`; got "):
        rules.define(primitives.sin, wrong)
    assert not set(rules)


def node_of(f, name):
    (node,) = (node for node in interpreters.graph(f, X)[0].nodes if node.name == name)
    return node


def test_the_error_of_a_missing_rule_says_how_to_define_one():
    def f(x):
        with jax.named_scope("block"):
            return lax.cbrt(x)

    error = Rules("lrp").missing(node_of(f, "cbrt"))
    assert isinstance(error, NotImplementedError)
    text = str(error)
    assert text.startswith("`lrp` has no rule for the primitive `cbrt`, used in the scope 'block' at ")
    assert "test_backward.py:" in text
    assert "    @jaxinterp.attribution.rules.lrp.define(jaxinterp.interpreters.primitives.cbrt)\n" in text
    assert "return call.pull(call.cotangents)" in text
    assert "unrolled" not in text
    assert "in the scope" not in str(Rules("lrp").missing(node_of(lax.cbrt, "cbrt")))


def test_the_error_for_loops_and_unknown_primitives():
    assert "`interpreters.unrolled(f)`" in str(Rules("lrp").missing(node_of(ZOO["scan"], "scan")))
    well = new_primitive()
    assert "define(<the primitive double_well>)" in str(Rules("lrp").missing(node_of(well.bind, "double_well")))
