"""The first change along a ray."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.derivatives import first_change

FIND = first_change("example", num_points=10, num_bisections=30)


@pytest.mark.core
def test_the_first_of_several_changes():
    """Between 0.25 and 0.55, and beyond 0.75."""
    changed = lambda x: ((x[0] > 0.25) & (x[0] < 0.55)) | (x[0] > 0.75)  # noqa: E731
    find = jax.jit(lambda v, reach: FIND(changed, jnp.zeros(2), v, reach))
    assert float(find(jnp.array([4.0, 0.0]), 1.0)) == pytest.approx(0.25, abs=1e-6)
    assert float(find(jnp.array([4.0, 0.0]), 0.2)) == np.inf
    assert float(find(jnp.array([-1.0, 0.0]), 1.0)) == np.inf
    assert np.isnan(find(jnp.zeros(2), 1.0))
    diagonal = find(jnp.array([1.0, 1.0]), 1.0)
    assert float(diagonal) == pytest.approx(0.25 * 2**0.5, abs=1e-6)


def test_bad_arguments():
    with pytest.raises(ValueError, match="`num_points`"):
        first_change("example", num_points=0, num_bisections=1)
    with pytest.raises(ValueError, match="`direction` of `example` must have shape"):
        FIND(lambda x: x[0] > 0, jnp.zeros(2), jnp.ones(3), 1.0)
    with pytest.raises(ValueError, match="`reach` of `example` must be positive"):
        FIND(lambda x: x[0] > 0, jnp.zeros(2), jnp.ones(2), 0.0)
