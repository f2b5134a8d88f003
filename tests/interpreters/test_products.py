"""Kernels of products: what they multiply gives their outputs, and what they cost is what XLA counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinterp import models
from jaxinterp.interpreters import kernel_inputs, products

pytestmark = pytest.mark.core
DTYPE = jnp.float64 if jax.config.jax_enable_x64 else jnp.float32


def random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), DTYPE)


def convolution(x, kernel, dimensions, **options):
    return jax.lax.conv_general_dilated(x, kernel, dimension_numbers=dimensions, **options)


CONVOLUTIONS = {
    "nhwc": (("NHWC", "HWIO", "NHWC"), (2, 6, 5, 3), (3, 2, 3, 4), {"window_strides": (1, 2), "padding": "SAME"}),
    "nchw": (("NCHW", "OIHW", "NCHW"), (1, 3, 6, 5), (4, 3, 2, 2), {"window_strides": (1, 1), "padding": "VALID"}),
    "dilated": (
        ("NHWC", "HWIO", "NCHW"),
        (1, 7, 7, 2),
        (2, 3, 2, 5),
        {"window_strides": (2, 1), "padding": ((1, 2), (0, 3)), "rhs_dilation": (2, 1), "lhs_dilation": (1, 2)},
    ),
    "line": (("NWC", "WIO", "NWC"), (2, 9, 3), (3, 3, 2), {"window_strides": (2,), "padding": "SAME"}),
}


@pytest.mark.numerics
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_the_rows_times_the_kernel_are_the_convolution(name):
    dimensions, image, window, options = CONVOLUTIONS[name]
    x, kernel = random(0, *image), random(1, *window)
    f = lambda params, x: convolution(x, params["kernel"], dimensions, **options)  # noqa: E731
    (product,) = products(f, {"kernel": kernel}, x)
    rows = kernel_inputs(f, 0)({"kernel": kernel}, x)
    found = jnp.einsum("nib,ibo->no", rows, product.matrix(kernel), precision="highest")
    numbers = jax.lax.conv_dimension_numbers(image, window, dimensions)
    expected = jnp.moveaxis(jnp.transpose(f({"kernel": kernel}, x), numbers.out_spec), 1, -1)
    np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-10 if jnp.float64 == DTYPE else 1e-5)
    assert product.multiplications == kernel.size * expected.size // expected.shape[-1]
    np.testing.assert_array_equal(product.kernel(product.matrix(kernel), kernel), kernel)


@pytest.mark.numerics
@pytest.mark.parametrize(
    ("f", "shape", "axes"),
    [
        (lambda p, x: x @ p["w"], (3, 4), (0, 1)),
        (lambda p, x: p["w"] @ x.T, (4, 3), (1, 0)),
        (lambda p, x: jnp.einsum("nd,od->no", x, p["w"]), (4, 3), (1, 0)),
    ],
    ids=["right", "left", "turned"],
)
def test_the_rows_times_the_kernel_are_the_product(f, shape, axes):
    params, x = {"w": random(0, *shape)}, random(1, 5, 3)
    (product,) = products(f, params, x)
    assert (product.multiplications, product.axes) == (5 * 12, axes)
    rows = kernel_inputs(f, 0)(params, x)
    found = jnp.einsum("nib,ibo->no", rows, product.matrix(params["w"]), precision="highest")
    expected = f(params, x)
    np.testing.assert_allclose(found, expected if expected.shape == (5, 4) else expected.T, atol=1e-6)


def test_what_is_no_plain_kernel():
    """It still costs something."""
    params = {"grouped": random(0, 3, 3, 1, 4), "heads": random(1, 4, 2, 3), "turned": random(2, 3, 6)}

    def f(p, x):
        x = convolution(
            x, p["grouped"], ("NHWC", "HWIO", "NHWC"), window_strides=(1, 1), padding="SAME", feature_group_count=4
        )
        heads = jnp.einsum("nhwc,ckd->nkd", x, p["heads"])
        return heads.reshape(1, -1) @ p["turned"].T

    x = random(3, 1, 5, 5, 4)
    found = {product.leaf: product for product in products(f, params, x)}
    assert {leaf: p.multiplications for leaf, p in found.items()} == {0: 25 * 36, 1: 24, 2: 18}
    assert all(product.axes is None for product in found.values())
    with pytest.raises(ValueError, match="Leaf 2 is no kernel"):
        kernel_inputs(f, 2)(params, x)
    with pytest.raises(ValueError, match="Leaf 7 is no kernel"):
        kernel_inputs(f, 7)(params, x)


def test_a_shared_kernel_has_the_rows_of_all_its_uses():
    f = lambda p, x: jnp.tanh(x @ p) @ p  # noqa: E731
    p, x = random(0, 3, 3), random(1, 2, 3)
    rows = kernel_inputs(f, 0)(p, x)
    np.testing.assert_allclose(rows[:, :, 0], jnp.concatenate([x, jnp.tanh(x @ p)]), rtol=1e-6)


@pytest.mark.usefixtures("standard_promotion")
def test_all_kernels_of_a_network_are_found():
    resnet = models.as_function(models.ResNet((8, 8, 3), widths=(4, 8), blocks_per_stage=1, rngs=nnx.Rngs(0)))
    leaves = jax.tree_util.tree_leaves_with_path(resnet.params)
    kernels = products(resnet.apply, resnet.params, resnet.state, jnp.ones((8, 8, 3)))
    names = [jax.tree_util.keystr(leaves[p.leaf][0], simple=True, separator="/") for p in kernels]
    assert names == [
        "conv/kernel",
        *(f"blocks_{i}/conv_{j}/kernel" for i in range(2) for j in range(2)),
        "head/kernel",
    ]
    assert all(product.axes is not None for product in kernels)
