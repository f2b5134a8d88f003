"""VGG against the blocks it is made of, and its size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinterp import models

pytestmark = pytest.mark.usefixtures("standard_promotion")


def test_two_stages_by_hand():
    """Blocks, and the largest of each two by two pixels; at an odd edge of those there are."""
    model = models.VGG((5, 4, 2), widths=(3, 4), depths=(1, 2), num_classes=5, rngs=nnx.Rngs(0))
    model.eval()
    x = jax.random.normal(jax.random.key(0), (2, 5, 4, 2))

    def pooled(x):
        x = np.pad(np.asarray(x), ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)), constant_values=-np.inf)
        n, height, width, channels = x.shape
        return x.reshape(n, height // 2, 2, width // 2, 2, channels).max((2, 4))

    y = pooled(model.blocks_0_0(x))
    y = pooled(model.blocks_1_1(model.blocks_1_0(jnp.asarray(y))))
    assert y.shape == (2, 2, 1, 4)
    expected = y.reshape(2, -1) @ np.asarray(model.head.kernel[...]) + np.asarray(model.head.bias[...])
    np.testing.assert_allclose(model(x), expected, rtol=1e-5, atol=1e-5)


def test_vgg_11_has_eight_convolutions():
    model = nnx.eval_shape(lambda: models.VGG((28, 28, 1), num_classes=10, rngs=nnx.Rngs(0)))
    kernels = [leaf.shape for _, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param)) if leaf.ndim == 4]
    assert sorted(shape[-1] for shape in kernels) == [64, 128, 256, 256, 512, 512, 512, 512]
    assert model.head.kernel.shape == (512, 10)
    with pytest.raises(ValueError, match="`VGG` needs a width and a depth >= 1 for each stage"):
        models.VGG((8, 8, 1), widths=(3, 4), depths=(1,), num_classes=2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="`VGG` needs images of shape"):
        models.VGG((5,), num_classes=2, rngs=nnx.Rngs(0))
