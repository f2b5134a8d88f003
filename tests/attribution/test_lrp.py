"""Relevance propagation: conservation, merging, transformers against frozen networks, and what it refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxinterp import interpreters
from jaxinterp.attribution import gradient_times_input, lrp, lrp_rules, rules
from jaxinterp.interpreters import primitives
from tests.attribution.networks import (
    IMAGE,
    MASKS,
    MLP,
    NORMS,
    POINTS,
    X64,
    along,
    assert_close,
    block,
    conv,
    conv_net,
    dense,
    halves,
    max_pool,
    mlp,
    random,
)

pytestmark = pytest.mark.numerics

LRP0 = lrp_rules.uniform(lrp_rules.epsilon(0.0))
CONSERVING = {
    "0": LRP0,
    "epsilon": lrp_rules.uniform(lrp_rules.epsilon(1e-12)),
    "gamma": lrp_rules.uniform(lrp_rules.gamma(0.5, epsilon=1e-12)),
    "epsilon_plus": lrp_rules.epsilon_plus(1e-12),
    "z_plus": lrp_rules.uniform(lrp_rules.z_plus(epsilon=1e-12)),
    "alpha_beta": lrp_rules.uniform(lrp_rules.alpha_beta(2.0, 1.0, epsilon=1e-12)),
}


# ---------------------------------------------------------------------------------------------------- conservation


@pytest.mark.parametrize("name", CONSERVING)
def test_a_network_without_biases_conserves_at_every_layer(name):
    """Behind each stage, the relevance of the stage's output sums to f; so does that of the input.

    All entries have contributions of both signs, without which z+ and αβ do not conserve.
    """
    f, composite = conv_net(bias=0.0), CONSERVING[name]

    @jax.jit
    def totals(x):
        found = [jnp.sum(lrp(f, composite=composite)(x))]
        for stage in ("first", "pool", "second", "residual", "mean", "head"):
            h, rest = interpreters.resume_from(f, stage)(x)
            found.append(jnp.sum(lrp(rest, composite=composite)(h)))
        return jnp.stack(found)

    np.testing.assert_allclose(totals(IMAGE), jnp.full(7, f(IMAGE)), rtol=1e-9 if X64 else 1e-5)


def test_relevance_passes_through_a_layer_as_from_it():
    """What the first stage's output gets, handed on by the rule of the first layer alone, is what the input gets."""
    f, sites = conv_net(), interpreters.sites(conv_net())(IMAGE)

    def composite(layer):
        return lrp_rules.epsilon(0.0) if layer.kind == "sum" else lrp_rules.gamma(0.5, epsilon=0.1)

    @jax.jit
    def both(x):
        h, rest = interpreters.resume_from(f, "first")(x)
        above = lrp(rest, composite=composite)(h)
        share = lax.stop_gradient(jnp.where(h == 0, 0.0, above / jnp.where(h == 0, 1.0, h)))
        return lrp(f, composite=composite)(x), lrp(lambda z: jnp.sum(first(z) * share), composite=composite)(x)

    def first(z):
        return interpreters.intermediates(f, select=["first"])(z)[interpreters.resolve("first", sites)]

    assert_close(*both(IMAGE), tolerance=None if X64 else 1e-4)


@pytest.mark.parametrize("activation", [jax.nn.relu, functools.partial(jax.nn.leaky_relu, negative_slope=0.2), jnp.abs])
def test_without_epsilon_it_is_gradient_times_input(activation):
    """With biases too, wherever the activation is piecewise linear."""
    for f, x in [(conv_net(activation), IMAGE), (mlp(activation), jnp.asarray(POINTS[0], float))]:
        assert_close(*jax.jit(lambda x, f=f: (lrp(f, composite=LRP0)(x), gradient_times_input(f)(x)))(x))


def test_biases_keep_their_share():
    """Of z = w·x + b, the input gets the part w·x."""
    weight, bias = jnp.array([2.0, -1.0]), jnp.array(3.0)
    got = lrp(lambda x: jax.nn.relu(jnp.dot(weight, x) + bias), composite=LRP0)(jnp.array([1.0, 0.5]))
    np.testing.assert_allclose(got, [2.0, -0.5], rtol=1e-6)


@pytest.mark.parametrize("activation", [jax.nn.gelu, jax.nn.silu, jnp.tanh, jnp.square])
def test_activations_pass_relevance_on(activation):
    """The output's relevance is the input's, whatever the activation's derivative is there."""
    x = jnp.array([0.7, -1.2, 2.0])
    assert_close(lrp(lambda x: jnp.sum(activation(x)), composite=LRP0)(x), activation(x))


def test_what_only_scales_keeps_nothing():
    """ε stabilises sums: scalings on the way, a head's factor of one included, do not count as sums of their own."""
    x, scale = jnp.array([1.0, -2.0, 4.0]), jnp.array([2.0, -1.0, 3.0])
    composite = lrp_rules.uniform(lrp_rules.epsilon(0.5))
    for f in (lambda x: jnp.sum(scale * x), lambda x: -jnp.sum(x * scale / 2.0), lambda x: 1.0 * jnp.dot(scale, x)):
        value = float(f(x))
        wanted = np.asarray(scale * x) / 16 * value * abs(value) / (abs(value) + 0.5)
        np.testing.assert_allclose(lrp(f, composite=composite)(x), wanted, rtol=1e-6)


def test_an_average_is_stabilised_as_a_whole():
    """At ε, not at ε times the number of entries: mean and sum over it differ by that."""
    x, composite = jnp.array([1.0, 2.0, 5.0, 0.0]), lrp_rules.uniform(lrp_rules.epsilon(0.5))
    for f in (jnp.mean, lambda x: jnp.sum(x) / 4.0, lambda x: 0.25 * jnp.sum(x)):
        assert_close(lrp(f, composite=composite)(x), x / 4 * (2.0 / 2.5))
    assert_close(lrp(jnp.sum, composite=composite)(x), x * (8.0 / 8.5))


# --------------------------------------------------------------------------------------------- batch normalisation


def normalised(form, z, scale, shift, mean, variance):
    """Batch normalisation in evaluation mode as different libraries write it."""
    scale, shift, mean, variance = (along(v, z) for v in (scale, shift, mean, variance))
    match form:
        case "flax":
            return (z - mean) * (scale * lax.rsqrt(variance + 1e-5)) + shift
        case "division":
            return (z - mean) / jnp.sqrt(variance + 1e-5) * scale + shift
        case "folded":
            factor = scale / jnp.sqrt(variance + 1e-5)
            return z * factor + (shift - mean * factor)


@pytest.mark.parametrize("form", ["flax", "division", "folded"])
@pytest.mark.parametrize("kind", ["conv", "dense"])
def test_batch_normalisation_is_merged_into_the_layer_before(form, kind):
    """By every rule the map is that of the network whose kernel and bias were merged by hand; scales of both signs."""
    width = 7
    kernel = random((3, 3, 2, width) if kind == "conv" else (2, width), 1)
    bias, scale, shift, mean = (random((width,), seed) for seed in (2, 3, 4, 5))
    variance, head = jnp.abs(random((width,), 6)) + 0.5, random((width,), 7)
    assert float(scale.min()) < 0 < float(scale.max())
    factor = scale / jnp.sqrt(variance + 1e-5)
    layer = conv if kind == "conv" else dense

    def apart(x):
        z = layer(x, kernel) + along(bias, x)
        return jnp.sum(jax.nn.relu(normalised(form, z, scale, shift, mean, variance)) @ head)

    def merged(x):
        z = layer(x, kernel * along(factor, kernel)) + along((bias - mean) * factor + shift, x)
        return jnp.sum(jax.nn.relu(z) @ head)

    x = random((4, 4, 2), 8)
    for rule in [lrp_rules.epsilon(0.2), lrp_rules.z_plus(), lrp_rules.gamma(0.5), lrp_rules.alpha_beta()]:
        composite = lrp_rules.uniform(rule)
        assert_close(
            jax.jit(lrp(apart, composite=composite))(x),
            jax.jit(lrp(merged, composite=composite))(x),
            1e-10 if X64 else 1e-4,
        )


def test_an_affine_map_that_is_not_behind_a_layer_keeps_the_share_of_its_offset():
    """Behind the ReLU it cannot be merged: of y = s·h + t, the part s·h goes on."""
    x, (s, t) = jnp.array([1.0, 2.0, -1.0]), (jnp.array([2.0, -1.0, 3.0]), jnp.array([0.5, 1.0, 1.0]))
    got = lrp(lambda x: jnp.sum(s * jax.nn.relu(x) + t), composite=LRP0)(x)
    np.testing.assert_allclose(got, s * jax.nn.relu(x), rtol=1e-6)


# --------------------------------------------------------------------------------------------------- transformers


@pytest.mark.parametrize(
    "options",
    [*({"norm": norm} for norm in NORMS), *({"mask": mask} for mask in MASKS)],
    ids=lambda d: str(*d.values()),
)
def test_a_transformer_without_biases_conserves_and_is_gradient_times_input_of_the_frozen_one(options):
    """Normalisers and attention weights are constants, a gate and what it gates get half each."""
    f, x = block(**options), random((5, 8), 40)
    got, value = jax.jit(lambda x: (lrp(f, composite=LRP0)(x), f(x)))(x)
    np.testing.assert_allclose(jnp.sum(got), value, rtol=1e-11 if X64 else 1e-5)
    frozen = jax.jit(gradient_times_input(block(freeze=lax.stop_gradient, product=halves, **options)))(x)
    assert_close(got, frozen, None if X64 else 1e-4)


@pytest.mark.parametrize("name", ["epsilon", "gamma", "epsilon_plus"])
def test_rules_conserve_on_a_transformer(name):
    x = random((5, 8), 41)
    got = jax.jit(lrp(block("rms"), composite=CONSERVING[name]))(x)
    np.testing.assert_allclose(jnp.sum(got), block("rms")(x), rtol=1e-8 if X64 else 2e-5)


# -------------------------------------------------------------------------------------------------------- the box


def test_black_pixels_get_their_relevance():
    """On [0, 1] an image of mostly zeros, as digits are: the zeros have relevance by the formula of LRP-zB."""
    kernel, head = random((3, 3, 1, 6), 1), random((6,), 2)
    x = jnp.zeros((5, 5, 1)).at[1:4, 2].set(1.0)

    def f(x):
        return jnp.sum(jax.nn.relu(conv(x, kernel)) @ head)

    got = np.asarray(jax.jit(lrp(f, composite=lrp_rules.epsilon_gamma_box(0.0, 1.0, epsilon=1e-9)))(x))
    wide, zero = np.pad(np.asarray(x, float), ((1, 1), (1, 1), (0, 0))), np.zeros((7, 7))
    inside = np.pad(np.ones((5, 5)), 1)
    wanted, w = zero.copy(), np.asarray(kernel, float)[:, :, 0]
    for i in range(5):
        for j in range(5):
            window = (slice(i, i + 3), slice(j, j + 3))
            for k, weight in enumerate(np.asarray(head, float)):
                z = np.sum(wide[window][:, :, 0] * w[:, :, k])
                parts = wide[window][:, :, 0] * w[:, :, k] - np.minimum(w[:, :, k], 0) * inside[window]
                if z > 0:
                    wanted[window] += parts * z * weight / parts.sum()
    assert_close(got[:, :, 0], wanted[1:-1, 1:-1], 1e-8 if X64 else 2e-5)
    black = np.asarray(x) == 0
    assert np.abs(got[black]).max() > 0.1 * np.abs(got).max()
    assert np.abs(lrp(f)(x)[black]).max() == 0


def test_a_box_reads_the_input_through_reshapes_and_from_two_layers():
    """The input may be reshaped on the way, and read by two layers: what each gives it is added."""
    kernel, other = random((6, 4), 3), random((6, 3), 4)
    composite = lrp_rules.epsilon_gamma_box(-2.0, 2.0, epsilon=0.0)
    x = random((2, 3), 5)

    def one(x):
        return jnp.sum(jax.nn.relu(dense(x.reshape(6), kernel)))

    def two(x):
        return jnp.sum(jax.nn.relu(dense(x.reshape(1, 6), other)))

    got, first, second = jax.jit(
        lambda x: tuple(lrp(f, composite=composite)(x) for f in (lambda x: one(x) + two(x), one, two))
    )(x)
    assert_close(got, first + second, None if X64 else 1e-4)


def test_a_box_is_refused_on_inner_layers():
    message = r"^`z_box` is a rule for layers that read the input; the layer second:conv_general_dilated#0 does not"
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lrp(conv_net(), composite=lrp_rules.uniform(lrp_rules.z_box(-1.0, 1.0))), IMAGE)
    box = lrp_rules.by_depth((0.0, lrp_rules.z_box(-1.0, 1.0)))
    with pytest.raises(ValueError, match=r"does not. Explain the network without its input normalisation"):
        jax.eval_shape(lrp(lambda x: conv_net()(x / 2 - 1), composite=box), IMAGE)


# ----------------------------------------------------------------------------------------------------- composites


def test_what_a_composite_is_told():
    seen = []

    def composite(layer):
        seen.append(layer)
        return lrp_rules.epsilon()

    jax.eval_shape(lrp(conv_net(), composite=composite), IMAGE)
    layers = [layer for layer in seen if layer.kind != "sum"]
    assert [(str(layer.site), layer.kind, layer.index, layer.count, layer.reads_input) for layer in layers] == [
        ("first:conv_general_dilated#0", "conv", 0, 4, True),
        ("second:conv_general_dilated#0", "conv", 1, 4, False),
        ("residual:conv_general_dilated#0", "conv", 2, 4, False),
        ("head:dot_general#0", "dense", 3, 4, False),
    ]
    sums = [layer.site.path for layer in seen if layer.kind == "sum"]
    assert sorted(sums) == ["mean", "residual"]


def test_by_depth_gives_each_layer_its_rule():
    """The map is that of a composite which names the layers."""
    named = {"first": lrp_rules.z_plus(), "second": lrp_rules.gamma(0.5), "residual": lrp_rules.gamma(0.5)}

    def by_name(layer):
        return named.get(layer.site.path, lrp_rules.epsilon(1e-6))

    depths = (0.0, lrp_rules.z_plus()), (0.25, lrp_rules.gamma(0.5)), (0.75, lrp_rules.epsilon(1e-6))
    assert_close(
        jax.jit(lrp(conv_net(), composite=lrp_rules.by_depth(*depths)))(IMAGE),
        jax.jit(lrp(conv_net(), composite=by_name))(IMAGE),
    )


@pytest.mark.parametrize("given", [lrp_rules.z_plus(), "epsilon"])
def test_a_rule_alone_is_no_composite(given):
    with pytest.raises(TypeError, match=r"`composite` of `lrp` is a function from a layer to its rule.*uniform"):
        lrp(jnp.sum, composite=given)


def test_the_default_is_epsilon_plus():
    default, named = jax.jit(lambda x: (lrp(conv_net())(x), lrp(conv_net(), composite=lrp_rules.epsilon_plus())(x)))(
        IMAGE
    )
    np.testing.assert_array_equal(default, named)


# ----------------------------------------------------------------------------------------- primitives without a rule


@jax.custom_vjp
def outer_product(x):
    return x[:, None] * x[None]


outer_product.defvjp(lambda x: (outer_product(x), x), lambda x, g: ((g + g.T) @ x,))

WITHOUT_RULE = {
    "scan": lambda x: lax.scan(lambda c, a: (c * a, None), x[0], x)[0],
    "while": lambda x: lax.while_loop(lambda c: jnp.sum(c) < 9, lambda c: 2 * jnp.abs(c) + 1, x)[0],
    "cond": lambda x: jnp.sum(lax.cond(x[0] > 0, jnp.sin, jnp.cos, x)),
    "cumprod": lambda x: jnp.cumprod(x)[-1],  # whose inside has no place in this file, but whose call has
    "atan2": lambda x: lax.atan2(x[0], x[1]),
    "custom_vjp_call": lambda x: jnp.sum(outer_product(x)),
}


@pytest.mark.parametrize("name", WITHOUT_RULE)
def test_a_primitive_without_a_rule_is_named_with_its_place(name):
    def f(x):
        with jax.named_scope("part"):
            return WITHOUT_RULE[name](x)

    place = rf"`{name}\w*`, used in the scope 'part' at .*test_lrp\.py:\d+"
    with pytest.raises(NotImplementedError, match=rf"^`lrp` has no rule for the primitive {place}") as error:
        jax.eval_shape(lrp(f), jnp.array([0.4, 1.2, 0.9]))
    assert "attribution.rules.lrp.define(" in str(error.value)
    assert "scan" not in name or "interpreters.unrolled(f)" in str(error.value)


def test_a_rule_of_the_user_is_followed():
    """The relevance of the last of the cumulative products is spread evenly over the factors."""
    table = rules.lrp.copy()

    @table.define(primitives.cumprod)
    def evenly(call):
        (x,), (out,), (c,) = call.inputs, call.outputs, call.cotangents
        return (jnp.full(x.shape, jnp.sum(c * out) / x.size) / x,)

    def f(x):
        return 2.0 * lax.cumprod(jax.nn.relu(x))[-1]

    x = jnp.array([0.5, 4.0, 3.0])
    np.testing.assert_allclose(jax.jit(lrp(f, rules=table))(x), [4.0, 4.0, 4.0], rtol=1e-6)
    assert primitives.cumprod not in rules.lrp
    with pytest.raises(NotImplementedError, match="cumprod"):
        lrp(f)(x)


def test_a_rule_of_the_user_takes_the_place_of_ours():
    """For sums too, averages included."""
    table = rules.lrp.copy()

    @table.define(primitives.reduce_sum)
    def to_the_first(call):
        (x,), (out,), (c,) = call.inputs, call.outputs, call.cotangents
        return (jnp.zeros_like(x).at[0].set(c * out / x[0]),)

    x = jnp.array([2.0, 3.0, 5.0])
    for f, value in [(jnp.sum, 10.0), (jnp.mean, 10 / 3)]:
        np.testing.assert_allclose(lrp(f, rules=table)(x), [value, 0, 0], rtol=1e-6)


def test_a_product_gives_every_factor_the_same_share():
    x = jnp.array([0.5, -4.0, 3.0])
    np.testing.assert_allclose(lrp(lambda x: x[0] * x[1])(x), [-1.0, -1.0, 0.0], rtol=1e-6)
    np.testing.assert_allclose(lrp(jnp.prod)(x), [-2.0, -2.0, -2.0], rtol=1e-6)
    np.testing.assert_allclose(lrp(lambda x: jnp.vdot(x, x[::-1]), composite=LRP0)(x), [1.5, 16.0, 1.5], rtol=1e-6)


def test_a_quotient_gives_its_denominator_nothing():
    x = jnp.array([6.0, 3.0])
    np.testing.assert_allclose(lrp(lambda x: jnp.exp(x[0]) / jnp.cosh(x[1]))(x), [np.exp(6) / np.cosh(3), 0], rtol=1e-6)


def test_a_loop_written_out_is_explained():
    def f(x):
        h, _ = lax.scan(lambda h, w: (jax.nn.relu(dense(h, w)), None), x, random((3, 4, 4), 3))
        return jnp.sum(h)

    def by_hand(x):
        for w in random((3, 4, 4), 3):
            x = jax.nn.relu(dense(x, w))
        return jnp.sum(x)

    assert_close(*jax.jit(lambda x: (lrp(interpreters.unrolled(f))(x), lrp(by_hand)(x)))(random((4,), 5)))


# ------------------------------------------------------------------------------------------------ as a JAX function


@pytest.mark.skipif(not X64, reason="finite differences need float64")
@pytest.mark.parametrize("name", [*CONSERVING, "box"])
def test_the_derivative_of_the_map_is_that_of_its_numbers(name):
    composite = CONSERVING.get(name, lrp_rules.epsilon_gamma_box(-4.0, 4.0))
    explain = jax.jit(lrp(mlp(jax.nn.softplus), composite=composite))
    x, step = jnp.asarray(POINTS[2], float), 1e-5
    slopes = [(explain(x + d) - explain(x - d)) / (2 * step) for d in step * np.eye(5)]
    assert_close(jax.jacobian(explain)(x), jnp.stack(slopes, 1), 1e-6)


def test_a_mapped_and_compiled_call_is_a_loop():
    explain = lrp(conv_net(), composite=lrp_rules.epsilon_gamma_box(-4.0, 4.0))
    images = random((3, 8, 8, 2), 50)
    one = jax.jit(explain)
    alone = jnp.stack([one(images[0]), explain(images[1]), one(images[2])])
    assert_close(jax.jit(jax.vmap(explain))(images), alone, None if X64 else 1e-4)


def test_several_arguments_in_trees():
    """The relevance of two inputs of one layer; what is not explained counts as a constant."""
    weight = jnp.array([[1.0, 2.0], [-1.0, 3.0]])

    def f(x, scale, shift):
        return jnp.sum(jax.nn.relu(x["a"] @ weight + x["b"][0] @ weight) * scale + shift)

    args = {"a": jnp.array([1.0, 2.0]), "b": (jnp.array([0.5, -1.0]),)}, jnp.array([2.0, 3.0]), 1.0
    relevance, of_shift = lrp(f, (0, 2), composite=LRP0)(*args)
    by_gradient, _ = gradient_times_input(f, (0, 2))(*args)
    assert_close(relevance, by_gradient)
    assert of_shift.shape == ()
    assert jax.tree.structure(relevance) == jax.tree.structure(args[0])


@pytest.mark.parametrize("name", ["gamma", "epsilon_plus", "alpha_beta", "box"])
def test_half_precision(name):
    """In bfloat16, and with a conversion inside the network, close to float32."""
    composite = CONSERVING.get(name, lrp_rules.epsilon_gamma_box(-4.0, 4.0))
    x = jnp.asarray(POINTS[0], jnp.float32)
    weights = [jnp.abs(jnp.asarray(weight, jnp.bfloat16)) for weight, _ in MLP[:2]]

    def f(x, inside):
        x = jax.nn.relu(weights[0].astype(inside) @ x.astype(inside))
        x = weights[1].astype(inside) @ x
        return jnp.sum(jax.nn.relu(x.astype(jnp.float32) * 2.0 + 1.0))

    explain = jax.jit(lrp(f, composite=composite), static_argnums=1)
    wanted = explain(jnp.abs(x), jnp.float32)
    for dtype in (jnp.float32, jnp.bfloat16):
        got = explain(jnp.abs(x).astype(dtype), jnp.bfloat16)
        assert got.dtype == dtype
        assert_close(got, wanted, 0.05)


def test_bad_calls_are_refused():
    with pytest.raises(TypeError, match=r"^`lrp` needs floating-point arrays"):
        lrp(jnp.sum)(jnp.arange(3))
    with pytest.raises(TypeError, match=r"^`lrp` needs a function that returns a scalar"):
        lrp(jnp.sin)(jnp.ones(3))


def test_max_pooling_passes_relevance_to_the_largest():
    x = random((4, 4, 1), 60)
    got = lrp(lambda x: jnp.sum(max_pool(x)), composite=LRP0)(x)
    largest = x == jnp.repeat(jnp.repeat(max_pool(x), 2, 0), 2, 1)
    np.testing.assert_allclose(got, jnp.where(largest, x, 0.0), rtol=1e-6)
