"""Layers with their constants merged give what the layers gave."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from jax import lax

from jaxinterp import interpreters
from tests.interpreters.programs import ZOO, B, W, X, assert_close, compiled, random, standard

pytestmark = [pytest.mark.core, pytest.mark.numerics]

TOLERANCE = 1e-12 if X.dtype == jnp.float64 else 1e-5
IMAGE = random((2, 6, 5, 4), 1)
KERNEL = random((3, 2, 4, 6), 2, 0.4)


def found_layers(f, x):
    program = interpreters.graph(f, x)[0]
    parts, layers = interpreters.layers(program)
    return program, parts, [layers[id(part)] for part in parts if id(part) in layers]


def assert_merged(f, x, sizes):
    """Each layer as product and bias gives its output, and takes in as many equations as said."""

    @compiled
    def both(x):
        program, _, layers = found_layers(f, x)
        values = program.evaluate([x])
        pairs = []
        for layer in layers:
            product, kernel, bias = layer.merged(values)
            (source,), (out,) = layer.group.inputs, layer.group.outputs
            assert kernel.shape == program.avals[layer.node.inputs[layer.kernel_position]].shape
            assert bias.shape == program.avals[out].shape
            pairs.append((product(values[source], kernel) + bias, values[out], jnp.max(jnp.abs(bias))))
        return pairs

    _, _, layers = found_layers(f, x)
    assert [len(layer.group.nodes) for layer in layers] == sizes
    for got, expected, _ in both(x):
        assert_close(got, expected, TOLERANCE)
    assert_run_by_parts(f, x)


def assert_run_by_parts(f, x):
    """The parts are a partition of the program that can be run in order."""

    @compiled
    def both(x):
        program, leaves = interpreters.graph(f, x)
        parts, _ = interpreters.layers(program)
        values = program.start(leaves)
        for part in parts:
            outputs = part.apply(values, [values[v] for v in part.inputs])
            values.update(zip(part.outputs, outputs, strict=True))
        ids = sorted(id(node) for part in parts for node in part.nodes)
        assert ids == sorted(id(node) for node in program.nodes if program.dependent_inputs(node))
        return program.unflatten(values), f(x)

    assert_close(*both(x), 0)


@pytest.mark.parametrize("name", ZOO)
def test_every_program_can_be_run_by_its_layers(name):
    assert_run_by_parts(ZOO[name], X)


def convolved(x, kernel=KERNEL, numbers=("NHWC", "HWIO", "NHWC"), strides=(1, 1), padding="SAME", **options):
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=numbers, **options)


def channels(seed, width=6, rank=4, axis=-1):
    shape = [1] * rank
    shape[axis] = width
    return np.random.default_rng(seed).normal(size=shape).astype(X.dtype)


def normalised(z, axis=-1):
    """Batch normalisation in evaluation mode; scales of both signs."""
    mean, scale, shift, bias = (channels(seed, z.shape[axis], z.ndim, axis) for seed in range(10, 14))
    variance = np.abs(channels(14, z.shape[axis], z.ndim, axis)) + 0.1
    assert scale.min() < 0 < scale.max()
    return (z + bias - mean) * lax.rsqrt(variance + 1e-5) * scale + shift


CONVOLUTIONS = {
    "last": {},
    "strided": {"strides": (2, 1)},
    "dilated": {"rhs_dilation": (1, 2)},
    "transposed": {"lhs_dilation": (2, 2), "padding": ((1, 1), (1, 0))},
    "grouped": {"feature_group_count": 2, "kernel": random((3, 2, 2, 6), 3)},
    "depthwise": {"feature_group_count": 4, "kernel": random((2, 2, 1, 8), 3)},
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_batch_normalisation_is_merged_into_a_convolution(name):
    f = lambda x: normalised(convolved(x, **CONVOLUTIONS[name]))  # noqa: E731
    assert_merged(lambda x: jax.nn.relu(f(x)), IMAGE, [6])
    (layer,) = found_layers(f, IMAGE)[2]
    assert (layer.kind, layer.kernel_position, layer.node.name) == ("conv", 1, "conv_general_dilated")


def test_channels_may_be_anywhere():
    first = IMAGE.transpose(0, 3, 1, 2)
    kernel = KERNEL.transpose(3, 2, 0, 1)
    assert_merged(lambda x: normalised(convolved(x, kernel, ("NCHW", "OIHW", "NCHW")), axis=1), first, [6])
    assert_merged(lambda x: normalised(convolved(x, kernel, ("NCHW", "OIHW", "NHWC"))), first, [6])
    middle = KERNEL.transpose(3, 0, 2, 1)
    assert_merged(lambda x: normalised(convolved(x, middle, ("NCHW", "OHIW", "HNCW")), axis=2), first, [6])


def test_the_merged_kernel_is_the_kernel_times_the_scales():
    scale, shift = random((4,), 3), random((4,), 4)
    program, _, (layer,) = found_layers(lambda x: (x @ W) * scale[None] + shift[None], X)
    _, kernel, bias = layer.merged(program.evaluate([X]))
    np.testing.assert_allclose(kernel, W * scale[None], rtol=1e-6)
    np.testing.assert_allclose(bias, np.broadcast_to(shift, (3, 4)), rtol=1e-6)


DENSE = {
    "product alone": (lambda x: x @ W, [1]),
    "bias": (lambda x: x @ W + B, [2]),
    "bias first": (lambda x: B + x @ W, [2]),
    "bias subtracted": (lambda x: x @ W - B, [2]),
    "taken from a bias": (lambda x: B - x @ W, [2]),
    "scaled": (lambda x: (x @ W + B) * channels(5, 4, 2) / channels(6, 4, 2), [4]),
    "negated": (lambda x: -(x @ W + B) * 2.5, [4]),
    "statistics": (lambda x: normalised(x @ W), [6]),
    "two layers": (lambda x: jnp.tanh(x @ W + B) @ W.T + 1, [2, 2]),
    "kernel on the left": (lambda x: W @ x.T * channels(5, 4, 2, 0) + channels(6, 4, 2, 0), [3]),
    "vector": (lambda x: (x[0] @ W) * B[0] + B[0], [3]),
    "scalar": (lambda x: (x[0] @ W[0]) * 3.0 + B[0, 0], [3]),
    "read twice": (lambda x: (x @ W) * B + jnp.sin(x @ W), [2, 1]),
    "positions": (lambda x: x @ W + random((3, 4), 8), [2]),
    "positions, then scaled": (lambda x: (x @ W + random((3, 4), 8)) * B, [3]),
    "scaled by position": (lambda x: (x @ W + B) * random((3, 1), 8), [2]),
    "scaled by entry": (lambda x: (x @ W + B) * random((3, 4), 8) + B, [2]),
    "masked": (lambda x: jnp.where(np.eye(3, 4) > 0, x @ W + B, 0.0), [2]),
}


@pytest.mark.parametrize("name", DENSE)
def test_dense_layers(name):
    f, sizes = DENSE[name]
    assert_merged(f, X, sizes)


def test_a_product_read_twice_keeps_its_output():
    def f(x):
        z = x @ W
        return z * B, z + B

    assert_merged(f, X, [1])


def test_the_rest_of_a_chain_is_an_affine_part():
    f = lambda x: (x @ W + B) * random((3, 1), 8) + B  # noqa: E731
    _, parts, _ = found_layers(f, X)
    assert [(part.kind, len(part.nodes)) for part in parts] == [("equation", 2), ("affine", 2)]
    _, parts, _ = found_layers(lambda x: (x @ W + B) * channels(8, 4, 2), X)
    assert [(part.kind, len(part.nodes)) for part in parts] == [("equation", 3)]


EINSUMS = ["tbc,bcd->tbd", "tbc,bcd->bdt", "tbc,bdc->dbt", "tbc,dc->dtb", "tbc,bc->bt", "tbc,cbde->etdb", "tbc,e->ctbe"]


@pytest.mark.parametrize("formula", EINSUMS)
@pytest.mark.parametrize("swap", [False, True])
def test_einsum_with_batch_dimensions(formula, swap):
    """Each axis of the output that the kernel has may be scaled and shifted."""
    sizes = {"t": 3, "b": 2, "c": 4, "d": 5, "e": 2}
    left, right, out = formula.replace("->", ",").split(",")
    x, kernel = (random(tuple(sizes[axis] for axis in axes), seed) for seed, axes in enumerate((left, right)))
    shape = tuple(sizes[axis] if axis in right else 1 for axis in out)
    scale, shift = random(shape, 7), random(shape, 8)

    def product(x):
        if swap:
            return jnp.einsum(f"{right},{left}->{out}", kernel, x)
        return jnp.einsum(formula, x, kernel)

    f = lambda x: product(x) * scale + shift  # noqa: E731
    program, _, layers = found_layers(f, x)
    transposed = any(node.name == "transpose" for node in program.nodes)
    assert_merged(f, x, [len(layer.group.nodes) for layer in layers])
    if not transposed:
        assert [len(layer.group.nodes) for layer in layers] == [3]


def test_flax_layers():
    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            options = {"dtype": x.dtype, "param_dtype": x.dtype}
            x = linen.Conv(6, (3, 3), strides=2, **options)(x)
            x = jax.nn.relu(linen.BatchNorm(use_running_average=True, **options)(x))
            x = linen.Conv(6, (2, 2), feature_group_count=3, use_bias=False, **options)(x)
            x = linen.BatchNorm(use_running_average=True, **options)(x).reshape(x.shape[0], -1)
            return linen.Dense(3, **options)(x)

    module = Net()
    variables = standard(module.init)(jax.random.key(0), IMAGE)
    drawn = jax.tree_util.tree_map_with_path(
        lambda path, a: (
            jnp.abs(random(a.shape, len(path))) + 0.1 if "var" in str(path[-1]) else random(a.shape, 1, 0.3)
        ),
        variables,
    )
    f = standard(functools.partial(module.apply, drawn))
    # convolution, bias, and - mean, * (rsqrt * scale), + shift
    assert_merged(f, IMAGE, [5, 4, 2])


def test_products_of_two_moving_arrays_and_of_constants_are_no_layers():
    assert found_layers(lambda x: x @ x.T, X)[2] == []
    assert found_layers(lambda x: jnp.sum(W @ W) * x, X)[2] == []


def test_a_kernel_that_depends_on_x_without_a_derivative():
    """As attention weights that are held constant."""

    def f(x):
        weights = jax.nn.softmax(lax.stop_gradient(x @ x.T))
        return weights @ (x * 2) + B

    program, _, layers = found_layers(f, X)
    assert [layer.kernel_position for layer in layers] == [0]
    values = program.evaluate([X])
    product, kernel, bias = layers[0].merged(values)
    np.testing.assert_allclose(kernel, jax.nn.softmax(X @ X.T), rtol=1e-4)
    assert_close(product(2 * X, kernel) + bias, f(X), TOLERANCE)
    assert_run_by_parts(f, X)


def test_a_change_of_dtype_ends_a_layer():
    def f(x):
        z = lax.dot(x.astype(jnp.bfloat16), W.astype(jnp.bfloat16))
        return (z + B.astype(z.dtype)).astype(x.dtype) * 2 + B

    assert_run_by_parts(f, X)
    _, _, (layer,) = found_layers(f, X)
    assert [node.name for node in layer.group.nodes] == ["dot_general", "add"]


def test_layers_of_a_batch():
    f = jax.vmap(lambda x: jax.nn.relu(x @ W * B[0] + B[0]))
    assert_merged(f, X, [3])
    # A convolution over two batch axes is followed by a reshaping; the layer ends there.
    assert_merged(jax.vmap(lambda x: normalised(convolved(x))), random((3, 2, 5, 5, 4), 1), [1])
