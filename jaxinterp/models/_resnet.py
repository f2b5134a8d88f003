"""Residual networks for small images, and their weights from PyTorch."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxinterp import checks
from jaxinterp.models._convnet import image_shape
from jaxinterp.models._function import of_zeros
from jaxinterp.typing import Array


class NewChannels(nnx.Variable):
    """As many zeros as a shortcut adds channels: an array, so that these can be cut out with the others."""


class PaddedShortcut(nnx.Module):
    """Each stride-th pixel, and new channels of zeros, half of them before and half after the old ones ("option A").

    The gains change no number: they show the program which channels of the result are the new ones.
    """

    def __init__(self, new_channels: int, stride: int) -> None:
        self.stride = stride
        if new_channels:
            self.before = NewChannels(jnp.zeros(new_channels // 2, jnp.float32))
            self.after = NewChannels(jnp.zeros(new_channels - new_channels // 2, jnp.float32))

    def __call__(self, x: Array) -> Array:
        x = x[:, :: self.stride, :: self.stride, :]
        if not hasattr(self, "before"):
            return x
        before, after = (zeros[...].astype(x.dtype) for zeros in (self.before, self.after))
        gains = jnp.concatenate([before, jnp.ones(x.shape[-1:], x.dtype), after])
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (before.size, after.size))) * gains


class ResidualBlock(nnx.Module):
    """Two 3x3 convolutions with batch normalisation, added to a shortcut without parameters.

    The shortcut is a `PaddedShortcut`.
    """

    def __init__(
        self, channels: int, width: int, *, stride: int, activation: Callable[[Array], Array], rngs: nnx.Rngs
    ) -> None:
        self.activation = activation
        self.shortcut = PaddedShortcut(width - channels, stride)
        self.conv_0 = _conv3x3(channels, width, stride, rngs)
        self.norm_0 = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.conv_1 = _conv3x3(width, width, 1, rngs)
        self.norm_1 = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        y = self.activation(self.norm_0(self.conv_0(x)))
        y = self.norm_1(self.conv_1(y))
        return self.activation(y + self.shortcut(x))


def residual_blocks(widths: Sequence[int], blocks_per_stage: int) -> list[tuple[int, int, int]]:
    """Channels before and after each block, and its stride: each stage after the first halves the resolution."""
    checks.positive_integer("blocks_per_stage", blocks_per_stage)
    if not widths or list(widths) != sorted(widths):
        raise ValueError(
            "`widths` of a residual network must not fall, since shortcuts only add channels, and there must be one; "
            f"got {widths}."
        )
    blocks, channels = [], widths[0]
    for i, width in enumerate(widths):
        for j in range(blocks_per_stage):
            blocks.append((channels, width, 2 if i > 0 and j == 0 else 1))
            channels = width
    return blocks


class ResNet(nnx.Module):
    """The CIFAR residual network of He, Zhang, Ren & Sun (2016): 6n + 2 layers, option-A shortcuts.

    Args:
      input_shape: shape of one image.
      widths: channels of the stages; each stage after the first halves the resolution.
      blocks_per_stage: n; 3 gives ResNet-20.
      num_classes: number of logits.
      activation: the nonlinearity; see `MLP`.
      rngs: where the initial parameters are drawn from.

    Raises:
      ValueError: if the examples are not images, or widths are none or fall.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        *,
        widths: Sequence[int] = (16, 32, 64),
        blocks_per_stage: int = 3,
        num_classes: int = 10,
        activation: Callable[[Array], Array] = nnx.relu,
        rngs: nnx.Rngs,
    ) -> None:
        self.activation = activation
        blocks = residual_blocks(widths, blocks_per_stage)
        self.num_blocks = len(blocks)
        self.conv = _conv3x3(image_shape("ResNet", input_shape)[-1], widths[0], 1, rngs)
        self.norm = nnx.BatchNorm(widths[0], momentum=0.9, rngs=rngs)
        for i, (channels, width, stride) in enumerate(blocks):
            block = ResidualBlock(channels, width, stride=stride, activation=activation, rngs=rngs)
            setattr(self, f"blocks_{i}", block)
        self.head = nnx.Linear(widths[-1], num_classes, rngs=rngs)

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
      ValueError: if an array is missing, is not finite, has another shape than the network needs, or has no place in
        it (such as the convolution of a projection shortcut).
    """
    blocks = [match for name in weights if (match := re.fullmatch(r"layer(\d+)\.(\d+)\.conv2\.weight", name))]
    num_stages = max((int(match[1]) for match in blocks), default=0)
    depth = max((int(match[2]) for match in blocks), default=-1) + 1
    sizing = ("conv1.weight", "linear.weight", *(f"layer{s}.0.conv2.weight" for s in range(1, max(num_stages, 1) + 1)))
    arrays = {name: _array(weights, name) for name in sizing}
    for name, array in arrays.items():
        if array.ndim != (2 if name == "linear.weight" else 4):
            raise ValueError(f"The array {name!r} of a CIFAR ResNet cannot have the shape {array.shape}.")
    options = {
        "widths": [arrays[f"layer{s}.0.conv2.weight"].shape[0] for s in range(1, num_stages + 1)],
        "blocks_per_stage": depth,
        "num_classes": arrays["linear.weight"].shape[0],
        "activation": activation,
    }
    shape = (32, 32, arrays["conv1.weight"].shape[1])  # global pooling: any height and width will do
    model = of_zeros(lambda: ResNet(shape, **options, rngs=nnx.Rngs(0)))
    places = _places(model, depth)
    unused = [name for name in weights if name not in places and not name.endswith("num_batches_tracked")]
    if unused:
        raise ValueError(
            f"A CIFAR ResNet of {num_stages} stages of {depth} blocks has no place for {', '.join(unused)}."
        )
    for name, (variable, axes) in places.items():
        _fill(variable, _array(weights, name), name, axes)
    return model


def _places(model: ResNet, depth: int) -> dict[str, tuple[nnx.Variable, tuple[int, ...]]]:
    """For each name in PyTorch: the variable it belongs to, and the order in which its axes go there."""
    places: dict[str, tuple[Any, tuple[int, ...]]] = {
        "linear.weight": (model.head.kernel, (1, 0)),
        "linear.bias": (model.head.bias, (0,)),
    }
    pairs = [("conv1", model.conv, "bn1", model.norm)]
    for i in range(model.num_blocks):
        block, name = getattr(model, f"blocks_{i}"), f"layer{i // depth + 1}.{i % depth}"
        pairs.append((f"{name}.conv1", block.conv_0, f"{name}.bn1", block.norm_0))
        pairs.append((f"{name}.conv2", block.conv_1, f"{name}.bn2", block.norm_1))
    for conv_name, conv, norm_name, norm in pairs:
        places[f"{conv_name}.weight"] = (conv.kernel, (2, 3, 1, 0))
        parts = {"weight": norm.scale, "bias": norm.bias, "running_mean": norm.mean, "running_var": norm.var}
        places |= {f"{norm_name}.{suffix}": (variable, (0,)) for suffix, variable in parts.items()}
    return places


def _array(weights: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if name not in weights:
        raise ValueError(f"The weights of a CIFAR ResNet need the array {name!r}.")
    array = np.asarray(weights[name])
    if not np.issubdtype(array.dtype, np.floating) or not np.all(np.isfinite(array)):
        raise ValueError(f"The array {name!r} must hold finite floating-point numbers.")
    return array


def _fill(variable: nnx.Variable, array: np.ndarray, name: str, axes: tuple[int, ...]) -> None:
    wanted = variable[...]
    if array.ndim != len(axes) or array.transpose(axes).shape != wanted.shape:
        inverse = tuple(wanted.shape[axes.index(axis)] for axis in range(len(axes)))
        raise ValueError(f"The array {name!r} must have the shape {inverse}; got {array.shape}.")
    variable[...] = jnp.asarray(array.transpose(axes), wanted.dtype)


def _conv3x3(channels: int, width: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    # Padding 1 on both sides at every stride, as in PyTorch; "SAME" would pad a strided convolution on one side only.
    return nnx.Conv(channels, width, (3, 3), strides=stride, padding=((1, 1), (1, 1)), use_bias=False, rngs=rngs)
