"""Gates: gradient formulas, sampling and counting against NumPy, and their drift (test_recovery: what they find)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxinterp import sparsity
from jaxinterp.sparsity import (
    apply,
    attach,
    bimodal_penalty,
    count,
    count_by_parameter,
    kernels,
    per_filter,
    per_output_unit,
    project,
    sample,
    sparsity_penalty,
    straight_through,
    threshold,
)

X64 = jax.config.jax_enable_x64
DTYPE = jnp.float64 if X64 else jnp.float32
RTOL = 1e-12 if X64 else 2e-6

RNG = np.random.default_rng(5)
WEIGHTS = RNG.normal(size=(3, 2, 4, 5))
VALUES = RNG.uniform(size=(3, 2, 4, 5))
GRANULARITIES = {"per_weight": (3, 2, 4, 5), "per_output_unit": (1, 1, 1, 5), "per_filter": (1, 1, 4, 5)}


def granularity(name):
    return getattr(sparsity, name)


def gates_of(name):
    """Gates of one kernel, distinct and away from 1/2, beside a bias that has none."""
    shape = GRANULARITIES[name]
    return {"kernel": jnp.asarray(VALUES[tuple(slice(n) for n in shape)], DTYPE), "bias": None}


def params_of_kernel():
    return {"kernel": jnp.asarray(WEIGHTS, DTYPE), "bias": jnp.ones(5, DTYPE)}


def summed_to(array, shape):
    """The transpose of broadcasting."""
    axes = tuple(i for i, n in enumerate(shape) if n == 1)
    return array.sum(axes, keepdims=True)


# Straight-through


@pytest.mark.core
@pytest.mark.numerics
def test_straight_through_has_the_value_of_one_and_the_derivative_of_the_other():
    hard, soft = jnp.asarray([0.0, 1.0], DTYPE), jnp.asarray([0.3, 0.8], DTYPE)
    by_hard, by_soft = jnp.asarray([5.0, 7.0], DTYPE), jnp.asarray([2.0, 3.0], DTYPE)
    value, tangent = jax.jit(lambda *t: jax.jvp(straight_through, t[:2], t[2:]))(hard, soft, by_hard, by_soft)
    np.testing.assert_array_equal(value, hard)
    np.testing.assert_array_equal(tangent, by_soft)
    rows = jax.vmap(straight_through)(jnp.stack([hard, soft]), jnp.stack([soft, hard]))
    np.testing.assert_array_equal(rows, [hard, soft])


@pytest.mark.core
def test_straight_through_is_exact_for_a_linear_loss_and_takes_the_hard_value_elsewhere():
    """3s has the slope 3; s² has 2s at the hard value and the second derivative 2."""
    square = lambda g: straight_through((g > 0.5).astype(g.dtype), g) ** 2  # noqa: E731
    for g in (0.2, 0.7):
        assert float(jax.grad(lambda g: 3 * straight_through(jnp.round(g), g))(g)) == 3
        assert float(jax.grad(square)(jnp.asarray(g))) == 2 * (g > 0.5)
        assert float(jax.grad(jax.grad(square))(jnp.asarray(g))) == 2


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("name", GRANULARITIES)
@pytest.mark.parametrize("how", ["threshold", "sample"])
def test_the_gradient_of_a_penalised_loss(name, how):
    r"""∂L/∂g = Σ(∂L/∂W' ⊙ W) + α(1 - 2g) + β and ∂L/∂W = ∂L/∂W' ⊙ mask, for L = ½‖W' - T‖² + αΣg(1-g) + βΣg."""
    gates, params, alpha, beta = gates_of(name), params_of_kernel(), 0.3, 0.7
    target = np.random.default_rng(6).normal(size=WEIGHTS.shape)

    def draw(g):
        return threshold(g) if how == "threshold" else sample(jax.random.key(2), g)

    def loss(g, p):
        kept = apply(p, draw(g))["kernel"]
        task = jnp.sum((kept - jnp.asarray(target, DTYPE)) ** 2) / 2
        return task + alpha * bimodal_penalty(g) + beta * sparsity_penalty(g)

    mask = np.asarray(draw(gates)["kernel"], np.float64)
    assert 0 < mask.mean() < 1
    by_gates, by_params = jax.jit(jax.grad(loss, (0, 1)))(gates, params)
    upstream = WEIGHTS * mask - target
    g = np.asarray(gates["kernel"], np.float64)
    wanted = summed_to(upstream * WEIGHTS, g.shape) + alpha * (1 - 2 * g) + beta
    np.testing.assert_allclose(by_gates["kernel"], wanted, rtol=RTOL, atol=10 * RTOL)
    np.testing.assert_allclose(by_params["kernel"], upstream * mask, rtol=RTOL, atol=RTOL)
    np.testing.assert_array_equal(by_params["bias"], np.zeros(5))
    assert by_gates["bias"] is None


@pytest.mark.core
def test_a_closed_gate_has_a_gradient_and_can_open_again():
    gates = {"kernel": jnp.array([0.1])}
    slope = jax.grad(lambda g: apply({"kernel": jnp.array([2.0])}, threshold(g))["kernel"][0] * 5)(gates)
    assert slope["kernel"].tolist() == [10.0]


# Masks


@pytest.mark.core
@pytest.mark.numerics
def test_threshold_opens_above_one_half():
    """A gate at 1/2 itself is closed."""
    half = np.asarray(0.5, DTYPE)
    g = np.array([0, np.nextafter(half, half * 0), half, np.nextafter(half, half * 2), 1], DTYPE)
    mask = jax.jit(threshold)({"kernel": jnp.asarray(g), "bias": None})
    assert mask["kernel"].tolist() == [0, 0, 0, 1, 1]
    assert mask["kernel"].dtype == DTYPE
    assert mask["bias"] is None


@pytest.mark.core
@pytest.mark.numerics
def test_sample_opens_where_a_uniform_number_is_below_the_gate():
    """Leaf j is drawn in float32 from key/j; parameters without a gate take no number."""
    gates = {"a": None, "b": jnp.asarray(VALUES[0], DTYPE), "c": jnp.asarray(VALUES[1, 0], DTYPE)}
    mask = jax.jit(sample)(jax.random.key(9), gates)
    assert mask["a"] is None
    for j, name in enumerate(["b", "c"]):
        uniform = jax.random.uniform(jax.random.fold_in(jax.random.key(9), j), gates[name].shape, jnp.float32)
        np.testing.assert_array_equal(mask[name], np.asarray(uniform) < np.asarray(gates[name]))
        assert mask[name].dtype == DTYPE


@pytest.mark.core
@pytest.mark.parametrize("g", [0.02, 0.3, 0.5, 0.97])
def test_how_often_a_gate_opens(g):
    """A two-sided binomial test: one key in 10 000 would fail each."""
    mask = sample(jax.random.key(int(100 * g)), {"kernel": jnp.full((200, 500), g)})
    opened = int(mask["kernel"].sum())
    assert set(np.unique(mask["kernel"]).tolist()) == {0, 1}
    assert scipy.stats.binomtest(opened, 100_000, g).pvalue > 1e-4


@pytest.mark.core
def test_draws_are_independent():
    """Among the entries of one leaf and between leaves: ten correlations of 50 000 pairs, to 4.5 / √50 000."""
    gates = {"a": jnp.full((50_000, 3), 0.4), "b": jnp.full((50_000, 2), 0.7)}
    mask = sample(jax.random.key(1), gates)
    correlations = np.corrcoef(np.concatenate([mask["a"], mask["b"]], 1).T) - np.eye(5)
    assert np.abs(correlations).max() < 4.5 / 50_000**0.5


@pytest.mark.core
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_gates_of_zero_and_one_are_certain(dtype):
    """Also where a number just below 1 rounds to 1."""
    gates = jnp.tile(jnp.array([0, 1], dtype), (50_000, 1))
    mask = sample(jax.random.key(2), gates)
    assert mask.dtype == dtype
    np.testing.assert_array_equal(np.asarray(mask, np.float32).mean(0), [0, 1])


@pytest.mark.core
def test_the_key_decides_the_mask():
    gates = {"kernel": jnp.asarray(VALUES, jnp.float32)}
    keys = jax.random.split(jax.random.key(4), 3)
    mapped = jax.jit(jax.vmap(sample, in_axes=(0, None)))(keys, gates)["kernel"]
    alone = [sample(key, gates)["kernel"] for key in jax.random.split(jax.random.key(4), 3)]
    np.testing.assert_array_equal(mapped, np.stack(alone))
    assert len({np.asarray(m).tobytes() for m in alone}) == 3


@pytest.mark.core
@pytest.mark.parametrize("draw", [threshold, functools.partial(sample, jax.random.key(0))], ids=["threshold", "sample"])
def test_a_gate_that_is_nan_is_seen(draw):
    """A comparison with NaN is false: the parameter would be pruned, and the training run go on without a word."""
    gates = {"kernel": jnp.array([0.0, jnp.nan, 1.0])}
    mask = draw(gates)["kernel"]
    assert np.isnan(mask).tolist() == [False, True, False]


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("name", GRANULARITIES)
def test_apply(name):
    params, mask = params_of_kernel(), threshold(gates_of(name))
    got = jax.jit(apply)(params, mask)
    wanted = WEIGHTS * (VALUES[tuple(slice(n) for n in GRANULARITIES[name])] > 0.5)
    np.testing.assert_allclose(got["kernel"], wanted, rtol=RTOL)
    assert got["kernel"].dtype == DTYPE
    assert apply(params, mask)["bias"] is params["bias"]


@pytest.mark.core
def test_apply_maps_over_masks():
    params = {"a": jnp.arange(3.0), "b": jnp.ones(2)}
    masks = {"a": jnp.array([[1.0, 0, 1], [0, 1, 0]]), "b": None}
    got = jax.vmap(apply, in_axes=(None, 0))(params, masks)
    assert got["a"].tolist() == [[0, 0, 2], [0, 1, 0]]
    assert got["b"].tolist() == [[1, 1], [1, 1]]


@pytest.mark.core
def test_apply_keeps_the_dtype_of_the_parameters_and_lets_nan_through():
    params = {"a": jnp.array([1.5, jnp.nan, 2.0], jnp.bfloat16)}
    got = apply(params, {"a": jnp.array([1.0, 0.0, jnp.nan], jnp.float32)})["a"]
    assert got.dtype == jnp.bfloat16
    assert float(got[0]) == 1.5
    assert np.isnan(np.asarray(got[1:], np.float32)).all()


@pytest.mark.core
def test_a_mask_that_does_not_fit():
    params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    with pytest.raises(ValueError, match=r"\(2, 3\)|\[2,3\]"):
        apply(params, {"kernel": jnp.ones(5), "bias": None})
    with pytest.raises(ValueError, match=r"structure|weight"):
        apply(params, {"weight": jnp.ones((2, 3)), "bias": None})
    with pytest.raises(ValueError):
        count(params, {"kernel": jnp.ones((2, 3))})


@pytest.mark.core
def test_a_mask_that_does_not_fit_is_not_counted():
    """Five entries for six parameters would be five kept."""
    with pytest.raises(ValueError):
        count({"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}, {"kernel": jnp.ones(5), "bias": None})


# Gates


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("name", GRANULARITIES)
def test_attach(name):
    gates = attach(params_of_kernel(), granularity=granularity(name), initial=0.25)
    assert gates["bias"] is None
    assert gates["kernel"].dtype == DTYPE
    np.testing.assert_array_equal(gates["kernel"], np.full(GRANULARITIES[name], 0.25))


@pytest.mark.core
@pytest.mark.parametrize(
    ("name", "shape", "wanted"),
    [
        ("per_weight", (4,), (4,)),
        ("per_weight", (4, 7), (4, 7)),
        ("per_output_unit", (7,), (7,)),
        ("per_output_unit", (4, 7), (1, 7)),
        ("per_output_unit", (3, 2, 4, 7), (1, 1, 1, 7)),
        ("per_filter", (3, 4, 7), (1, 4, 7)),
        ("per_filter", (3, 2, 4, 7), (1, 1, 4, 7)),
    ],
)
def test_granularities(name, shape, wanted):
    assert granularity(name)(shape) == wanted


@pytest.mark.core
def test_filters_need_a_window():
    with pytest.raises(ValueError, match=r"`per_filter` needs a convolution kernel \[\*window, in, out\].* \(4, 7\)"):
        attach({"kernel": jnp.ones((4, 7))}, granularity=per_filter)


@pytest.mark.core
def test_the_predicate_sees_paths_and_values():
    params = {"layers": [{"kernel": jnp.ones((2, 2))}, {"kernel": jnp.ones((9, 2))}], "kernel_scale": jnp.ones(2)}
    seen = []

    def big(path, value):
        seen.append((path, value.shape))
        return value.size > 4

    gates = attach(params, predicate=big)
    assert sorted(seen) == [("kernel_scale", (2,)), ("layers/0/kernel", (2, 2)), ("layers/1/kernel", (9, 2))]
    assert (gates["layers"][0]["kernel"], gates["kernel_scale"]) == (None, None)
    assert gates["layers"][1]["kernel"].shape == (9, 2)


@pytest.mark.core
@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("kernel", True),
        ("dense_0/kernel", True),
        ("layers/0/kernel", True),
        ("kernel/bias", False),
        ("dense/kernel_scale", False),
        ("mykernel", False),
        ("", False),
    ],
)
def test_kernels(path, wanted):
    assert kernels(path, jnp.zeros(1)) is wanted


@pytest.mark.core
@pytest.mark.parametrize("initial", [-0.01, 1.01, np.nan, np.inf])
def test_initial_values_that_are_refused(initial):
    with pytest.raises(ValueError, match=rf"`initial` of `attach` must be in \[0, 1\]; got {initial}"):
        attach({"kernel": jnp.ones(2)}, initial=initial)


@pytest.mark.core
@pytest.mark.parametrize("initial", [0, 1])
def test_initial_values_at_the_ends(initial):
    assert attach({"kernel": jnp.ones(2)}, initial=initial)["kernel"].tolist() == [initial] * 2


@pytest.mark.core
def test_a_predicate_that_selects_nothing():
    with pytest.raises(ValueError, match=r"predicate of `attach` selects none of the parameters: .*layer/bias"):
        attach({"layer": {"bias": jnp.ones(2)}, "scale": jnp.ones(2)})


@pytest.mark.core
def test_a_parameter_of_integers():
    """Its gates would be of integers too, and 0.6 would be 0."""
    with pytest.raises((TypeError, ValueError), match=r"kernel|float|dtype"):
        attach({"kernel": jnp.ones((2, 2), jnp.int32)})


@pytest.mark.core
def test_a_scalar_has_no_output_unit():
    with pytest.raises(ValueError, match=r"`per_output_unit`"):
        attach({"kernel": jnp.ones(())}, granularity=per_output_unit)


@pytest.mark.core
def test_gates_that_do_not_broadcast_to_the_parameter():
    params = {"kernel": jnp.ones((2, 3))}
    with pytest.raises(ValueError):
        apply(params, threshold(attach(params, granularity=lambda shape: (4,))))


@pytest.mark.core
def test_project():
    """NaN stays: clipping does not turn it into a number."""
    g = jnp.array([-0.3, -0.0, 0.2, 1.0, 1.7, jnp.inf, -jnp.inf, jnp.nan])
    got = jax.jit(project)({"kernel": g, "bias": None})
    np.testing.assert_array_equal(got["kernel"], [0, 0, np.float32(0.2), 1, 1, 1, 0, np.nan])
    np.testing.assert_array_equal(project(got)["kernel"], got["kernel"])
    assert got["bias"] is None


# Penalties


TREE = {"a": VALUES[0], "b": (VALUES[1, 0], None), "c": VALUES[2, 1, 0]}
FLAT = np.concatenate([VALUES[0].ravel(), VALUES[1, 0].ravel(), VALUES[2, 1, 0]])
PENALTIES = {
    "bimodal": (bimodal_penalty, lambda g: np.sum(g * (1 - g)), lambda g: 1 - 2 * g),
    "sparsity": (sparsity_penalty, np.sum, np.ones_like),
}


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_and_their_gradients(name):
    """Against the closed form, which central differences confirm."""
    penalty, value, slope = PENALTIES[name]
    gates = jax.tree.map(lambda a: jnp.asarray(a, DTYPE), TREE)
    got, gradient = jax.jit(jax.value_and_grad(penalty))(gates)
    assert got.dtype == DTYPE
    np.testing.assert_allclose(got, value(FLAT), rtol=RTOL)
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])
    np.testing.assert_allclose(flat, slope(FLAT), rtol=RTOL, atol=RTOL)
    step = 1e-5
    e = np.eye(len(FLAT))[7]
    assert slope(FLAT)[7] == pytest.approx((value(FLAT + step * e) - value(FLAT - step * e)) / (2 * step), rel=1e-6)


@pytest.mark.core
def test_penalties_of_open_and_closed_gates():
    """No variance is left, and the expected number is the number."""
    gates = {"a": jnp.asarray(VALUES > 0.3, jnp.float32), "b": None}
    assert float(bimodal_penalty(gates)) == 0
    assert float(sparsity_penalty(gates)) == np.sum(VALUES > 0.3)


@pytest.mark.core
def test_penalties_are_the_moments_of_the_number_of_open_gates():
    """10 000 masks: 4.5 standard errors of the mean, and of the variance, √(2/10 000)."""
    gates = {"a": jnp.asarray(VALUES[0, 0], jnp.float32), "b": jnp.asarray(VALUES[1, 0], jnp.float32)}
    masks = jax.jit(jax.vmap(sample, in_axes=(0, None)))(jax.random.split(jax.random.key(6), 10_000), gates)
    numbers = np.asarray(masks["a"]).sum((1, 2)) + np.asarray(masks["b"]).sum((1, 2))
    variance = float(bimodal_penalty(gates))
    assert abs(numbers.mean() - float(sparsity_penalty(gates))) < 4.5 * (variance / 10_000) ** 0.5
    assert abs(numbers.var() / variance - 1) < 4.5 * (2 / 10_000) ** 0.5


@pytest.mark.core
@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_map_see_nan_and_do_not_stop_in_bfloat16(name):
    """In bfloat16 a running sum of halves stops at 128."""
    penalty, value, _ = PENALTIES[name]
    rows = jax.vmap(penalty)({"a": jnp.asarray(VALUES[0, 0], jnp.float32)})
    np.testing.assert_allclose(rows, [value(row) for row in VALUES[0, 0]], rtol=1e-5)
    assert np.isnan(penalty({"a": jnp.array([0.5, jnp.nan]), "b": jnp.ones(2)}))
    many = penalty({"a": jnp.full(4000, 0.5, jnp.bfloat16)})
    assert many.dtype == jnp.float32
    assert float(many) == value(np.full(4000, 0.5))


# Counts


@pytest.mark.core
@pytest.mark.parametrize("name", GRANULARITIES)
def test_counts_are_of_the_parameters_that_remain(name):
    mask, ones = threshold(gates_of(name)), jax.tree.map(jnp.ones_like, params_of_kernel())
    kept = int(np.count_nonzero(np.asarray(apply(ones, mask)["kernel"])))
    total = count(params_of_kernel(), mask)
    assert (total.kept, total.gated, total.total) == (kept, 120, 125)
    assert 0 < kept < 120
    assert total.sparsity == pytest.approx(1 - kept / 120, rel=1e-12)
    alone = count_by_parameter(params_of_kernel(), mask)
    assert list(alone) == ["kernel"]
    assert (alone["kernel"].kept, alone["kernel"].gated, alone["kernel"].total) == (kept, 120, 120)


@pytest.mark.core
def test_counts_of_several_parameters():
    params = {"layers": [{"kernel": jnp.ones((2, 3))}, {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}]}
    mask = {"layers": [{"kernel": jnp.array([[1.0, 0, 0]])}, {"kernel": jnp.eye(3, 4), "bias": None}]}
    counts = count_by_parameter(params, mask)
    assert {name: (c.kept, c.gated) for name, c in counts.items()} == {
        "layers/0/kernel": (2, 6),
        "layers/1/kernel": (3, 12),
    }
    total = count(params, mask)
    assert (total.kept, total.gated, total.total, total.sparsity) == (5, 18, 22, 1 - 5 / 18)
    closed = count(params, jax.tree.map(jnp.zeros_like, mask))
    assert (closed.kept, closed.sparsity) == (0, 1)


@pytest.mark.core
def test_a_parameter_that_is_none_is_left_alone():
    """A layer without a bias."""
    params = {"kernel": jnp.ones((2, 3)), "bias": None}
    mask = threshold(attach(params))
    assert apply(params, mask)["bias"] is None
    total = count(params, mask)
    assert (total.kept, total.gated, total.total) == (6, 6, 6)


# Training


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("ratio", [0.2, 0.4, 0.8])
def test_a_gate_without_a_loss_drifts_away_from_its_unstable_point(ratio):
    """g* = (1 + β/α)/2: from 0.01 below it falls to 0, from 0.01 above it rises to 1, and at β > α all fall."""
    unstable = (1 + ratio) / 2
    penalty = lambda g, beta: bimodal_penalty(g) + beta * sparsity_penalty(g)  # noqa: E731

    @jax.jit
    def train(g, beta):
        step = lambda _, g: project(g - 0.01 * jax.grad(penalty)(g, beta))  # noqa: E731
        return jax.lax.fori_loop(0, 2000, step, g)

    start = jnp.asarray([unstable - 0.01, unstable + 0.01], DTYPE)
    assert train(start, ratio).tolist() == [0, 1]
    assert train(jnp.asarray([0.3, 0.99], DTYPE), 1.2).tolist() == [0, 0]


def test_input_units():
    gates = sparsity.attach({"kernel": jnp.ones((3, 2))}, granularity=sparsity.per_input_unit)
    masked = sparsity.apply({"kernel": jnp.ones((3, 2))}, {"kernel": gates["kernel"].at[1].set(0)})
    np.testing.assert_array_equal(masked["kernel"] == 0, [[False] * 2, [True] * 2, [False] * 2])
    with pytest.raises(ValueError, match="`per_input_unit` needs a kernel"):
        sparsity.per_input_unit((3,))
