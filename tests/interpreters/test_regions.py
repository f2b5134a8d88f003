"""Units of programs: what is recognised as one, and that a program run unit by unit is the program."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax import lax

from jaxinterp import interpreters, models
from tests.interpreters.programs import (
    EPS,
    RANDOM,
    ZOO,
    B,
    W,
    X,
    assert_close,
    compiled,
    normalised,
    random,
    random_program,
    standard,
)

pytestmark = [pytest.mark.core, pytest.mark.numerics]

V = W.T
GROUPINGS = (interpreters.equations, interpreters.activations, interpreters.regions)
ACTIVATIONS = [
    *("relu", "gelu", "silu", "softplus", "elu", "selu", "celu", "leaky_relu", "relu6", "hard_swish", "mish"),
    *("log_sigmoid", "squareplus", "sparse_plus", "hard_tanh", "sparse_sigmoid"),
]


def parts(f, x=X, grouping=interpreters.regions):
    """The groups of a function's program."""
    return grouping(interpreters.graph(f, x)[0])


def kinds(f, x=X):
    """The kinds of the groups in order; those of single equations by the name of their primitive."""
    return [g.nodes[0].name if g.kind == "equation" else g.kind for g in parts(f, x)]


def by_groups(f, grouping):
    """f, evaluated group by group."""

    def run(*args):
        program, leaves = interpreters.graph(f, *args)
        values = program.start(leaves)
        for group in grouping(program):
            outputs = group.apply(values, [values[v] for v in group.inputs])
            values.update(zip(group.outputs, outputs, strict=True))
        return program.unflatten(values)

    return run


def assert_partition(f, x):
    """Each equation that depends on the input is in one group; groups can be run in their order, and have one input."""
    program = interpreters.graph(f, x)[0]
    wanted = [id(node) for node in program.nodes if program.dependent_inputs(node)]
    position = {id(node): i for i, node in enumerate(program.nodes)}
    for grouping in GROUPINGS:
        groups = grouping(program)
        assert sorted(id(node) for group in groups for node in group.nodes) == sorted(wanted)
        known = set(program.inputs)
        for group in groups:
            assert set(group.inputs) <= known
            assert set(group.inputs) <= program.dependent
            assert set(group.outputs) <= {v for node in group.nodes for v in node.outputs}
            assert len(group.inputs) == 1 or group.kind == "equation"
            assert len(group.nodes) == 1 or group.kind != "equation"
            assert len(group.outputs) <= 1 or group.kind in ("equation", "activation")
            assert sorted(group.nodes, key=lambda node: position[id(node)]) == list(group.nodes)
            known.update(group.outputs)
        assert set(program.outputs) & program.dependent <= known


@pytest.mark.parametrize("name", ZOO)
def test_every_equation_is_in_one_group(name):
    assert_partition(ZOO[name], X)


@pytest.mark.parametrize("name", ZOO)
def test_a_program_run_group_by_group_is_the_program(name):
    f = ZOO[name]
    expected, *got = compiled(lambda x: [f(x), *(by_groups(f, grouping)(x) for grouping in GROUPINGS)])(X)
    for value in got:
        assert_close(value, expected, 0)


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)
@hypothesis.given(**RANDOM)
def test_random_programs_are_put_into_groups(steps, shape, seed):
    assert_partition(*random_program(steps, shape, seed))


# --------------------------------------------------------------------------------------------------------- activations


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_one_group(name):
    activation = getattr(jax.nn, name)
    assert kinds(lambda x: activation(x @ W + B)) == ["dot_general", "affine", "activation"]
    assert kinds(lambda x: activation(x @ W) @ W) == ["dot_general", "activation", "dot_general"]
    assert kinds(activation) == ["activation"]
    found = [g for g in parts(lambda x: activation(x @ W + B), X, interpreters.activations) if g.kind == "activation"]
    assert len(found) == 1


@pytest.mark.parametrize(
    "activation",
    [
        functools.partial(jax.nn.gelu, approximate=False),
        jnp.tanh,
        jax.nn.sigmoid,
        lambda x: jnp.where(x > 0, x, 0.01 * x),
        lambda x: x * jax.nn.sigmoid(1.702 * x),
        lambda x: jnp.maximum(x, 0) ** 2,
        lambda x: jnp.log(1 + jnp.exp(x)),
        lambda x: jnp.sin(x) / x - 1,
        jax.jit(lambda x: jax.checkpoint(jnp.sin)(x) + jnp.tanh(x)),
    ],
)
def test_other_activations_are_one_group(activation):
    assert kinds(lambda x: activation(x @ W + B)) == ["dot_general", "affine", "activation"]


def test_a_bias_of_one_channel_is_no_part_of_the_activation():
    bias, kernel = random((1, 1), 1), random((4, 1), 2)
    assert kinds(lambda x: jax.nn.gelu(x @ kernel + bias)) == ["dot_general", "affine", "activation"]
    mean, scale = random((1, 1), 3), random((1, 1), 4)
    normalised = kinds(lambda x: jax.nn.gelu((x @ kernel - mean) / scale * bias + bias))
    assert normalised == ["dot_general", "affine", "activation"]
    assert kinds(lambda x: jax.nn.gelu(x @ kernel + 1.5)) == ["dot_general", "activation"]


def test_activations_of_different_arrays_stay_apart():
    assert kinds(lambda x: jnp.tanh(x @ W) * jnp.tanh(x)) == ["dot_general", "activation", "activation", "mul"]
    assert kinds(lambda x: jnp.tanh(x) * jnp.sin(x)) == ["activation"]
    gated = kinds(lambda x: jax.nn.silu(x @ W) * (x @ V))
    assert gated == ["dot_general", "activation", "dot_general", "mul"]


def test_what_escapes_from_the_middle_of_an_activation_is_kept():
    def f(x):
        inner = jnp.exp(x)
        return jnp.log(1 + inner), inner @ W, lax.stop_gradient(inner)

    (group,) = (g for g in parts(f) if g.kind == "activation")
    assert len(group.inputs) == 1
    assert len(group.outputs) == 3
    expected, got = compiled(lambda x: (f(x), by_groups(f, interpreters.regions)(x)))(X)
    assert_close(got, expected, 0)


def test_pooling_after_an_activation_is_not_part_of_it():
    def f(x):
        return jnp.mean(jax.nn.softplus(x @ W + B), axis=0) @ W

    found = kinds(f)
    assert found == ["dot_general", "affine", "activation", "reduce_sum", "affine", "dot_general"]


# -------------------------------------------------------------------------------------------------------- affine chains


def hand_written_batch_norm(x):
    mean, variance, scale, shift = (random((1, 4), seed) for seed in range(4))
    return (x - mean) / jnp.sqrt(variance**2 + 1e-5) * scale + shift


def linen_module(module, x, seed=0):
    """A Linen module as a function, its variables drawn anew so that none of them is trivial."""
    variables = standard(module.init)(jax.random.key(0), x)
    leaves, structure = jax.tree.flatten(variables)
    rng = np.random.default_rng(seed)
    fresh = [jnp.asarray(rng.uniform(0.5, 2, leaf.shape), x.dtype) for leaf in leaves]
    return standard(functools.partial(module.apply, jax.tree.unflatten(structure, fresh)))


def dtypes():
    return {"dtype": X.dtype, "param_dtype": X.dtype}


def test_a_bias_is_one_affine_group():
    assert kinds(lambda x: x @ W + B) == ["dot_general", "affine"]
    assert kinds(lambda x: B - x) == ["affine"]
    assert kinds(linen_module(linen.Dense(5, **dtypes()), X)) == ["dot_general", "affine"]


def test_batch_normalisation_in_evaluation_is_one_affine_group():
    assert kinds(hand_written_batch_norm) == ["affine"]
    module = linen.BatchNorm(use_running_average=True, **dtypes())
    assert kinds(linen_module(module, X)) == ["affine"]

    def net(x):
        return jax.nn.relu(linen_module(module, X)(hand_written_batch_norm(x @ W + B)))

    assert kinds(net) == ["dot_general", "affine", "activation"]


def test_the_blocks_of_a_network_with_batch_normalisation():
    net = models.as_function(models.ConvNet((4, 4, 1), widths=(2, 3), num_classes=2, batch_norm=True, rngs=nnx.Rngs(0)))
    found = kinds(standard(lambda x: net.apply(net.params, net.state, x)), jnp.ones((4, 4, 1)))
    assert [kind for kind in found if kind not in ("broadcast_in_dim", "reshape", "squeeze", "slice")] == [
        *["conv_general_dilated", "affine", "activation"] * 2,
        "dot_general",
        "affine",
    ]


def test_a_chain_ends_where_its_middle_is_read():
    def f(x):
        middle = x + B
        return middle * W[0][None], jnp.sin(middle)

    assert kinds(f) == ["affine", "affine", "activation"]
    assert kinds(lambda x: (x + B) * x) == ["affine", "mul"]


def test_products_and_quotients_by_the_input_are_not_affine():
    assert kinds(lambda x: B / x) == ["div"]
    assert kinds(lambda x: (x + B) * (x + W[:1])) == ["affine", "affine", "mul"]
    assert kinds(lambda x: (x * x + B) * B / x) == ["mul", "affine", "div"]


# ---------------------------------------------------------------------------------------------------------- normalisers

MASK = np.array([[True, False, True, True], [True, True, False, False], [False, False, False, True]])


def rms(x):
    return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-4)


def softmax_by_hand(x):
    e = jnp.exp(x - jnp.max(x, axis=-1, keepdims=True))
    return e / jnp.sum(e, axis=-1, keepdims=True)


NORMALISERS = {
    "softmax": jax.nn.softmax,
    "softmax of rows": functools.partial(jax.nn.softmax, axis=0),
    "softmax by hand": softmax_by_hand,
    "softmax where": lambda x: jax.nn.softmax(x, where=MASK),
    "softmax of -inf": lambda x: jax.nn.softmax(jnp.where(MASK, x, -jnp.inf)),
    "softmax of the least number": lambda x: softmax_by_hand(jnp.where(MASK, x, jnp.finfo(x.dtype).min)),
    "softmax with an added mask": lambda x: jax.nn.softmax(x + np.where(MASK, 0, -np.inf).astype(x.dtype)),
    "log_softmax": jax.nn.log_softmax,
    "standardize": functools.partial(jax.nn.standardize, epsilon=1e-3),
    "rms by hand": rms,
    "norm": lambda x: x / jnp.linalg.norm(x),
    "share": lambda x: jnp.abs(x) / jnp.sum(jnp.abs(x)),
}


@pytest.mark.parametrize("name", NORMALISERS)
def test_a_normaliser_is_one_group(name):
    f = NORMALISERS[name]
    zeroing = ["affine"] if name == "softmax where" else []  # `jax.nn.softmax` writes 0 where the mask is
    assert kinds(lambda x: f(x @ W) @ W) == ["dot_general", "normaliser", *zeroing, "dot_general"]
    expected, got = compiled(lambda x: (f(x), by_groups(f, interpreters.regions)(x)))(X)
    assert_close(got, expected, 0)


LAYERS = {
    "layer norm, fast variance": linen.LayerNorm(use_fast_variance=True, **dtypes()),
    "layer norm, plain variance": linen.LayerNorm(use_fast_variance=False, **dtypes()),
    "layer norm without scale": linen.LayerNorm(use_scale=False, use_bias=False, **dtypes()),
    "rms norm": linen.RMSNorm(**dtypes()),
    "group norm": linen.GroupNorm(num_groups=2, **dtypes()),
    "instance norm": linen.InstanceNorm(**dtypes()),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_normalising_layer_is_one_normaliser_and_what_follows(name):
    x = random((2, 3, 4), 5)
    f = linen_module(LAYERS[name], x)
    found = [kind for kind in kinds(lambda x: f(x @ W), x) if kind not in ("reshape", "squeeze", "broadcast_in_dim")]
    assert found[:2] == ["dot_general", "normaliser"]
    # Flax multiplies the scale into the inverse root: it is inside, the offset is not.
    assert found[2:] == ([] if name in ("layer norm without scale", "rms norm") else ["affine"])
    expected, got = compiled(lambda x: (f(x), by_groups(f, interpreters.regions)(x)))(x)
    assert_close(got, expected, 0)


def test_an_activation_before_a_normaliser_stays_its_own():
    assert kinds(lambda x: normalised(jax.nn.softplus(x @ W + B))) == [
        *("dot_general", "affine", "activation", "normaliser", "affine")
    ]
    assert kinds(lambda x: rms(jax.nn.gelu(x))) == ["activation", "normaliser"]
    assert kinds(lambda x: jax.nn.relu(normalised(x))) == ["normaliser", "affine", "activation"]


def test_an_activation_read_twice_before_a_normaliser():
    def f(x):
        h = jax.nn.softplus(x)
        return h + normalised(h)

    assert kinds(f) == ["activation", "normaliser"]
    assert kinds(lambda x: f(x) @ W) == ["activation", "normaliser", "dot_general"]
    assert_partition(f, X)


def test_what_escapes_from_the_middle_of_a_normaliser_is_kept():
    def f(x):
        mean = jnp.mean(x, axis=-1, keepdims=True)
        scale = lax.rsqrt(jnp.mean((x - mean) ** 2, axis=-1, keepdims=True) + 1e-3)
        e = jnp.exp(x - mean)
        return (x - mean) * scale, scale[:, 0], e / jnp.sum(e), e, mean + 1

    assert_partition(f, X)
    expected, got = compiled(lambda x: (f(x), by_groups(f, interpreters.regions)(x)))(X)
    assert_close(got, expected, 0)


def test_a_reduction_through_a_layer_is_no_normaliser():
    """Squeeze and excitation: the gate passes a dense layer."""
    gate = lambda x: x * jax.nn.sigmoid(jnp.mean(x, axis=0, keepdims=True) @ W)  # noqa: E731
    assert "normaliser" not in kinds(gate)


def test_a_transformer_block():
    def block(x):
        h = normalised(x)
        scores = jnp.where(MASK[:, :3] | np.eye(3, dtype=bool), (h @ W) @ (h @ V).T / 2.0, -jnp.inf)
        x = x + jax.nn.softmax(scores) @ (h @ W)
        return x + jax.nn.gelu(normalised(x) @ W + B) @ V

    found = [kind for kind in kinds(block) if kind != "transpose"]
    assert found == [
        *["normaliser", "affine", *["dot_general"] * 2, "dot_general", "affine", "normaliser", "dot_general"],
        *["dot_general", "add"],
        *["normaliser", "affine", "dot_general", "affine", "activation", "dot_general", "add"],
    ]
    assert_partition(block, X)


def test_stopped_variables_pass_no_derivative():
    program = interpreters.graph(rms, X)[0]
    (group,) = interpreters.regions(program)
    stopped = frozenset(v for node in group.nodes if node.name in ("sqrt", "rsqrt") for v in node.outputs)
    assert stopped
    values = program.start([X])

    def total(x, stopped=frozenset()):
        return jnp.sum(group.apply(values, [x], stopped)[0])

    @compiled
    def gradients(x):
        return jax.grad(total)(x), jax.grad(total)(x, stopped), jax.grad(lambda x: jnp.sum(rms(x)))(x)

    plain, detached, true = gradients(X)
    np.testing.assert_allclose(plain, true, rtol=0, atol=100 * EPS)
    scale = 1 / np.sqrt(np.mean(np.asarray(X, np.float64) ** 2, -1, keepdims=True) + 1e-4)
    np.testing.assert_allclose(detached, np.broadcast_to(scale, X.shape), rtol=1e-5)
