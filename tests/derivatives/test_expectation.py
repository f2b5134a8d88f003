"""Weighted sums and averages against NumPy in float64, whatever the chunks."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from jaxinterp import derivatives

X64 = jax.config.jax_enable_x64
TOLERANCE = 1e-12 if X64 else 1e-5
CHUNKS = [1, 3, 7, 10, 13, None]  # of 10 terms: ones, a remainder, a remainder after one chunk, all, more than all


def integrand(scale, node):
    return {"s": jnp.sum(jnp.sin(scale * node["t"])), "v": node["t"] * node["c"]}


def nodes_and_weights(n, seed=0):
    rng = np.random.default_rng(seed)
    nodes = {"t": rng.normal(size=(n, 2)), "c": rng.normal(size=n)}
    return jax.tree.map(lambda a: jnp.asarray(a, float), (nodes, rng.normal(size=n)))


def exact_sum(scale, nodes, weights):
    t, c, w = (np.asarray(a, np.float64) for a in (nodes["t"], nodes["c"], weights))
    return {"s": w @ np.sin(scale * t).sum(1), "v": w @ (t * c[:, None])}


def assert_trees_close(got, expected, tolerance=TOLERANCE):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=5 * tolerance), got, expected)


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("chunk_size", CHUNKS)
def test_weighted_sums(chunk_size):
    nodes, weights = nodes_and_weights(10)

    def total(scale, nodes, weights):
        return derivatives.weighted_sum(lambda t: integrand(scale, t), nodes, weights, chunk_size=chunk_size)

    expected = exact_sum(1.5, nodes, weights)
    assert_trees_close(jax.jit(total)(1.5, nodes, weights), expected)
    if chunk_size == 3:
        assert_trees_close(total(1.5, nodes, weights), expected)


@pytest.mark.core
@hypothesis.settings(max_examples=8, deadline=None)
@hypothesis.given(st.integers(1, 9), st.integers(1, 12))
def test_no_term_is_lost_or_counted_twice(n, chunk_size):
    """Powers of two: the sum names the terms in it."""
    weights = jnp.asarray(2.0 ** np.arange(n), float)
    total = derivatives.weighted_sum(lambda t: t, jnp.ones(n), weights, chunk_size=chunk_size)
    assert float(total) == 2**n - 1


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("chunk_size", [3, None])
def test_derivatives_of_a_weighted_sum(chunk_size):
    """With respect to what g closes over, to the nodes and to the weights."""
    nodes, weights = nodes_and_weights(10)

    def total(scale, nodes, weights):
        return derivatives.weighted_sum(lambda t: integrand(scale, t)["s"], nodes, weights, chunk_size=chunk_size)

    got = jax.jit(jax.grad(total, (0, 1, 2)))(1.5, nodes, weights)
    t, w = np.asarray(nodes["t"], np.float64), np.asarray(weights, np.float64)
    cosine = np.cos(1.5 * t)
    assert_trees_close(got[0], w @ (t * cosine).sum(1))
    assert_trees_close(got[1]["t"], 1.5 * w[:, None] * cosine)
    assert np.all(got[1]["c"] == 0)
    assert_trees_close(got[2], np.sin(1.5 * t).sum(1))
    pushed = jax.jvp(lambda s: total(s, nodes, weights), (1.5,), (1.0,))[1]
    assert_trees_close(pushed, w @ (t * cosine).sum(1))


def test_vmap_of_a_weighted_sum_is_a_loop():
    nodes, weights = nodes_and_weights(10)
    scales = jnp.array([0.5, 1.0, 2.0])
    mapped = jax.vmap(lambda s: derivatives.weighted_sum(lambda t: integrand(s, t), nodes, weights, chunk_size=4))
    for i, scale in enumerate([0.5, 1.0, 2.0]):
        assert_trees_close(jax.tree.map(lambda a, i=i: a[i], mapped(scales)), exact_sum(scale, nodes, weights), 1e-5)


@pytest.mark.core
@pytest.mark.parametrize("chunk_size", [1, 64, None])
def test_sums_of_bfloat16_are_kept_in_float32(chunk_size):
    """In bfloat16 a sum of ones stops at 256."""
    ones, weights = jnp.ones(1000, jnp.bfloat16), jnp.ones(1000, jnp.float32)
    total = derivatives.weighted_sum(lambda t: {"x": t}, ones, weights, chunk_size=chunk_size)
    assert total["x"].dtype == jnp.bfloat16
    assert float(total["x"]) == 1000
    fine = jnp.full(1000, 1 / 1000 + 1e-6, jnp.float32)  # nor may the weights be rounded
    assert float(derivatives.weighted_sum(lambda t: t, ones, 1000 * fine, chunk_size=chunk_size)) == 1000
    thin = derivatives.weighted_sum(lambda t: t, jnp.ones(2, jnp.bfloat16), jnp.array([300.9, -300.0]))
    assert float(thin) == pytest.approx(0.9, rel=1e-2)


def test_integers_are_refused():
    """The average of integers is no integer."""
    with pytest.raises(TypeError, match=r"`weighted_sum` .* returned dtype int32; convert it"):
        derivatives.weighted_sum(lambda t: (t > 1).astype(jnp.int32), jnp.arange(5.0), jnp.ones(5), chunk_size=2)
    with pytest.raises(TypeError, match=r"`expectation` .* returned dtype int32; convert it"):
        derivatives.expectation(lambda key: jax.random.randint(key, (), 1, 7, jnp.int32), 10)(jax.random.key(0))


@pytest.mark.core
@pytest.mark.parametrize(("nodes", "weights"), [(0, 0), (3, 2)])
def test_nodes_need_weights(nodes, weights):
    with pytest.raises(ValueError, match=rf"one weight for each node and at least one; got \({weights},\) weights"):
        derivatives.weighted_sum(jnp.sin, jnp.zeros(nodes), jnp.ones(weights))


@pytest.mark.core
@pytest.mark.parametrize("chunk_size", [2, None])
def test_a_quadrature_rule_can_be_passed_as_it_is(chunk_size):
    rule = derivatives.gauss_legendre(5)
    nodes, weights = rule.nodes.astype(np.float32), rule.weights.astype(np.float32)
    total = derivatives.weighted_sum(lambda t: t**9, nodes, weights, chunk_size=chunk_size)
    assert float(total) == pytest.approx(0.1, rel=1e-6)


@pytest.mark.core
def test_the_function_is_traced_once():
    calls = []

    def g(t):
        calls.append(1)
        return t**2

    derivatives.weighted_sum(g, jnp.arange(7.0), jnp.ones(7), chunk_size=2)
    assert len(calls) == 1
    calls.clear()
    derivatives.expectation(lambda key: g(jax.random.normal(key)), 7, chunk_size=2)(jax.random.key(0))
    assert len(calls) == 1


@pytest.mark.core
def test_chunks_are_at_least_one():
    with pytest.raises(ValueError, match="`chunk_size` must be at least 1; got 0"):
        derivatives.weighted_sum(jnp.sin, jnp.ones(3), jnp.ones(3), chunk_size=0)
    for transformation in (derivatives.expectation, derivatives.variance):
        with pytest.raises(ValueError, match="`chunk_size` must be at least 1; got -2"):
            transformation(jax.random.normal, 3, chunk_size=-2)
        with pytest.raises(TypeError, match="`chunk_size`"):
            transformation(jax.random.normal, 3, chunk_size=2.0)


def layouts(jaxpr):
    """(inside a scan?, dimension numbers) of all convolutions of a program."""
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        if equation.primitive.name == "conv_general_dilated":
            yield False, tuple(equation.params["dimension_numbers"])
        leaves = jax.tree.leaves(dict(equation.params), is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr"))
        for inner in leaves:
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from ((within or equation.primitive.name == "scan", d) for within, d in layouts(inner))


def test_convolutions_in_the_loop_are_in_its_fast_layout():
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(2, 1, 3, 3)), float)

    def energy(x):
        return jnp.sum(jax.lax.conv(x, kernel, (1, 1), "SAME") ** 2)

    def path(x):
        return derivatives.weighted_sum(lambda t: jax.grad(energy)(t * x), jnp.ones(6), jnp.ones(6), chunk_size=2)

    def noisy(x):
        sample = lambda key, x: jax.grad(energy)(x * jax.random.normal(key, dtype=x.dtype))  # noqa: E731
        return derivatives.expectation(sample, 6, chunk_size=2)(jax.random.key(0), x).mean

    for f in (path, noisy):
        looped = [numbers for within, numbers in layouts(jax.make_jaxpr(f)(jnp.ones((1, 1, 4, 4)))) if within]
        assert len(looped) >= 2
        assert set(looped) == {((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))}


def draw(key, scale=1.0):
    return {"n": scale * jax.random.normal(key, (2,)), "e": jax.random.exponential(jax.random.fold_in(key, 1))}


def samples(seed, n, f=draw):
    """The samples as they are defined, in float64."""
    one = jax.jit(lambda i: f(jax.random.fold_in(jax.random.key(seed), i)))
    drawn = [one(i) for i in range(n)]
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf, np.float64) for leaf in leaves]), *drawn)


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("chunk_size", CHUNKS)
def test_averages_and_standard_errors(chunk_size):
    drawn = samples(3, 10)

    def both(key):
        estimate = derivatives.expectation(draw, 10, chunk_size=chunk_size)(key)
        return estimate, derivatives.variance(draw, 10, chunk_size=chunk_size)(jax.random.clone(key))

    estimate, spread = jax.jit(both)(jax.random.key(3))
    assert_trees_close(estimate.mean, jax.tree.map(lambda s: s.mean(0), drawn))
    assert_trees_close(estimate.stderr, jax.tree.map(lambda s: s.std(0, ddof=1) / np.sqrt(10), drawn))
    assert estimate.num_samples.dtype == jnp.int32
    assert int(estimate.num_samples) == 10
    assert_trees_close(spread, jax.tree.map(lambda s: s.var(0), drawn))


@pytest.mark.core
@pytest.mark.parametrize("chunk_size", CHUNKS)
def test_the_samples_are_the_same(chunk_size):
    """Each of the ten is met exactly once: its random bits, and its normal numbers up to the rounding of a compiler."""

    def bits(key):
        return jax.random.bits(key, (3,), jnp.uint32)

    def numbers(key):
        return jax.random.normal(key, (3,), jnp.float32)

    keys = [jax.random.fold_in(jax.random.key(3), i) for i in range(10)]
    drawn = jnp.stack([bits(jax.random.clone(key)) for key in keys])
    near = jnp.stack([numbers(jax.random.clone(key)) for key in keys])
    assert len({tuple(row) for row in drawn.tolist()}) == 10

    def sample(key):
        is_drawn = jnp.all(bits(jax.random.clone(key))[None] == drawn, axis=1)
        is_near = jnp.all(jnp.abs(numbers(jax.random.clone(key))[None] - near) <= 1e-6, axis=1)
        return is_drawn.astype(jnp.float32), is_near.astype(jnp.float32)

    met = jax.jit(derivatives.expectation(sample, 10, chunk_size=chunk_size))(jax.random.key(3)).mean
    np.testing.assert_allclose(met, np.full((2, 10), 0.1), rtol=1e-6)


@pytest.mark.core
def test_jit_and_vmap_over_keys_are_a_loop():
    estimate = derivatives.expectation(draw, 7, chunk_size=3)
    keys = jax.random.split(jax.random.key(8), 3)
    single = jax.jit(estimate)
    loop = [estimate(jax.random.clone(keys[0])), single(keys[1]), single(keys[2])]
    mapped = jax.jit(jax.vmap(estimate))(jax.random.clone(keys))
    for i, one in enumerate(loop):
        assert_trees_close(jax.tree.map(lambda a, i=i: a[i], mapped), one, 1e-5)
    means = np.asarray(mapped.mean["e"])
    assert len(set(means.tolist())) == 3


def test_sharding_does_not_change_the_samples():
    estimate = jax.vmap(derivatives.expectation(draw, 7, chunk_size=3))
    keys = jax.random.split(jax.random.key(8), 8)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put(jax.random.clone(keys), NamedSharding(mesh, PartitionSpec("batch")))
    sharded = jax.jit(estimate)(spread)
    assert len(sharded.mean["e"].sharding.device_set) == 8
    assert_trees_close(jax.device_get(sharded), jax.device_get(jax.jit(estimate)(keys)), 1e-6)


@pytest.mark.core
def test_arguments_and_keyword_arguments_reach_the_sample():
    def sample(key, x, *, stddev):
        return x + stddev * jax.random.normal(key, dtype=x.dtype)

    assert float(derivatives.expectation(sample, 4)(jax.random.key(0), jnp.asarray(2.0), stddev=0.0).mean) == 2
    spread = derivatives.variance(sample, 4)(jax.random.key(0), jnp.asarray(2.0), stddev=3.0)
    unit = samples(0, 4, jax.random.normal)
    assert float(spread) == pytest.approx(9 * unit.var(), rel=1e-5)


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("chunk_size", [3, None])
def test_derivatives_of_averages_and_of_their_errors(chunk_size):
    """Sample i is sin(a·zᵢ): the derivatives of mean, standard error and variance, written out."""

    def sample(key, a):
        return jnp.sin(a * jax.random.normal(key))

    z = samples(4, 10, jax.random.normal)
    s, ds = np.sin(1.3 * z), z * np.cos(1.3 * z)
    stderr = s.std(ddof=1) / np.sqrt(10)
    covariance = np.mean((s - s.mean()) * ds)
    expected = {"mean": ds.mean(), "stderr": covariance / (9 * stderr), "variance": 2 * covariance}

    def results(a):
        estimate = derivatives.expectation(sample, 10, chunk_size=chunk_size)(jax.random.key(4), a)
        spread = derivatives.variance(sample, 10, chunk_size=chunk_size)(jax.random.key(4), a)
        return {"mean": estimate.mean, "stderr": estimate.stderr, "variance": spread}

    assert_trees_close(jax.jit(jax.jacrev(results))(1.3), expected)
    assert_trees_close(jax.jit(jax.jacfwd(results))(1.3), expected)


@pytest.mark.core
def test_the_average_of_equal_samples_has_a_gradient():
    """The standard error is the root of zero there, and must not spoil the mean."""
    for chunk_size in (2, None):
        estimate = derivatives.expectation(lambda key, a: 3.0 * a, 4, chunk_size=chunk_size)
        for wrapped in (estimate, jax.checkpoint(estimate)):
            assert float(jax.jit(jax.grad(lambda a, f=wrapped: f(jax.random.key(0), a).mean))(2.0)) == 3
        assert float(estimate(jax.random.key(0), 2.0).stderr) == 0


@pytest.mark.core
def test_one_sample_tells_nothing_of_the_spread():
    estimate = derivatives.expectation(draw, 1)(jax.random.key(0))
    assert np.all(np.isinf(estimate.stderr["n"]))
    assert np.isinf(estimate.stderr["e"])
    assert np.all(estimate.stderr["n"] > 0)
    assert_trees_close(estimate.mean, draw(jax.random.fold_in(jax.random.key(0), 0)))
    assert float(derivatives.variance(draw, 1)(jax.random.key(0))["e"]) == 0


def test_the_standard_error_covers_the_truth_as_often_as_student_says():
    """2000 estimates of 16 normal samples, the share within 2 standard errors; right code fails for one key in 1e6."""
    estimate = derivatives.expectation(lambda key: 3.0 + 2.0 * jax.random.normal(key), 16, chunk_size=8)
    found = jax.jit(jax.vmap(estimate))(jax.random.split(jax.random.key(9), 2000))
    covered = int(np.sum(np.abs(np.asarray(found.mean) - 3) < 2 * np.asarray(found.stderr)))
    share = 1 - 2 * scipy.stats.t.sf(2, 15)
    assert scipy.stats.binomtest(covered, 2000, share).pvalue > 1e-6
    assert np.mean(np.asarray(found.stderr) ** 2) == pytest.approx(4 / 16, rel=5 * np.sqrt(2 / 15 / 2000))


@pytest.mark.core
@pytest.mark.parametrize("chunk_size", [1, 16, None])
def test_a_large_mean_does_not_drown_the_spread(chunk_size):
    """Spread 1 around 1000: a difference of sums of squares would keep two digits of it in float32."""

    def sample(key):
        return 1000 + jax.random.normal(key, dtype=jnp.float32)

    drawn = samples(5, 100, sample)
    estimate = jax.jit(derivatives.expectation(sample, 100, chunk_size=chunk_size))(jax.random.key(5))
    assert float(estimate.mean) == pytest.approx(drawn.mean(), rel=1e-6)
    assert float(estimate.stderr) == pytest.approx(drawn.std(ddof=1) / 10, rel=1e-3)


@pytest.mark.core
@pytest.mark.parametrize("chunk_size", [7, None])
def test_averages_of_bfloat16_are_kept_in_float32(chunk_size):
    def sample(key):
        return 1 + jax.random.uniform(key, (), jnp.float32).astype(jnp.bfloat16)

    drawn = samples(6, 600, sample)
    estimate = jax.jit(derivatives.expectation(sample, 600, chunk_size=chunk_size))(jax.random.key(6))
    assert estimate.mean.dtype == estimate.stderr.dtype == jnp.bfloat16
    assert float(estimate.mean) == pytest.approx(drawn.mean(), rel=2**-8)
    assert float(estimate.stderr) == pytest.approx(drawn.std(ddof=1) / np.sqrt(600), rel=2**-7)


@pytest.mark.core
def test_squares_beyond_the_range_of_float16_do_not_overflow():
    def sample(key):
        return (100 * jax.random.normal(key, dtype=jnp.float32)).astype(jnp.float16)

    drawn = samples(7, 100, sample)
    estimate = jax.jit(derivatives.expectation(sample, 100))(jax.random.key(7))
    assert float(estimate.stderr) == pytest.approx(drawn.std(ddof=1) / 10, rel=2**-9)


@pytest.mark.core
def test_more_samples_than_an_integer_has_squares():
    """n(n - 1) does not fit into 32 bits."""
    estimate = derivatives.expectation(coin, 60_000, chunk_size=20_000)
    found = estimate(jax.random.key(0))
    p = float(found.mean)
    assert float(found.stderr) == pytest.approx(np.sqrt(p * (1 - p) / 59_999), rel=1e-3)
    assert abs(p - 0.5) < 5 * float(found.stderr)


def coin(key):
    return jax.random.bernoulli(key).astype(jnp.float32)


@pytest.mark.core
@pytest.mark.parametrize("name", ["expectation", "variance"])
def test_the_key_must_be_a_typed_key(name):
    method = getattr(derivatives, name)(draw, 3)
    with pytest.raises(TypeError, match=f"`{name}` takes a random key as its first argument.*Got 0 of type int"):
        method(0)
    with pytest.raises(TypeError, match=rf"`{name}` .* Got \(2,\) keys"):
        method(jax.random.split(jax.random.key(0)))


@pytest.mark.core
@pytest.mark.parametrize("name", ["expectation", "variance"])
def test_the_number_of_samples_is_a_positive_integer(name):
    with pytest.raises(ValueError, match="`num_samples` must be at least 1; got 0"):
        getattr(derivatives, name)(draw, 0)
    with pytest.raises(TypeError, match="`num_samples`"):
        getattr(derivatives, name)(draw, 8.0)


def test_an_estimate_is_a_tree():
    estimate = derivatives.Estimate(jnp.ones(2), jnp.zeros(2), jnp.asarray(3))
    doubled = jax.tree.map(lambda a: 2 * a, estimate)
    assert isinstance(doubled, derivatives.Estimate)
    assert doubled.mean.tolist() == [2.0, 2.0]
    assert int(doubled.num_samples) == 6
