"""Tree algebra against NumPy in float64 on the concatenated leaves."""

import hypothesis
import hypothesis.extra.numpy as arrays
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import strategies as st

from jaxinterp import tree

SHAPES = {"u": (3,), "v": [(2, 2), ()]}
TOLERANCE = 1e-13 if jax.config.jax_enable_x64 else 1e-6


def is_shape(x):
    return isinstance(x, tuple)


def random_tree(seed, dtype=None):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s), dtype or float), SHAPES, is_leaf=is_shape)


def flat(t):
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(t)])


def dtypes(t):
    return [leaf.dtype for leaf in jax.tree.leaves(t)]


@pytest.mark.core
@pytest.mark.numerics
@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(st.integers(0, 2**32 - 1), st.floats(-3, 3, width=32))
def test_a_tree_is_one_vector(seed, alpha):
    a, b = random_tree(seed), random_tree(seed + 1)
    x, y = flat(a), flat(b)
    for got, expected in [
        (tree.add(a, b), x + y),
        (tree.sub(a, b), x - y),
        (tree.mul(a, b), x * y),
        (tree.scale(alpha, a), alpha * x),
        (tree.axpy(alpha, a, b), alpha * x + y),
    ]:
        assert jax.tree.structure(got) == jax.tree.structure(a)
        assert dtypes(got) == dtypes(a)
        np.testing.assert_allclose(flat(got), expected, rtol=TOLERANCE, atol=10 * TOLERANCE)
    bound = TOLERANCE * (1 + np.abs(x) @ np.abs(y))
    assert float(tree.vdot(a, b)) == pytest.approx(x @ y, abs=bound)
    assert float(tree.squared_norm(a)) == pytest.approx(x @ x, rel=TOLERANCE)
    assert float(tree.norm(a)) == pytest.approx(np.linalg.norm(x), rel=TOLERANCE)
    assert tree.vdot(a, b).shape == tree.norm(a).shape == ()


@pytest.mark.core
def test_the_number_of_entries():
    assert tree.size(random_tree(0)) == 8
    assert tree.size({}) == 0


@pytest.mark.core
def test_constants_like_a_tree():
    like = {"u": jnp.full((2, 1), 7.0, jnp.bfloat16), "v": (jnp.asarray(3.0),)}
    for fill, value in [(tree.zeros_like, 0.0), (tree.ones_like, 1.0)]:
        filled = fill(like)
        assert jax.tree.map(jnp.shape, filled) == jax.tree.map(jnp.shape, like)
        assert dtypes(filled) == dtypes(like)
        assert np.all(flat(filled) == value)


@pytest.mark.core
@pytest.mark.parametrize("alpha", [1.5, np.float64(1.5), jnp.float32(1.5)], ids=["python", "numpy", "jax"])
def test_factors_take_the_dtype_of_the_tree(alpha):
    half = {"u": jnp.ones(2, jnp.bfloat16), "v": jnp.ones((), jnp.float32)}
    assert dtypes(tree.scale(alpha, half)) == dtypes(half)
    assert np.all(flat(tree.scale(alpha, half)) == 1.5)
    other = {"u": jnp.ones(2, jnp.float32), "v": jnp.ones((), jnp.bfloat16)}
    summed = tree.axpy(alpha, other, half)
    assert dtypes(summed) == dtypes(half)
    assert np.all(flat(summed) == 2.5)


@pytest.mark.core
def test_casting_takes_the_dtypes_of_the_other_tree():
    cast = tree.cast_like({"u": jnp.array([1.0, 1.00390625])}, {"u": jnp.zeros(2, jnp.bfloat16)})
    assert dtypes(cast) == [jnp.bfloat16]
    assert flat(cast).tolist() == [1.0, 1.0]


@pytest.mark.core
@pytest.mark.parametrize(
    ("dtype", "kept"),
    [
        (jnp.float32, jnp.float32),
        (jnp.bfloat16, jnp.float32),
        (jnp.float16, jnp.float32),
        (jnp.int32, jnp.float32),
        (jnp.bool_, jnp.float32),
        (jnp.complex64, jnp.complex64),
    ],
)
def test_sums_are_kept_in_at_least_float32(dtype, kept):
    assert tree.accumulator(jnp.dtype(dtype)) == kept


@pytest.mark.numerics
@pytest.mark.skipif(not jax.config.jax_enable_x64, reason="float64 needs JAXINTERP_X64=1")
def test_sums_of_float64_are_kept_in_float64():
    assert tree.accumulator(jnp.dtype(jnp.float64)) == jnp.float64
    x = jnp.array([1.0, 1e-12])
    assert float(tree.vdot(x, jnp.ones(2))) == 1 + 1e-12


@pytest.mark.core
def test_products_of_bfloat16_are_not_rounded():
    x = jnp.full(1001, 1.0078125, jnp.bfloat16)  # its square and 1001 times that need more than 8 bits
    product = tree.vdot({"u": x}, {"u": x})
    assert product.dtype == jnp.float32
    assert float(product) == pytest.approx(1001 * 1.0078125**2, rel=1e-6)
    assert float(tree.norm(x)) == pytest.approx(np.sqrt(1001) * 1.0078125, rel=1e-6)


@pytest.mark.core
@pytest.mark.numerics
def test_the_gradient_of_the_norm():
    x = random_tree(3)
    gradient = jax.jit(jax.grad(tree.norm))(x)
    np.testing.assert_allclose(flat(gradient), flat(x) / np.linalg.norm(flat(x)), rtol=10 * TOLERANCE)
    assert np.all(flat(jax.grad(tree.norm)(tree.zeros_like(x))) == 0)
    assert float(tree.norm(tree.zeros_like(x))) == 0


@pytest.mark.core
def test_nan_is_not_taken_for_zero():
    x = jnp.array([0.0, jnp.nan])
    assert np.isnan(tree.norm(x))
    assert np.all(np.isnan(jax.grad(tree.norm)(x)[1]))


@pytest.mark.core
@pytest.mark.parametrize(
    ("t", "finite"),
    [
        ({"u": jnp.ones(2), "v": jnp.arange(3)}, True),
        ({"u": jnp.ones(2), "v": jnp.array([1.0, jnp.nan])}, False),
        ((jnp.array([jnp.inf]), jnp.ones(1)), False),
        ((-jnp.array([jnp.inf], jnp.bfloat16),), False),
        (jnp.arange(3), True),
        ({}, True),
    ],
)
def test_finite_trees(t, finite):
    answer = tree.all_finite(t)
    assert answer.dtype == jnp.bool_
    assert answer.shape == ()
    assert bool(answer) is finite
    assert bool(jax.jit(tree.all_finite)(t)) is finite


@pytest.mark.core
def test_a_prefix_stands_for_whole_subtrees():
    like = {"u": jnp.zeros((2, 3), jnp.bfloat16), "v": (jnp.zeros(3), jnp.zeros(()))}
    spread = tree.broadcast_prefix("baseline", {"u": jnp.array([[1.0], [2.0]]), "v": 3}, like)
    assert jax.tree.structure(spread) == jax.tree.structure(like)
    assert dtypes(spread) == dtypes(like)
    np.testing.assert_array_equal(np.asarray(spread["u"], float), [[1, 1, 1], [2, 2, 2]])
    np.testing.assert_array_equal(spread["v"][0], [3, 3, 3])
    assert float(spread["v"][1]) == 3
    assert np.all(flat(tree.broadcast_prefix("baseline", np.float64(0.5), like)) == 0.5)


@pytest.mark.core
@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(arrays.array_shapes(min_dims=0, max_dims=3, max_side=3), arrays.array_shapes(max_dims=3, max_side=3))
def test_shapes_broadcast_exactly_where_numpy_says_so(shape, target):
    value = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    try:
        expected = np.broadcast_to(value, target)
    except ValueError:
        with pytest.raises(ValueError, match="does not broadcast to the input"):
            tree.broadcast_prefix("baseline", value, jnp.zeros(target))
    else:
        np.testing.assert_array_equal(tree.broadcast_prefix("baseline", value, jnp.zeros(target)), expected)


@pytest.mark.core
def test_the_leaf_to_which_a_prefix_does_not_broadcast_is_named():
    like = {"u": jnp.zeros(2), "v": [jnp.zeros(2), jnp.zeros((4, 3))]}
    message = r"`stddev` of shape \(2,\) does not broadcast to the input\['v'\]\[1\] of shape \(4, 3\)"
    with pytest.raises(ValueError, match=message):
        tree.broadcast_prefix("stddev", {"u": 1.0, "v": jnp.ones(2)}, like)


@pytest.mark.core
@pytest.mark.parametrize("prefix", [{"u": 1.0}, [1.0, 2.0], {"u": 1.0, "v": {"w": 1.0}}])
def test_what_is_no_prefix_is_refused(prefix):
    with pytest.raises(ValueError, match=r"`stddev` must be a scalar, an array, or a pytree prefix .*; got Py"):
        tree.broadcast_prefix("stddev", prefix, {"u": jnp.zeros(2), "v": jnp.zeros(3)})


LIKE = {"u": jnp.zeros((40, 50), jnp.float32), "v": (jnp.zeros(2000, jnp.float32), jnp.zeros(()))}
DRAWS = {
    "normal": tree.normal_like,
    "rademacher": tree.rademacher_like,
    "bernoulli": lambda key, like: tree.bernoulli_like(key, like, 0.3),
}


@pytest.mark.core
@pytest.mark.parametrize("name", DRAWS)
def test_random_trees_are_a_function_of_the_key(name):
    draw = DRAWS[name]
    sample = draw(jax.random.key(5), LIKE)
    assert jax.tree.map(jnp.shape, sample) == jax.tree.map(jnp.shape, LIKE)
    assert dtypes(sample) == dtypes(LIKE)
    np.testing.assert_array_equal(flat(sample), flat(draw(jax.random.key(5), LIKE)))
    np.testing.assert_array_equal(flat(sample), flat(jax.jit(draw)(jax.random.key(5), LIKE)))
    assert np.any(flat(sample) != flat(draw(jax.random.key(6), LIKE)))
    assert np.any(np.ravel(sample["u"]) != sample["v"][0])  # no leaf repeats another


@pytest.mark.core
@pytest.mark.parametrize("name", DRAWS)
def test_the_dtype_does_not_change_the_sample(name):
    rounded = jax.tree.map(lambda a: a.astype(jnp.bfloat16), DRAWS[name](jax.random.key(5), LIKE))
    half = DRAWS[name](jax.random.key(5), jax.tree.map(lambda a: a.astype(jnp.bfloat16), LIKE))
    assert dtypes(half) == [jnp.bfloat16] * 3
    np.testing.assert_array_equal(flat(half), flat(rounded))


def test_normal_noise_is_normal():
    """Kolmogorov-Smirnov on 4001 draws; a right sampler fails for one key in a million."""
    noise = flat(tree.normal_like(jax.random.key(5), LIKE))
    assert scipy.stats.kstest(noise, "norm").pvalue > 1e-6
    pairs = scipy.stats.pearsonr(noise[:2000], noise[2000:4000])
    assert pairs.pvalue > 1e-6


@pytest.mark.core
def test_signs_are_fair():
    """5 standard errors: a right sampler fails for one key in a million."""
    signs = flat(tree.rademacher_like(jax.random.key(5), LIKE))
    assert set(signs) == {-1.0, 1.0}
    assert abs(signs.mean()) < 5 / np.sqrt(signs.size)


@pytest.mark.core
def test_draws_have_their_probability():
    """5 standard errors: a right sampler fails for one key in a million."""
    draws = tree.bernoulli_like(jax.random.key(5), LIKE, {"u": 0.2, "v": 0.9})
    for leaf, p in [(draws["u"], 0.2), (draws["v"][0], 0.9)]:
        assert set(np.ravel(leaf)) == {0.0, 1.0}
        assert abs(float(leaf.mean()) - p) < 5 * np.sqrt(p * (1 - p) / leaf.size)
    certain = tree.bernoulli_like(jax.random.key(5), LIKE, {"u": 0.0, "v": 1.0})
    assert np.all(certain["u"] == 0)
    assert np.all(certain["v"][0] == 1)


def test_a_probability_must_be_a_prefix():
    with pytest.raises(ValueError, match=r"`probability` of shape \(3,\) does not broadcast"):
        tree.bernoulli_like(jax.random.key(0), jnp.zeros(2), jnp.ones(3))


@pytest.mark.core
def test_the_norm_of_leaves_of_two_dtypes():
    assert float(tree.norm({"a": jnp.array([3e-20, 4e-20]), "b": jnp.zeros(2, jnp.bfloat16)})) == pytest.approx(5e-20)


def test_a_tree_of_two_dtypes_as_one_vector():
    t = {"u": jnp.asarray([1.0, 2.0], jnp.bfloat16), "v": jnp.asarray([[3.0]], jnp.float32)}
    flat, unravel = tree.ravel(t)
    assert flat.dtype == jnp.float32
    assert flat.tolist() == [1.0, 2.0, 3.0]
    back = unravel(2 * flat)
    assert jax.tree.map(lambda leaf: (leaf.dtype, leaf.shape), back) == jax.tree.map(
        lambda leaf: (leaf.dtype, leaf.shape), t
    )
    assert back["v"].tolist() == [[6.0]]


def test_unit_vectors_of_any_dtype():
    direction, length = tree.unit({"a": jnp.array([3, 0]), "b": jnp.asarray(4.0, jnp.bfloat16)})
    assert (direction["a"].dtype, float(length)) == (jnp.float32, 5.0)
    np.testing.assert_allclose([*direction["a"], direction["b"]], [0.6, 0, 0.8], rtol=1e-6)
    np.testing.assert_array_equal(tree.unit(jnp.zeros(3))[0], 0)
    np.testing.assert_allclose(tree.unit(jnp.full(2, 1e-30))[0], 0.5**0.5, rtol=1e-6)


def test_clipping_to_prefixes():
    clip = tree.clipping({"a": jnp.zeros(2), "b": jnp.zeros(())}, {"a": 0.0, "b": -1.0}, None)
    clipped = clip({"a": jnp.array([-2.0, 2.0]), "b": jnp.asarray(-2.0)})
    assert (clipped["a"].tolist(), float(clipped["b"])) == ([0.0, 2.0], -1.0)
    with pytest.raises(ValueError, match="`low` must not be above `high`"):
        tree.clipping(jnp.zeros(2), 1.0, 0.0)
