"""The loop: resuming, callbacks, and stopping when the loss is no number."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from jaxinterp import training
from tests.training import problem

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("standard_promotion")]


def test_a_loop_in_two_parts_is_the_loop_in_one():
    step, start = problem.setting()
    whole = training.fit(step, start(), problem.batches(), 10)
    half = training.fit(step, start(), problem.batches(), 4)
    assert int(half.step) == 4
    assert problem.bits(training.fit(step, half, problem.batches(), 10)) == problem.bits(whole)


def test_callbacks_come_when_they_are_due_and_at_the_end():
    step, start = problem.setting()
    seen = {3: [], 5: []}
    callbacks = [training.Callback(n, lambda done, state, metrics, n=n: seen[n].append(done)) for n in seen]
    training.fit(step, start(), problem.batches(), 7, callbacks)
    assert seen == {3: [3, 6, 7], 5: [5, 7]}


def test_a_finished_state_is_returned_as_it_is():
    step, start = problem.setting()
    done = training.fit(step, start(), problem.batches(), 3)
    before = problem.bits(done)
    assert problem.bits(training.fit(step, done, problem.batches(), 3)) == before


def test_training_lowers_the_loss():
    step, start = problem.setting(gated=False)
    losses = []
    record = training.Callback(1, lambda done, state, metrics: losses.append(float(metrics["cross_entropy"])))
    training.fit(step, start(), problem.batches(), problem.NUM_STEPS, [record])
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_loss_that_is_no_number_stops_training_with_its_step(bad):
    assert training.require_finite(3, {"loss": jnp.asarray(1.5)}) == {"loss": 1.5}
    with pytest.raises(training.DivergenceError, match=r"after step 3, loss = (nan|inf).*learning rate"):
        training.require_finite(3, {"loss": jnp.asarray(bad), "accuracy": jnp.asarray(0.5)})


def test_a_state_that_is_not_finite_is_found_behind_a_finite_loss():
    """The loss √Σw² at 0 is 0, and the update NaN: metrics are from before it."""
    _, start = problem.setting()
    state = start()
    training.require_finite(3, {"loss": 0.0}, state)
    spoilt = dataclasses.replace(state, params=jax.tree.map(lambda a: a * jnp.nan, state.params))
    with pytest.raises(training.DivergenceError, match="after step 3, the parameters are not finite"):
        training.require_finite(3, {"loss": 0.0}, spoilt)


@pytest.mark.parametrize("num_steps", [0, -1])
def test_no_steps_are_refused(num_steps):
    step, start = problem.setting()
    with pytest.raises(ValueError, match="num_steps"):
        training.fit(step, start(), problem.batches(), num_steps)


def test_the_initial_state_does_not_share_its_arrays():
    """A step gives up the arrays of the state it takes; the caller's parameters must survive that."""
    step, _ = problem.setting(gated=False)
    optimizers = training.Optimizers(training.adamw(1e-2, num_steps=problem.NUM_STEPS), training.adam(1e-2))
    params = problem.initial_params()
    state = training.initial_state(optimizers, jax.random.key(0), params, {"scale": jnp.ones(())})
    step(state, problem.batches()(0))
    assert float(params["hidden"]["kernel"][0, 0]) == float(problem.initial_params()["hidden"]["kernel"][0, 0])
