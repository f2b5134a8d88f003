"""Values at all subsets and their weights."""

import fractions
import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.attribution import _coalitions

pytestmark = [pytest.mark.core, pytest.mark.numerics]


def evaluated(f, x, **options):
    return _coalitions.all_values("example", f, 0, **{"num_groups": None, "chunk_size": None} | options)(x)


@pytest.mark.parametrize("chunk_size", [None, 1, 3, 8, 100])
def test_bit_i_of_an_index_says_whether_feature_i_is_kept(chunk_size):
    removing, values = evaluated(lambda x: jnp.sum(x), jnp.array([1.0, 10.0, 100.0]), chunk_size=chunk_size)
    assert removing.num_features == 3
    np.testing.assert_array_equal(values, [0, 1, 10, 11, 100, 101, 110, 111])


def test_features_of_trees_are_counted_through_the_leaves():
    x = {"b": jnp.array(100.0), "a": jnp.array([[1.0, 10.0]])}
    _, values = evaluated(lambda t: jnp.sum(t["a"]) + t["b"], x)
    np.testing.assert_array_equal(values, [0, 1, 10, 11, 100, 101, 110, 111])


def test_the_values_are_in_the_dtype_of_the_function():
    _, values = evaluated(lambda x: jnp.sum(x), jnp.ones(2, jnp.bfloat16))
    assert values.dtype == jnp.bfloat16


@pytest.mark.parametrize("most", [2, 16])
def test_more_features_are_refused(most):
    d = most + 1
    message = rf"^`example` evaluates all 2\^{d} subsets of {d} features; it takes at most {most}\. Group the features"
    with pytest.raises(ValueError, match=message):
        evaluated(jnp.sum, jnp.ones(d), most_features=most)


def test_bits_are_counted():
    numbers = np.array([[0, 1, 2, 3], [7, 8, 2**16 - 1, 2**15]])
    np.testing.assert_array_equal(_coalitions.bit_counts(numbers), [[0, 1, 1, 2], [3, 1, 16, 1]])


@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_marginals_are_the_differences_weighted_by_orders(d):
    """The weight of S is the share of the orders in which exactly S comes before i."""
    values = np.random.default_rng(d).normal(size=2**d).astype(np.float32)
    weights, change = _coalitions.marginals(jnp.asarray(values), d)
    assert weights.shape == change.shape == (d, 2 ** (d - 1))
    for i in range(d):
        counts = dict.fromkeys((s for s in range(2**d) if not s >> i & 1), 0)
        for order in itertools.permutations(range(d)):
            counts[sum(1 << j for j in order[: order.index(i)])] += 1
        wanted = [float(fractions.Fraction(n, math.factorial(d))) for n in counts.values()]
        np.testing.assert_allclose(weights[i], wanted, rtol=1e-6)
        np.testing.assert_array_equal(change[i], [values[s | 1 << i] - values[s] for s in counts])
