"""The objective against its formula, and the gates within it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import sparsity, training
from tests.training import problem

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("standard_promotion")]


def evaluate(penalties=(), regularisers=(), gates=(), key=0):
    objective = training.make_objective(problem.train_apply, problem.apply, penalties, regularisers)
    batch = problem.batches()(0)
    return objective(problem.initial_params(), gates, {"scale": jnp.ones(())}, jax.random.key(key), batch)


def gates_of(value):
    return sparsity.attach(problem.initial_params(), initial=value)


def test_without_extras_the_loss_is_the_cross_entropy():
    loss, (state, metrics) = evaluate()
    assert float(loss) == float(metrics["cross_entropy"]) == float(metrics["loss"])
    assert set(metrics) == {"loss", "cross_entropy", "accuracy"}
    assert float(state["scale"]) != 1.0


def test_the_regularisers_are_sums_over_the_gates():
    gates = gates_of(0.75)
    count = sum(leaf.size for leaf in jax.tree.leaves(gates))
    rule = training.GateRegulariser(bimodal=0.3, sparsity=0.2, sampled=False)
    loss, (_, metrics) = evaluate(regularisers=[rule], gates=(gates,))
    extra = count * (0.3 * 0.75 * 0.25 + 0.2 * 0.75)
    assert float(loss - metrics["cross_entropy"]) == pytest.approx(extra, rel=1e-5)


def test_open_thresholded_gates_change_nothing_and_closed_ones_silence_the_network():
    rule = training.GateRegulariser(0.0, 0.0, sampled=False)
    dense = float(evaluate()[0])
    assert float(evaluate(regularisers=[rule], gates=(gates_of(0.9),))[0]) == dense
    assert float(evaluate(regularisers=[rule], gates=(gates_of(0.1),))[0]) == pytest.approx(np.log(2), rel=1e-6)


def test_a_penalty_sees_one_example_and_its_mean_enters_with_its_weight():
    def penalty(apply, params, state, key, x, label):
        assert x.shape == (2,)
        return jnp.sum(x) + label

    term = training.WeightedPenalty("sum", penalty, 0.5)
    loss, (_, metrics) = evaluate(penalties=[term])
    x, y = problem.batches()(0)
    assert float(metrics["sum"]) == pytest.approx(np.mean(x.sum(1) + y), rel=1e-5)
    assert float(loss) == pytest.approx(float(metrics["cross_entropy"]) + 0.5 * float(metrics["sum"]), rel=1e-6)


def test_a_stochastic_penalty_has_a_key_of_its_own_for_each_example():
    seen = []

    def penalty(apply, params, state, key, x, label):
        draw = jax.random.uniform(key)
        jax.debug.callback(lambda value: seen.append(float(value)), draw)
        return draw

    jax.block_until_ready(evaluate(penalties=[training.WeightedPenalty("noise", penalty, 1.0)] * 1))
    jax.effects_barrier()
    values = np.ravel(seen)
    assert len(set(values.tolist())) == 8


def test_loss_and_penalty_share_one_draw_of_the_gates():
    """With gates at one half, a penalty that returns the loss of the same example must see the same masked network."""

    def penalty(apply, params, state, key, x, label):
        kernel = params["hidden"]["kernel"]
        return jnp.sum(kernel == 0)

    rule = training.GateRegulariser(0.0, 0.0, sampled=True)
    counts = set()
    for key in range(4):
        _, (_, metrics) = evaluate(
            penalties=[training.WeightedPenalty("zeros", penalty, 0.0)],
            regularisers=[rule],
            gates=(gates_of(0.5),),
            key=key,
        )
        counts.add(float(metrics["zeros"]))
        assert float(metrics["zeros"]).is_integer(), "examples of one step saw different masks"
    assert len(counts) > 1, "steps with different keys drew the same mask"


def test_final_parameters_are_thresholded():
    params, gates = problem.initial_params(), gates_of(0.0)
    gates["out"]["kernel"] = jnp.array([[0.2, 0.9]] * 4)
    final = training.final_params(params, (gates,))
    np.testing.assert_array_equal(final["out"]["kernel"], params["out"]["kernel"] * jnp.array([0.0, 1.0]))
    np.testing.assert_array_equal(final["hidden"]["kernel"], 0)
    np.testing.assert_array_equal(final["hidden"]["bias"], params["hidden"]["bias"])


def test_as_many_regularisers_as_trees_of_gates_are_needed():
    with pytest.raises(ValueError, match="zip"):
        evaluate(gates=(gates_of(0.5),))
