"""DeepLIFT against the rescale rule in NumPy; contributions sum to the difference from the baseline."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxinterp.attribution import deep_lift, deep_lift_shap, gradient, rules
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
    conv_net,
    max_pool,
    mlp,
    random,
)

pytestmark = pytest.mark.numerics

COMPLETE = 1e-10 if X64 else 1e-5


def assert_complete(f, x, baseline):
    """The contributions sum to f(x) - f(b), relative to their sizes and to both values."""
    contributions, value, before = jax.jit(lambda x, b: (deep_lift(f)(x, baseline=b), f(x), f(b)))(x, baseline)
    rows = np.asarray(contributions, np.float64)
    size = max(abs(float(value)), abs(float(before)), np.abs(rows).sum())
    assert abs(rows.sum() - (float(value) - float(before))) <= COMPLETE * size


def by_hand(x, baseline, activation):
    """The rescale rule on the network of three layers, in float64: contributions to every output [3, in]."""
    multipliers, here, there = np.eye(len(x)), x, baseline
    for i, (weight, offset) in enumerate(MLP):
        multipliers, here, there = weight @ multipliers, weight @ here + offset, weight @ there + offset
        if i < 2:
            change = activation(here) - activation(there)
            multipliers = (change / (here - there))[:, None] * multipliers
            here, there = activation(here), activation(there)
    return multipliers * (x - baseline)


ACTIVATIONS = {
    "relu": (jax.nn.relu, lambda z: np.maximum(z, 0)),
    "softplus": (jax.nn.softplus, lambda z: np.logaddexp(z, 0)),
    "tanh": (jnp.tanh, np.tanh),
    "leaky": (functools.partial(jax.nn.leaky_relu, negative_slope=0.1), lambda z: np.where(z > 0, z, 0.1 * z)),
    "silu": (jax.nn.silu, lambda z: z / (1 + np.exp(-z))),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_it_is_the_rescale_rule(name):
    """Against a baseline of its own for each point, and against zero."""
    activation, in_numpy = ACTIVATIONS[name]
    explain = deep_lift(mlp(activation))
    baselines = np.random.default_rng(1).normal(size=POINTS.shape)

    @jax.jit
    @jax.vmap
    def both(x, baseline):
        return explain(x, 2, baseline=baseline), explain(x)

    to_two, from_zero = both(jnp.asarray(POINTS, float), jnp.asarray(baselines, float))
    for i, x in enumerate(POINTS):
        assert_close(to_two[i], by_hand(x, baselines[i], in_numpy)[2], None if X64 else 1e-4)
        assert_close(from_zero[i], by_hand(x, np.zeros(5), in_numpy)[1], None if X64 else 1e-4)


def batch_norm(z):
    return (z - along(jnp.linspace(0, 1, 10), z)) * along(jnp.linspace(-1, 2, 10), z) + along(jnp.ones(10), z)


def average_pool(x):
    return lax.reduce_window(x, 0.0, lax.add, (2, 2, 1), (2, 2, 1), "VALID") / 4.0


def min_pool(x):
    return -max_pool(-x) + lax.reduce_window(x, jnp.inf, lax.min, (2, 2, 1), (2, 2, 1), "VALID")


@pytest.mark.parametrize("activation", [jax.nn.relu, jax.nn.gelu, jax.nn.softplus])
@pytest.mark.parametrize("pool", [max_pool, min_pool, average_pool, lambda x: max_pool(batch_norm(x))])
def test_contributions_of_a_convolutional_network_sum_to_the_difference(activation, pool):
    assert_complete(conv_net(activation, pool=pool), IMAGE, random((8, 8, 2), 70))


@pytest.mark.parametrize(
    "options",
    [*({"norm": norm} for norm in NORMS), *({"mask": mask} for mask in MASKS)],
    ids=lambda d: str(*d.values()),
)
def test_contributions_of_a_transformer_sum_to_the_difference(options):
    """Softmax, normalisation, gates: products and quotients of arrays that both depend on x."""
    f, x = block(**options), random((5, 8), 71)
    assert_complete(f, x, random((5, 8), 72))
    assert_complete(f, x, jnp.zeros_like(x))


FUNCTIONS = {
    "max": jnp.max,
    "min": jnp.min,
    "maximum": lambda x: jnp.sum(jnp.maximum(x, x[::-1] + 0.3)),
    "minimum": lambda x: jnp.sum(jnp.minimum(x, x[::-1] + 0.3)),
    "cummax": lambda x: jnp.sum(lax.cummax(x) * jnp.arange(5.0)),
    "cummin": lambda x: jnp.sum(lax.cummin(x) * jnp.arange(5.0)),
    "prod": jnp.prod,
    "product": lambda x: jnp.vdot(x, x[::-1] ** 2),
    "matrix product": lambda x: jnp.sum(jnp.tanh(jnp.outer(x, x)) @ x),
    "quotient": lambda x: jnp.sum(x / (1 + x[::-1] ** 2)),
    "quotient of itself": lambda x: jnp.sum(x / jnp.sum(jnp.exp(x))),
    "logsumexp": jax.nn.logsumexp,
    "log_softmax": lambda x: jax.nn.log_softmax(x)[2],
    "norm": jnp.linalg.norm,
    "stopped": lambda x: jnp.sum(x * lax.stop_gradient(x) ** 2),
    "standardised": lambda x: jnp.max(jax.nn.standardize(x)),
    "relu6": lambda x: jnp.sum(jax.nn.relu6(4 * x) * jnp.arange(5.0)),
    "abs": lambda x: jnp.sum(jnp.abs(x - 0.5)),
    "clip": lambda x: jnp.sum(jnp.clip(x, -0.5, 0.7)),
    "jumps": lambda x: jnp.sum(jnp.sign(x) + jnp.floor(3 * x)),
    "gelu": lambda x: jnp.sum(jax.nn.gelu(x, approximate=False) * jnp.arange(5.0)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_contributions_sum_to_the_difference(name):
    """Where an entry of the baseline is that of x, it contributes nothing."""
    f, x = FUNCTIONS[name], jnp.asarray(POINTS[0], float)
    baselines = jnp.asarray(POINTS[1:], float).at[1, :2].set(x[:2])
    rows, before = jax.jit(jax.vmap(lambda b: (deep_lift(f)(x, baseline=b), f(b))))(baselines)
    value, rows, before = float(f(x)), np.asarray(rows, np.float64), np.asarray(before, np.float64)
    size = np.abs(rows).sum(1) + abs(value) + np.abs(before)
    assert np.all(np.abs(rows.sum(1) - (value - before)) <= COMPLETE * size)
    assert np.abs(rows[1, :2]).max() == 0


def test_choices_give_the_difference_to_one_entry():
    """The largest: to the entry chosen where the output is larger. The smallest: where it is smaller."""
    x, baseline = jnp.array([1.0, 5.0, 2.0]), jnp.array([3.0, 0.5, 1.0])
    for f, there, back in [(jnp.max, [0, 2, 0], [0, -2, 0]), (jnp.min, [0, 0.5, 0], [0, -0.5, 0])]:
        np.testing.assert_allclose(deep_lift(f)(x, baseline=baseline), there, rtol=1e-6)
        np.testing.assert_allclose(deep_lift(f)(baseline, baseline=x), back, rtol=1e-6)


def test_products_and_quotients_have_closed_forms():
    x, b = jnp.array([3.0, 5.0]), jnp.array([1.0, 2.0])
    for f, wanted in [
        (lambda x: x[0] * x[1], [2 * 3.5, 3 * 2.0]),
        (lambda x: x[0] / x[1], [2 * (1 / 5 + 1 / 2) / 2, 2.0 * (1 / 5 - 1 / 2)]),
        (jnp.prod, [2 * 3.5, 3 * 2.0]),
        (lambda x: jnp.square(x[1]), [0.0, 21.0]),
    ]:
        np.testing.assert_allclose(deep_lift(f)(x, baseline=b), wanted, rtol=1e-6)


def test_where_an_activation_does_not_move_it_has_its_derivative():
    """Of tanh(x₀ - x₁) + x₀ the first part is the same at the baseline, though both of its entries differ."""
    got = deep_lift(lambda x: jnp.tanh(x[0] - x[1]) + x[0])(jnp.array([1.0, 0.5]), baseline=jnp.array([2.0, 1.5]))
    slope = 1 - np.tanh(0.5) ** 2
    np.testing.assert_allclose(got, [-1 - slope, slope], rtol=1e-6)


def test_a_linear_function_is_explained_exactly():
    weight = jnp.asarray(MLP[0][0][0], float)
    x, baseline = jnp.asarray(POINTS[0], float), jnp.asarray(POINTS[1], float)
    got = deep_lift(lambda x: jnp.dot(weight, x) + 3.0)(x, baseline=baseline)
    np.testing.assert_allclose(got, weight * (x - baseline), rtol=1e-6)


AT_THE_BASELINE = {
    "mlp": (mlp(), jnp.asarray(POINTS[0], float)),
    "conv": (conv_net(jax.nn.gelu), IMAGE),
    "transformer": (block("layer"), random((5, 8), 73)),
    "choices": (lambda x: jnp.max(x) * jnp.min(x) / jnp.prod(x), jnp.asarray(POINTS[0], float)),
}


@pytest.mark.parametrize("name", AT_THE_BASELINE)
def test_at_the_baseline_nothing_contributes(name):
    """Zeros, no NaN; and as the baseline comes near, the map becomes that of the gradient."""
    f, x = AT_THE_BASELINE[name]
    step = random(x.shape, 75, 1e-7 if X64 else 1e-4)
    same, near, slopes = jax.jit(
        lambda x, b: (deep_lift(f)(x, baseline=x), deep_lift(f)(x, baseline=b), gradient(f)(x))
    )(x, x - step)
    np.testing.assert_array_equal(same, jnp.zeros_like(x))
    assert_close(near, slopes * step, 1e-5 if X64 else 0.05)


def test_constants_and_masks_may_have_any_shape():
    """A slope per channel, as in a parametric ReLU, and a constant mask."""
    slopes, mask = jnp.array([0.1, -0.5, 2.0, 0.0, 0.3]), jnp.array([True, False, True, True, False])
    x, baseline = jnp.asarray(POINTS[0], float), jnp.asarray(POINTS[1], float)
    assert bool(jnp.any(jnp.sign(x) != jnp.sign(baseline)))
    got = deep_lift(lambda x: jnp.sum(jnp.where(x >= 0, x, slopes * x)))(x, baseline=baseline)
    here, there = (jnp.where(z >= 0, z, slopes * z) for z in (x, baseline))
    assert_close(got, here - there)
    got = deep_lift(lambda x: jnp.sum(jnp.where(mask, x, 7.0) ** 2))(x, baseline=baseline)
    assert_close(got, jnp.where(mask, x**2 - baseline**2, 0.0))


# ----------------------------------------------------------------------------------------------- what has no rule

WITHOUT_RULE = {
    "scan": lambda x: lax.scan(lambda c, a: (c * a, None), x[0], x)[0],
    "cumprod": lambda x: lax.cumprod(x)[-1],
    "atan2": lambda x: lax.atan2(x[0], x[1]),
    "sort": lambda x: lax.sort(x)[0],
    "top_k": lambda x: lax.top_k(x, 2)[0][1],
    "select_n": lambda x: lax.select(x[0] > x[1], x[0], 2 * x[1]),
    "dynamic_slice": lambda x: lax.dynamic_slice(x, (lax.argmax(x, 0, jnp.int32),), (1,))[0],
    "mul": lambda x: x[0] * (x[1] > 0).astype(x.dtype),
}


@pytest.mark.parametrize("name", WITHOUT_RULE)
def test_what_cannot_be_accounted_for_is_refused(name):
    """Sorting, and masks and indices that x decides: their difference is in no entry's difference."""
    message = rf"^`deep_lift` has no rule for the primitive `{name}`, used at .*test_deep_lift\.py:\d+"
    with pytest.raises(NotImplementedError, match=message) as error:
        jax.eval_shape(deep_lift(WITHOUT_RULE[name]), jnp.array([0.4, 1.2, 0.9]))
    assert "attribution.rules.deep_lift.define(" in str(error.value)


def test_a_rule_of_the_user_sees_both_points():
    """The difference of the last cumulative product, spread evenly."""
    table = rules.deep_lift.copy()

    @table.define(primitives.cumprod)
    def evenly(call):
        (x,), (out,), (c,) = call.inputs, call.outputs, call.cotangents
        before, (out_before,) = call.reference
        return (jnp.full(x.shape, jnp.sum(c * (out - out_before)) / x.size) / (x - before[call.moving[0]]),)

    x, baseline = jnp.array([0.5, 4.0, 3.0]), jnp.array([1.0, 1.0, 2.0])
    explain = jax.jit(deep_lift(lambda x: 3.0 * lax.cumprod(x)[-1], rules=table))
    np.testing.assert_allclose(explain(x, baseline=baseline), [4.0, 4.0, 4.0], rtol=1e-6)
    assert primitives.cumprod not in rules.deep_lift


# ------------------------------------------------------------------------------------------------- backgrounds


@pytest.mark.parametrize("chunk_size", [1, 2, None])
def test_over_a_background_it_is_the_mean(chunk_size):
    x, background = jnp.asarray(POINTS[0], float), random((5, 5), 74)
    explain = jax.jit(deep_lift_shap(mlp(), chunk_size=chunk_size))
    rows = [by_hand(POINTS[0], np.asarray(b, np.float64), ACTIVATIONS["relu"][1])[1] for b in background]
    got = explain(x, background=background)
    assert_close(got, np.mean(rows, 0), None if X64 else 1e-4)
    change = mlp()(x) - jnp.mean(jax.vmap(mlp())(background))
    np.testing.assert_allclose(jnp.sum(got), change, rtol=1e-10 if X64 else 1e-4)


def test_a_background_is_a_tree_with_rows():
    def f(scale, x):
        return scale * jnp.sum(jnp.tanh(x["u"])) * x["v"]

    x = {"u": jnp.array([1.0, -0.5]), "v": jnp.asarray(2.0)}
    rows = {"u": random((3, 2), 76), "v": random((3,), 77)}
    got = jax.jit(deep_lift_shap(f, 1))(3.0, x, background=rows)
    one_by_one = [deep_lift(f, 1)(3.0, x, baseline=jax.tree.map(lambda a, i=i: a[i], rows)) for i in range(3)]
    assert_close(got, jax.tree.map(lambda *parts: sum(parts) / 3, *one_by_one))


def test_bad_calls_are_refused():
    with pytest.raises(TypeError, match=r"^`deep_lift` needs floating-point arrays"):
        deep_lift(jnp.sum)(jnp.arange(3))
    with pytest.raises(TypeError, match=r"^`deep_lift` needs a function that returns a scalar"):
        deep_lift(jnp.sin)(jnp.ones(3))
    with pytest.raises(ValueError, match=r"`baseline` of shape \(2,\) does not broadcast to the input of shape \(3,\)"):
        deep_lift(jnp.sum)(jnp.ones(3), baseline=jnp.ones(2))
    with pytest.raises(ValueError, match=r"`chunk_size` must be at least 1; got 0"):
        deep_lift_shap(jnp.sum, chunk_size=0)
    with pytest.raises(ValueError, match=r"^`background` of `deep_lift_shap`"):
        deep_lift_shap(jnp.sum)(jnp.ones(3), background=jnp.ones(3))


# ------------------------------------------------------------------------------------------------ as a JAX function


def test_a_mapped_and_compiled_call_is_a_loop():
    explain, images, baselines = deep_lift(conv_net()), random((3, 8, 8, 2), 50), random((3, 8, 8, 2), 51)
    one = jax.jit(explain)
    alone = jnp.stack([one(x, baseline=b) for x, b in zip(images, baselines, strict=True)])
    assert_close(one(images[0], baseline=baselines[0]), explain(images[0], baseline=baselines[0]))
    mapped = jax.jit(jax.vmap(lambda x, b: explain(x, baseline=b)))(images, baselines)
    assert_close(mapped, alone, None if X64 else 1e-4)


@pytest.mark.skipif(not X64, reason="finite differences need float64")
def test_the_derivative_of_the_map_is_that_of_its_numbers():
    explain = jax.jit(deep_lift(mlp(jax.nn.softplus)))
    x, step = jnp.asarray(POINTS[2], float), 1e-5
    slopes = [(explain(x + d) - explain(x - d)) / (2 * step) for d in step * np.eye(5)]
    assert_close(jax.jacobian(explain)(x), jnp.stack(slopes, 1), 1e-6)


def test_half_precision():
    """In bfloat16, and with a conversion inside the network, close to float32."""
    weights = [jnp.asarray(weight, jnp.bfloat16) for weight, _ in MLP[:2]]

    def f(x, inside):
        x = jax.nn.silu(weights[0].astype(inside) @ x.astype(inside))
        return jnp.sum(jax.nn.gelu((weights[1].astype(inside) @ x).astype(jnp.float32)))

    explain, x = jax.jit(deep_lift(f), static_argnums=1), jnp.asarray(POINTS[0], jnp.float32)
    wanted = explain(x, jnp.float32)
    for dtype in (jnp.float32, jnp.bfloat16):
        got = explain(x.astype(dtype), jnp.bfloat16)
        assert got.dtype == dtype
        assert_close(got, wanted, 0.05)
