"""VGG networks for small images."""

from collections.abc import Callable, Sequence

from flax import nnx

from jaxinterp.models._convnet import ConvBlock, image_shape
from jaxinterp.typing import Array


class VGG(nnx.Module):
    """The VGG network for images [height, width, channels]: stages of 3x3 convolutions, flatten, one dense layer.

    The convolutions are followed by batch normalisation; each stage ends with max pooling, which halves the resolution.

    Args:
      input_shape: shape of one image.
      widths: channels of the stages; with `depths`, those of VGG-11 by default.
      depths: convolutions of each stage.
      num_classes: number of logits.
      activation: the nonlinearity; see `MLP`.
      rngs: where the initial parameters are drawn from.

    Raises:
      ValueError: if the examples are not images, or widths and depths not equally many.

    Source: Simonyan & Zisserman (2015); with one dense layer and batch normalisation as usual for CIFAR.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        *,
        widths: Sequence[int] = (64, 128, 256, 512, 512),
        depths: Sequence[int] = (1, 1, 2, 2, 2),
        num_classes: int,
        activation: Callable[[Array], Array] = nnx.relu,
        rngs: nnx.Rngs,
    ) -> None:
        height, width, channels = image_shape(type(self).__name__, input_shape)
        if len(widths) != len(depths) or not widths or min(depths) < 1:
            raise ValueError(
                f"`{type(self).__name__}` needs a width and a depth >= 1 for each stage; got {widths=} and {depths=}."
            )
        self.activation, self.depths = activation, tuple(depths)
        for i, (features, depth) in enumerate(zip(widths, depths, strict=True)):
            for j in range(depth):
                setattr(self, f"blocks_{i}_{j}", self.block(channels, features, 1, (height, width), rngs))
                channels = features
            height, width = -(-height // 2), -(-width // 2)
        self.head = nnx.Linear(height * width * channels, num_classes, rngs=rngs)

    def block(self, channels: int, features: int, stride: int, image: tuple[int, int], rngs: nnx.Rngs) -> nnx.Module:
        """One block for images of that height and width."""
        del image  # these blocks do not depend on it
        return ConvBlock(channels, features, stride=stride, batch_norm=True, activation=self.activation, rngs=rngs)

    def pool(self, x: Array) -> Array:
        """Halves the resolution."""
        return nnx.max_pool(x, (2, 2), strides=(2, 2), padding="SAME")

    def __call__(self, x: Array) -> Array:
        """Maps a batch of images to a batch of logits."""
        for i, depth in enumerate(self.depths):
            for j in range(depth):
                x = getattr(self, f"blocks_{i}_{j}")(x)
            x = self.pool(x)
        return self.head(x.reshape(x.shape[0], -1))
