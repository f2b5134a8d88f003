"""Optimisers that prune are optimisers: resumed to the bit, mapped over seeds, and nothing without sparsity."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxinterp import sparsity, training

pytestmark = pytest.mark.usefixtures("standard_promotion")

OPTIMIZERS = {
    "gradual": lambda key: sparsity.prune(
        optax.adam(0.05), sparsity.gradual(0.7, end=15), every=4, score=sparsity.saliency
    ),
    "cyclical": lambda key: sparsity.prune(
        optax.adam(0.05), sparsity.cyclical(0.7, num_cycles=2, cycle_length=8), every=3, regrow=True
    ),
    "units": lambda key: sparsity.prune(
        optax.sgd(0.05, momentum=0.9), sparsity.gradual(0.7, end=19), granularity=sparsity.per_output_unit
    ),
    "rewire": lambda key: sparsity.rewire(optax.adam(0.05), 0.6, key=key, every=3, end=30),
    "rewire at random": lambda key: sparsity.rewire(optax.adam(0.05), 0.6, key=key, every=3, end=30, by_gradient=False),
}


def params_of(key):
    keys = jax.random.split(key, 3)
    return {
        "a": {"kernel": jax.random.normal(keys[0], (6, 4)), "bias": jnp.ones(4)},
        "b": {"kernel": jax.random.normal(keys[1], (4, 3), jnp.bfloat16)},
    }


def start(name, seed):
    optimizers = training.Optimizers(OPTIMIZERS[name](jax.random.key(seed)), optax.identity())
    return optimizers, training.initial_state(
        optimizers, jax.random.key(seed + 1), params_of(jax.random.key(seed + 2)), {}
    )


def trained(optimizers, state, num_steps):
    """Each step has a gradient of its own, from the key and the number of the step."""

    @jax.jit
    def advance(state):
        key = jax.random.fold_in(state.key, state.step)
        slopes = jax.tree.map(lambda p: p + jax.random.normal(key, p.shape, p.dtype), state.params)
        updates, inner = optimizers.params.update(slopes, state.opt_state[0], state.params)
        params = optax.apply_updates(state.params, updates)
        return training.TrainState(state.step + 1, params, (), {}, (inner, state.opt_state[1]), state.key)

    for _ in range(num_steps):
        state = advance(state)
    return state


def bits(tree):
    is_key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)  # noqa: E731
    plain = [jax.random.key_data(leaf) if is_key(leaf) else leaf for leaf in jax.tree.leaves(tree)]
    return [(str(leaf.dtype), np.asarray(leaf).tobytes()) for leaf in plain]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_resumes_to_the_bit(name, tmp_path):
    """Twenty steps at once, or ten, a checkpoint read into a state of another seed, and ten more."""
    optimizers, first = start(name, 0)
    straight = trained(optimizers, first, 20)
    half = trained(optimizers, first, 10)
    assert bits(half.opt_state[0].masks) != bits(first.opt_state[0].masks)
    assert bits(straight.opt_state[0].masks) != bits(half.opt_state[0].masks)

    training.Checkpoints(tmp_path / "run").save(10, half, score=0.0)
    others, template = start(name, 7)
    assert bits(template) != bits(half)
    restored = training.Checkpoints(tmp_path / "run").restore_latest(template)
    assert jax.tree.structure(restored) == jax.tree.structure(half)
    assert bits(restored) == bits(half)
    assert bits(trained(others, restored, 10)) == bits(straight)


@pytest.mark.core
@pytest.mark.parametrize("name", ["gradual", "cyclical", "units"])
def test_seeds_are_independent_when_mapped(name):
    """Masks equal exactly, numbers to rounding: the programs differ."""
    optimizer = OPTIMIZERS[name](None)

    def run(key):
        params = {"kernel": jax.random.normal(key, (6, 4))}

        def advance(carried, step):
            params, state = carried
            slopes = {"kernel": params["kernel"] + jax.random.normal(jax.random.fold_in(key, step), (6, 4))}
            updates, state = optimizer.update(slopes, state, params)
            return (optax.apply_updates(params, updates), state), state.masks

        return jax.lax.scan(advance, (params, optimizer.init(params)), jnp.arange(12))

    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.jit(jax.vmap(run))(keys)
    for i in range(3):
        alone = jax.jit(run)(keys[i])
        mapped = jax.tree.map(lambda leaf, i=i: leaf[i], together)
        np.testing.assert_array_equal(mapped[1]["kernel"], alone[1]["kernel"])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), mapped, alone)
    assert len({np.asarray(masks).tobytes() for masks in together[1]["kernel"]}) > 1


@pytest.mark.core
@pytest.mark.parametrize(
    "options",
    [
        {"regrow": True},
        {"regrow": True, "budget": sparsity.per_parameter(), "every": 3},
        {"granularity": sparsity.per_output_unit},
        {"budget": sparsity.n_of_m(2, 4), "predicate": lambda path, value: path == "b/kernel"},
    ],
)
def test_no_sparsity_is_no_change(options):
    """Parameters and the state of the optimiser, to the bit; compiled, sums and products may fuse differently."""
    plain, pruned = optax.adamw(0.05), sparsity.prune(optax.adamw(0.05), lambda step: 0.0 * step, **options)

    def run(optimizer):
        params = params_of(jax.random.key(1))
        state = optimizer.init(params)
        for step in range(5):
            key = jax.random.fold_in(jax.random.key(2), step)
            slopes = jax.tree.map(lambda p, key=key: jax.random.normal(key, p.shape, p.dtype), params)
            updates, state = optimizer.update(slopes, state, params)
            params = optax.apply_updates(params, updates)
        return params, state

    (params, state), (masked, masked_state) = run(plain), run(pruned)
    assert bits(params) == bits(masked)
    assert bits(state) == bits(masked_state.inner)
