"""What an experiment is: plain values, written in a file of `configs/`, overridden on the command line.

Each class here is frozen, holds numbers, strings and tuples only, and is turned into the objects it stands for
once, by its `build`. The documentation of the fields is what `--help` shows.
"""

import dataclasses
import pathlib
from typing import Any, Literal

import jax

from jaxinterp import data, training
from jaxinterp.app._components import Network, Penalty
from jaxinterp.app._fields import Count, Fraction, Head, NonNegative, Positive, Seed
from jaxinterp.app._sparsity import Gates, Pruning
from jaxinterp.typing import Key


@dataclasses.dataclass(frozen=True)
class Digits:
    """Handwritten digits, 8x8 pixels, embedded in scikit-learn."""

    split_seed: Seed = 0
    """Decides the 60/20/20 division into training, validation and test parts."""

    def build(self) -> data.Dataset:
        """Loads the data."""
        return data.digits(jax.random.key(self.split_seed))


@dataclasses.dataclass(frozen=True)
class BreastCancer:
    """Wisconsin diagnostic breast cancer, 30 features, embedded in scikit-learn."""

    split_seed: Seed = 0
    """Decides the 60/20/20 division into training, validation and test parts."""

    def build(self) -> data.Dataset:
        """Loads the data."""
        return data.breast_cancer(jax.random.key(self.split_seed))


@dataclasses.dataclass(frozen=True)
class Files:
    """A dataset in the standard files of MNIST, CIFAR-10 or CIFAR-100, or an .npz archive."""

    format: Literal["mnist", "cifar10", "cifar100", "npz"]
    """What kind of files."""
    path: pathlib.Path
    """The directory that holds them; for "npz" the archive itself."""
    split_seed: Seed = 0
    """Decides which training examples are for validation."""

    def __post_init__(self) -> None:
        if isinstance(self.path, str):
            object.__setattr__(self, "path", pathlib.Path(self.path))

    def build(self) -> data.Dataset:
        """Loads the data."""
        readers = {"mnist": data.mnist, "cifar10": data.cifar10, "cifar100": data.cifar100, "npz": data.npz}
        return readers[self.format](jax.random.key(self.split_seed), self.path)


@dataclasses.dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay; the rate falls to zero along a cosine."""

    learning_rate: Positive = 2e-3
    """At the first step."""
    weight_decay: NonNegative = 0.0
    """Fraction of a parameter taken away per unit of learning rate."""

    def build(self, num_steps: int) -> Any:
        """Makes the gradient transformation."""
        return training.adamw(self.learning_rate, num_steps=num_steps, weight_decay=self.weight_decay)


@dataclasses.dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent; the rate is divided by 10 after 75 % and 87.5 % of the steps."""

    learning_rate: Positive = 0.1
    """At the first step."""
    momentum: Fraction = 0.9
    """Of the velocity."""
    weight_decay: NonNegative = 5e-4
    """L2 coefficient."""

    def build(self, num_steps: int) -> Any:
        """Makes the gradient transformation."""
        return training.sgd(
            self.learning_rate, num_steps=num_steps, momentum=self.momentum, weight_decay=self.weight_decay
        )


@dataclasses.dataclass(frozen=True)
class Training:
    """How long, in what pieces, and what is kept."""

    num_steps: Count = 2000
    """Number of updates."""
    batch_size: Count = 128
    """Examples per update."""
    gate_learning_rate: Positive = 1e-2
    """Of the gates' optimiser (Adam)."""
    log_every: Count = 20
    """Steps between lines of metrics.jsonl."""
    checkpoint_every: Count = 200
    """Steps between checkpoints, at which validation accuracy is measured too."""
    keep_last: Count = 2
    """Number of newest checkpoints kept, besides the best."""
    best_after: Fraction = 0.75
    """Fraction of training after which checkpoints compete for the best: before, gates are still open. Where there is
    pruning, not before its target is reached."""


@dataclasses.dataclass(frozen=True)
class Explain:
    """Which attributions and local models are computed."""

    methods: tuple[str, ...] = (
        "gradient",
        "gradient_times_input",
        "integrated_gradients",
        "smooth_grad",
        "occlusion",
        "lime",
    )
    """Names from `jaxinterp methods`. A background is 64 training examples, spread evenly over the training part."""
    head: Head = "logit"
    """What is explained, at the predicted class."""
    num_examples: Count = 10
    """Test examples explained: the first of each class in turn."""
    secant_stddev: Positive = 0.2
    """Noise of the neighbourhood of the secant models, in units of the normalised input."""
    secant_samples: Count = 1000
    """Samples of that neighbourhood; at least two for each entry of the input are taken."""


@dataclasses.dataclass(frozen=True)
class Measure:
    """What is measured on the test examples."""

    num_examples: Count | None = None
    """How many, the first of the test part; None takes all."""
    stddevs: tuple[Positive, ...] = (0.1, 0.3)
    """Noise levels of average-case robustness, in units of the normalised input."""
    num_samples: Count = 500
    """Noise samples per example and level of the Monte Carlo estimate."""
    temperature: Positive = 1.0
    """Of the softmax estimate."""
    radii: tuple[Positive, ...] = (0.5,)
    """Euclidean radii of the PGD attacks, in units of the normalised input and without its limits; may be empty."""
    sparsities: tuple[Fraction, ...] = (0.5, 0.8, 0.9, 0.95, 0.98)
    """To which the trained network is pruned, without training on, for a curve of its accuracy; may be empty."""
    num_iterations: Count = 64
    """Largest number of Hessian-vector products per example."""
    batch_size: Count = 64
    """Examples computed together."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One experiment: train, explain, measure, report."""

    data: Digits | BreastCancer | Files
    """The dataset."""
    model: Network
    """The network."""
    optimizer: AdamW | SGD = AdamW()
    """The optimiser."""
    gates: tuple[Gates, ...] = ()
    """Gates on parameters; may be empty."""
    pruning: tuple[Pruning, ...] = ()
    """Pruning while training; may be empty, or several for different parameters."""
    penalties: tuple[Penalty, ...] = ()
    """Penalties on smoothness; may be empty."""
    training: Training = Training()
    """Length and pieces of training."""
    explain: Explain = Explain()
    """Attributions and local models."""
    measure: Measure = Measure()
    """Curvature and robustness."""
    seed: Seed = 0
    """Decides the initial parameters, the order of the examples and all noise."""

    def key(self, purpose: int) -> Key:
        """The random key of one purpose."""
        return jax.random.fold_in(jax.random.key(self.seed), purpose)
