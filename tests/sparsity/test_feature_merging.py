"""Merging of features: what is equal goes without a trace, and the rest as in the paper's own terms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from jaxinterp import sparsity
from tests.sparsity import layers
from tests.sparsity.layers import DTYPE, output

layer = functools.partial(layers.layer, inputs=5, units=8, outputs=3)
EXACT = 1e-12 if jax.config.jax_enable_x64 else 1e-6


def repeated(times, seed=0, **sizes):
    """A layer each of whose features comes several times; the features in random order."""
    w, b, a = layer(seed, **sizes)
    which = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(b)), times))
    return (w[:, which], b[which], a[which]), which


def features(merged):
    return merged.incoming, merged.bias, merged.outgoing


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("activation", [jax.nn.relu, jnp.tanh, jax.nn.softplus])
def test_equal_features_go_without_a_trace(activation):
    given, which = repeated(2)
    merged = sparsity.merge_features(*given, threshold=1e-6)
    assert len(merged.kept) == len(merged.removed) == 8
    np.testing.assert_array_equal(which[merged.into], which[merged.removed])
    np.testing.assert_array_equal(merged.saliencies, 0)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(64, 5)), DTYPE)
    before = output(*given, x, activation)
    after = output(*features(merged), x, activation)
    np.testing.assert_allclose(after, before, atol=EXACT * np.max(np.abs(before)))


@pytest.mark.numerics
def test_the_number_of_distinct_features():
    """Three of each: the distances of the paper set 2w apart from w, those of the means do not."""
    given, which = repeated(3)
    by_means = sparsity.merge_features(*given, threshold=1e-6, compare="mean")
    as_published = sparsity.merge_features(*given, threshold=1e-6)
    assert sorted(which[by_means.kept]) == list(range(8))
    assert len(as_published.kept) == 16
    x = jnp.asarray(np.random.default_rng(1).normal(size=(64, 5)), DTYPE)
    for merged in (by_means, as_published):
        np.testing.assert_allclose(output(*features(merged), x, jnp.tanh), output(*given, x, jnp.tanh), atol=10 * EXACT)


def as_in_the_paper(w, b, a, threshold):
    """Incoming weights are added, outgoing ones averaged by the numbers merged, all pairs compared each time."""
    found = [((i,), np.append(w[:, i], b[i]), np.array(a[i])) for i in range(len(b))]
    while len(found) > 1:
        gap = {
            (i, j): np.sum((found[i][1] - found[j][1]) ** 2) + np.sum((found[i][2] - found[j][2]) ** 2)
            for i in range(len(found))
            for j in range(i)
        }
        i, j = min(gap, key=gap.get)
        if gap[i, j] > threshold * max(gap.values()):
            break
        (m, v, p), (n, u, q) = found.pop(i), found.pop(j)
        found.append((m + n, v + u, (len(m) * p + len(n) * q) / (len(m) + len(n))))
    return sorted(found, key=lambda feature: min(feature[0]))


@pytest.mark.numerics
@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.6])
def test_as_in_the_paper(threshold):
    """The same features as in its own terms, up to a scale that ReLU does not see."""
    for seed in range(5):
        given = layer(seed, inputs=4, units=12, outputs=2)
        merged = sparsity.merge_features(*given, threshold=threshold)
        wanted = as_in_the_paper(*(np.asarray(array, np.float64) for array in given), threshold)
        np.testing.assert_array_equal(merged.kept, [min(indices) for indices, _, _ in wanted])
        sizes = np.array([len(indices) for indices, _, _ in wanted])
        summed, averaged = (np.array([feature[side] for feature in wanted]) for side in (1, 2))
        for array, rows in zip(features(merged), (summed[:, :-1].T, summed[:, -1], averaged), strict=True):
            scaled = np.asarray(array) / sizes[:, None] if rows is averaged else np.asarray(array) * sizes
            np.testing.assert_allclose(scaled, rows, rtol=10 * EXACT, atol=EXACT)
        x = np.random.default_rng(seed).normal(size=(20, 4))
        paper = np.maximum(x @ summed[:, :-1].T + summed[:, -1], 0) @ averaged
        np.testing.assert_allclose(output(*features(merged), jnp.asarray(x, DTYPE)), paper, atol=30 * EXACT)


def test_a_higher_threshold_merges_more_and_never_all_without_need():
    given = layer(0)
    left = [len(sparsity.merge_features(*given, threshold=t).kept) for t in (1e-6, 0.2, 0.5, 0.9)]
    assert left == sorted(left, reverse=True)
    assert left[0] == 8
    assert left[-1] >= 2  # of two features the smallest distance is the largest
    same = sparsity.merge_features(*given, threshold=1e-6)
    for before, after in zip(given, features(same), strict=True):
        np.testing.assert_array_equal(before, after)
    one = sparsity.merge_features(
        *(jnp.repeat(array[..., :1], 3, -1) for array in given[:2]), jnp.ones((3, 2)), compare="mean"
    )
    assert (len(one.kept), one.outgoing.tolist()) == (1, [[3.0, 3.0]])


def test_features_that_differ_in_their_bias_alone_are_not_equal():
    w, b, a = layer(0)
    w, a = w.at[:, 1].set(w[:, 0]), a.at[1].set(a[0])
    assert len(sparsity.merge_features(w, b.at[1].set(b[0] + 2), a, threshold=1e-6).kept) == 8
    assert len(sparsity.merge_features(w, b.at[1].set(b[0]), a, threshold=1e-6).kept) == 7


def test_convolutions_and_other_axes():
    rng = np.random.default_rng(0)
    kernel, bias, following = (jnp.asarray(rng.normal(size=s), DTYPE) for s in ((3, 3, 2, 5), (5,), (3, 3, 5, 4)))
    kernel, bias = kernel.at[..., 4].set(kernel[..., 1]), bias.at[4].set(bias[1])
    following = following.at[:, :, 4].set(following[:, :, 1])
    merged = sparsity.merge_features(kernel, bias, following, threshold=1e-6)
    assert (merged.incoming.shape, merged.outgoing.shape) == ((3, 3, 2, 4), (3, 3, 4, 4))
    conv = functools.partial(
        jax.lax.conv_general_dilated,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )
    x = jnp.asarray(rng.normal(size=(2, 5, 5, 2)), DTYPE)
    run = lambda k, b, f: conv(jnp.tanh(conv(x, k) + b[None, None, None]), f)  # noqa: E731
    np.testing.assert_allclose(run(*features(merged)), run(kernel, bias, following), atol=20 * EXACT)
    first = sparsity.merge_features(kernel, bias, jnp.moveaxis(following, 2, 0), threshold=1e-6, axis=0)
    np.testing.assert_array_equal(jnp.moveaxis(first.outgoing, 0, 2), merged.outgoing)


def test_dtypes_stay():
    given = [array.astype(jnp.bfloat16) for array in repeated(2)[0]]
    merged = sparsity.merge_features(*given, threshold=1e-6)
    assert {array.dtype.name for array in features(merged)} == {"bfloat16"}
    assert len(merged.kept) == 8


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_digits():
    """Every unit of a trained network comes twice, a little off: half of them go and the accuracy stays."""
    x, y = load_digits(return_X_y=True)
    net = MLPClassifier((24,), learning_rate_init=1e-2, max_iter=20, random_state=0).fit(x[:1400] / 16, y[:1400])
    (w, a), (b, c) = net.coefs_, net.intercepts_
    rng = np.random.default_rng(0)
    noisy = lambda array: array + 0.03 * rng.normal(size=array.shape)  # noqa: E731
    given = (noisy(np.hstack([w, w])), noisy(np.hstack([b, b])), noisy(np.vstack([a, a]) / 2))
    merged = sparsity.merge_features(*(jnp.asarray(array, DTYPE) for array in given), threshold=0.02)
    assert len(merged.kept) == 24
    np.testing.assert_array_equal(merged.into % 24, merged.removed % 24)
    accuracies = [
        np.mean(np.argmax(np.maximum(x[1400:] / 16 @ v + d, 0) @ o + c, 1) == y[1400:])
        for v, d, o in (given, tuple(map(np.asarray, features(merged))))
    ]
    assert accuracies[0] > 0.85
    assert accuracies[1] > accuracies[0] - 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w, b, a: (w, b[:3], a), "`merge_features` needs incoming weights"),
        (lambda w, b, a: (w, b, a[:3]), "of `merge_features` must have 8 units"),
        (lambda w, b, a: (w, b, a.at[0, 0].set(jnp.inf)), "`merge_features` must be finite"),
    ],
)
def test_what_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        sparsity.merge_features(*change(*layer(0)))
    with pytest.raises(ValueError, match="`threshold` must be between 0 and 1; got 1"):
        sparsity.merge_features(*layer(0), threshold=1.0)
    with pytest.raises(TypeError, match="`threshold` must be a number"):
        sparsity.merge_features(*layer(0), threshold="all")
    with pytest.raises(ValueError, match="`compare` must be one of"):
        sparsity.merge_features(*layer(0), compare="cosine")
    with pytest.raises(TypeError, match="`merge_features` needs floating-point"):
        sparsity.merge_features(*(array.astype(jnp.int32) for array in layer(0)))
