"""Networks and penalties of an experiment: see `_config`."""

import dataclasses

from flax import nnx

from jaxinterp import data, models, penalties, training
from jaxinterp.app._fields import ACTIVATIONS, HEADS, Activation, Count, Head, NonNegative, Positive


@dataclasses.dataclass(frozen=True)
class MLP:
    """A fully connected network."""

    widths: tuple[Count, ...] = (64, 64)
    """Units of the hidden layers."""
    activation: Activation = "gelu"
    """The nonlinearity; a ReLU network has no curvature to measure."""

    def build(self, dataset: data.Dataset, seed: int) -> nnx.Module:
        """Makes the network with its initial parameters."""
        return models.MLP(
            dataset.shape,
            widths=self.widths,
            num_classes=dataset.num_classes,
            activation=ACTIVATIONS[self.activation],
            rngs=nnx.Rngs(seed),
        )


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
        return models.ConvNet(
            dataset.shape,
            widths=self.widths,
            num_classes=dataset.num_classes,
            batch_norm=self.batch_norm,
            activation=ACTIVATIONS[self.activation],
            rngs=nnx.Rngs(seed),
        )


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
        return models.LowCurvatureConvNet(
            dataset.shape,
            widths=self.widths,
            num_classes=dataset.num_classes,
            beta=self.beta,
            gamma=self.gamma,
            rngs=nnx.Rngs(seed),
        )


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
