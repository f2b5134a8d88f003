"""Selection of units: brute force, exhaustive search, scikit-learn, and digits."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import OrthogonalMatchingPursuit
from sklearn.neural_network import MLPClassifier

from jaxinterp import sparsity

X64 = jax.config.jax_enable_x64
DTYPE = jnp.float64 if X64 else jnp.float32
EXACT = 1e-9 if X64 else 1e-3


def problem(seed, n=40, d=12, m=5, b=None):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(n, d) if b is None else (n, d, b))
    return jnp.asarray(
        np.maximum(a + 0.3 * rng.normal(size=(n, 1) if b is None else (n, 1, 1)), 0), DTYPE
    ), jnp.asarray(rng.normal(size=(d, m) if b is None else (d, b, m)), DTYPE)


def explained(a, w, units):
    """‖T‖² - min ‖T - A_S W̃‖², by NumPy in float64."""
    a, w = np.asarray(a, np.float64), np.asarray(w, np.float64)
    a, w = a.reshape(*a.shape[:2], -1), w.reshape(*w.shape[:1], -1, w.shape[-1])
    target = np.einsum("ndb,dbm->nm", a, w)
    columns = a[:, list(units)].reshape(len(a), -1)
    left = target - columns @ np.linalg.lstsq(columns, target, rcond=None)[0]
    return np.sum(target**2) - np.sum(left**2)


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("block", [None, 1, 3])
def test_greedy_is_that_of_brute_force(block):
    a, w = problem(0, b=block)
    chosen, units = [], list(range(12))
    for _ in range(7):
        best = max(units, key=lambda i: explained(a, w, [*chosen, i]))
        chosen.append(best)
        units.remove(best)
    found = sparsity.select_units(a, w, num_kept=7)
    assert found.kept.tolist() == chosen
    total = explained(a, w, range(12))
    assert float(jnp.sum(found.gains)) == pytest.approx(explained(a, w, chosen), rel=EXACT)
    assert float(found.explained) == pytest.approx(explained(a, w, chosen) / total, rel=EXACT)
    assert found.weights.shape == (7, *w.shape[1:])


@pytest.mark.numerics
def test_the_guarantee():
    """At least 1 - exp(-γ) of the best of all subsets, with γ found by enumeration."""
    a, w = problem(1, d=8)
    value = functools.cache(lambda s: explained(a, w, sorted(s)) if s else 0.0)
    k, everything = 3, range(8)
    best = max(value(frozenset(s)) for s in itertools.combinations(everything, k))
    ratio = 1.0
    for size in range(k):
        for s in map(frozenset, itertools.combinations(everything, size)):
            for extra in itertools.combinations(set(everything) - s, k):
                gain = value(s | set(extra)) - value(s)
                ratio = min(ratio, sum(value(s | {e}) - value(s) for e in extra) / gain)
    found = sparsity.select_units(a, w, num_kept=k)
    assert float(jnp.sum(found.gains)) >= (1 - np.exp(-ratio)) * best


def test_equal_columns_are_not_chosen_twice():
    a, w = problem(2, d=6)
    found = sparsity.select_units(jnp.concatenate([a, a], 1), jnp.concatenate([w, w]), num_kept=6)
    assert len({unit % 6 for unit in found.kept.tolist()}) == 6
    assert float(found.explained) == pytest.approx(1, abs=1e-5)


def test_more_units_than_directions():
    """Dead units, and fewer examples than units: the weights stay finite."""
    a, w = problem(3, n=5)
    a = a.at[:, 3].set(0)
    found = sparsity.select_units(a, w, num_kept=9)
    assert len(set(found.kept.tolist())) == 9
    assert np.all(np.isfinite(found.weights))
    assert float(found.explained) == pytest.approx(1, abs=1e-4)


def test_the_first_unit_is_that_of_matching_pursuit():
    a, w = problem(4, m=1)
    normed = np.asarray(a) / np.linalg.norm(np.asarray(a), axis=0)
    pursuit = OrthogonalMatchingPursuit(n_nonzero_coefs=1, fit_intercept=False).fit(normed, np.asarray(a @ w)[:, 0])
    assert sparsity.select_units(a, w, num_kept=1).kept.tolist() == np.flatnonzero(pursuit.coef_).tolist()


def test_weights():
    a, w = problem(5)
    found = sparsity.select_units(a, w, num_kept=4)
    expected = np.linalg.lstsq(np.asarray(a)[:, found.kept], np.asarray(a @ w), rcond=None)[0]
    np.testing.assert_allclose(found.weights, expected, atol=1e-4)
    np.testing.assert_allclose(sparsity.reweighted(a, w, found.kept), expected, atol=1e-4)
    plain = sparsity.select_units(a, w, num_kept=4, reweight=False)
    np.testing.assert_array_equal(plain.weights, w[plain.kept])
    assert float(plain.explained) < float(found.explained)
    other = sparsity.select_units(a, w, num_kept=4, targets=2 * (a @ w))
    np.testing.assert_allclose(other.weights, 2 * expected, atol=1e-3)


@functools.cache
def trained(seed):
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(y))
    x, y = x[order] / 16, y[order]
    net = MLPClassifier((100,), learning_rate_init=3e-3, max_iter=60, random_state=seed).fit(x[:1400], y[:1400])
    hidden = lambda x: np.maximum(x @ net.coefs_[0] + net.intercepts_[0], 0)  # noqa: E731
    return hidden(x[:512]), hidden(x[1400:]), net.coefs_[1], net.intercepts_[1], y[1400:]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_digits():
    """10 of 100 units are kept: greedy and reweighted beats magnitude and chance, reweighted too, and greedy alone."""
    scores = []
    for seed in range(3):
        a, test, w, c, y = trained(seed)
        given = (jnp.asarray(a, DTYPE), jnp.asarray(w, DTYPE))

        def score(units, weights, test=test, c=c, y=y):
            return np.mean(np.argmax(test[:, np.asarray(units)] @ np.asarray(weights) + c, 1) == y)

        found = sparsity.select_units(*given, num_kept=10)
        drawn = np.random.default_rng(seed).choice(100, 10, replace=False)
        largest = np.argsort(-np.linalg.norm(w, axis=1))[:10]
        more = sparsity.select_units(*given, num_kept=30)
        scores.append(
            [
                score(found.kept, found.weights),
                score(drawn, sparsity.reweighted(*given, jnp.asarray(drawn))),
                score(largest, sparsity.reweighted(*given, jnp.asarray(largest))),
                score(found.kept, w[np.asarray(found.kept)]),
                score(more.kept, more.weights),
                score(np.arange(100), w),
            ]
        )
    greedy, random, magnitude, raw, thirty, dense = np.mean(scores, 0)
    assert greedy > max(random, magnitude) + 0.03
    assert greedy > raw + 0.2
    assert thirty >= dense - 0.01


def test_budgets_against_exhaustive_search():
    """The largest accuracy that all layers can have within the budget."""
    fractions, sizes = [0.2, 0.4, 0.6, 0.8, 1.0], [10, 20, 30]
    rng = np.random.default_rng(0)
    for _ in range(5):
        curves = np.sort(rng.uniform(0.3, 0.9, (3, 5)), 1)
        curves[:, -1] = 0.95
        counts = sparsity.equal_accuracy_budgets(fractions, curves, sizes, kept=0.6)
        assert counts.sum() == 36
        best = 0.0
        for choice in itertools.product(range(5), repeat=3):
            if sum(fractions[j] * sizes[i] for i, j in enumerate(choice)) <= 36 + 1e-9:
                best = max(best, min(curves[i][j] for i, j in enumerate(choice)))
        reached = [
            max(a for a, f in zip(curve, fractions, strict=True) if f * size <= count + 1e-9)
            for curve, size, count in zip(curves, sizes, counts, strict=True)
        ]
        assert min(reached) == pytest.approx(best)


def test_what_is_refused():
    a, w = problem(0)
    with pytest.raises(ValueError, match="`num_kept` must be at most the number of units, 12; got 13"):
        sparsity.select_units(a, w, num_kept=13)
    with pytest.raises(ValueError, match="needs activations"):
        sparsity.select_units(a, w[:3], num_kept=2)
    with pytest.raises(ValueError, match="`targets` must have shape"):
        sparsity.select_units(a, w, num_kept=2, targets=jnp.ones((3, 3)))
    with pytest.raises(TypeError):
        sparsity.select_units(a.astype(int), w, num_kept=2)
    with pytest.raises(ValueError, match="fractions that rise to 1"):
        sparsity.equal_accuracy_budgets([0.5, 0.9], np.ones((1, 2)), [4], kept=0.5)
    with pytest.raises(ValueError, match="cannot give one to each"):
        sparsity.equal_accuracy_budgets([0.5, 1.0], np.ones((3, 2)), [1, 1, 1], kept=0.5)
    with pytest.raises(ValueError, match=r"A budget of 20 units is below the 50 .* fraction, 0.25, keeps"):
        sparsity.equal_accuracy_budgets([0.25, 0.5, 1.0], np.full((2, 3), 0.9), [100, 100], kept=0.1)


@pytest.mark.parametrize("kept", [[1, 99], [-1, 2], [1, 1]])
def test_units_that_there_are_not(kept):
    with pytest.raises(ValueError, match="`kept` of `reweighted` must be distinct units from 0 to 7"):
        sparsity.reweighted(jnp.ones((4, 8)), jnp.ones((8, 2)), jnp.array(kept))


def test_accuracies_that_are_nan():
    with pytest.raises(ValueError, match="`equal_accuracy_budgets` must be finite"):
        sparsity.equal_accuracy_budgets([0.5, 1.0], np.array([[np.nan, 1.0]]), [4], kept=0.5)
