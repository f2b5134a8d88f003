"""Quadrature rules against the integrals they must do exactly."""

import numpy as np
import pytest

from jaxinterp import derivatives

RULES = {
    "gauss_legendre": (derivatives.gauss_legendre, lambda n: 2 * n - 1),
    "midpoint": (derivatives.midpoint, lambda n: 1),
    "trapezoid": (derivatives.trapezoid, lambda n: 1),
}


@pytest.mark.core
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("num_steps", [2, 3, 5, 64])
def test_weights_sum_to_one_and_polynomials_are_exact(name, num_steps):
    make, degree = RULES[name]
    rule = make(num_steps)
    assert rule.nodes.shape == rule.weights.shape == (num_steps,)
    assert np.all(rule.weights > 0)
    assert np.all((rule.nodes >= 0) & (rule.nodes <= 1))
    assert np.all(np.diff(rule.nodes) > 0)
    for power in range(degree(num_steps) + 1):
        assert rule.weights @ rule.nodes**power == pytest.approx(1 / (power + 1), rel=1e-12)


def test_the_degree_of_exactness_is_not_exceeded():
    rule = derivatives.gauss_legendre(3)
    assert abs(rule.weights @ rule.nodes**6 - 1 / 7) > 1e-5


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("num_steps", [0, -1])
def test_no_nodes_are_refused(name, num_steps):
    with pytest.raises(ValueError, match=f"num_steps.*{num_steps}"):
        RULES[name][0](num_steps)


@pytest.mark.parametrize("num_steps", [2.0, "3", True])
def test_a_count_must_be_an_integer(num_steps):
    with pytest.raises(TypeError, match="num_steps"):
        derivatives.midpoint(num_steps)


def test_the_trapezoid_needs_both_ends():
    with pytest.raises(ValueError, match="at least 2 nodes"):
        derivatives.trapezoid(1)
