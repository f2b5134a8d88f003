"""Networks whose curvature and slope can be held down (Srinivas et al., 2022)."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx

from jaxinterp.models._convnet import ConvNet, image_shape
from jaxinterp.models._low_curvature import CentredSoftplus, LipschitzBatchNorm, LowCurvatureBlock, SpectralConv
from jaxinterp.models._resnet import PaddedShortcut, residual_blocks
from jaxinterp.models._vgg import VGG
from jaxinterp.typing import Array


class _OfLowCurvatureBlocks:
    """What a network of blocks becomes when these are of low curvature."""

    beta: float
    gamma: float

    def block(self, channels: int, features: int, stride: int, image: tuple[int, int], rngs: nnx.Rngs) -> nnx.Module:
        """One block for images of that height and width."""
        return LowCurvatureBlock(
            channels, features, stride=stride, image=image, beta=self.beta, gamma=self.gamma, rngs=rngs
        )


class LowCurvatureConvNet(_OfLowCurvatureBlocks, ConvNet):
    r"""`ConvNet` made of low-curvature blocks.

    With the penalties on β and γ (`penalties.activation_curvature`, `penalties.normalisation_slope`) the bound of its
    curvature is trained down; with that on the gradient norm also the curvature itself. The last layer is not
    normalised.

    Args:
      input_shape: shape of one image.
      widths: channels of the blocks; each after the first halves the resolution.
      num_classes: number of logits.
      beta: where the β of the activations start.
      gamma: where the γ of the normalisations start.
      rngs: where the initial parameters are drawn from.

    Raises:
      ValueError: if the examples are not images.

    Source: Srinivas, Matoba, Lakkaraju & Fleuret (2022).
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        *,
        widths: Sequence[int] = (16, 32),
        num_classes: int,
        beta: float = 5.0,
        gamma: float = 10.0,
        rngs: nnx.Rngs,
    ) -> None:
        self.beta, self.gamma = beta, gamma
        super().__init__(input_shape, widths=widths, num_classes=num_classes, batch_norm=True, rngs=rngs)


class LowCurvatureVGG(_OfLowCurvatureBlocks, VGG):
    r"""`VGG` made of low-curvature blocks, with average pooling; see `LowCurvatureConvNet`.

    Args:
      input_shape: shape of one image.
      widths: channels of the stages; with `depths`, those of VGG-11 by default.
      depths: convolutions of each stage.
      num_classes: number of logits.
      beta: where the β of the activations start.
      gamma: where the γ of the normalisations start.
      rngs: where the initial parameters are drawn from.

    Raises:
      ValueError: if the examples are not images.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        *,
        widths: Sequence[int] = (64, 128, 256, 512, 512),
        depths: Sequence[int] = (1, 1, 2, 2, 2),
        num_classes: int,
        beta: float = 5.0,
        gamma: float = 10.0,
        rngs: nnx.Rngs,
    ) -> None:
        self.beta, self.gamma = beta, gamma
        super().__init__(input_shape, widths=widths, depths=depths, num_classes=num_classes, rngs=rngs)

    def pool(self, x: Array) -> Array:
        """Halves the resolution; smooth, and of norm 1/2."""
        return nnx.avg_pool(x, (2, 2), strides=(2, 2), padding="SAME")


class LowCurvatureResidualBlock(nnx.Module):
    """The mean of the shortcut and of two low-curvature layers, and a centred softplus.

    A mean of two functions is at most as steep as the steeper one; their sum would double the slope with each block.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        *,
        stride: int,
        image: tuple[int, int],
        beta: float,
        gamma: float,
        rngs: nnx.Rngs,
    ) -> None:
        self.shortcut = PaddedShortcut(width - channels, stride)
        self.inner = LowCurvatureBlock(channels, width, stride=stride, image=image, beta=beta, gamma=gamma, rngs=rngs)
        after = (-(-image[0] // stride), -(-image[1] // stride))
        self.conv = SpectralConv(width, width, image=after, rngs=rngs)
        self.norm = LipschitzBatchNorm(width, gamma=gamma, rngs=rngs)
        self.activation = CentredSoftplus(beta)

    def __call__(self, x: Array) -> Array:
        y = self.norm(self.conv(self.inner(x)))
        return self.activation((y + self.shortcut(x)) / 2)


class LowCurvatureResNet(nnx.Module):
    r"""`ResNet` made of low-curvature blocks; see `LowCurvatureConvNet`. That of ResNet-18 by default.

    The shortcuts have no parameters and norm 1 at most.

    Args:
      input_shape: shape of one image.
      widths: channels of the stages; each stage after the first halves the resolution.
      blocks_per_stage: of two convolutions each; 2 with four stages gives ResNet-18.
      num_classes: number of logits.
      beta: where the β of the activations start.
      gamma: where the γ of the normalisations start.
      rngs: where the initial parameters are drawn from.

    Raises:
      ValueError: if the examples are not images.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        *,
        widths: Sequence[int] = (64, 128, 256, 512),
        blocks_per_stage: int = 2,
        num_classes: int,
        beta: float = 5.0,
        gamma: float = 10.0,
        rngs: nnx.Rngs,
    ) -> None:
        height, width, channels = image_shape("LowCurvatureResNet", input_shape)
        blocks = residual_blocks(widths, blocks_per_stage)
        self.stem = LowCurvatureBlock(
            channels, widths[0], stride=1, image=(height, width), beta=beta, gamma=gamma, rngs=rngs
        )
        self.num_blocks = len(blocks)
        for i, (before, after, stride) in enumerate(blocks):
            block = LowCurvatureResidualBlock(
                before, after, stride=stride, image=(height, width), beta=beta, gamma=gamma, rngs=rngs
            )
            setattr(self, f"blocks_{i}", block)
            height, width = -(-height // stride), -(-width // stride)
        self.head = nnx.Linear(widths[-1], num_classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Maps a batch of images to a batch of logits."""
        x = self.stem(x)
        for i in range(self.num_blocks):
            x = getattr(self, f"blocks_{i}")(x)
        return self.head(jnp.mean(x, axis=(1, 2)))
