"""What removes parameters in an experiment: gates and pruning; see `_config`."""

import dataclasses
import fnmatch
from typing import Any, Literal

from jaxinterp import sparsity, training
from jaxinterp.app._fields import GRANULARITIES, Count, Fraction, Granularity, NonNegative
from jaxinterp.typing import PyTree

BUDGETS = {
    "over_all": sparsity.over_all(),
    "per_parameter": sparsity.per_parameter(),
    "erdos_renyi": sparsity.erdos_renyi(),
    "2:4": sparsity.n_of_m(2, 4),
}


def matching(pattern: str) -> sparsity.Predicate:
    """The parameters whose path matches a pattern."""
    return lambda path, value: fnmatch.fnmatchcase(path, pattern)


@dataclasses.dataclass(frozen=True)
class Gates:
    """Gates that learn which parameters remain."""

    parameters: str = "*kernel"
    """Which parameters: a pattern (`*`, `?`) for their paths, such as "blocks_*/conv/kernel"."""
    granularity: Granularity = "weight"
    """One gate for each weight, each output unit, or each filter of a convolution."""
    initial: Fraction = 0.7
    """Where the gates start, between 0 and 1."""
    bimodal: NonNegative = 2e-4
    """Weight of the sum of g(1 - g), which drives gates to 0 or 1."""
    sparsity: NonNegative = 1.4e-4
    """Weight of the sum of g, which closes gates."""
    sampled: bool = True
    """Whether a step draws its mask from the gates or takes the most probable one."""

    def build(self, params: PyTree) -> PyTree:
        """Makes the gates for some parameters.

        Raises:
          ValueError: if no parameter matches, or one has no such gates.
        """
        try:
            return sparsity.attach(
                params,
                predicate=matching(self.parameters),
                granularity=GRANULARITIES[self.granularity],
                initial=self.initial,
            )
        except ValueError as error:
            raise ValueError(
                f"parameters {self.parameters!r} with granularity {self.granularity!r}: {error} Choose others by "
                '`parameters`, such as "blocks_*/conv/kernel".'
            ) from error

    def regulariser(self) -> training.GateRegulariser:
        """What the objective needs to know."""
        return training.GateRegulariser(self.bimodal, self.sparsity, self.sampled)


@dataclasses.dataclass(frozen=True)
class Pruning:
    """Pruning while training: after each update the parameters that matter least are zero."""

    target: Fraction = 0.9
    """The fraction removed in the end, below 1."""
    schedule: Literal["one_shot", "gradual", "cyclical"] = "cyclical"
    """All at half of the steps; along a cubic up to three quarters of them; or such a rise in each of several cycles,
    in which what was removed can come back."""
    num_cycles: Count = 2
    """Of the cyclical schedule."""
    score: Literal["magnitude", "saliency"] = "magnitude"
    """What is lowest is removed: the magnitude, or the parameter times its gradient."""
    budget: Literal["over_all", "per_parameter", "erdos_renyi", "2:4"] = "over_all"
    """The lowest of all parameters, the same fraction of each, less of small kernels, or two of each four inputs."""
    parameters: str = "*kernel"
    """Which parameters: a pattern (`*`, `?`) for their paths, such as "blocks_*/conv/kernel"."""
    granularity: Granularity = "weight"
    """What is removed together: a weight, an output unit, or a filter of a convolution."""
    every: Count = 10
    """Updates from one choice of what is removed to the next."""

    def build(self, optimizer: Any, num_steps: int) -> Any:
        """Wraps an optimiser.

        Raises:
          ValueError: if the target is 1, or there are more cycles than steps.
        """
        if self.schedule == "cyclical" and self.num_cycles > num_steps:
            raise ValueError(f"`num_cycles` is {self.num_cycles}, but there are only {num_steps} steps.")
        cycle = self._cycle(num_steps)
        schedules = {
            "one_shot": lambda: sparsity.one_shot(self.target, step=self.settled(num_steps)),
            "gradual": lambda: sparsity.gradual(self.target, end=self.settled(num_steps)),
            "cyclical": lambda: sparsity.cyclical(self.target, num_cycles=self.num_cycles, cycle_length=cycle),
        }
        return sparsity.prune(
            optimizer,
            schedules[self.schedule](),
            score={"magnitude": sparsity.magnitude, "saliency": sparsity.saliency}[self.score],
            budget=BUDGETS[self.budget],
            predicate=matching(self.parameters),
            granularity=GRANULARITIES[self.granularity],
            every=self.every,
            regrow=self.schedule == "cyclical",
        )

    def settled(self, num_steps: int) -> int:
        """The step from which on the target holds."""
        cycle = self._cycle(num_steps)
        last = (self.num_cycles - 1) * cycle + -(-3 * cycle // 4)
        return {"one_shot": -(-num_steps // 2), "gradual": -(-3 * num_steps // 4), "cyclical": last}[self.schedule]

    def _cycle(self, num_steps: int) -> int:
        return num_steps // self.num_cycles
