"""Networks and penalties of an experiment: see `_config`."""

import dataclasses
from collections.abc import Callable
from typing import Any

from flax import nnx

from jaxinterp import data, models, penalties, training
from jaxinterp.app._fields import ACTIVATIONS, HEADS, Activation, Count, Head, NonNegative, Positive


def _made(make: Callable[..., nnx.Module], config: Any, dataset: data.Dataset, seed: int) -> nnx.Module:
    """A network whose options are the fields of its configuration."""
    options = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    if "activation" in options:
        options["activation"] = ACTIVATIONS[options["activation"]]
    return make(dataset.shape, num_classes=dataset.num_classes, **options, rngs=nnx.Rngs(seed))


@dataclasses.dataclass(frozen=True)
class MLP:
    """A fully connected network."""

    widths: tuple[Count, ...] = (64, 64)
    """Units of the hidden layers."""
    activation: Activation = "gelu"
    """The nonlinearity; a ReLU network has no curvature to measure."""

    def build(self, dataset: data.Dataset, seed: int) -> nnx.Module:
        """Makes the network with its initial parameters."""
        return _made(models.MLP, self, dataset, seed)


@dataclasses.dataclass(frozen=True)
class ConvNet:
    """A convolutional network for images."""

    widths: tuple[Count, ...] = (16, 32)
    """Channels of the blocks; each block after the first halves the resolution."""
    batch_norm: bool = False
    """Whether convolutions are followed by batch normalisation."""
    activation: Activation = "gelu"
    """The nonlinearity; a ReLU network has no curvature to measure."""

    def build(self, dataset: data.Dataset, seed: int) -> nnx.Module:
        """Makes the network with its initial parameters."""
        return _made(models.ConvNet, self, dataset, seed)


@dataclasses.dataclass(frozen=True)
class VGG:
    """A VGG network for images, with batch normalisation; VGG-11 by default."""

    widths: tuple[Count, ...] = (64, 128, 256, 512, 512)
    """Channels of the stages; each ends with pooling."""
    depths: tuple[Count, ...] = (1, 1, 2, 2, 2)
    """Convolutions of each stage."""
    activation: Activation = "gelu"
    """The nonlinearity; a ReLU network has no curvature to measure."""

    def build(self, dataset: data.Dataset, seed: int) -> nnx.Module:
        """Makes the network with its initial parameters."""
        return _made(models.VGG, self, dataset, seed)


@dataclasses.dataclass(frozen=True)
class ResNet:
    """A residual network for images; ResNet-20 by default."""

    widths: tuple[Count, ...] = (16, 32, 64)
    """Channels of the stages; each stage after the first halves the resolution."""
    blocks_per_stage: Count = 3
    """Blocks of two convolutions each."""
    activation: Activation = "gelu"
    """The nonlinearity; a ReLU network has no curvature to measure."""

    def build(self, dataset: data.Dataset, seed: int) -> nnx.Module:
        """Makes the network with its initial parameters."""
        return _made(models.ResNet, self, dataset, seed)


@dataclasses.dataclass(frozen=True)
class LowCurvatureConvNet:
    """A convolutional network of spectral convolutions, normalisations of bounded slope and centred softplus."""

    widths: tuple[Count, ...] = (16, 32)
    """Channels of the blocks; each block after the first halves the resolution."""
    beta: Positive = 5.0
    """Where the β of the activations start."""
    gamma: Positive = 10.0
    """Where the bounds γ of the normalisations start."""

    def build(self, dataset: data.Dataset, seed: int) -> nnx.Module:
        """Makes the network with its initial parameters."""
        return _made(models.LowCurvatureConvNet, self, dataset, seed)


@dataclasses.dataclass(frozen=True)
class LowCurvatureVGG:
    """A VGG network of low-curvature layers; VGG-11 by default."""

    widths: tuple[Count, ...] = (64, 128, 256, 512, 512)
    """Channels of the stages; each ends with pooling."""
    depths: tuple[Count, ...] = (1, 1, 2, 2, 2)
    """Convolutions of each stage."""
    beta: Positive = 5.0
    """Where the β of the activations start."""
    gamma: Positive = 10.0
    """Where the bounds γ of the normalisations start."""

    def build(self, dataset: data.Dataset, seed: int) -> nnx.Module:
        """Makes the network with its initial parameters."""
        return _made(models.LowCurvatureVGG, self, dataset, seed)


@dataclasses.dataclass(frozen=True)
class LowCurvatureResNet:
    """A residual network of low-curvature layers; ResNet-18 by default."""

    widths: tuple[Count, ...] = (64, 128, 256, 512)
    """Channels of the stages; each stage after the first halves the resolution."""
    blocks_per_stage: Count = 2
    """Blocks of two convolutions each."""
    beta: Positive = 5.0
    """Where the β of the activations start."""
    gamma: Positive = 10.0
    """Where the bounds γ of the normalisations start."""

    def build(self, dataset: data.Dataset, seed: int) -> nnx.Module:
        """Makes the network with its initial parameters."""
        return _made(models.LowCurvatureResNet, self, dataset, seed)


Network = MLP | ConvNet | VGG | ResNet | LowCurvatureConvNet | LowCurvatureVGG | LowCurvatureResNet


@dataclasses.dataclass(frozen=True)
class GradientNorm:
    """Penalty on the squared norm of the input gradient."""

    weight: NonNegative = 1.0
    """Its weight in the loss."""
    head: Head = "cross_entropy"
    """What is differentiated, at the true class."""

    def build(self) -> training.WeightedPenalty:
        """Makes the penalty."""
        return training.WeightedPenalty(
            "squared_gradient_norm", penalties.input_gradient_norm(HEADS[self.head]), self.weight
        )


@dataclasses.dataclass(frozen=True)
class ActivationCurvature:
    """Penalty on the sum of the β of the activations of a low-curvature network."""

    weight: NonNegative = 1e-3
    """Its weight in the loss."""

    def build(self) -> training.WeightedPenalty:
        """Makes the penalty."""
        return training.WeightedPenalty("activation_curvature", penalties.activation_curvature(), self.weight)


@dataclasses.dataclass(frozen=True)
class NormalisationSlope:
    """Penalty on the sum of |log γ| of the normalisations of a low-curvature network."""

    weight: NonNegative = 1e-3
    """Its weight in the loss."""

    def build(self) -> training.WeightedPenalty:
        """Makes the penalty."""
        return training.WeightedPenalty("normalisation_slope", penalties.normalisation_slope(), self.weight)


Penalty = GradientNorm | ActivationCurvature | NormalisationSlope
