"""One step against the same update written by hand, and what it is a function of."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxinterp import sparsity, training
from tests.interpreters.test_loop_safe import convolutions, is_canonical
from tests.training import problem

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("standard_promotion")]


def by_hand(state, batch):
    """The loss of one step: cross-entropy, penalty and regularisers, from their definitions."""
    key = jax.random.fold_in(state.key, state.step)
    x, y = batch

    def loss(params, gates):
        draws = jax.random.fold_in(jax.random.fold_in(key, 0), 0)
        mask = sparsity.sample(draws, gates[0])
        masked = sparsity.apply(params, mask)
        noise = 0.01 * jax.random.normal(jax.random.fold_in(key, 1), x.shape)
        total = 0.0
        for i in range(len(y)):
            logits = problem.apply(masked, state.state, x[i] + noise[i])
            total = total - jax.nn.log_softmax(logits)[y[i]]
            entropy = lambda z, i=i: -jax.nn.log_softmax(problem.apply(masked, state.state, z))[y[i]]  # noqa: E731
            total = total + 0.1 * jnp.sum(jax.grad(entropy)(x[i]) ** 2)
        flat = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(gates)])
        return total / len(y) + 1e-3 * jnp.sum(flat * (1 - flat)) + 1e-3 * jnp.sum(flat)

    return jax.value_and_grad(loss, argnums=(0, 1))(state.params, state.gates)


def test_a_step_is_the_update_written_by_hand():
    step, start = problem.setting()
    state, batch = start(), problem.batches()(0)
    value, (slopes, gate_slopes) = by_hand(state, batch)
    optimizer, gate_optimizer = training.adamw(1e-2, num_steps=problem.NUM_STEPS), training.adam(1e-2)
    updates, _ = optimizer.update(slopes, optimizer.init(state.params), state.params)
    wanted = optax.apply_updates(state.params, updates)
    gate_updates, _ = gate_optimizer.update(gate_slopes, gate_optimizer.init(state.gates), state.gates)
    wanted_gates = jax.tree.map(lambda g: np.clip(g, 0, 1), optax.apply_updates(state.gates, gate_updates))
    after, metrics = step(start(), batch)
    assert float(metrics["loss"]) == pytest.approx(float(value), rel=1e-5)
    for got, want in zip(jax.tree.leaves(after.params), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(got, want, atol=2e-6)
    for got, want in zip(jax.tree.leaves(after.gates), jax.tree.leaves(wanted_gates), strict=True):
        np.testing.assert_allclose(got, want, atol=2e-6)
    assert int(after.step) == 1
    np.testing.assert_allclose(after.state["scale"], 0.9 + 0.1 * np.mean(np.abs(batch[0])), rtol=1e-6)


def test_the_step_is_a_function_of_state_and_batch():
    step, start = problem.setting()
    batch = problem.batches()(0)
    assert problem.bits(step(start(), batch)[0]) == problem.bits(step(start(), batch)[0])
    other = dataclasses.replace(start(), key=jax.random.key(8))
    assert problem.bits(step(start(), batch)[0]) != problem.bits(step(other, batch)[0])


def test_gates_stay_in_the_unit_interval_and_ungated_parameters_have_none():
    step, start = problem.setting()
    state = training.fit(step, start(), problem.batches(), problem.NUM_STEPS)
    for leaf in jax.tree.leaves(state.gates):
        assert bool(jnp.all((leaf >= 0) & (leaf <= 1)))
    assert state.gates[0]["hidden"]["bias"] is None


def test_convolutions_of_the_step_are_rewritten():
    """A gradient penalty through a strided convolution and one with a NumPy constant: the update written by hand."""
    blur = np.full((1, 1, 2, 2), 0.25, np.float32)

    def objective(params, gates, state, key, batch):
        x, y = batch

        def logits(x):
            features = jax.lax.conv(jax.lax.conv(x, blur, (1, 1), "SAME"), params["kernel"], (2, 2), "SAME")
            return jnp.tanh(features).sum((1, 2, 3))

        slope = jax.grad(lambda x: logits(x).sum())(x)
        return jnp.mean((logits(x) - y) ** 2) + jnp.mean(slope**2), (state, {})

    rng = np.random.default_rng(3)
    params = {"kernel": jnp.asarray(rng.normal(size=(2, 1, 3, 3)), jnp.float32)}
    batch = (jnp.asarray(rng.normal(size=(2, 1, 6, 6)), jnp.float32), jnp.asarray([1.0, -1.0], jnp.float32))
    optimizers = training.Optimizers(optax.sgd(0.1), optax.sgd(0.1))
    step = training.make_step(objective, optimizers)
    initial = functools.partial(training.initial_state, optimizers, jax.random.key(0), state=(), gates=())
    slopes = jax.grad(lambda p: objective(p, (), (), None, batch)[0])(params)
    wanted = params["kernel"] - 0.1 * slopes["kernel"]
    assert len(convolutions(step, initial(params), batch)) >= 6
    assert all(map(is_canonical, convolutions(step, initial(params), batch)))
    np.testing.assert_allclose(step(initial(params), batch)[0].params["kernel"], wanted, atol=1e-6)


def test_evaluation_is_the_mean_over_the_whole_split():
    evaluate = training.make_evaluation(problem.apply, batch_size=16)
    split, params, state = problem.blobs(), problem.initial_params(), {"scale": jnp.ones(())}
    got = evaluate(params, state, split.x, split.y)
    logits = np.asarray(jax.vmap(problem.apply, (None, None, 0))(params, state, split.x), np.float64)
    log_probs = logits - np.log(np.sum(np.exp(logits), 1, keepdims=True))
    assert got["loss"] == pytest.approx(-np.mean(log_probs[np.arange(40), split.y]), rel=1e-5)
    assert got["accuracy"] == pytest.approx(np.mean(np.argmax(logits, 1) == split.y))
