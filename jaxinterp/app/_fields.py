"""The values that fields of an experiment may take: ranges of numbers, and names with what they stand for."""

import dataclasses
import math
from collections.abc import Callable
from typing import Annotated, Literal

from flax import nnx

from jaxinterp import heads, models, sparsity
from jaxinterp.typing import Array, LogitsFn, ScalarFn


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers a field may hold: from `low` (above it, if `beyond`) to `high`, never infinite."""

    low: float
    high: float = math.inf
    beyond: bool = False

    def holds(self, value: float) -> bool:
        """Whether `value` lies in the range."""
        return math.isfinite(value) and (self.low < value if self.beyond else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        if self.high < math.inf:
            return f"from {self.low} to {self.high}"
        return f"greater than {self.low}" if self.beyond else f"at least {self.low}"


Count = Annotated[int, Range(1)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
Positive = Annotated[float, Range(0, beyond=True)]
NonNegative = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1)]

Activation = Literal["gelu", "softplus", "tanh", "silu", "relu", "sharp_softplus"]
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": nnx.gelu,
    "softplus": nnx.softplus,
    "tanh": nnx.tanh,
    "silu": nnx.silu,
    "relu": nnx.relu,
    "sharp_softplus": models.sharp_softplus,
}

Head = Literal["logit", "log_prob", "margin", "cross_entropy"]
HEADS: dict[str, Callable[[LogitsFn], ScalarFn]] = {
    "logit": heads.logit,
    "log_prob": heads.log_prob,
    "margin": heads.margin,
    "cross_entropy": heads.cross_entropy,
}

Granularity = Literal["weight", "unit", "filter"]
GRANULARITIES: dict[str, sparsity.Granularity] = {
    "weight": sparsity.per_weight,
    "unit": sparsity.per_output_unit,
    "filter": sparsity.per_filter,
}
