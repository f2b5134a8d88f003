"""Comparisons over a ball, against all pairs of values that intervals allow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.interpreters import _bounds, _templates

DTYPE = jnp.float64 if jax.config.jax_enable_x64 else jnp.float32


def certain(condition, x, radius):
    """Where a condition is known to keep its outcome."""
    f = lambda x: jnp.where(condition(x), x, -x)  # noqa: E731
    r = jnp.asarray(radius, DTYPE)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = _bounds.walk(*_templates.canonical(f, jnp.asarray(x, DTYPE)), r, r, True)
    (unstable,) = [bend.unstable for bend in found.bends.values() if bend.unstable is not None]
    return ~np.asarray(unstable)


@pytest.mark.parametrize(
    "compare", [jnp.greater, jnp.greater_equal, jnp.less, jnp.less_equal, jnp.equal, jnp.not_equal]
)
def test_comparisons_with_a_number(compare):
    x = np.array([-1.0, -0.2, 0.2, 1.0])
    np.testing.assert_array_equal(certain(lambda x: compare(x, 0.0), x, 0.5), [True, False, False, True])


def test_combinations_are_certain_where_all_parts_are():
    x = np.array([-2.0, 0.1, 3.0, 4.9])
    np.testing.assert_array_equal(certain(lambda x: (x > 0) & ~(x > 5), x, 0.5), [True, False, True, False])
    np.testing.assert_array_equal(certain(lambda x: jnp.isfinite(x) | (x > 0), x, 0.5), [True, False, True, True])


def test_an_array_is_itself():
    assert np.all(certain(lambda x: x == x, np.array([1.0, 2.0]), 10.0))
