"""Other gates than Bernoulli ones: hard concrete, tri-state, and priors on the probability to be open."""

import dataclasses
import functools
import math
import operator

import jax
import jax.numpy as jnp

from jaxinterp import checks, tree
from jaxinterp.sparsity._gates import straight_through
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
        """Returns the mask used after training: the gates without noise, at temperature 1."""
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


def beta_penalty(gates: PyTree, *, alpha: float, beta: float, epsilon: float = 1e-3) -> Array:
    r"""Generalized dropout: minus the logarithm of a Beta prior on the gates.

    It is :math:`-(\alpha-1)\sum\log k - (\beta-1)\sum\log(1-k)`, k being the probability that a gate is open (not the
    rate at which it is dropped). With masks by `sample` it gives

    - α = β = 1: Dropout++(flat), no prior; the probabilities are learnt by the loss alone,
    - α = β > 1: Dropout++(0.5), which for α → ∞ is dropout at 1/2,
    - α > 1, β = 1: Dropout++(1), with its mode at 1; α = 1, β > 1: Dropout++(0) (the thesis has these names swapped),
    - α, β < 1: stochastic architecture learning, with mass at both ends; β/α decides how many units remain.

    The gates stand for the units whose outgoing weights they multiply (`per_input_unit`). In evaluation multiply by k
    itself: `apply(params, gates)`; nothing is divided by k in training.

    Args:
      gates: k, a pytree.
      alpha: α > 0.
      beta: β > 0.
      epsilon: k is clipped to [ε, 1 - ε] inside the logarithms, which are not bounded below for α or β < 1.

    Raises:
      ValueError: if α, β or ε are not positive.

    Source: Srinivas & Babu (2016, Generalized Dropout).

    >>> round(float(beta_penalty({"kernel": jnp.array([0.5])}, alpha=2.0, beta=2.0)), 4)
    1.3863
    """
    for name, value in {"alpha": alpha, "beta": beta, "epsilon": epsilon}.items():
        checks.positive(name, value, "beta_penalty")

    def one(gate: Array) -> Array:
        k = straight_through(jnp.clip(gate, epsilon, 1 - epsilon), gate)  # so that the ends do not hold it for ever
        return -(alpha - 1) * jnp.sum(jnp.log(k)) - (beta - 1) * jnp.sum(jnp.log1p(-k))

    return functools.reduce(operator.add, map(one, jax.tree.leaves(gates)), jnp.zeros(()))


def tri_state_relu(x: Array, width: Array, depth: Array) -> Array:
    r"""An activation that gates can switch off, or turn into the identity: w x where x >= 0, w d x elsewhere.

    w = 0 removes a unit, w = 1 and d = 0 is ReLU, w = d = 1 the identity, which lets the layer be merged with the next.
    Pass `threshold(gates)`, whose gradients go through.

    Args:
      x: pre-activations.
      width: w, which broadcasts to x: one for each unit or feature map.
      depth: d, which broadcasts to x: one for the layer.

    Source: Srinivas & Babu (2016, Learning Neural Network Architectures using Backpropagation).

    >>> tri_state_relu(jnp.array([-2.0, 3.0]), jnp.ones(2), jnp.ones(2)).tolist()
    [-2.0, 3.0]
    """
    return jnp.broadcast_to(width, x.shape) * jnp.where(x >= 0, x, jnp.broadcast_to(depth, x.shape) * x)


def complexity_penalty(widths: PyTree, depths: PyTree) -> Array:
    r"""Number of units in layers that keep a nonlinearity: :math:`\sum_i \mathbb 1[d_i < 1/2]\sum_j w_{ij}`.

    The indicator counts as a constant when it is differentiated.

    Args:
      widths: the gates of the units, a pytree of one array for each layer.
      depths: the gates of the layers, of the same structure.

    >>> float(complexity_penalty([jnp.ones(3), jnp.ones(5)], [jnp.array(0.1), jnp.array(0.9)]))
    3.0
    """
    parts = jax.tree.map(lambda w, d: jnp.sum(w) * jnp.all(d < 0.5).astype(w.dtype), widths, depths)
    return functools.reduce(operator.add, jax.tree.leaves(parts), jnp.zeros(()))
