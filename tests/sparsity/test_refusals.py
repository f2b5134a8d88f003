"""What pruning refuses, by name before anything is compiled, and what it does where values are not yet known.

Refusals of one function alone are in the tests of its file. Errors that depend on shapes come under `jax.eval_shape`,
too, which compiles nothing.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxinterp import sparsity

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("standard_promotion")]

PARAMS = {"a": {"kernel": jnp.ones((6, 3)), "bias": jnp.ones(3)}}
BUDGETS = {
    "over_all": sparsity.over_all(),
    "per_parameter": sparsity.per_parameter(),
    "erdos_renyi": sparsity.erdos_renyi(),
    "n_of_m": sparsity.n_of_m(2, 4),
}
SHOT = sparsity.one_shot(0.5, step=1)


@pytest.mark.parametrize("level", [1.0, 1.5, -0.1, float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("target", lambda level: sparsity.one_shot(level, step=3)),
        ("target", lambda level: sparsity.gradual(level, end=3)),
        ("initial", lambda level: sparsity.gradual(0.5, end=3, initial=level)),
        ("target", lambda level: sparsity.cyclical(level, num_cycles=1, cycle_length=3)),
        ("initial", lambda level: sparsity.cyclical(0.5, num_cycles=1, cycle_length=3, initial=level)),
        ("sparsity", lambda level: sparsity.rewire(optax.sgd(0.1), level, key=jax.random.key(0), end=3)),
        ("sparsity", lambda level: sparsity.brain_surgeon(jnp.ones((5, 4)), jnp.ones((4, 2)), sparsity=level)),
        *[("sparsity", lambda level, b=budget: b({"k": jnp.ones((4, 2))}, level)) for budget in BUDGETS.values()],
    ],
)
def test_a_sparsity_that_leaves_nothing_or_is_none(name, make, level):
    with pytest.raises(ValueError, match=f"`{name}` must be a fraction from 0 to below 1, of what is removed; got"):
        make(level)


@pytest.mark.parametrize("name", BUDGETS)
@pytest.mark.parametrize("level", ["0.5", None, True, 0.5j, [0.5, 0.5]])
def test_a_sparsity_that_is_no_number(name, level):
    with pytest.raises(TypeError, match="`sparsity` must be one number; got"):
        BUDGETS[name]({"k": jnp.ones((4, 2))}, np.asarray(level) if isinstance(level, list) else level)
    with pytest.raises(TypeError, match="`target` must be a number"):
        sparsity.gradual(level, end=3)


@pytest.mark.parametrize("shape", [(3,), (6, 2), (1, 6, 3), (6, 3, 1)])
def test_gates_that_are_not_along_the_axes(shape):
    for method in (
        sparsity.attach,
        lambda params, **options: sparsity.prune(optax.sgd(0.1), SHOT, **options).init(params),
    ):
        with pytest.raises(ValueError, match=r"needs gates with the axes of `a/kernel`, \(6, 3\)"):
            method(PARAMS, granularity=lambda _: shape)


def test_steps_that_are_no_numbers():
    with pytest.raises(TypeError, match="`end` must be a number"):
        sparsity.gradual(0.5, end="3")
    with pytest.raises(TypeError, match="`start` must be a number"):
        sparsity.gradual(0.5, start=None, end=3)
    with pytest.raises(ValueError, match="must satisfy 0 <= start < end"):
        sparsity.gradual(0.5, end=float("nan"))
    with pytest.raises(ValueError, match="`step` must be at least 1"):
        sparsity.one_shot(0.5, step=0)
    with pytest.raises(ValueError, match="`cycle_length` must be at least 1"):
        sparsity.cyclical(0.5, num_cycles=1, cycle_length=0)


@pytest.mark.parametrize(
    "make",
    [
        lambda predicate: sparsity.prune(optax.sgd(0.1), SHOT, predicate=predicate),
        lambda predicate: sparsity.rewire(optax.sgd(0.1), 0.5, key=jax.random.key(0), end=3, predicate=predicate),
    ],
)
def test_a_predicate_that_selects_nothing(make):
    with pytest.raises(ValueError, match=r"predicate of `.*` selects none of the parameters: a/bias, a/kernel"):
        jax.eval_shape(make(lambda path, value: path == "kernel").init, PARAMS)


@pytest.mark.parametrize("axis", [0, 1, 2, -3])
def test_shapes_that_m_does_not_divide(axis):
    """At the start, before anything is compiled."""
    budget, message = sparsity.n_of_m(2, 4, axis=axis), rf"`n_of_m` cannot divide axis {axis} of .*kernel.* \(6, 3\)"
    for optimizer in (
        sparsity.prune(optax.sgd(0.1), SHOT, budget=budget),
        sparsity.rewire(optax.sgd(0.1), 0.5, key=jax.random.key(0), end=3, budget=budget),
    ):
        with pytest.raises(ValueError, match=message):
            optimizer.init(PARAMS)


@pytest.mark.parametrize(("n", "m"), [(0, 4), (-1, 4), (5, 4), (1, 1)])
def test_groups_of_which_nothing_or_everything_is_kept(n, m):
    with pytest.raises(ValueError, match=r"`n` must be at least 1|`n_of_m` needs 0 < n < m"):
        sparsity.n_of_m(n, m)


def test_groups_of_no_integers():
    for n, m, axis, name in [(2.0, 4, 0, "n"), (2, "4", 0, "m"), (2, 4, 0.0, "axis"), (2, 4, None, "axis")]:
        with pytest.raises(TypeError, match=f"`{name}`.* must be a"):
            sparsity.n_of_m(n, m, axis=axis)


@pytest.mark.parametrize(
    ("granularity", "shape"), [("per_filter", (6, 3)), ("per_input_unit", (3,)), ("per_output_unit", ())]
)
def test_units_that_a_parameter_does_not_have(granularity, shape):
    optimizer = sparsity.prune(optax.sgd(0.1), SHOT, granularity=getattr(sparsity, granularity))
    with pytest.raises(ValueError, match=f"`prune` cannot gate `kernel`: `{granularity}` needs a"):
        jax.eval_shape(optimizer.init, {"kernel": jnp.ones(shape)})


def test_what_is_no_optimiser_and_no_function():
    key = jax.random.key(0)
    for make, method in (
        (lambda *first, **more: sparsity.prune(*first, SHOT, **more), "prune"),
        (lambda *first, **more: sparsity.rewire(*first, 0.5, key=key, end=10, **more), "rewire"),
    ):
        with pytest.raises(TypeError, match=f"`optimizer` of `{method}` must be a gradient transformation"):
            make("sgd")
        for name in ("budget", "predicate"):
            with pytest.raises(TypeError, match=f"`{name}` of `{method}` must be a function"):
                make(optax.sgd(0.1), **{name: "all"})


@pytest.mark.parametrize("name", BUDGETS)
def test_scores_that_are_nan(name):
    """Named where values are known; in a compiled program they are the highest, so that they stay in sight."""
    scores = {"a": {"kernel": jnp.array([[4.0], [jnp.nan], [2.0], [jnp.inf]])}, "b": None}
    with pytest.raises(ValueError, match="The scores of `a/kernel` hold NaN"):
        BUDGETS[name](scores, 0.5)
    assert jax.jit(BUDGETS[name])(scores, 0.5)["a"]["kernel"].ravel().tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("regrow", [False, True])
def test_updates_that_are_nan(regrow):
    """They are not removed as long as others are left: a run that diverges is seen to do so."""
    optimizer = sparsity.prune(optax.sgd(0.1), lambda step: 0.5, regrow=regrow)
    params = {"kernel": jnp.array([5.0, 1.0, 2.0, 3.0])}
    for bad, wanted in [([0], [np.nan, 0, 0, 3]), ([0, 1, 2], [np.nan, np.nan, 0, 0])]:
        slopes = {"kernel": jnp.zeros(4).at[jnp.array(bad)].set(jnp.nan)}
        updates, _ = optimizer.update(slopes, optimizer.init(params), params)
        np.testing.assert_array_equal(optax.apply_updates(params, updates)["kernel"], wanted)


@pytest.mark.parametrize("name", ["over_all", "per_parameter", "erdos_renyi"])
def test_a_traced_sparsity_outside_is_the_nearer_end(name):
    masks = jax.jit(BUDGETS[name])
    for level, kept in [(-0.5, 8), (1.0, 0), (1.5, 0)]:
        assert int(masks({"k": jnp.arange(8.0).reshape(4, 2)}, level)["k"].sum()) == kept


@pytest.mark.parametrize("name", ["over_all", "per_parameter", "erdos_renyi"])
def test_parameters_without_axes_or_entries(name):
    scores = {"a": jnp.asarray(5.0), "b": jnp.ones((0, 3)), "c": jnp.arange(16.0).reshape(4, 4)}
    masks = BUDGETS[name](scores, 0.5)
    assert {key: mask.shape for key, mask in masks.items()} == {key: score.shape for key, score in scores.items()}
    assert 7 <= sum(int(mask.sum()) for mask in masks.values()) <= 9


@pytest.mark.parametrize("make", [sparsity.over_all, sparsity.per_parameter, sparsity.erdos_renyi, sparsity.n_of_m])
def test_what_makes_a_budget_is_none(make):
    for build in (
        lambda: sparsity.prune(optax.sgd(0.1), SHOT, budget=make),
        lambda: sparsity.rewire(optax.sgd(0.1), 0.5, key=jax.random.key(0), end=3, budget=make),
    ):
        with pytest.raises(TypeError, match=f"`{make.__name__}` makes a budget: write"):
            build()


@pytest.mark.parametrize("score", [lambda a: jnp.sum(a), lambda a: a[:2]], ids=["sum", "part"])
def test_scores_that_do_not_fit_the_parameters(score):
    optimizer = sparsity.prune(optax.sgd(0.1), SHOT, score=lambda params, gradients: jax.tree.map(score, params))
    with pytest.raises(ValueError, match="`score` of `prune` must return arrays like the parameters; got shape"):
        jax.eval_shape(optimizer.update, PARAMS, optimizer.init(PARAMS), PARAMS)


def test_groups_lie_along_the_inputs():
    """Of a dense kernel and of a convolution's."""
    for shape in [(8, 3), (2, 2, 8, 3)]:
        scores = jax.random.uniform(jax.random.key(0), shape)
        masks = np.asarray(sparsity.n_of_m(2, 4)({"kernel": scores}, 0.5)["kernel"])
        np.testing.assert_array_equal(masks.reshape(*shape[:-2], 2, 4, 3).sum(-2), 2)
