"""Penalties on parameters by their name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import penalties

PARAMS = {
    "a": {"log_beta": jnp.log(jnp.asarray(2.0)), "log_gamma": jnp.asarray(-1.5)},
    "b": {"log_beta": jnp.log(jnp.asarray([3.0, 4.0])), "kernel": jnp.ones(3)},
}


@pytest.mark.parametrize(
    ("penalty", "value"), [(penalties.activation_curvature(), 9.0), (penalties.normalisation_slope(), 1.5)]
)
def test_sums_and_derivatives(penalty, value):
    total = lambda params: penalty(None, params, {}, jax.random.key(0), jnp.ones(1), 0)  # noqa: E731
    assert float(total(PARAMS)) == pytest.approx(value)
    slope = jax.grad(total)(PARAMS)
    np.testing.assert_array_equal(slope["b"]["kernel"], np.zeros(3))
    touched = slope["b"]["log_beta"] if value == 9.0 else slope["a"]["log_gamma"]
    np.testing.assert_allclose(touched, [3.0, 4.0] if value == 9.0 else -1.0, rtol=1e-6)


def test_a_network_without_such_parameters():
    with pytest.raises(ValueError, match="no parameter named `log_beta` to penalise"):
        penalties.activation_curvature()(None, {"kernel": jnp.ones(2)}, {}, jax.random.key(0), jnp.ones(1), 0)
