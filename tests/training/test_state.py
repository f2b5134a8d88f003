"""The initial state."""

import jax
import jax.numpy as jnp
import pytest

from jaxinterp import training
from tests.training import problem

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("standard_promotion")]


def test_it_begins_at_step_zero_with_an_optimiser_state_for_both():
    _, start = problem.setting()
    state = start()
    assert int(state.step) == 0
    assert len(state.opt_state) == 2
    counts = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.dtype == jnp.int32]
    assert counts
    assert all(int(count) == 0 for count in counts)


def test_it_is_a_pytree():
    _, start = problem.setting()
    state = start()
    leaves, structure = jax.tree.flatten(state)
    assert problem.bits(jax.tree.unflatten(structure, leaves)) == problem.bits(state)


def test_a_seed_is_no_key():
    optimizers = training.Optimizers(training.adam(1e-3), training.adam(1e-3))
    with pytest.raises(TypeError, match=r"jax\.random\.key"):
        training.initial_state(optimizers, 0, {"w": jnp.ones(2)}, {})
