"""Residual networks for small images, and their weights from PyTorch."""

from collections.abc import Callable, Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxinterp.typing import Array


class ResidualBlock(nnx.Module):
    """Two 3x3 convolutions with batch normalisation, added to a shortcut without parameters.

    Where the block has a stride, the shortcut takes every stride-th pixel and pads the new channels with zeros, half of
    them before and half after the old ones ("option A").
    """

    def __init__(
        self, channels: int, width: int, *, stride: int, activation: Callable[[Array], Array], rngs: nnx.Rngs
    ) -> None:
        self.activation = activation
        self.stride = stride
        self.new_channels = width - channels
        self.conv_0 = _conv3x3(channels, width, stride, rngs)
        self.norm_0 = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.conv_1 = _conv3x3(width, width, 1, rngs)
        self.norm_1 = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        y = self.activation(self.norm_0(self.conv_0(x)))
        y = self.norm_1(self.conv_1(y))
        before = self.new_channels // 2
        shortcut = x[:, :: self.stride, :: self.stride, :]
        shortcut = jnp.pad(shortcut, ((0, 0), (0, 0), (0, 0), (before, self.new_channels - before)))
        return self.activation(y + shortcut)


class ResNet(nnx.Module):
    """The CIFAR residual network of He, Zhang, Ren & Sun (2016): 6n + 2 layers, option-A shortcuts.

    Args:
      channels: channels of the image.
      widths: channels of the stages; each stage after the first halves the resolution.
      blocks_per_stage: n; 3 gives ResNet-20.
      num_classes: number of logits.
      activation: the nonlinearity; see `MLP`.
      rngs: where the initial parameters are drawn from.
    """

    def __init__(
        self,
        channels: int = 3,
        *,
        widths: Sequence[int] = (16, 32, 64),
        blocks_per_stage: int = 3,
        num_classes: int = 10,
        activation: Callable[[Array], Array] = nnx.relu,
        rngs: nnx.Rngs,
    ) -> None:
        self.activation = activation
        self.num_blocks = len(widths) * blocks_per_stage
        self.conv = _conv3x3(channels, widths[0], 1, rngs)
        self.norm = nnx.BatchNorm(widths[0], momentum=0.9, rngs=rngs)
        width = widths[0]
        for i in range(self.num_blocks):
            stage, position = divmod(i, blocks_per_stage)
            stride = 2 if stage > 0 and position == 0 else 1
            block = ResidualBlock(width, widths[stage], stride=stride, activation=activation, rngs=rngs)
            setattr(self, f"blocks_{i}", block)
            width = widths[stage]
        self.head = nnx.Linear(width, num_classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Maps a batch of images to a batch of logits."""
        x = self.activation(self.norm(self.conv(x)))
        for i in range(self.num_blocks):
            x = getattr(self, f"blocks_{i}")(x)
        return self.head(jnp.mean(x, axis=(1, 2)))


def resnet_from_torch(weights: Mapping[str, np.ndarray], *, activation: Callable[[Array], Array] = nnx.relu) -> ResNet:
    """Returns a `ResNet` with the weights of a PyTorch state dictionary in the usual CIFAR naming.

    Kernels come as OIHW and dense weights as [out, in]; the names are `conv1`, `bn1`, `layer{s}.{b}.conv1` ... and
    `linear`. Widths and depth are read off the arrays.

    Args:
      weights: arrays by name, for instance an opened `.npz` file.
      activation: the nonlinearity.

    Raises:
      ValueError: if an array is missing, has another shape than the network needs, or is not finite.
    """
    stages = sorted({int(name.split(".")[0][5:]) for name in weights if name.startswith("layer")})
    depth = len({name.split(".")[1] for name in weights if name.startswith("layer1.")})
    needed = ("conv1.weight", "linear.weight", *(f"layer{s}.0.conv2.weight" for s in stages))
    missing = [name for name in needed if name not in weights]
    if missing or not stages:
        raise ValueError(
            f"These are not the weights of a CIFAR ResNet: {missing or 'layer1.0.conv2.weight'} is missing."
        )
    model = ResNet(
        weights["conv1.weight"].shape[1],
        widths=[weights[f"layer{s}.0.conv2.weight"].shape[0] for s in stages],
        blocks_per_stage=depth,
        num_classes=weights["linear.weight"].shape[0],
        activation=activation,
        rngs=nnx.Rngs(0),
    )
    _copy_norm(model.norm, weights, "bn1")
    _copy(model.conv.kernel, weights, "conv1.weight", (2, 3, 1, 0))
    for i in range(model.num_blocks):
        block, name = getattr(model, f"blocks_{i}"), f"layer{stages[i // depth]}.{i % depth}"
        for j, (conv, norm) in enumerate(((block.conv_0, block.norm_0), (block.conv_1, block.norm_1)), start=1):
            _copy(conv.kernel, weights, f"{name}.conv{j}.weight", (2, 3, 1, 0))
            _copy_norm(norm, weights, f"{name}.bn{j}")
    _copy(model.head.kernel, weights, "linear.weight", (1, 0))
    _copy(model.head.bias, weights, "linear.bias")
    return model


def _conv3x3(channels: int, width: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    # Padding 1 on both sides at every stride, as in PyTorch; "SAME" would pad a strided convolution on one side only.
    return nnx.Conv(channels, width, (3, 3), strides=stride, padding=((1, 1), (1, 1)), use_bias=False, rngs=rngs)


def _copy(
    variable: nnx.Variable | None, weights: Mapping[str, np.ndarray], name: str, axes: tuple[int, ...] | None = None
) -> None:
    if variable is None or name not in weights:
        raise ValueError(f"The weights of a CIFAR ResNet need the array {name!r}.")
    value = np.transpose(weights[name], axes)
    if value.shape != variable[...].shape or not np.all(np.isfinite(value)):
        raise ValueError(
            f"The array {name!r} must be finite and, transposed, of shape {variable[...].shape}; got {value.shape}."
        )
    variable[...] = jnp.asarray(value)


def _copy_norm(norm: nnx.BatchNorm, weights: Mapping[str, np.ndarray], name: str) -> None:
    pairs = ((norm.scale, "weight"), (norm.bias, "bias"), (norm.mean, "running_mean"), (norm.var, "running_var"))
    for variable, suffix in pairs:
        _copy(variable, weights, f"{name}.{suffix}")
