"""Any Flax network as a pure function of one example, against the module itself and against NumPy."""

import warnings

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from jaxinterp import models

pytestmark = pytest.mark.usefixtures("standard_promotion")

RNG = np.random.default_rng(0)
BATCH = RNG.normal(size=(6, 3)).astype(np.float32)


class Net(nnx.Module):
    """Dense, batch normalisation, tanh, dropout, dense."""

    def __init__(self, rngs):
        self.first = nnx.Linear(3, 5, rngs=rngs)
        self.norm = nnx.BatchNorm(5, momentum=0.8, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(5, 2, rngs=rngs)

    def __call__(self, x):
        return self.last(self.dropout(jnp.tanh(self.norm(self.first(x)))))


class LinenNet(linen.Module):
    """The same with Linen, told at each call whether it is trained."""

    @linen.compact
    def __call__(self, x, train):
        x = linen.Dense(5, name="first")(x)
        x = jnp.tanh(linen.BatchNorm(use_running_average=not train, momentum=0.8, name="norm")(x))
        return linen.Dense(2, name="last")(linen.Dropout(0.5, deterministic=not train)(x))


def some(tree, seed):
    """Positive random arrays of the same shapes."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(rng.uniform(0.2, 1.2, a.shape), jnp.float32), tree)


def by_hand(params, state, x):
    """The logits of `Net` in evaluation mode, in NumPy."""
    norm = state["norm"] if "norm" in state else state["batch_stats"]["norm"]
    x = x @ params["first"]["kernel"] + params["first"]["bias"]
    x = (x - norm["mean"]) / np.sqrt(norm["var"] + 1e-5) * params["norm"]["scale"] + params["norm"]["bias"]
    return np.tanh(x) @ params["last"]["kernel"] + params["last"]["bias"]


def pair(kind):
    """The evaluation function and the training function of one network."""
    if kind == "nnx":
        model = Net(nnx.Rngs(0))
        return models.as_function(model), models.as_training_function(model)
    model = LinenNet()
    variables = model.init(jax.random.key(0), BATCH, train=False)
    return models.as_function(model, variables, train=False), models.as_training_function(model, variables, train=True)


@pytest.fixture(params=["nnx", "linen"])
def kind(request):
    return request.param


@pytest.fixture
def net(kind):
    """The evaluation function with arbitrary parameters and running statistics."""
    function = pair(kind)[0]
    return function.apply, some(function.params, 1), some(function.state, 2)


@pytest.mark.core
def test_it_is_the_network_written_by_hand(net):
    apply, params, state = net
    for x in BATCH:
        np.testing.assert_allclose(apply(params, state, x), by_hand(params, state, x), rtol=1e-4, atol=1e-5)


@pytest.mark.core
def test_one_example_is_a_row_of_the_batch(net):
    apply, params, state = net
    logits = jax.vmap(apply, (None, None, 0))(params, state, BATCH)
    np.testing.assert_allclose(logits, by_hand(params, state, BATCH), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(logits, np.stack([apply(params, state, x) for x in BATCH]), rtol=1e-5, atol=1e-6)


@pytest.mark.core
def test_it_is_the_module_in_evaluation_mode():
    model = Net(nnx.Rngs(3))
    model(BATCH)  # the statistics have been updated once
    function = models.as_function(model)
    model.eval()
    logits = jax.vmap(function.apply, (None, None, 0))(function.params, function.state, BATCH)
    np.testing.assert_allclose(logits, model(BATCH), rtol=1e-5, atol=1e-6)


@pytest.mark.core
def test_it_is_the_linen_module_with_its_variables():
    model = LinenNet()
    variables = model.init(jax.random.key(3), BATCH, train=False)
    function = models.as_function(model, variables, train=False)
    assert jax.tree.structure(function.params) == jax.tree.structure(variables["params"])
    logits = jax.vmap(function.apply, (None, None, 0))(function.params, function.state, BATCH)
    np.testing.assert_allclose(logits, model.apply(variables, BATCH, train=False), rtol=1e-5, atol=1e-6)


@pytest.mark.core
def test_examples_do_not_see_each_other(net):
    apply, params, state = net
    evaluate = jax.jit(jax.vmap(apply, (None, None, 0)))
    logits, with_nan = (
        evaluate(params, state, BATCH),
        evaluate(params, state, np.vstack([BATCH[:5], np.full((1, 3), np.nan, np.float32)])),
    )
    np.testing.assert_array_equal(with_nan[:5], logits[:5])
    assert np.all(np.isnan(with_nan[5]))


@pytest.mark.core
def test_evaluation_changes_nothing(net):
    apply, params, state = net
    before = jax.tree.map(np.array, (params, state))
    logits = [apply(params, state, BATCH[0]) for _ in range(3)]
    np.testing.assert_array_equal(logits[0], logits[1])
    np.testing.assert_array_equal(logits[0], logits[2])
    jax.tree.map(np.testing.assert_array_equal, before, (params, state))


@pytest.mark.core
def test_training_in_between_does_not_reach_the_evaluation(kind, key):
    function, training = pair(kind)
    before = function.apply(function.params, function.state, BATCH[0])
    training.apply(training.params, training.state, key, 5 + BATCH)
    np.testing.assert_array_equal(function.apply(function.params, function.state, BATCH[0]), before)


def everything(model):
    """All arrays of a module, and whether its layers are in training mode."""
    arrays = {
        str(path): np.asarray(jax.random.key_data(v) if jnp.issubdtype(v.dtype, jax.dtypes.prng_key) else v)
        for path, v in jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(nnx.state(model)))
    }
    return arrays, (model.dropout.deterministic, model.norm.use_running_average)


@pytest.mark.core
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_module_stays_as_it_is(mode, key):
    model = Net(nnx.Rngs(0))
    getattr(model, mode)()
    arrays, modes = everything(model)
    function, training = models.as_function(model), models.as_training_function(model)
    function.apply(function.params, function.state, BATCH[0])
    training.apply(training.params, training.state, key, BATCH)
    after, modes_after = everything(model)
    assert arrays.keys() == after.keys()
    for name, value in arrays.items():
        np.testing.assert_array_equal(after[name], value)
    assert modes == modes_after == ((mode == "eval",) * 2)


@pytest.mark.core
def test_later_changes_of_the_module_do_not_arrive(key):
    model = Net(nnx.Rngs(0))
    function, training = models.as_function(model), models.as_training_function(model)
    before = function.apply(function.params, function.state, BATCH[0])
    before_training, _ = training.apply(training.params, training.state, key, BATCH)
    model(BATCH)
    model.first.kernel[...] = jnp.full((3, 5), 7.0, jnp.float32)
    model.norm.mean[...] = jnp.ones(5, jnp.float32)
    model.last = nnx.Linear(5, 2, rngs=nnx.Rngs(9))
    model.dropout.rate = 0.0
    np.testing.assert_array_equal(function.apply(function.params, function.state, BATCH[0]), before)
    again, _ = training.apply(training.params, training.state, key, BATCH)
    np.testing.assert_array_equal(again, before_training)


@pytest.mark.core
@pytest.mark.parametrize("convert", [models.as_function, models.as_training_function])
def test_later_changes_of_linen_variables_do_not_arrive(convert):
    """Loaded checkpoints are NumPy arrays, which can be written to."""
    model = LinenNet()
    variables = jax.tree.map(np.array, model.init(jax.random.key(0), BATCH, train=False))
    function = convert(model, variables, train=False)
    before = jax.tree.map(np.array, (function.params, function.state))
    variables["params"]["first"]["kernel"] += 1
    variables["batch_stats"]["norm"]["mean"] += 1
    del variables["params"]["last"]
    jax.tree.map(np.testing.assert_array_equal, before, (function.params, function.state))


@pytest.mark.core
def test_the_variables_of_the_caller_stay_as_they_are():
    model = LinenNet()
    variables = model.init(jax.random.key(0), BATCH, train=False)
    for convert in (models.as_function, models.as_training_function):
        function = convert(model, variables, train=False)
        function.params.clear()
        function.state["batch_stats"].clear()
    assert set(variables) == {"params", "batch_stats"}
    assert set(variables["params"]) == {"first", "norm", "last"}
    assert set(variables["batch_stats"]) == {"norm"}


class Listed(nnx.Module):
    """Twelve layers in a list, whose order is not that of their names."""

    def __init__(self, rngs):
        layers = [nnx.Linear(2, 2, rngs=rngs) for _ in range(12)]
        self.layers = nnx.List(layers) if hasattr(nnx, "List") else layers

    def __call__(self, x):
        for layer in self.layers:
            x = jnp.tanh(layer(x))
        return x


class Named(nnx.Module):
    """Layers in a dictionary."""

    def __init__(self, rngs):
        layers = {"b": nnx.Linear(2, 2, rngs=rngs), "a": nnx.Linear(2, 2, rngs=rngs)}
        self.layers = nnx.Dict(layers) if hasattr(nnx, "Dict") else layers

    def __call__(self, x):
        return self.layers["a"](jnp.tanh(self.layers["b"](x)))


def assert_named(tree):
    """Nested dictionaries with string keys and arrays in them, nothing else."""
    if type(tree) is dict:
        for name, value in tree.items():
            assert type(name) is str
            assert_named(value)
    else:
        assert isinstance(tree, jax.Array)
        assert not jnp.issubdtype(tree.dtype, jax.dtypes.prng_key)


@pytest.mark.core
@pytest.mark.parametrize("make", [Listed, Named, lambda rngs: models.MLP((2,), num_classes=2, rngs=rngs)])
def test_layers_in_lists_and_dictionaries(make, key):
    model = make(nnx.Rngs(0))
    x = jnp.array([0.3, -0.5])
    wanted = model(x[None])
    function, training = models.as_function(model), models.as_training_function(model)
    for net in (function, training):
        assert_named(net.params)
        assert net.state == {}
    np.testing.assert_allclose(function.apply(function.params, function.state, x), wanted[0], rtol=1e-6)
    logits, _ = training.apply(training.params, training.state, key, x[None])
    np.testing.assert_allclose(logits, wanted, rtol=1e-6)


@pytest.mark.core
def test_each_layer_of_a_list_gets_its_own_parameters():
    function = models.as_function(Listed(nnx.Rngs(0)))
    params = some(function.params, 4)
    assert sorted(params["layers"], key=int) == [str(i) for i in range(12)]
    h = np.array([0.3, -0.5])
    for i in range(12):
        h = np.tanh(h @ params["layers"][str(i)]["kernel"] + params["layers"][str(i)]["bias"])
    np.testing.assert_allclose(function.apply(params, {}, jnp.array([0.3, -0.5])), h, rtol=1e-5)


@pytest.mark.core
def test_params_and_state_are_plain_dictionaries(kind):
    for function in pair(kind):
        assert_named(function.params)
        assert_named(function.state)
        assert set(function.params) == {"first", "norm", "last"}
        assert len(jax.tree.leaves(function.state)) == 2


@pytest.mark.core
def test_frozen_variables_become_plain_dictionaries_too():
    model = LinenNet()
    variables = flax.core.freeze(model.init(jax.random.key(0), BATCH, train=False))
    function = models.as_function(model, variables, train=False)
    assert_named(function.params)
    assert_named(function.state)


@pytest.mark.core
def test_training_updates_the_statistics_as_nnx_does(key):
    model = Net(nnx.Rngs(0))
    model.eval()  # the training function trains all the same
    training = models.as_training_function(model)
    state = training.state
    for step in range(3):
        batch = BATCH + step
        logits, state = training.apply(training.params, state, jax.random.fold_in(key, step), batch)
        model.train()
        model(batch)
        assert logits.shape == (6, 2)
        np.testing.assert_allclose(state["norm"]["mean"], model.norm.mean[...], rtol=1e-6)
        np.testing.assert_allclose(state["norm"]["var"], model.norm.var[...], rtol=1e-6)
        assert_named(state)
    hidden = (BATCH + 2) @ training.params["first"]["kernel"] + training.params["first"]["bias"]
    _, last = training.apply(training.params, some(state, 5), key, BATCH + 2)
    old = some(state, 5)["norm"]
    np.testing.assert_allclose(last["norm"]["mean"], 0.8 * old["mean"] + 0.2 * hidden.mean(0), rtol=1e-5)
    np.testing.assert_allclose(last["norm"]["var"], 0.8 * old["var"] + 0.2 * hidden.var(0), rtol=1e-4)


@pytest.mark.core
def test_training_updates_the_statistics_as_linen_does(key):
    model = LinenNet()
    variables = model.init(jax.random.key(0), BATCH, train=False)
    training = models.as_training_function(model, variables, train=True)
    logits, state = training.apply(training.params, training.state, key, BATCH)
    wanted, updated = model.apply(variables, BATCH, train=True, mutable=["batch_stats"], rngs={"dropout": key})
    np.testing.assert_array_equal(logits, wanted)
    jax.tree.map(np.testing.assert_array_equal, state, updated)
    jax.tree.map(np.testing.assert_array_equal, training.state, {"batch_stats": variables["batch_stats"]})


class Sowing(nnx.Module):
    """A network that records an intermediate value."""

    def __init__(self, rngs):
        self.layer = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, x):
        x = self.layer(x)
        self.sow(nnx.Intermediate, "hidden", x)
        return x


@pytest.mark.parametrize("make", [Net, Sowing, lambda rngs: models.MLP((3,), widths=(2,), num_classes=2, rngs=rngs)])
def test_the_new_state_has_the_structure_of_the_old(make, key):
    """A loop over steps, `jax.lax.scan` for one, carries the state."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using 'Module.sow", DeprecationWarning)
        training = models.as_training_function(make(nnx.Rngs(0)))
        _, state = training.apply(training.params, training.state, key, BATCH)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, training.state)


class TwoDropouts(nnx.Module):
    def __init__(self, rngs):
        self.a, self.b = nnx.Dropout(0.25, rngs=rngs), nnx.Dropout(0.25, rngs=rngs)

    def __call__(self, x):
        return jnp.stack([self.a(x), self.b(x)], axis=1)


class TwoLinenDropouts(linen.Module):
    @linen.compact
    def __call__(self, x, train=True):
        return jnp.stack([linen.Dropout(0.25, deterministic=not train)(x) for _ in range(2)], axis=1)


@pytest.fixture(params=[1, 2])
def dropouts(request, kind):
    """Dropout as a function of the key: [examples, layers, units]."""
    if kind == "linen":
        training = models.as_training_function(TwoLinenDropouts(), {})
    else:
        streams = nnx.Rngs(0) if request.param == 1 else nnx.Rngs(params=0, dropout=1)
        training = models.as_training_function(TwoDropouts(streams))
    assert training.params == training.state == {}
    return lambda key: np.asarray(training.apply({}, {}, key, jnp.ones((40, 50)))[0])


@pytest.mark.core
def test_dropout_repeats_with_the_key_and_differs_without(dropouts):
    masks = [dropouts(jax.random.key(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(masks[0], masks[1])
    # Two independent masks agree in a unit with probability p = 1/16 + 9/16; 4000 units, 5 standard deviations.
    agreement = np.mean(masks[0] == masks[2])
    assert agreement == pytest.approx(0.625, abs=5 * np.sqrt(0.625 * 0.375 / 4000))


@pytest.mark.core
def test_dropout_drops_the_stated_share_and_each_layer_for_itself(dropouts, key):
    out = dropouts(key)
    np.testing.assert_allclose(np.unique(out), [0, 1 / 0.75], rtol=1e-6)
    assert np.mean(out == 0) == pytest.approx(0.25, abs=5 * np.sqrt(0.25 * 0.75 / 4000))
    for one, other in ((out[:, 0], out[:, 1]), (out[:20], out[20:])):
        agreement = np.mean(one == other)
        assert agreement == pytest.approx(0.625, abs=5 * np.sqrt(0.625 * 0.375 / 2000))


@pytest.mark.core
def test_dropout_uses_no_key_twice(kind, key):
    if kind == "nnx":
        training = models.as_training_function(TwoDropouts(nnx.Rngs(0)))
    else:
        training = models.as_training_function(TwoLinenDropouts(), {})
    with jax.debug_key_reuse(True):
        training.apply({}, {}, key, jnp.ones((2, 3)))
        jax.random.uniform(key)  # it was not consumed either


@pytest.mark.core
def test_dropout_is_off_in_evaluation_mode():
    function = models.as_function(TwoDropouts(nnx.Rngs(0)))
    np.testing.assert_array_equal(function.apply({}, {}, jnp.ones(50)), np.ones((2, 50)))
    function = models.as_function(TwoLinenDropouts(), {}, train=False)
    np.testing.assert_array_equal(function.apply({}, {}, jnp.ones(50)), np.ones((2, 50)))


class Scaled(linen.Module):
    """A network that is told two things at each call."""

    @linen.compact
    def __call__(self, x, *, scale, shift=0.0):
        return scale * linen.Dense(2, use_bias=False)(x) + shift


@pytest.mark.core
def test_linen_modules_get_their_further_arguments(key):
    kernel = jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    variables = {"params": {"Dense_0": {"kernel": kernel}}}
    function = models.as_function(Scaled(), variables, scale=10.0, shift=1.0)
    np.testing.assert_allclose(function.apply(function.params, function.state, jnp.ones(3)), [91, 121])
    training = models.as_training_function(Scaled(), variables, scale=2.0)
    logits, state = training.apply(training.params, training.state, key, jnp.ones((4, 3)))
    np.testing.assert_allclose(logits, np.tile([[18, 24]], (4, 1)))
    assert state == {}


class Tied(nnx.Module):
    """One layer used twice, and a second one that shares its kernel."""

    def __init__(self, rngs):
        self.one = nnx.Linear(3, 3, rngs=rngs)
        self.same = self.one
        self.two = nnx.Linear(3, 3, rngs=rngs)
        self.two.kernel = self.one.kernel

    def __call__(self, x):
        return self.two(jnp.tanh(self.same(jnp.tanh(self.one(x)))))


@pytest.mark.core
def test_tied_parameters_are_there_once_and_move_together(key):
    function, training = (convert(Tied(nnx.Rngs(0))) for convert in (models.as_function, models.as_training_function))
    assert jax.tree.map(jnp.shape, function.params) == {"one": {"bias": (3,), "kernel": (3, 3)}, "two": {"bias": (3,)}}
    assert jax.tree.structure(training.params) == jax.tree.structure(function.params)
    params = some(function.params, 6)
    x = jnp.array([0.1, -0.4, 0.3])

    def hand(params, x):
        kernel, first, second = params["one"]["kernel"], params["one"]["bias"], params["two"]["bias"]
        return jnp.tanh(jnp.tanh(x @ kernel + first) @ kernel + first) @ kernel + second

    np.testing.assert_allclose(function.apply(params, {}, x), hand(params, x), rtol=1e-5)
    np.testing.assert_allclose(training.apply(params, {}, key, x[None])[0], hand(params, x[None]), rtol=1e-5)
    gradient = jax.grad(lambda p: function.apply(p, {}, x).sum())(params)
    wanted = jax.grad(lambda p: hand(p, x).sum())(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), gradient, wanted)


class TwoInputs(nnx.Module):
    """A network whose examples are dictionaries."""

    def __init__(self, rngs):
        self.image, self.table = nnx.Linear(4, 2, rngs=rngs), nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, x):
        return self.image(x["image"].reshape(x["image"].shape[0], -1)) * self.table(x["table"])


class TwoLinenInputs(linen.Module):
    """The same with Linen."""

    @linen.compact
    def __call__(self, x):
        image = linen.Dense(2, name="image")(x["image"].reshape(x["image"].shape[0], -1))
        return image * linen.Dense(2, name="table")(x["table"])


@pytest.mark.core
def test_an_example_may_be_a_dictionary(kind, key):
    x = {"image": RNG.normal(size=(5, 2, 2)).astype(np.float32), "table": RNG.normal(size=(5, 3)).astype(np.float32)}
    if kind == "nnx":
        model = (TwoInputs(nnx.Rngs(0)),)
    else:
        model = (TwoLinenInputs(), TwoLinenInputs().init(jax.random.key(0), x))
    function, training = models.as_function(*model), models.as_training_function(*model)
    params = some(function.params, 7)

    def hand(x):
        image = x["image"].reshape(-1, 4) @ params["image"]["kernel"] + params["image"]["bias"]
        return image * (x["table"] @ params["table"]["kernel"] + params["table"]["bias"])

    first = jax.tree.map(lambda a: a[0], x)
    np.testing.assert_allclose(function.apply(params, {}, first), hand(x)[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jax.vmap(function.apply, (None, None, 0))(params, {}, x), hand(x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(training.apply(params, {}, key, x)[0], hand(x), rtol=1e-4, atol=1e-5)
    gradient = jax.grad(lambda x: function.apply(params, {}, x).sum())(first)
    assert jax.tree.map(jnp.shape, gradient) == {"image": (2, 2), "table": (3,)}
    inner = first["image"].ravel() @ params["image"]["kernel"] + params["image"]["bias"]
    np.testing.assert_allclose(gradient["table"], params["table"]["kernel"] @ inner, rtol=1e-4, atol=1e-5)


class Constant(nnx.Module):
    """Holds what is no parameter: an array, a variable of its own kind, and a stream of random numbers."""

    class Memory(nnx.Variable):
        pass

    def __init__(self, rngs):
        self.layer = nnx.Linear(3, 2, rngs=rngs)
        self.memory = self.Memory(jnp.array([1.0, 2.0, 3.0]))
        self.rngs = rngs

    def __call__(self, x):
        return self.layer(x * self.memory[...])


@pytest.mark.core
def test_other_variables_are_state_and_random_streams_are_neither():
    function = models.as_function(Constant(nnx.Rngs(0)))
    assert set(function.params) == {"layer"}
    assert set(function.state) == {"memory"}
    assert_named(function.state)
    kernel, bias = (function.params["layer"][name] for name in ("kernel", "bias"))
    memory = jnp.array([3.0, 0.0, -1.0])
    np.testing.assert_allclose(
        function.apply(function.params, {"memory": memory}, BATCH[0]), BATCH[0] * memory @ kernel + bias, rtol=1e-5
    )


@pytest.mark.core
def test_it_can_be_compiled_mapped_and_differentiated(net):
    apply, params, state = net
    x = jnp.asarray(BATCH[0])
    np.testing.assert_allclose(jax.jit(apply)(params, state, x), by_hand(params, state, x), rtol=1e-4, atol=1e-5)
    norm = state["norm"] if "norm" in state else state["batch_stats"]["norm"]
    scale = params["norm"]["scale"] / np.sqrt(norm["var"] + 1e-5)
    hidden = ((x @ params["first"]["kernel"] + params["first"]["bias"]) - norm["mean"]) * scale + params["norm"]["bias"]
    slope = (1 - np.tanh(hidden) ** 2) * scale
    jacobian = jax.jit(jax.jacrev(apply, argnums=2))(params, state, x)
    wanted = (params["first"]["kernel"] * slope) @ params["last"]["kernel"]
    np.testing.assert_allclose(jacobian, wanted.T, rtol=1e-4, atol=1e-5)
    by_params = jax.grad(lambda p: apply(p, state, x)[1])(params)
    np.testing.assert_allclose(by_params["last"]["kernel"], np.outer(np.tanh(hidden), [0, 1]), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(by_params["last"]["bias"], [0, 1])
    wanted = np.outer(x, slope * params["last"]["kernel"][:, 1])
    np.testing.assert_allclose(by_params["first"]["kernel"], wanted, rtol=1e-4, atol=1e-6)
    ensemble = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), params)
    logits = jax.vmap(apply, (0, None, None))(ensemble, state, x)
    doubled = by_hand(jax.tree.map(lambda a: 2 * a, params), state, x)
    np.testing.assert_allclose(logits[1], doubled, rtol=1e-4, atol=1e-5)


@pytest.mark.core
def test_training_can_be_compiled_and_differentiated(kind, key):
    _, training = pair(kind)
    params, state = some(training.params, 1), some(training.state, 2)

    def loss(params, state, key, batch):
        logits, state = training.apply(params, state, key, batch)
        return (logits**2).mean(), (logits, state)

    (_, (logits, new_state)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, state, key, BATCH)
    again, again_state = training.apply(params, state, key, BATCH)
    np.testing.assert_allclose(logits, again, rtol=1e-4, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), new_state, again_state)
    np.testing.assert_allclose(gradient["last"]["bias"], 2 * logits.sum(0) / logits.size, rtol=1e-4)


@pytest.mark.core
def test_new_values_are_not_traced_again(kind, key):
    traces = []

    class Counting(nnx.Module):
        def __init__(self, rngs):
            self.layer, self.norm = nnx.Linear(3, 2, rngs=rngs), nnx.BatchNorm(2, rngs=rngs)

        def __call__(self, x):
            traces.append(x.shape)
            return self.norm(self.layer(x))

    class LinenCounting(linen.Module):
        @linen.compact
        def __call__(self, x):
            traces.append(x.shape)
            return linen.Dense(2)(x)

    if kind == "nnx":
        model = (Counting(nnx.Rngs(0)),)
    else:
        model = (LinenCounting(), LinenCounting().init(jax.random.key(0), BATCH))
    function, training = models.as_function(*model), models.as_training_function(*model)
    apply, train = jax.jit(function.apply), jax.jit(training.apply)
    traces.clear()
    for step in range(4):
        apply(some(function.params, step), some(function.state, step), BATCH[step])
    assert traces == [(1, 3)]
    traces.clear()
    state = training.state
    for step in range(4):
        _, state = train(some(training.params, step), state, jax.random.fold_in(key, step), BATCH)
    assert traces == [(6, 3)]


@pytest.mark.core
@pytest.mark.parametrize("convert", [models.as_function, models.as_training_function])
@pytest.mark.parametrize(
    ("model", "name"),
    [
        (lambda x: x, "function"),
        ({"kernel": BATCH}, "dict"),
        (None, "NoneType"),
        (LinenNet, "type"),
        (Net, "ModuleMeta"),
    ],
    ids=["function", "dict", "none", "linen class", "nnx class"],
)
def test_another_kind_of_model_is_refused(convert, model, name):
    with pytest.raises(TypeError, match=f"A Flax NNX or Linen module is needed; got {name}. A plain function needs no"):
        convert(model)


@pytest.mark.core
@pytest.mark.parametrize("convert", [models.as_function, models.as_training_function])
def test_a_linen_module_needs_its_variables(convert):
    with pytest.raises(
        TypeError, match=rf"The Linen module LinenNet needs its variables: {convert.__name__}\(module, var"
    ):
        convert(LinenNet(), train=False)


def test_the_variables_of_a_linen_module_hold_its_parameters():
    """The inner dictionary alone would make every parameter a statistic."""
    variables = {"Dense_0": {"kernel": jnp.ones((2, 2))}}
    with pytest.raises(TypeError, match=r"with the key 'params'; got the keys .*Write as_function\(module, "):
        models.as_function(linen.Dense(2), variables)
