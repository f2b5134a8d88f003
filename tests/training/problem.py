"""A tiny training problem for the tests of this room."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp import data, penalties, sparsity, training

NUM_STEPS = 12


@functools.cache
def blobs():
    """Forty points of two classes in the plane, well apart."""
    rng = np.random.default_rng(0)
    y = np.arange(40, dtype=np.int32) % 2
    x = (rng.normal(size=(40, 2)) * 0.3 + 2.0 * y[:, None] - 1.0).astype(np.float32)
    return data.Split(x, y)


def apply(params, state, x):
    """A network of one hidden layer; the state scales its input."""
    hidden = jnp.tanh((x * state["scale"]) @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return hidden @ params["out"]["kernel"]


def train_apply(params, state, key, x):
    """The same for a batch; in training the state drifts, and the key adds noise."""
    noise = 0.01 * jax.random.normal(key, x.shape, x.dtype)
    logits = jax.vmap(apply, (None, None, 0))(params, state, x + noise)
    return logits, {"scale": 0.9 * state["scale"] + 0.1 * jnp.mean(jnp.abs(x))}


def initial_params():
    rng = np.random.default_rng(1)
    return {
        "hidden": {"kernel": jnp.asarray(rng.normal(size=(2, 4)), jnp.float32), "bias": jnp.zeros(4, jnp.float32)},
        "out": {"kernel": jnp.asarray(rng.normal(size=(4, 2)), jnp.float32)},
    }


@functools.cache
def setting(gated=True, penalised=True):
    """The compiled step and the initial state's maker."""
    optimizers = training.Optimizers(training.adamw(1e-2, num_steps=NUM_STEPS), training.adam(1e-2))
    regularisers = [training.GateRegulariser(1e-3, 1e-3, sampled=True)] if gated else []
    terms = [training.WeightedPenalty("gradient", penalties.input_gradient_norm(), 0.1)] if penalised else []
    step = training.make_step(training.make_objective(train_apply, apply, terms, regularisers), optimizers)

    def start():
        params = initial_params()
        gates = (sparsity.attach(params, initial=0.8),) if gated else ()
        state = {"scale": jnp.ones((), jnp.float32)}
        return training.initial_state(optimizers, jax.random.key(7), params, state, gates)

    return step, start


def batches():
    return data.batches(blobs(), jax.random.key(5), 8)


def bits(state):
    """All bytes of a state."""
    leaves = jax.tree.leaves((state.step, state.params, state.gates, state.state, state.opt_state))
    return [np.asarray(leaf).tobytes() for leaf in (*leaves, jax.random.key_data(state.key))]
