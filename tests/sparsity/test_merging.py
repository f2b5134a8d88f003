"""Merging of neurons: what is equal goes without a trace, and what is not within its bound."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from jaxinterp import sparsity
from tests.sparsity.layers import DTYPE, layer, output

EXACT = 1e-10 if jax.config.jax_enable_x64 else 1e-4


@pytest.mark.core
@pytest.mark.numerics
def test_equal_units_go_without_a_trace():
    """Ten of thirty units are positive multiples of others, biases included."""
    w, b, a = layer(0)
    factors = jnp.asarray(np.random.default_rng(1).uniform(0.5, 3, 10), DTYPE)
    w, b = w.at[:, 20:].set(w[:, :10] * factors[None]), b.at[20:].set(b[:10] * factors)
    x = jnp.asarray(np.random.default_rng(2).normal(size=(256, 20)), DTYPE)
    merged = sparsity.merge_units(w, b, a, num_removed=10)
    assert np.all(merged.saliencies < (1e-20 if jax.config.jax_enable_x64 else 1e-9))
    assert merged.incoming.shape == (20, 20)
    np.testing.assert_array_equal(merged.into % 20 % 10 == merged.removed % 20 % 10, True)
    np.testing.assert_allclose(output(merged.incoming, merged.bias, merged.outgoing, x), output(w, b, a, x), atol=EXACT)


@pytest.mark.numerics
@pytest.mark.parametrize("seed", range(5))
def test_the_bound(seed):
    """E (z - z')² <= s E|X|², X with a one for the bias, z one of the next layer's sums on average."""
    w, b, a = layer(seed, 6, 12)
    merged = sparsity.merge_units(w, b, a, num_removed=1, homogeneous=False, distance="euclidean")
    x = jnp.asarray(np.random.default_rng(seed).normal(size=(1000, 6)), DTYPE)
    change = output(w, b, a, x) - output(merged.incoming, merged.bias, merged.outgoing, x)
    bound = merged.saliencies[0] * np.mean(np.sum(np.asarray(x) ** 2, 1) + 1)
    assert 0 < np.mean(np.asarray(change) ** 2) <= bound
    pairs = [
        np.mean(np.asarray(a[j]) ** 2) * (np.sum(np.asarray(w[:, i] - w[:, j]) ** 2) + float(b[i] - b[j]) ** 2)
        for i in range(12)
        for j in range(12)
        if i != j
    ]
    assert merged.saliencies[0] == pytest.approx(min(pairs), rel=1e-5)


def test_after_the_first_as_from_the_start():
    """The saliencies of later steps are those of the network that the steps before have left."""
    w, b, a = layer(3, 5, 8)
    both = sparsity.merge_units(w, b, a, num_removed=3)
    one = sparsity.merge_units(w, b, a, num_removed=1)
    rest = sparsity.merge_units(one.incoming, one.bias, one.outgoing, num_removed=2)
    np.testing.assert_array_equal(one.kept[rest.removed], both.removed[1:])
    np.testing.assert_allclose(rest.saliencies, both.saliencies[1:], rtol=1e-4)
    np.testing.assert_allclose(rest.outgoing, both.outgoing, rtol=1e-4, atol=1e-5)


def test_convolutions_and_other_axes():
    rng = np.random.default_rng(0)
    kernel, bias, following = (jnp.asarray(rng.normal(size=s), DTYPE) for s in ((3, 3, 2, 5), (5,), (3, 3, 5, 4)))
    kernel, bias = kernel.at[..., 4].set(2 * kernel[..., 1]), bias.at[4].set(2 * bias[1])
    merged = sparsity.merge_units(kernel, bias, following, num_removed=1)
    assert merged.outgoing.shape == (3, 3, 4, 4)
    conv = functools.partial(
        jax.lax.conv_general_dilated,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )
    x = jnp.asarray(rng.normal(size=(2, 6, 6, 2)), DTYPE)
    run = lambda k, b, f: conv(jax.nn.relu(conv(x, k) + b[None, None, None]), f)  # noqa: E731
    np.testing.assert_allclose(
        run(merged.incoming, merged.bias, merged.outgoing), run(kernel, bias, following), atol=10 * EXACT
    )
    flat = sparsity.merge_units(kernel, bias, jnp.moveaxis(following, 2, 0), num_removed=1, axis=0)
    np.testing.assert_allclose(jnp.moveaxis(flat.outgoing, 0, 2), merged.outgoing)


def test_dead_units_go_first():
    w, b, a = layer(0, 4, 6)
    w, b = w.at[:, 2].set(0), b.at[2].set(0)
    merged = sparsity.merge_units(w, b, a, num_removed=1)
    assert (merged.removed.tolist(), merged.saliencies.tolist()) == ([2], [0.0])
    np.testing.assert_array_equal(merged.outgoing, a[np.array([0, 1, 3, 4, 5])])


def test_several_dead_units():
    """They go without a trace, and one that nothing reads too, whatever it is merged into."""
    w, b, a = layer(0, 4, 8)
    w, b, a = w.at[:, :2].set(0), b.at[:2].set(0), a.at[5].set(0)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(20, 4)), DTYPE)
    for distance in ("relative", "euclidean"):
        merged = sparsity.merge_units(w, b, a, num_removed=3, distance=distance)
        assert set(merged.removed) == {0, 1, 5}
        assert set(merged.saliencies) == {0.0}
        np.testing.assert_allclose(
            output(merged.incoming, merged.bias, merged.outgoing, x), output(w, b, a, x), atol=EXACT
        )


@functools.cache
def trained(seed):
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(y))
    x, y = x[order] / 16, y[order]
    net = MLPClassifier((100,), learning_rate_init=3e-3, max_iter=60, random_state=seed).fit(x[:1400], y[:1400])
    return (*net.coefs_, *net.intercepts_), x[1400:], y[1400:]


def accuracy(w, b, a, c, x, y):
    return np.mean(np.argmax(np.maximum(x @ np.asarray(w) + np.asarray(b), 0) @ np.asarray(a) + c, 1) == y)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_digits():
    """Of 100 units 50 and 80 are removed: better than without surgery, by magnitude, and at random."""
    scores = {name: [] for name in ("merged", "no surgery", "magnitude", "random", "dense", "relative", "euclidean")}
    removed = []
    for seed in range(3):
        (w, a, b, c), x, y = trained(seed)
        given = (jnp.asarray(w, DTYPE), jnp.asarray(b, DTYPE), jnp.asarray(a, DTYPE))
        sizes = np.linalg.norm(w, axis=0) * np.linalg.norm(a, axis=1)
        for count in (50, 80):
            merged = sparsity.merge_units(*given, num_removed=count, distance="relative")
            kept = merged.kept
            others = {"no surgery": kept, "magnitude": np.argsort(sizes)[count:], "random": np.arange(100)[count:]}
            scores["merged"].append(accuracy(merged.incoming, merged.bias, merged.outgoing, c, x, y))
            for name, units in others.items():
                scores[name].append(accuracy(w[:, units], b[units], a[units], c, x, y))
        scores["dense"].append(accuracy(w, b, a, c, x, y))
        for name in ("relative", "euclidean"):
            chosen = sparsity.merge_units(*given, distance=name)
            removed.append(len(chosen.removed))
            scores[name].append(accuracy(chosen.incoming, chosen.bias, chosen.outgoing, c, x, y))
    mean = {name: np.mean(np.reshape(v, (3, -1)), 0) for name, v in scores.items()}
    assert mean["merged"][0] >= mean["no surgery"][0] + 0.005
    assert mean["merged"][1] > max(mean["magnitude"][1], mean["random"][1] + 0.1)
    assert mean["merged"][0] > mean["dense"][0] - 0.03
    assert mean["relative"][0] > mean["dense"][0] - 0.0125  # 0.009 on average for 38 units
    assert mean["euclidean"][0] > mean["dense"][0] - 0.005
    assert min(removed[::2]) > 20
    assert min(removed[1::2]) > 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w, b, a: (w, b[:3], a), "needs incoming weights"),
        (lambda w, b, a: (w, b, a[:3]), "must have 6 units"),
        (lambda w, b, a: (w.at[0, 0].set(jnp.nan), b, a), "must be finite"),
    ],
)
def test_what_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        sparsity.merge_units(*change(*layer(0, 4, 6)), num_removed=1)
    with pytest.raises(ValueError, match="must leave at least one of 6 units"):
        sparsity.merge_units(*layer(0, 4, 6), num_removed=6)
    with pytest.raises(ValueError, match="needs a layer of two units or more"):
        sparsity.merge_units(*layer(0, 4, 1))


def test_dead_units_do_not_set_the_cut_off():
    """Four live units far apart and many dead ones: these go, and the others are merged as without them."""
    w, b, a = layer(0, 5, 4)
    dead = jnp.zeros((5, 96), w.dtype), jnp.zeros(96, b.dtype), jnp.full((96, a.shape[1]), 0.01, a.dtype)
    small = [w, b, 0.01 * a]
    wide = [jnp.concatenate(pair, axis) for pair, axis in zip(zip(small, dead, strict=True), (1, 0, 0), strict=True)]
    alone, among = sparsity.merge_units(*small), sparsity.merge_units(*wide)
    np.testing.assert_array_equal(among.kept, alone.kept)
    everything = sparsity.merge_units(*dead)
    assert len(everything.kept) == 1
