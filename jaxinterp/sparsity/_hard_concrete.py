"""Hard concrete gates: random, differentiable, and exactly 0 or 1 with positive probability."""

import dataclasses
import functools
import math
import operator

import jax
import jax.numpy as jnp

from jaxinterp import checks, tree
from jaxinterp.typing import Array, Key, PyTree


@dataclasses.dataclass(frozen=True)
class HardConcrete:
    r"""Gates that are random numbers in [0, 1], exactly 0 or 1 with positive probability, and differentiable.

    A gate is a logit l. With u uniform, :math:`s = \sigma((\log u - \log(1-u) + l)/\tau)` is stretched to
    :math:`s(b - a) + a` and clipped to [0, 1].

    Attributes:
      temperature: τ.
      low: a, below 0.
      high: b, above 1.

    Raises:
      ValueError: if the temperature is not positive or the interval does not hold [0, 1] inside.

    Source: Louizos, Welling & Kingma (2018).

    >>> gates = {"kernel": jnp.array([-9.0, 9.0])}
    >>> HardConcrete().sample(jax.random.key(0), gates)["kernel"].tolist()
    [0.0, 1.0]
    """

    temperature: float = 2 / 3
    low: float = -0.1
    high: float = 1.1

    def __post_init__(self) -> None:
        checks.positive("temperature", self.temperature, "HardConcrete")
        if not self.low < 0 < 1 < self.high:
            raise ValueError(f"`HardConcrete` needs low < 0 and high > 1; got {self.low} and {self.high}.")

    def sample(self, key: Key, gates: PyTree) -> PyTree:
        """Returns a mask of independent draws, differentiable with respect to the gates."""

        def one(gate: Array, sign: Array) -> Array:
            eps = float(jnp.finfo(gate.dtype).eps)
            u = jnp.clip((sign + 1) / 2, eps, 1 - eps)
            return self._stretched((jnp.log(u) - jnp.log1p(-u) + gate) / self.temperature)

        noise = tree.uniform_like(checks.key("HardConcrete.sample", key), gates)
        return jax.tree.map(one, gates, noise)

    def threshold(self, gates: PyTree) -> PyTree:
        """Returns what multiplies parameters after training: gates without noise, at temperature 1, from 0 to 1."""
        return jax.tree.map(self._stretched, gates)

    def penalty(self, gates: PyTree) -> Array:
        r"""Returns the expected number of gates that are not 0: :math:`\sum \sigma(l - \tau\log(-a/b))`.

        >>> round(float(HardConcrete().penalty({"kernel": jnp.zeros(2)})), 4)
        1.6636
        """
        shift = self.temperature * math.log(-self.low / self.high)
        parts = [jnp.sum(jax.nn.sigmoid(gate - shift)) for gate in jax.tree.leaves(gates)]
        return functools.reduce(operator.add, parts, jnp.zeros(()))

    def _stretched(self, logits: Array) -> Array:
        return jnp.clip(jax.nn.sigmoid(logits) * (self.high - self.low) + self.low, 0, 1)
