"""Intermediates against the same network computed by hand: read, perturbed, replaced, and resumed from."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxinterp import interpreters
from jaxinterp.interpreters import Site
from tests.interpreters.programs import EPS, ZOO, B, W, X, assert_close, compiled, random, total

pytestmark = [pytest.mark.core, pytest.mark.numerics]

V = random((4, 2), 7)


def first(x):
    """The part of the network before the cut."""
    return jnp.tanh(x @ W + B)


def last(h, x):
    return jnp.sum((h @ V) ** 2) + jnp.sum(h[:, :1] * x)


def net(x):
    with jax.named_scope("first"):
        h = jax.jit(first)(x)
    with jax.named_scope("last"):
        return last(h, x)


SITES = {
    "first:dot_general#0": lambda x: x @ W,
    "first:add#0": lambda x: x @ W + B,
    "first:tanh#0": first,
    "last:dot_general#0": lambda x: first(x) @ V,
    "last:integer_pow#0": lambda x: (first(x) @ V) ** 2,
    "last:reduce_sum#0": lambda x: jnp.sum((first(x) @ V) ** 2),
    "last:slice#0": lambda x: first(x)[:, :1],
    "last:mul#0": lambda x: first(x)[:, :1] * x,
    "last:reduce_sum#1": lambda x: jnp.sum(first(x)[:, :1] * x),
    "last:add#0": net,
}


def by_name(values):
    return {str(site): value for site, value in values.items()}


def names(f, *args):
    return [str(site) for site in interpreters.sites(f)(*args)]


# --------------------------------------------------------------------------------------------------------------- values


def test_sites_are_listed_in_order_with_their_shapes():
    found = by_name(interpreters.sites(net)(X))
    assert sorted(found) == sorted(SITES)
    assert names(net, X)[:3] == ["first:dot_general#0", "first:add#0", "first:tanh#0"]
    assert names(net, X)[-1] == "last:add#0"
    expected = jax.eval_shape(lambda x: {name: f(x) for name, f in SITES.items()}, X)
    assert {name: (a.shape, a.dtype) for name, a in found.items()} == {
        name: (a.shape, a.dtype) for name, a in expected.items()
    }


def test_intermediates_are_the_values_computed_by_hand():
    @compiled
    def both(x):
        return by_name(interpreters.intermediates(net)(x)), {name: f(x) for name, f in SITES.items()}

    got, expected = both(X)
    assert_close(got, expected)


def test_intermediates_of_a_batch():
    batch = random((5, 3, 4), 2)
    select = ["first", "last:integer_pow#0"]
    got = compiled(jax.vmap(interpreters.intermediates(net, select=select)))(batch)
    expected = jax.vmap(lambda x: (first(x), (first(x) @ V) ** 2))(batch)
    assert_close(tuple(got.values()), expected)


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        (None, sorted(SITES)),
        (lambda site: site.primitive == "reduce_sum", ["last:reduce_sum#0", "last:reduce_sum#1"]),
        (lambda site: site.path == "first" and site.occurrence == 0, sorted(SITES)[:3]),
        (lambda site: False, []),
        ([Site("first", "add")], ["first:add#0"]),
        (["first:add#0", Site("last", "reduce_sum", 1)], ["first:add#0", "last:reduce_sum#1"]),
        (["first"], ["first:tanh#0"]),
        (["last", "first"], ["first:tanh#0", "last:add#0"]),
        ((name for name in ["last"]), ["last:add#0"]),
        ([], []),
    ],
)
def test_sites_are_selected_in_four_ways(select, expected):
    got = jax.eval_shape(interpreters.intermediates(net, select=select), X)
    assert sorted(by_name(got)) == expected


def test_a_path_means_all_below_it():
    def f(x):
        with jax.named_scope("block"):
            with jax.named_scope("inner"):
                h = jnp.sin(x)
            with jax.named_scope("inner_2"):
                return jnp.cos(h)

    found = interpreters.sites(f)(X)
    assert str(interpreters.resolve("block", found)) == "block/inner_2:cos#0"
    assert str(interpreters.resolve("block/inner", found)) == "block/inner:sin#0"
    with pytest.raises(ValueError, match="There is no site 'inner'"):
        interpreters.resolve("inner", found)
    with pytest.raises(ValueError, match="There is no site 'bloc'"):
        interpreters.resolve("bloc", found)


def test_one_output_of_several_is_a_site():
    def f(x):
        return lax.top_k(x, 2)[0] * lax.sort((x, x**2), dimension=1)[1][:, :2]

    got = compiled(interpreters.intermediates(f, select=[":top_k#0", ":top_k#0.1", ":sort#0.1"]))(X)
    got = by_name(got)
    values, places, by_value = (got[name] for name in (":top_k#0", ":top_k#0.1", ":sort#0.1"))
    np.testing.assert_allclose(values, -np.sort(-np.asarray(X), 1)[:, :2])
    np.testing.assert_array_equal(places, np.argsort(-np.asarray(X), 1)[:, :2])
    np.testing.assert_allclose(by_value, np.sort(np.asarray(X), 1) ** 2, rtol=1e-6)


def test_what_does_not_depend_on_the_input_is_no_site():
    def f(x, scale):
        return x * jnp.exp(scale) + jnp.cos(x)

    assert "exp" not in {site.primitive for site in interpreters.sites(f)(X, W[:1])}
    assert {site.primitive for site in interpreters.sites(f, 1)(X, W[:1])} == {"exp", "mul", "add"}
    both = {site.primitive for site in interpreters.sites(f, (0, 1))(X, W[:1])}
    assert both == {"exp", "mul", "add", "cos"}


def test_inputs_may_be_dictionaries():
    def f(n, tree):
        with jax.named_scope("scaled"):
            h = tree["a"] * n
        return h + tree["b"]

    tree = {"a": X, "b": X + 1}
    values = interpreters.intermediates(f, 1, select=["scaled"])(jnp.asarray(2.0, X.dtype), tree)
    np.testing.assert_allclose(values[Site("scaled", "mul")], 2 * X)


def test_the_inside_of_custom_derivatives_and_loops_is_no_site():
    found = {site.primitive for site in interpreters.sites(lambda x: ZOO["scan"](jax.nn.relu(x)))(X)}
    assert "custom_jvp_call" in found
    assert {"scan"} <= found
    assert not {"max", "tanh"} & found


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("site", "near"),
    [
        ("first:tanh#1", "'first:tanh#0'"),
        ("frist", "'first'"),
        (Site("last", "dot_genral"), "'last:dot_general#0'"),
        ("last:reduce_sum#2", "'last:reduce_sum#1'"),
        ("?", "'last'"),
    ],
)
def test_an_unknown_site_is_named_with_those_near_it(site, near):
    for call in (
        lambda: interpreters.intermediates(net, select=[site])(X),
        lambda: interpreters.patched(net, {site: X})(X),
        lambda: interpreters.with_perturbations(net)({site: X}, X),
        lambda: interpreters.resume_from(net, site)(X),
    ):
        with pytest.raises(ValueError, match=r"There is no site '.*' among the 10 intermediates") as error:
            call()
        assert near in str(error.value).partition("Near: ")[2]
        assert repr(str(site)) in str(error.value)
        assert "`interpreters.sites(f)(*args)` lists all" in str(error.value)


def test_a_malformed_site_is_refused():
    with pytest.raises(ValueError, match="A site is written `path:primitive#occurrence`"):
        interpreters.intermediates(net, select=["first:tanh"])(X)


def test_one_string_is_no_selection():
    with pytest.raises(TypeError, match=r"`select` must be a predicate or several sites; write `\['first'\]`"):
        interpreters.intermediates(net, select="first")(X)


def test_a_program_without_intermediates():
    assert interpreters.sites(lambda x: x)(X) == {}
    with pytest.raises(ValueError, match="There is no site 'head' among the 0 intermediates"):
        interpreters.resume_from(lambda x: x, "head")(X)


@pytest.mark.parametrize("method", ["intermediates", "sites", "resume_from", "patched", "with_perturbations"])
def test_the_method_is_named_where_the_input_has_no_derivative(method):
    function = getattr(interpreters, method)
    extra = {"resume_from": ["first"], "patched": [{}]}.get(method, [])
    leading = [{}] if method == "with_perturbations" else []
    with pytest.raises(TypeError, match=f"`{method}` needs floating-point arrays, but its input has dtype int32"):
        function(net, *extra)(*leading, jnp.zeros((3, 4), jnp.int32))
    with pytest.raises(ValueError, match=rf"`{method}` was built with argnums=1, .* called with 1 argument"):
        function(net, *extra, argnums=1)(*leading, X)


def test_shapes_must_be_those_of_the_site():
    for wrong in (X[0], X[:, :1], jnp.zeros((), X.dtype)):
        with pytest.raises(ValueError, match=r"The perturbation at 'first' must have shape \(3, 4\); got \("):
            interpreters.with_perturbations(net)({"first": wrong}, X)
        for replacement in (wrong, lambda h, wrong=wrong: wrong):
            with pytest.raises(ValueError, match=r"The replacement at 'first:add#0' must have shape \(3, 4\); got \("):
                interpreters.patched(net, {"first:add#0": replacement})(X)
        _, rest = interpreters.resume_from(net, "first")(X)
        with pytest.raises(ValueError, match=r"The value at 'first:tanh#0' must have shape \(3, 4\); got \("):
            rest(wrong)


def test_two_addresses_of_one_site_are_refused():
    both = {"first": X, Site("first", "tanh"): 2 * X}
    match = "'first' and 'first:tanh#0' are the same site"
    with pytest.raises(ValueError, match=match):
        interpreters.with_perturbations(net)(both, X)
    with pytest.raises(ValueError, match=match):
        interpreters.patched(net, both)(X)


# -------------------------------------------------------------------------------------------------------- perturbations


def test_gradients_with_respect_to_intermediates():
    """Against the gradient of a function that is cut by hand."""
    zeros = {"first": jnp.zeros_like(X), "last:dot_general#0": jnp.zeros((3, 2), X.dtype)}

    def tapped(x):
        (value, taps), gradients = jax.value_and_grad(interpreters.with_perturbations(net), has_aux=True)(zeros, x)
        return value, taps, gradients

    def by_hand(x):
        h = first(x)
        z = h @ V
        gradients = jax.grad(last)(h, x), jax.grad(lambda z: jnp.sum(z**2))(z)
        return net(x), dict(zip(zeros, (h, z), strict=True)), dict(zip(zeros, gradients, strict=True))

    batch = random((5, 3, 4), 2)
    got, expected = compiled(lambda x: (jax.vmap(tapped)(x), jax.vmap(by_hand)(x)))(batch)
    assert_close(got, expected)
    assert_close(jax.jit(tapped)(X), jax.jit(by_hand)(X))


def test_sites_may_be_keys():
    zeros = {Site("first", "tanh"): jnp.zeros_like(X), Site("first", "add"): jnp.zeros_like(X)}
    tapped = jax.grad(interpreters.with_perturbations(net), has_aux=True)
    gradients, taps = compiled(tapped)(zeros, X)
    assert set(gradients) == set(taps) == set(zeros)
    after, before = gradients[Site("first", "tanh")], gradients[Site("first", "add")]
    assert_close(before, after * (1 - taps[Site("first", "tanh")] ** 2))


def test_perturbations_are_added():
    shift = random((3, 4), 9)

    @compiled
    def both(x):
        value, taps = interpreters.with_perturbations(net)({"first": shift}, x)
        return (value, taps["first"]), (last(first(x) + shift, x), first(x) + shift)

    assert_close(*both(X))


@pytest.mark.parametrize("name", [name for name in ZOO if name != "identity"])
def test_zeros_change_nothing(name):
    """At every floating-point site at once; and the function itself comes out of the tapped program."""
    f = ZOO[name]
    sites = interpreters.sites(f)(X)
    zeros = {
        str(site): jnp.zeros(a.shape, a.dtype) for site, a in sites.items() if jnp.issubdtype(a.dtype, jnp.inexact)
    }

    @compiled
    def both(x):
        value, taps = interpreters.with_perturbations(f)(zeros, x)
        return value, f(x), taps

    value, expected, taps = both(X)
    assert_close(value, expected, 10 * EPS)
    assert set(taps) == set(zeros)


def test_the_gradient_in_the_input_is_that_of_the_function():
    f = total(ZOO["attention"])
    sites = interpreters.sites(f)(X)
    zeros = {str(site): jnp.zeros(a.shape, a.dtype) for site, a in sites.items()}

    @compiled
    def both(x):
        return jax.grad(interpreters.with_perturbations(f), argnums=1, has_aux=True)(zeros, x)[0], jax.grad(f)(x)

    assert_close(*both(X))


def test_perturbations_take_the_dtype_of_the_site():
    value, taps = interpreters.with_perturbations(lambda x: jnp.sin(x))(
        {":sin#0": jnp.ones(3, jnp.float32)}, jnp.zeros(3, jnp.bfloat16)
    )
    assert value.dtype == taps[":sin#0"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(value, np.float32), 1)


# -------------------------------------------------------------------------------------------------------- replacements


def test_intermediates_are_replaced():
    other = random((3, 4), 11)

    @compiled
    def both(x):
        got = (
            interpreters.patched(net, {"first": other})(x),
            interpreters.patched(net, {"first": lambda h: h.at[:, 1].set(0)})(x),
            interpreters.patched(net, {"first:add#0": lambda h: -h, "last:mul#0": lambda h: 0 * h})(x),
            interpreters.patched(net, {})(x),
        )
        h = -(x @ W + B)
        expected = (
            last(other, x),
            last(first(x).at[:, 1].set(0), x),
            jnp.sum((jnp.tanh(h) @ V) ** 2),
            net(x),
        )
        return got, expected

    assert_close(*both(X))


def test_replacing_by_the_value_itself_changes_nothing():
    values = interpreters.intermediates(net, select=["first"])(X)
    assert_close(interpreters.patched(net, values)(X), net(X))


def test_no_derivative_passes_a_constant_replacement():
    @compiled
    def gradients(x):
        h = first(x)
        patched = interpreters.patched(net, {"first": lax.stop_gradient(h)})
        return jax.grad(patched)(x), jax.grad(lambda x: last(lax.stop_gradient(h), x))(x)

    assert_close(*gradients(X))


def test_an_array_of_another_dtype_is_converted():
    f = interpreters.patched(lambda x: jnp.sin(x) * x, {":sin#0": jnp.ones((3, 4), jnp.int32)})
    assert_close(f(X), X)


def test_patching_a_chosen_argument():
    def f(n, tree):
        return jnp.sin(tree["a"]) * n

    patched = interpreters.patched(f, {":sin#0": lambda h: h + 1}, argnums=1)
    assert_close(patched(X, {"a": X}), (jnp.sin(X) + 1) * X)


# ------------------------------------------------------------------------------------------------------------- resuming


@pytest.mark.parametrize("site", SITES)
def test_the_rest_of_a_program_gives_its_value(site):
    @compiled
    def both(x):
        h, rest = interpreters.resume_from(net, site)(x)
        return (h, rest(h), rest(h + 1)), (
            SITES[site](x),
            net(x),
            interpreters.patched(net, {site: lambda h: h + 1})(x),
        )

    assert_close(*both(X))


def test_the_rest_is_mapped_and_differentiated():
    others = random((5, 3, 4), 12)

    @compiled
    def both(x):
        h, rest = interpreters.resume_from(net, "first")(x)
        by_hand = functools.partial(last, x=x)
        got, expected = ((jax.vmap(g)(others), jax.grad(g)(h), jax.hessian(g)(h)) for g in (rest, by_hand))
        return got, expected

    assert_close(*both(X))


def test_the_rest_runs_nothing_before_the_cut():
    seen = []

    def f(x):
        with jax.named_scope("before"):
            jax.debug.callback(lambda: seen.append(1), ordered=True)
            h = jnp.sin(x)
        return jnp.cos(h)

    h, rest = interpreters.resume_from(f, "before")(X)
    jax.effects_barrier()
    count = len(seen)
    inner = interpreters.graph(rest, h)[0]
    assert [node.name for node in inner.nodes] == ["cos"]
    jax.effects_barrier()
    assert len(seen) == count


def test_resuming_in_a_batch_and_from_a_tree():
    def f(n, tree):
        with jax.named_scope("cut"):
            h = jnp.sin(tree["a"]) * n
        return {"out": h + tree["b"], "n": n}

    def at(n, tree):
        h, rest = interpreters.resume_from(f, "cut", argnums=1)(n, tree)
        return h, rest(-h)

    n, tree = random((5, 3, 4), 1), {"a": random((5, 3, 4), 2), "b": random((5, 3, 4), 3)}
    h, out = compiled(jax.vmap(at))(n, tree)
    assert_close(h, jnp.sin(tree["a"]) * n)
    assert_close(out, {"out": tree["b"] - jnp.sin(tree["a"]) * n, "n": n})
