"""Networks and penalties of an experiment: see `_config`."""

import dataclasses

from flax import nnx

from jaxinterp import data, models, penalties, training
from jaxinterp.app._fields import ACTIVATIONS, HEADS, Activation, Count, Head, NonNegative, Positive


class _Network:
    """A network of `jaxinterp.models` by its name; its fields are those of the configuration."""

    def build(self, dataset: data.Dataset, seed: int) -> nnx.Module:
        """Makes the network with its initial parameters."""
        options = dict(vars(self))
        if "activation" in options:
            options["activation"] = ACTIVATIONS[options["activation"]]
        make = getattr(models, type(self).__name__)
        return make(dataset.shape, num_classes=dataset.num_classes, **options, rngs=nnx.Rngs(seed))


@dataclasses.dataclass(frozen=True)
class MLP(_Network):
    """A fully connected network."""

    widths: tuple[Count, ...] = (64, 64)
    """Units of the hidden layers."""
    activation: Activation = "gelu"
    """The nonlinearity; a ReLU network has no curvature to measure."""


@dataclasses.dataclass(frozen=True)
class ConvNet(_Network):
    """A convolutional network for images."""

    widths: tuple[Count, ...] = (16, 32)
    """Channels of the blocks; each block after the first halves the resolution."""
    batch_norm: bool = False
    """Whether convolutions are followed by batch normalisation."""
    activation: Activation = "gelu"
    """The nonlinearity; a ReLU network has no curvature to measure."""


@dataclasses.dataclass(frozen=True)
class VGG(_Network):
    """A VGG network for images, with batch normalisation; VGG-11 by default."""

    widths: tuple[Count, ...] = (64, 128, 256, 512, 512)
    """Channels of the stages; each ends with pooling."""
    depths: tuple[Count, ...] = (1, 1, 2, 2, 2)
    """Convolutions of each stage."""
    activation: Activation = "gelu"
    """The nonlinearity; a ReLU network has no curvature to measure."""


@dataclasses.dataclass(frozen=True)
class ResNet(_Network):
    """A residual network for images; ResNet-20 by default."""

    widths: tuple[Count, ...] = (16, 32, 64)
    """Channels of the stages; each stage after the first halves the resolution."""
    blocks_per_stage: Count = 3
    """Blocks of two convolutions each."""
    activation: Activation = "gelu"
    """The nonlinearity; a ReLU network has no curvature to measure."""


@dataclasses.dataclass(frozen=True)
class LowCurvatureConvNet(_Network):
    """A convolutional network of spectral convolutions, normalisations of bounded slope and centred softplus."""

    widths: tuple[Count, ...] = (16, 32)
    """Channels of the blocks; each block after the first halves the resolution."""
    beta: Positive = 5.0
    """Where the β of the activations start."""
    gamma: Positive = 10.0
    """Where the bounds γ of the normalisations start."""


@dataclasses.dataclass(frozen=True)
class LowCurvatureVGG(_Network):
    """A VGG network of low-curvature layers; VGG-11 by default."""

    widths: tuple[Count, ...] = (64, 128, 256, 512, 512)
    """Channels of the stages; each ends with pooling."""
    depths: tuple[Count, ...] = (1, 1, 2, 2, 2)
    """Convolutions of each stage."""
    beta: Positive = 5.0
    """Where the β of the activations start."""
    gamma: Positive = 10.0
    """Where the bounds γ of the normalisations start."""


@dataclasses.dataclass(frozen=True)
class LowCurvatureResNet(_Network):
    """A residual network of low-curvature layers; ResNet-18 by default."""

    widths: tuple[Count, ...] = (64, 128, 256, 512)
    """Channels of the stages; each stage after the first halves the resolution."""
    blocks_per_stage: Count = 2
    """Blocks of two convolutions each."""
    beta: Positive = 5.0
    """Where the β of the activations start."""
    gamma: Positive = 10.0
    """Where the bounds γ of the normalisations start."""


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
