"""Small convolutional networks."""

from collections.abc import Callable, Sequence

from flax import nnx

from jaxinterp.typing import Array


def image_shape(network: str, shape: Sequence[int]) -> tuple[int, int, int]:
    """Returns the shape of one example if it is an image; `ValueError` naming the network otherwise."""
    if len(shape) != 3:
        raise ValueError(
            f"`{network}` needs images of shape [height, width, channels], but one example has shape {tuple(shape)}; "
            "use `MLP` for other data."
        )
    height, width, channels = shape
    return height, width, channels


class ConvBlock(nnx.Module):
    """A 3x3 convolution, batch normalisation if wanted, and an activation."""

    def __init__(
        self,
        channels: int,
        width: int,
        *,
        stride: int,
        batch_norm: bool,
        activation: Callable[[Array], Array],
        rngs: nnx.Rngs,
    ) -> None:
        self.activation = activation
        self.conv = nnx.Conv(
            channels, width, (3, 3), strides=stride, padding="SAME", use_bias=not batch_norm, rngs=rngs
        )
        self.norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs) if batch_norm else None

    def __call__(self, x: Array) -> Array:
        x = self.conv(x)
        return self.activation(x if self.norm is None else self.norm(x))


class ConvNet(nnx.Module):
    """A convolutional network for images [height, width, channels]: blocks, flatten, one dense layer.

    Each block after the first halves the resolution by its stride.

    Args:
      input_shape: shape of one image.
      widths: channels of the blocks.
      num_classes: number of logits.
      batch_norm: whether the convolutions are followed by batch normalisation instead of having a bias.
      activation: the nonlinearity; see `MLP`.
      rngs: where the initial parameters are drawn from.

    Raises:
      ValueError: if the examples are not images.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        *,
        widths: Sequence[int] = (16, 32),
        num_classes: int,
        batch_norm: bool = False,
        activation: Callable[[Array], Array] = nnx.softplus,
        rngs: nnx.Rngs,
    ) -> None:
        height, width, channels = image_shape(type(self).__name__, input_shape)
        self.batch_norm, self.activation = batch_norm, activation
        self.num_blocks = len(widths)
        for i, features in enumerate(widths):
            stride = 1 if i == 0 else 2
            setattr(self, f"blocks_{i}", self.block(channels, features, stride, (height, width), rngs))
            height, width, channels = -(-height // stride), -(-width // stride), features
        self.head = nnx.Linear(height * width * channels, num_classes, rngs=rngs)

    def block(self, channels: int, features: int, stride: int, image: tuple[int, int], rngs: nnx.Rngs) -> nnx.Module:
        """One block for images of that height and width."""
        del image  # these blocks do not depend on it
        return ConvBlock(
            channels, features, stride=stride, batch_norm=self.batch_norm, activation=self.activation, rngs=rngs
        )

    def __call__(self, x: Array) -> Array:
        """Maps a batch of images to a batch of logits."""
        for i in range(self.num_blocks):
            x = getattr(self, f"blocks_{i}")(x)
        return self.head(x.reshape(x.shape[0], -1))
