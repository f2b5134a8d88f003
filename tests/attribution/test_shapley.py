"""Shapley values against all orders, closed forms and least squares with the kernel; their axioms and errors."""

import functools
import itertools
import math

import hypothesis
import hypothesis.extra.numpy as arrays
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.linear_model
from hypothesis import strategies as st

from jaxinterp import local
from jaxinterp.attribution import exact_shapley, kernel_shap, sampling_shapley, with_stderr

pytestmark = [pytest.mark.core, pytest.mark.numerics]

X64 = jax.config.jax_enable_x64
TOLERANCE = 1e-11 if X64 else 2e-5
D = 5
MEMBERS = (np.arange(2**D)[:, None] >> np.arange(D)) & 1
SIZES = MEMBERS.sum(1)
ONES = np.ones(D)

# Multilinear games: v(S) is the sum of the coefficients of the subsets of S. Eighths make them easy to read.
GAMES = arrays.arrays(np.float64, 2**D, elements=st.integers(-8, 8).map(lambda n: n / 8))
SEEDS = st.integers(0, 10_000)
PROPERTY = hypothesis.settings(max_examples=25, deadline=None)


def game(x, coefficients):
    products = jnp.prod(jnp.where(MEMBERS == 1, x[None], jnp.ones_like(x)[None]), axis=1)
    return jnp.dot(coefficients, products, precision="highest")


def exact(f, **options):
    """With a key that it ignores, to be called like the others."""
    explain = exact_shapley(f, **options)
    return lambda key, *args, **arguments: explain(*args, **arguments)


METHODS = {
    "exact": exact,
    "kernel_all": functools.partial(kernel_shap, num_samples=2**D - 2),
    "kernel_pairs": functools.partial(kernel_shap, num_samples=16),
    "kernel_mixed": functools.partial(kernel_shap, num_samples=20),
    "sampling": functools.partial(sampling_shapley, num_permutations=3),
}
CERTAIN = ["exact", "kernel_all"]


@functools.cache
def built(name):
    return jax.jit(METHODS[name](game))


def values(name, coefficients, seed=0):
    key = jax.random.key(seed)
    return np.asarray(built(name)(key, jnp.asarray(ONES, float), jnp.asarray(coefficients, float)), np.float64)


def close(got, wanted, scale=1.0):
    np.testing.assert_allclose(got, wanted, rtol=0, atol=TOLERANCE * max(1.0, float(np.sum(np.abs(scale)))))


def over_orders(v, features):
    """Shapley values by their definition: the mean over all orders of what a feature adds; v takes a mask."""
    total = np.zeros(features)
    for order in itertools.permutations(range(features)):
        mask = np.zeros(features)
        before = v(mask)
        for i in order:
            mask[i] = 1
            after = v(mask)
            total[i] += after - before
            before = after
    return total / math.factorial(features)


# Axioms


@pytest.mark.parametrize("name", CERTAIN)
@PROPERTY
@hypothesis.given(c=GAMES)
def test_each_coefficient_is_shared_equally_by_its_features(name, c):
    """The closed form for multilinear games (Harsanyi, 1963), and the definition by orders."""
    share = np.where(SIZES > 0, c / np.maximum(SIZES, 1), 0)
    wanted = MEMBERS.T @ share
    close(values(name, c), wanted, c)
    if name == "exact":
        np.testing.assert_allclose(
            over_orders(lambda mask: c[np.all(mask >= MEMBERS, axis=1)].sum(), D), wanted, atol=1e-12
        )


@pytest.mark.parametrize("name", METHODS)
@PROPERTY
@hypothesis.given(c=GAMES, seed=SEEDS)
def test_the_values_sum_to_the_change_of_the_function(name, c, seed):
    close(values(name, c, seed).sum(), c[1:].sum(), c)


@pytest.mark.parametrize("name", METHODS)
@PROPERTY
@hypothesis.given(one=GAMES, other=GAMES, factor=st.integers(-3, 3), seed=SEEDS)
def test_they_are_linear_in_the_function_for_the_same_key(name, one, other, factor, seed):
    separate = factor * values(name, one, seed) + values(name, other, seed)
    close(values(name, factor * one + other, seed), separate, 4 * (np.abs(one) + np.abs(other)))


@pytest.mark.parametrize("name", ["exact", "kernel_all", "sampling"])
@PROPERTY
@hypothesis.given(c=GAMES, feature=st.integers(0, D - 1), seed=SEEDS)
def test_a_feature_without_interactions_gets_its_coefficient(name, c, feature, seed):
    """So a dummy, which has none, gets 0."""
    c = np.where((MEMBERS[:, feature] == 1) & (SIZES > 1), 0, c)
    close(values(name, c, seed)[feature], c[1 << feature], c)


@pytest.mark.parametrize("name", CERTAIN)
@PROPERTY
@hypothesis.given(c=GAMES, pair=st.permutations(range(D)).map(lambda order: order[:2]))
def test_features_that_may_be_exchanged_get_the_same(name, c, pair):
    swapped = MEMBERS.copy()
    swapped[:, pair] = swapped[:, pair[::-1]]
    c = (c + c[swapped @ (1 << np.arange(D))]) / 2
    found = values(name, c)
    close(found[pair[0]], found[pair[1]], c)


@pytest.mark.parametrize("name", METHODS)
@PROPERTY
@hypothesis.given(c=GAMES, seed=SEEDS)
@hypothesis.example(c=np.arange(2.0**D) / 8, seed=0)
def test_functions_of_pairs_are_exact_in_every_method(name, c, seed):
    """An order and its reverse, or a mask and its complement, cancel the interactions of two features.

    The 8 pairs of the first key tell the features apart; those of another may not.
    """
    c = np.where(SIZES > 2, 0, c)
    seed = 0 if name == "kernel_pairs" else seed
    close(values(name, c, seed), c[1 << np.arange(D)] + MEMBERS.T @ np.where(SIZES == 2, c / 2, 0), c)


# Closed forms


def unanimity(x):
    return x[0] * x[2] * x[3]


def gloves(x):
    """One left glove and four right ones; a pair is worth 1."""
    return jnp.minimum(x[0], jnp.sum(x[1:]))


def airport(x):
    """A runway costs what the largest aircraft needs."""
    return jnp.max(x * jnp.array([1.0, 2.0, 4.0, 7.0, 11.0], x.dtype))


KNOWN = {
    "unanimity": (unanimity, [1 / 3, 0, 1 / 3, 1 / 3, 0]),
    "gloves": (gloves, [4 / 5, 1 / 20, 1 / 20, 1 / 20, 1 / 20]),
    "majority": (lambda x: jnp.where(jnp.sum(x) > 2.5, 1.0, 0.0).astype(x.dtype), [0.2] * 5),
    "symmetric": (lambda x: jnp.sum(x) ** 3, [25.0] * 5),
    "airport": (airport, np.cumsum(np.array([1, 1, 2, 3, 4]) / np.array([5, 4, 3, 2, 1]))),
    "additive": (lambda x: jnp.sum(x * jnp.arange(5, dtype=x.dtype)) + 3, [0.0, 1.0, 2.0, 3.0, 4.0]),
}


@pytest.mark.parametrize("name", CERTAIN)
@pytest.mark.parametrize("which", KNOWN)
def test_games_with_known_values(name, which, key):
    f, wanted = KNOWN[which]
    close(jax.jit(METHODS[name](f))(key, jnp.ones(D)), wanted, wanted)


def test_a_weighted_majority_needs_orders_and_not_only_sizes():
    """The Shapley-Shubik index of [4; 3, 2, 1, 1]."""
    power = exact_shapley(lambda x: jnp.where(jnp.vdot(x, jnp.array([3.0, 2.0, 1.0, 1.0], x.dtype)) > 3.5, 1.0, 0.0))
    close(power(jnp.ones(4)), [1 / 2, 1 / 6, 1 / 6, 1 / 6])


# A curved function with a baseline, a background, groups and trees

W = np.random.default_rng(0).normal(size=(8, 6))
X = np.array([0.5, -1.0, 2.0, 0.3, 1.4, -0.7])
B = np.array([0.1, 0.2, -0.5, -0.4, 0.2, 0.9])
ROWS = np.random.default_rng(1).normal(size=(4, 6))
GROUPS = np.array([2, 0, 1, 0, 3, 2])


def curved(x, xp=jnp):
    return xp.sum(xp.tanh(xp.asarray(W, x.dtype) @ x)) + x[0] * x[2] * x[3]


def ours(array):
    return jnp.asarray(array, float)


@functools.cache
def of_curved(name):
    """One call, a batch of calls, and the slope of the sum of the values, each of a key, an input and a baseline."""

    def explain(key, x, baseline):
        return METHODS[name](curved)(key, x, baseline=baseline)

    slope = jax.grad(lambda x, key, baseline: jnp.sum(explain(key, x, baseline)))
    batch = jax.vmap(explain, (0, 0, None))
    return jax.jit(explain), jax.jit(batch), jax.jit(lambda key, x, baseline: slope(x, key, baseline))


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("given", ["zeros", "baseline", "background"])
@pytest.mark.parametrize("name", CERTAIN)
def test_they_are_the_mean_over_all_orders(name, given, grouped, key):
    """With a background, of the game that is the mean over its rows."""
    rows = {"zeros": np.zeros((1, 6)), "baseline": B[None], "background": ROWS}[given]
    entries = GROUPS if grouped else np.arange(6)

    def v(mask):
        keep = mask[entries]
        return np.mean([curved(np.where(keep == 1, X, row), np) for row in rows])

    wanted = over_orders(v, 4 if grouped else 6)[entries]
    arguments = {"baseline": {"baseline": ours(B)}, "background": {"background": ours(ROWS)}}.get(given, {})
    options = {}
    if grouped:
        arguments["groups"], options["num_groups"] = jnp.asarray(GROUPS, jnp.int32), 4
    if name == "kernel_all":
        options["num_samples"] = 62
    close(jax.jit(METHODS[name](curved, **options))(key, ours(X), **arguments), wanted, wanted)


def squared(v, u, shift):
    """Of order two in the entries of both arguments, so that every method is exact."""
    whole = jnp.concatenate([jnp.ravel(v), u["u"], u["w"][None]])
    weights = jnp.asarray(W, whole.dtype)
    return jnp.sum(jnp.dot(weights, whole, precision="highest") ** 2) + shift * whole[0]


V, U = X[:3].reshape(1, 3), {"u": X[3:5], "w": X[5]}
TREE_GROUPS = (np.array([[2, 0, 1]]), {"u": np.array([0, 3]), "w": np.array(2)})


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_trees_over_several_arguments(name, grouped, key):
    def v(mask):
        whole = np.where(mask[GROUPS if grouped else np.arange(6)] == 1, X, B)
        return np.sum((W @ whole) ** 2) + 3 * whole[0]

    wanted = over_orders(v, 4 if grouped else 6)
    wanted = wanted[GROUPS] if grouped else wanted
    baseline = (ours(B[:3].reshape(1, 3)), {"u": ours(B[3:5]), "w": ours(B[5])})
    options = {"num_samples": 62} if name == "kernel_all" else {}
    arguments = {"baseline": baseline}
    if grouped:
        options["num_groups"] = 4
        arguments["groups"] = jax.tree.map(lambda g: jnp.asarray(g, jnp.int32), TREE_GROUPS)
    explain = jax.jit(METHODS[name](lambda shift, u, v: squared(v, u, shift), argnums=(2, 1), **options))
    found = explain(key, ours(3.0), jax.tree.map(ours, U), ours(V), **arguments)
    assert jax.tree.structure(found) == jax.tree.structure(TREE_GROUPS)
    assert [leaf.shape for leaf in jax.tree.leaves(found)] == [(1, 3), (2,), ()]
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(found)])
    close(flat, wanted, 10 * wanted)


@pytest.mark.parametrize("name", METHODS)
def test_a_single_feature_gets_everything(name, key):
    explain = METHODS[name](lambda x: jnp.exp(x[0]))
    close(explain(key, jnp.ones(1), baseline=0.5), [math.e - math.exp(0.5)])


@pytest.mark.parametrize("name", METHODS)
def test_nothing_changes_nothing(name):
    single, batched, slope = of_curved(name)
    np.testing.assert_array_equal(single(jax.random.key(0), ours(X), ours(X)), np.zeros(6))
    keys = jax.vmap(jax.random.key)(jnp.arange(4))
    np.testing.assert_array_equal(batched(keys, ours([X] * 4), ours(X)), np.zeros((4, 6)))
    assert np.all(np.isfinite(slope(jax.random.key(0), ours(X), ours(X))))


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_is_the_same_as_a_loop(name):
    single, batched, _ = of_curved(name)
    looped = [single(jax.random.key(i), x, ours(B)) for i, x in enumerate(ours(ROWS))]
    keys = jax.vmap(jax.random.key)(jnp.arange(4))
    np.testing.assert_allclose(batched(keys, ours(ROWS), ours(B)), np.stack(looped), rtol=0, atol=10 * TOLERANCE)


@pytest.mark.slow  # each operation on its own is compiled too
@pytest.mark.parametrize("name", METHODS)
def test_compilation_changes_nothing(name):
    explain, key = METHODS[name](curved), jax.random.key(0)
    np.testing.assert_array_equal(explain(key, ours(X), baseline=ours(X)), np.zeros(6))
    wanted = of_curved(name)[0](jax.random.clone(key), ours(ROWS[0]), ours(B))
    found = explain(jax.random.clone(key), ours(ROWS[0]), baseline=ours(B))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=10 * TOLERANCE)


@pytest.mark.parametrize("size", [3, *(pytest.param(size, marks=pytest.mark.slow) for size in (1, 1000, None))])
@pytest.mark.parametrize("name", METHODS)
def test_the_chunk_size_changes_nothing(name, size):
    wanted = of_curved(name)[0](jax.random.key(0), ours(X), ours(B))
    found = jax.jit(METHODS[name](curved, chunk_size=size))(jax.random.key(0), ours(X), baseline=ours(B))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=10 * TOLERANCE)


@pytest.mark.parametrize("name", METHODS)
def test_bfloat16_stays_bfloat16(name, key):
    c = np.where(SIZES > 2, 0, np.arange(2**D) % 7 - 3)
    found = jax.jit(METHODS[name](game))(key, jnp.ones(D, jnp.bfloat16), jnp.asarray(c, jnp.bfloat16))
    assert found.dtype == jnp.bfloat16
    wanted = c[1 << np.arange(D)] + MEMBERS.T @ np.where(SIZES == 2, c / 2, 0)
    np.testing.assert_allclose(np.asarray(found, np.float64), wanted, rtol=0.02, atol=0.1)


@pytest.mark.parametrize("name", METHODS)
def test_they_can_be_differentiated(name):
    """The sum is f(x) - f(b), so its derivative is that of f."""
    slope = of_curved(name)[2](jax.random.key(0), ours(X), ours(B))
    np.testing.assert_allclose(slope, jax.grad(curved)(ours(X)), rtol=0, atol=20 * TOLERANCE)


# The kernel


def kernel(masks):
    d, k = masks.shape[1], masks.sum(1)
    return np.array([(d - 1) / (math.comb(d, int(n)) * n * (d - n)) for n in k])


def test_all_coalitions_are_least_squares_with_the_kernel_and_heavy_ends(key):
    masks = np.array(list(itertools.product([0.0, 1.0], repeat=6)))
    inner = (masks.sum(1) > 0) & (masks.sum(1) < 6)
    weights = np.full(64, 1e8)
    weights[inner] = kernel(masks[inner])
    targets = np.array([curved(np.where(z == 1, X, B), np) for z in masks])
    wanted = sklearn.linear_model.LinearRegression().fit(masks, targets, sample_weight=weights).coef_
    got = jax.jit(kernel_shap(curved, num_samples=62))(key, ours(X), baseline=ours(B))
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6 if X64 else 2e-5)


@pytest.mark.parametrize("n", [16, 30, 41])
def test_sampled_coalitions_are_constrained_least_squares_on_their_masks(n):
    """By the conditions for an optimum with the multiplier of the constraint, in NumPy."""
    sampled = jax.jit(local.samples(curved, neighbourhood=local.coalitions(n)))
    drawn = sampled(jax.random.key(2), ours(X), baseline=ours(B))
    z, w = (np.asarray(a, np.float64) for a in (drawn.coordinates, drawn.weights))
    assert len(z) == n // 2 * 2
    bottom, top = curved(B, np), curved(X, np)
    targets = np.array([curved(np.where(mask == 1, X, B), np) for mask in z]) - bottom
    system = np.block([[z.T @ (w[:, None] * z), np.ones((6, 1))], [np.ones((1, 6)), np.zeros((1, 1))]])
    wanted = np.linalg.solve(system, np.append(z.T @ (w * targets), top - bottom))[:6]
    got = jax.jit(kernel_shap(curved, num_samples=n))(jax.random.key(2), ours(X), baseline=ours(B))
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-10 if X64 else 5e-5)


@pytest.mark.parametrize("name", METHODS)
def test_a_feature_that_removal_does_not_change_gets_nothing(name):
    """Also from few samples; the others still share the whole change."""
    idle = B.copy()
    idle[[0, 3]] = X[[0, 3]]
    found = of_curved(name)[0](jax.random.key(0), ours(X), ours(idle))
    close(found[jnp.array([0, 3])], [0, 0])
    close(found.sum(), curved(X, np) - curved(idle, np), 10)


@pytest.mark.parametrize("features", [2, 3, 4, 7])
def test_with_samples_for_all_masks_nothing_is_random(features):
    f = lambda x: jnp.exp(jnp.sum(x * jnp.arange(1, features + 1, dtype=x.dtype) / 5))  # noqa: E731
    explain = jax.jit(with_stderr(kernel_shap(f, num_samples=2**features - 2)))
    x = jnp.linspace(0.5, 1.0, features)
    one, other = explain(jax.random.key(0), x), explain(jax.random.key(1), x)
    np.testing.assert_array_equal(one.mean, other.mean)
    np.testing.assert_array_equal(one.stderr, np.zeros(features))
    close(one.mean, jax.jit(exact_shapley(f))(x), float(f(x)))


# Chance

SAMPLED = {
    "kernel_pairs": (functools.partial(kernel_shap, num_samples=40, chunk_size=None), 40),
    "kernel_mixed": (functools.partial(kernel_shap, num_samples=50, chunk_size=None), 50),
    "sampling": (functools.partial(sampling_shapley, num_permutations=10, chunk_size=None), 10),
}


@pytest.mark.parametrize("name", SAMPLED)
def test_estimates_are_unbiased_and_know_their_errors(name):
    """5 standard errors of the mean over 400 keys; the mean square of the reported errors is the variance."""
    build, count = SAMPLED[name]
    keys = jax.vmap(jax.random.key)(jnp.arange(400))
    estimates = jax.jit(jax.vmap(with_stderr(build(curved)), (0, None)))(keys, ours(X))
    means, errors = (np.asarray(a, np.float64) for a in (estimates.mean, estimates.stderr))
    assert np.unique(estimates.num_samples) == [count]
    wanted = over_orders(lambda mask: curved(mask * X, np), 6)
    spread = means.std(0, ddof=1)
    assert np.all(spread > 1e-3)
    assert np.all(np.abs(means.mean(0) - wanted) < 5 * spread / 20 + 10 * TOLERANCE)
    ratio = np.sqrt((errors**2).mean(0)) / spread
    assert np.all((ratio > 0.5) & (ratio < 2)), ratio


WIDE = np.random.default_rng(3).normal(size=(10, 12))


def wide(x):
    return jnp.sum(jnp.tanh(jnp.dot(jnp.asarray(WIDE, x.dtype), x, precision="highest")))


@pytest.mark.parametrize(
    ("build", "few", "many", "factor"),
    [
        # The samples beside the 24 masks that are listed in both cases come in pairs.
        (functools.partial(kernel_shap, chunk_size=None), {"num_samples": 100}, {"num_samples": 400}, 188 / 38),
        (functools.partial(sampling_shapley, chunk_size=None), {"num_permutations": 4}, {"num_permutations": 32}, 8),
    ],
    ids=["kernel", "sampling"],
)
def test_errors_fall_as_the_root_of_the_samples(build, few, many, factor):
    x = ours(np.linspace(-1, 1, 12))
    wanted = np.asarray(jax.jit(exact_shapley(wide))(x), np.float64)
    keys = jax.vmap(jax.random.key)(jnp.arange(60))
    error = [
        np.sqrt(np.mean((np.asarray(jax.jit(jax.vmap(build(wide, **n), (0, None)))(keys, x)) - wanted) ** 2))
        for n in (few, many)
    ]
    assert 0.75 < error[0] / error[1] / math.sqrt(factor) < 1.33, error


# What is refused


def test_too_many_features_are_refused_with_advice():
    message = (
        r"^`exact_shapley` evaluates all 2\^17 subsets of 17 features; it takes at most 16\. Group the features "
        r"\(`num_groups`, `groups`\), or use `kernel_shap` or `sampling_shapley`\.$"
    )
    with pytest.raises(ValueError, match=message):
        exact_shapley(jnp.sum)(jnp.ones(17))


def test_groups_make_many_features_few():
    """Of the product of all x + 1, two groups of 9 and 8 ones."""
    explain = exact_shapley(lambda x: jnp.prod(x + 1), num_groups=2)
    groups = np.arange(17) // 9
    first = (2**9 - 1) + (2**9 - 1) * (2**8 - 1) / 2
    wanted = np.where(groups == 0, first, 2**17 - 1 - first)
    np.testing.assert_allclose(explain(jnp.ones(17), groups=jnp.asarray(groups, jnp.int32)), wanted, rtol=1e-6)


@pytest.mark.parametrize("num_samples", [1, 7])
def test_too_few_coalitions_are_refused(num_samples, key):
    with pytest.raises(
        ValueError, match=rf"`kernel_shap` needs 8 samples for 5 features, .* got num_samples={num_samples}"
    ):
        kernel_shap(jnp.sum, num_samples=num_samples)(key, jnp.ones(5))


@pytest.mark.parametrize(
    ("build", "option"),
    [
        (exact_shapley, {"chunk_size": 0}),
        (kernel_shap, {"chunk_size": 0}),
        (kernel_shap, {"num_samples": 0}),
        (sampling_shapley, {"chunk_size": 0}),
        (sampling_shapley, {"num_permutations": 0}),
    ],
)
def test_options_are_refused(build, option):
    with pytest.raises(ValueError, match=f"`{next(iter(option))}` must be at least 1; got 0"):
        build(jnp.sum, **option)


@pytest.mark.parametrize(("name", "method"), [("kernel_all", "kernel_shap"), ("sampling", "sampling_shapley")])
def test_keys_are_typed(name, method):
    with pytest.raises(TypeError, match=f"^`{method}` takes a random key as its first argument"):
        METHODS[name](jnp.sum)(jnp.zeros(2, jnp.uint32), jnp.ones(3))


@pytest.mark.parametrize(
    ("name", "method"),
    [("exact", "exact_shapley"), ("kernel_all", "kernel_shap"), ("sampling", "sampling_shapley")],
)
def test_inputs_are_refused_by_name(name, method, key):
    clone = functools.partial(jax.random.clone, key)
    build = METHODS[name]
    with pytest.raises(TypeError, match=f"^`{method}` needs floating-point arrays"):
        build(jnp.sum)(clone(), jnp.arange(3))
    with pytest.raises(TypeError, match="needs a function that returns a scalar"):
        build(jnp.sin)(clone(), jnp.ones(3))
    with pytest.raises(ValueError, match=r"`baseline` of shape \(2,\) does not broadcast"):
        build(jnp.sum)(clone(), jnp.ones(3), baseline=jnp.ones(2))
    with pytest.raises(ValueError, match=f"`background` of `{method}` must have the shape of the input"):
        build(jnp.sum)(clone(), jnp.ones(3), background=jnp.ones(3))
    with pytest.raises(TypeError, match=f"^`{method}` needs `num_groups` when it is built"):
        build(jnp.sum)(clone(), jnp.ones(3), groups=jnp.zeros(3, jnp.int32))
    with pytest.raises(ValueError, match=rf"`groups` of `{method}` must lie in 0\.\.1"):
        build(jnp.sum, num_groups=2)(clone(), jnp.ones(3), groups=jnp.array([0, 1, 2]))
