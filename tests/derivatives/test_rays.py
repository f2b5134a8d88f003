"""The first change along a ray."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.derivatives import first_change

FIND = first_change(num_points=10, num_bisections=30, name="example")


@pytest.mark.core
def test_the_first_of_several_changes():
    """Between 0.25 and 0.55, and beyond 0.75."""
    changed = lambda x: ((x[0] > 0.25) & (x[0] < 0.55)) | (x[0] > 0.75)  # noqa: E731
    find = jax.jit(lambda v, reach: FIND(changed, jnp.zeros(2), direction=v, reach=reach))
    assert float(find(jnp.array([4.0, 0.0]), 1.0)) == pytest.approx(0.25, abs=1e-6)
    assert float(find(jnp.array([4.0, 0.0]), 0.2)) == np.inf
    assert float(find(jnp.array([-1.0, 0.0]), 1.0)) == np.inf
    assert np.isnan(find(jnp.zeros(2), 1.0))
    assert np.isnan(find(jnp.array([jnp.inf, 0.0]), 1.0))
    diagonal = find(jnp.array([1.0, 1.0]), 1.0)
    assert float(diagonal) == pytest.approx(0.25 * 2**0.5, abs=1e-6)


@pytest.mark.parametrize("direction", [np.array([3, 0]), jnp.array([3.0, 0.0], jnp.bfloat16)])
def test_directions_of_other_dtypes(direction):
    assert float(FIND(lambda x: x[0] > 0.25, jnp.zeros(2), direction=direction, reach=1.0)) == pytest.approx(0.25)


def test_what_has_changed_from_the_start():
    assert float(FIND(lambda x: x[0] < 0.5, jnp.zeros(2), direction=jnp.ones(2), reach=1.0)) == 0


def test_bad_arguments():
    with pytest.raises(ValueError, match="`num_points`"):
        first_change(num_points=0, num_bisections=1)
    with pytest.raises(ValueError, match="`direction` of `example` must have shape"):
        FIND(lambda x: x[0] > 0, jnp.zeros(2), direction=jnp.ones(3), reach=1.0)
    with pytest.raises(ValueError, match="`reach` of `example` must be positive"):
        FIND(lambda x: x[0] > 0, jnp.zeros(2), direction=jnp.ones(2), reach=0.0)
