"""Interactions of pairs: the Shapley-Taylor index by its definition over orders, Faith-SHAP by least squares."""

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

from jaxinterp.attribution import exact_shapley, faith_shap, shapley_taylor

pytestmark = [pytest.mark.core, pytest.mark.numerics]

X64 = jax.config.jax_enable_x64
TOLERANCE = 1e-11 if X64 else 3e-5
D = 4
MEMBERS = (np.arange(2**D)[:, None] >> np.arange(D)) & 1
SIZES = MEMBERS.sum(1)
GAMES = arrays.arrays(np.float64, 2**D, elements=st.integers(-8, 8).map(lambda n: n / 8))
PROPERTY = hypothesis.settings(max_examples=25, deadline=None)
INDICES = {"shapley_taylor": shapley_taylor, "faith_shap": faith_shap}


def game(x, coefficients):
    """The multilinear game in which the value of a set is the sum of the coefficients of its subsets."""
    products = jnp.prod(jnp.where(MEMBERS == 1, x[None], jnp.ones_like(x)[None]), axis=1)
    return jnp.dot(coefficients, products, precision="highest")


@functools.cache
def built(name):
    return jax.jit(INDICES[name](game))


def found(name, coefficients):
    result = built(name)(jnp.ones(D), jnp.asarray(coefficients, float))
    return np.asarray(result.main, np.float64), np.asarray(result.pairs, np.float64)


def close(got, wanted, scale=1.0):
    np.testing.assert_allclose(got, wanted, rtol=0, atol=TOLERANCE * max(1.0, float(np.sum(np.abs(scale)))))


def taylor(v, d):
    """Shapley-Taylor by its definition: the second difference at what comes before both, over all orders."""
    unit = np.eye(d)
    main = np.array([v(unit[i]) - v(np.zeros(d)) for i in range(d)])
    pairs = np.zeros((d, d))
    for order in itertools.permutations(range(d)):
        for i, j in itertools.combinations(range(d), 2):
            before = np.zeros(d)
            before[list(order[: min(order.index(i), order.index(j))])] = 1
            pairs[i, j] += v(before + unit[i] + unit[j]) - v(before + unit[i]) - v(before + unit[j]) + v(before)
    pairs /= math.factorial(d)
    return main, pairs + pairs.T


def faithful(v, d):
    """Faith-SHAP: least squares with the Shapley kernel, and 1e8 times as heavy at the empty and the full mask."""
    masks = np.array(list(itertools.product([0.0, 1.0], repeat=d)))
    sizes = masks.sum(1).astype(int)
    weights = np.array([(d - 1) / (math.comb(d, k) * k * (d - k)) if 0 < k < d else 1e8 for k in sizes])
    first, second = np.triu_indices(d, 1)
    design = np.concatenate([masks, masks[:, first] * masks[:, second]], 1)
    bottom = v(np.zeros(d))
    targets = np.array([v(mask) for mask in masks]) - bottom
    fitted = sklearn.linear_model.LinearRegression(fit_intercept=False).fit(design, targets, sample_weight=weights)
    pairs = np.zeros((d, d))
    pairs[first, second] = fitted.coef_[d:]
    return fitted.coef_[:d], pairs + pairs.T


def game_of(coefficients):
    return lambda mask: coefficients[np.all(mask >= MEMBERS, axis=1)].sum()


@PROPERTY
@hypothesis.given(c=GAMES)
def test_shapley_taylor_is_the_mean_of_second_differences_over_orders(c):
    for got, wanted in zip(found("shapley_taylor", c), taylor(game_of(c), D), strict=True):
        close(got, wanted, c)


@PROPERTY
@hypothesis.given(c=GAMES)
def test_shapley_taylor_shares_higher_coefficients_among_their_pairs(c):
    """The closed form from the Möbius transform: a set of k features gives each of its pairs 1/binom(k, 2)."""
    main, pairs = found("shapley_taylor", c)
    close(main, c[1 << np.arange(D)], c)
    for i, j in itertools.combinations(range(D), 2):
        both = (MEMBERS[:, i] == 1) & (MEMBERS[:, j] == 1)
        close(pairs[i, j], sum(c[both] / (SIZES[both] * (SIZES[both] - 1) / 2)), c)


@PROPERTY
@hypothesis.given(c=GAMES)
def test_faith_shap_is_least_squares_with_heavy_ends(c):
    for got, wanted in zip(found("faith_shap", c), faithful(game_of(c), D), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=(1e-6 if X64 else 5e-5) * max(1, np.sum(np.abs(c))))


@pytest.mark.parametrize("d", [3, 5, 6])
def test_faith_shap_solves_the_least_squares_on_the_plane_of_efficient_models(d):
    """Exactly: the last coefficient is what is left of the change, and the others are free."""
    rng = np.random.default_rng(d)
    w = rng.normal(size=(7, d))
    masks = np.array(list(itertools.product([0.0, 1.0], repeat=d)))[1:-1]
    f = lambda x, xp: xp.sum(xp.tanh(xp.asarray(w, x.dtype) @ x)) + xp.prod(x)  # noqa: E731
    first, second = np.triu_indices(d, 1)
    design = np.concatenate([masks, masks[:, first] * masks[:, second]], 1)
    root = np.sqrt([1 / (math.comb(d, int(k)) * k * (d - k)) for k in masks.sum(1)])
    change = f(np.ones(d), np) - f(np.zeros(d), np)
    targets = np.array([f(mask, np) for mask in masks]) - f(np.zeros(d), np)
    free = np.linalg.lstsq(
        root[:, None] * (design[:, :-1] - design[:, -1:]), root * (targets - change * design[:, -1]), rcond=None
    )[0]
    wanted = np.append(free, change - free.sum())
    got = jax.jit(faith_shap(lambda x: f(x, jnp)))(jnp.ones(d))
    close(got.main, wanted[:d], wanted)
    close(got.pairs[first, second], wanted[d:], wanted)


@pytest.mark.parametrize("name", INDICES)
@PROPERTY
@hypothesis.given(c=GAMES)
def test_they_sum_to_the_change_of_the_function(name, c):
    main, pairs = found(name, c)
    close(main.sum() + pairs.sum() / 2, c[1:].sum(), c)
    np.testing.assert_array_equal(pairs, pairs.T)
    np.testing.assert_array_equal(np.diag(pairs), 0)


@pytest.mark.parametrize("name", INDICES)
@PROPERTY
@hypothesis.given(c=GAMES)
def test_games_of_pairs_are_their_own_explanation(name, c):
    main, pairs = found(name, np.where(SIZES > 2, 0, c))
    close(main, c[1 << np.arange(D)], c)
    for i, j in itertools.combinations(range(D), 2):
        close(pairs[i, j], c[(1 << i) | (1 << j)], c)


@pytest.mark.parametrize("name", INDICES)
@PROPERTY
@hypothesis.given(one=GAMES, other=GAMES, factor=st.integers(-3, 3))
def test_they_are_linear_in_the_function(name, one, other, factor):
    for whole, a, b in zip(found(name, factor * one + other), found(name, one), found(name, other), strict=True):
        close(whole, factor * a + b, 4 * (np.abs(one) + np.abs(other)))


@pytest.mark.parametrize("name", INDICES)
@PROPERTY
@hypothesis.given(c=GAMES, feature=st.integers(0, D - 1))
def test_a_feature_without_interactions_has_none(name, c, feature):
    c = np.where((MEMBERS[:, feature] == 1) & (SIZES > 1), 0, c)
    main, pairs = found(name, c)
    close(main[feature], c[1 << feature], c)
    close(pairs[feature], np.zeros(D), c)


@pytest.mark.parametrize("name", INDICES)
@PROPERTY
@hypothesis.given(c=GAMES)
def test_renaming_the_features_renames_the_interactions(name, c):
    order = np.array([2, 0, 3, 1])
    renamed = np.zeros_like(c)
    renamed[MEMBERS @ (1 << order)] = c
    (main, pairs), (other, others) = found(name, c), found(name, renamed)
    close(other[order], main, c)
    close(others[np.ix_(order, order)], pairs, c)


@pytest.mark.parametrize("name", INDICES)
def test_one_and_two_features(name):
    """One has its change alone; of two the pair gets what the single ones do not."""
    single = INDICES[name](lambda x: jnp.exp(x[0]))(jnp.ones(1), baseline=0.5)
    close(single.main, [math.e - math.exp(0.5)])
    np.testing.assert_array_equal(single.pairs, [[0.0]])
    double = INDICES[name](lambda x: jnp.exp(x[0] + 2 * x[1]))(jnp.array([0.5, 0.25]))
    e = math.exp(0.5)
    close(double.main, [e - 1, e - 1])
    close(double.pairs, [[0, (e - 1) ** 2], [(e - 1) ** 2, 0]])


W = np.random.default_rng(0).normal(size=(8, 6))
X = np.array([0.5, -1.0, 2.0, 0.3, 1.4, -0.7])
B = np.array([0.1, 0.2, -0.5, 0.3, 0.2, 0.9])
ROWS = np.random.default_rng(1).normal(size=(3, 6))
GROUPS = np.array([2, 0, 1, 0, 3, 2])


def curved(x, xp=jnp):
    return xp.sum(xp.tanh(xp.asarray(W, x.dtype) @ x)) + x[0] * x[2] * x[3]


def ours(array):
    return jnp.asarray(array, float)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("given", ["zeros", "baseline", "background"])
@pytest.mark.parametrize("name", INDICES)
def test_baselines_backgrounds_and_groups(name, given, grouped):
    """The result is per feature: with groups, one for each group."""
    rows = {"zeros": np.zeros((1, 6)), "baseline": B[None], "background": ROWS}[given]

    def v(mask):
        keep = mask[GROUPS] if grouped else mask
        return np.mean([curved(np.where(keep == 1, X, row), np) for row in rows])

    d = 4 if grouped else 6
    wanted = {"shapley_taylor": taylor, "faith_shap": faithful}[name](v, d)
    arguments = {"baseline": {"baseline": ours(B)}, "background": {"background": ours(ROWS)}}.get(given, {})
    if grouped:
        arguments["groups"] = jnp.asarray(GROUPS, jnp.int32)
    got = jax.jit(INDICES[name](curved, num_groups=4 if grouped else None))(ours(X), **arguments)
    for one, other in zip((got.main, got.pairs), wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=(1e-6 if name == "faith_shap" else 1e-11) if X64 else 1e-4)


@pytest.mark.parametrize("name", INDICES)
def test_features_of_trees_are_in_the_order_of_leaves_and_entries(name):
    def f(shift, u, v):
        return curved(jnp.concatenate([jnp.ravel(v["a"]), v["b"], u[None]])) + shift

    wanted = jax.jit(INDICES[name](curved))(ours(X))
    got = jax.jit(INDICES[name](f, (2, 1)))(ours(3.0), ours(X[5]), {"b": ours(X[4:5]), "a": ours(X[:4].reshape(2, 2))})
    close(got.main, wanted.main)
    close(got.pairs, wanted.pairs, 10)


@pytest.mark.parametrize("name", INDICES)
def test_batches_and_compiled_programs_are_the_same_as_a_loop(name):
    explain = INDICES[name](curved)
    batched = jax.jit(jax.vmap(explain))(ours(ROWS))
    for i, x in enumerate(ours(ROWS)):
        single = explain(x)
        close(batched.main[i], single.main, 10)
        close(batched.pairs[i], single.pairs, 10)


@pytest.mark.parametrize("name", INDICES)
def test_the_chunk_size_changes_nothing(name):
    results = [jax.jit(INDICES[name](curved, chunk_size=size))(ours(X)) for size in (1, 7, None)]
    for other in results[1:]:
        close(other.main, results[0].main, 10)
        close(other.pairs, results[0].pairs, 10)


@pytest.mark.parametrize("name", INDICES)
def test_bfloat16_stays_bfloat16(name):
    c = np.where(SIZES > 2, 0, np.arange(2**D) % 5 - 2)
    got = jax.jit(INDICES[name](game))(jnp.ones(D, jnp.bfloat16), jnp.asarray(c, jnp.bfloat16))
    assert got.main.dtype == got.pairs.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(got.main, float), c[1 << np.arange(D)], atol=0.1)
    first, second = np.triu_indices(D, 1)
    wanted = c[(1 << first) | (1 << second)]
    np.testing.assert_allclose(np.asarray(got.pairs[first, second], float), wanted, atol=0.1)


@pytest.mark.parametrize("d", [4, 7])
def test_shapley_values_are_single_parts_and_halves_of_pairs(d):
    """Of a game of pairs the Shapley value is the part of the feature alone and half of its pairs."""
    w = jnp.asarray(np.random.default_rng(d).normal(size=(d, d)))
    f = lambda x: jnp.sum(jnp.dot(w.astype(x.dtype), x, precision="highest") ** 2)  # noqa: E731
    x = ours(np.linspace(-1, 1, d))
    wanted = exact_shapley(f)(x)
    for index in INDICES.values():
        got = jax.jit(index(f))(x)
        close(got.main + jnp.sum(got.pairs, 1) / 2, wanted, 10 * d)


@pytest.mark.parametrize("name", INDICES)
def test_it_is_a_pytree_and_can_be_differentiated(name):
    slope = jax.jit(jax.grad(lambda x: (lambda r: jnp.sum(r.main) + jnp.sum(r.pairs) / 2)(INDICES[name](curved)(x))))
    np.testing.assert_allclose(slope(ours(X)), jax.grad(curved)(ours(X)), rtol=0, atol=30 * TOLERANCE)


@pytest.mark.parametrize("name", INDICES)
def test_twelve_features_are_taken_and_thirteen_refused(name):
    f = lambda x: x[0] * x[11] + jnp.sum(x)  # noqa: E731
    got = jax.jit(INDICES[name](f))(jnp.ones(12))
    close(got.main, np.ones(12), 10)
    wanted = np.zeros((12, 12))
    wanted[0, 11] = wanted[11, 0] = 1
    close(got.pairs, wanted, 10)
    with pytest.raises(ValueError, match=rf"^`{name}` evaluates all 2\^13 subsets of 13 features; it takes at most 12"):
        INDICES[name](jnp.sum)(jnp.ones(13))


@pytest.mark.parametrize("name", INDICES)
def test_what_is_refused(name):
    build = INDICES[name]
    with pytest.raises(ValueError, match="`chunk_size` must be at least 1; got 0"):
        build(jnp.sum, chunk_size=0)
    with pytest.raises(TypeError, match=f"^`{name}` needs floating-point arrays"):
        build(jnp.sum)(jnp.arange(3))
    with pytest.raises(TypeError, match="needs a function that returns a scalar"):
        build(jnp.sin)(jnp.ones(3))
    with pytest.raises(TypeError, match=f"^`{name}` needs `num_groups` when it is built"):
        build(jnp.sum)(jnp.ones(3), groups=jnp.zeros(3, jnp.int32))
