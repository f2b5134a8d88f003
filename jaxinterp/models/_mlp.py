"""Fully connected networks."""

import math
from collections.abc import Callable, Sequence

from flax import nnx

from jaxinterp.typing import Array


class MLP(nnx.Module):
    """A fully connected network: flatten, then dense layers with an activation between them.

    Args:
      input_shape: shape of one example.
      widths: units of the hidden layers.
      num_classes: number of logits.
      activation: the nonlinearity; a smooth one (softplus, GELU, tanh) where curvature matters, for a ReLU network's
        Hessian is 0 wherever it exists.
      rngs: where the initial parameters are drawn from.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        *,
        widths: Sequence[int] = (64, 64),
        num_classes: int,
        activation: Callable[[Array], Array] = nnx.softplus,
        rngs: nnx.Rngs,
    ) -> None:
        self.num_hidden = len(widths)
        self.activation = activation
        sizes = (math.prod(input_shape), *widths)
        for i in range(self.num_hidden):
            setattr(self, f"dense_{i}", nnx.Linear(sizes[i], sizes[i + 1], rngs=rngs))
        self.head = nnx.Linear(sizes[-1], num_classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Maps a batch of inputs to a batch of logits."""
        x = x.reshape(x.shape[0], -1)
        for i in range(self.num_hidden):
            x = self.activation(getattr(self, f"dense_{i}")(x))
        return self.head(x)
