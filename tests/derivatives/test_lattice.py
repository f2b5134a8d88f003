"""Lattices against the search that the fast construction replaces."""

import numpy as np
import pytest

from jaxinterp.derivatives import _lattice

pytestmark = [pytest.mark.core]


def worst_case_error(vector, n):
    """The squared worst-case error with weights 1/(10 j); vectors [dimension]."""
    points = np.arange(n)[:, None] * np.asarray(vector)[None] % n / n
    kernel = 2 * np.pi**2 * (points**2 - points + 1 / 6)
    return np.mean(np.prod(1 + kernel / (10 * (np.arange(len(vector)) + 1)), axis=1)) - 1


@pytest.mark.parametrize("n", [13, 31, 101])
def test_each_component_is_the_best_after_those_before(n):
    vector = _lattice.generating_vector(5, n)
    for j in range(5):
        errors = [worst_case_error([*vector[:j], z], n) for z in range(1, n)]
        assert worst_case_error(vector[: j + 1], n) == pytest.approx(min(errors), rel=1e-9)


def test_it_is_far_better_than_random_vectors():
    rng = np.random.default_rng(0)
    random = [worst_case_error(rng.integers(1, 1249, 8), 1249) for _ in range(20)]
    assert worst_case_error(_lattice.generating_vector(8, 1249), 1249) < 0.5 * np.median(random)


@pytest.mark.parametrize(("at_most", "size"), [(1, 3), (3, 3), (10, 7), (1250, 1249), (10**6, _lattice.MOST_POINTS)])
def test_the_number_of_points_is_prime(at_most, size):
    assert _lattice.lattice_size(at_most) == size
    assert all(size % q for q in range(2, size) if q * q <= size)
