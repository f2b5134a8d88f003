r"""Rules of layer-wise relevance propagation for linear layers, and composites that choose among them.

A layer computes :math:`z = W a + b`. With the relevance R of its outputs, each rule gives that of its inputs, here
written with :math:`R_i = a_i c_i`; every denominator z is kept away from zero, as
:math:`z + \varepsilon\,\mathrm{sign}(z)`.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from jaxinterp.interpreters import Site
from jaxinterp.typing import Array


@dataclasses.dataclass(frozen=True)
class LinearLayer:
    """What a composite is told about a layer.

    Attributes:
      kind: "dense" (a matrix product), "conv", or "sum": a sum of several arrays or entries, such as a residual
        connection or average pooling, or an elementwise affine map that could not be merged into a layer.
      index: the layer's place among the dense and convolutional layers, from 0 at the input.
      count: how many of them there are.
      site: its address.
      reads_input: whether its input is the explained argument itself.
    """

    kind: Literal["dense", "conv", "sum"]
    index: int
    count: int
    site: Site
    reads_input: bool


@dataclasses.dataclass(frozen=True)
class LayerCall:
    """A layer at a point, as its rule sees it.

    Attributes:
      product: `(input, kernel) -> output`, bilinear, without the bias.
      kernel: W, batch normalisation included.
      bias: b, of the output's shape.
      input: a.
      output: z.
      cotangent: R / z.
      is_positive: whether the program shows that a >= 0.
    """

    product: Callable[[Array, Array], Array]
    kernel: Array
    bias: Array
    input: Array
    output: Array
    cotangent: Array
    is_positive: bool

    def pull(self, function: Callable[[Array], Array], cotangent: Array) -> Array:
        """The transpose of a function of the input."""
        return jax.vjp(function, self.input)[1](cotangent)[0]


def _stabilised(z: Array, epsilon: float) -> Array:
    return z + jnp.where(z < 0, -epsilon, epsilon).astype(z.dtype)


def _quotient(numerator: Array, z: Array, epsilon: float) -> Array:
    """Numerator / (z + ε sign z), and 0 where both are 0."""
    safe = _stabilised(z, epsilon)
    return jnp.where(safe == 0, jnp.zeros_like(z), numerator / jnp.where(safe == 0, jnp.ones_like(z), safe))


@dataclasses.dataclass(frozen=True)
class Epsilon:
    r"""LRP-ε, and LRP-0 for ε = 0: :math:`R_i = \sum_j \frac{a_i W_{ij}}{z_j + \varepsilon\,\mathrm{sign} z_j} R_j`.

    With ε = 0 the relevance is gradient times input, wherever activations are piecewise linear.
    """

    epsilon: float

    def share(self, z: Array) -> Array:
        """Z / (z + ε sign z)."""
        return _quotient(z, z, self.epsilon) if self.epsilon else jnp.ones_like(z)

    def __call__(self, layer: LayerCall) -> Array:
        """The cotangent of the layer's input."""
        return layer.pull(lambda a: layer.product(a, layer.kernel), layer.cotangent * self.share(layer.output))


@dataclasses.dataclass(frozen=True)
class AlphaBeta:
    r"""LRP-αβ: positive and negative contributions apart.

    :math:`R_i = \sum_j \left(\alpha\frac{(a_iW_{ij})^+}{z_j^+} - \beta\frac{(a_iW_{ij})^-}{z_j^-}\right)R_j`.

    The bias is one of the contributions; inputs may have either sign.
    """

    alpha: float
    beta: float
    epsilon: float

    def __call__(self, layer: LayerCall) -> Array:
        """The cotangent of the layer's input."""
        relevance = layer.cotangent * layer.output
        result = jnp.zeros_like(layer.input)
        for factor, sign in ((self.alpha, 1), (-self.beta, -1)):
            if factor:
                result = result + self._part(layer, sign, factor * relevance)
        return result

    def _part(self, layer: LayerCall, sign: int, relevance: Array) -> Array:
        def one_sign(a: Array) -> Array:
            z = layer.product(a if layer.is_positive else jax.nn.relu(a), _part(layer.kernel, sign))
            return z if layer.is_positive else z + layer.product(_part(a, -1), _part(layer.kernel, -sign))

        z, pull = jax.vjp(one_sign, layer.input)
        return pull(_quotient(relevance, z + _part(layer.bias, sign), self.epsilon))[0]


@dataclasses.dataclass(frozen=True)
class Gamma:
    r"""LRP-γ: LRP-ε with kernel and bias replaced by :math:`W + \gamma W^\pm`, the sign being that of z.

    For inputs of either sign, contributions of the sign of z are the ones favoured (the generalised rule); with
    :math:`a \ge 0, z > 0` it is the usual :math:`W + \gamma W^+`.
    """

    gamma: float
    epsilon: float

    def __call__(self, layer: LayerCall) -> Array:
        """The cotangent of the layer's input."""
        relevance = layer.cotangent * layer.output
        result = jnp.zeros_like(layer.input)
        for sign in (1, -1):
            share = jnp.where((layer.output < 0) == (sign < 0), relevance, jnp.zeros_like(relevance))
            result = result + self._favouring(layer, sign, share)
        return result

    def _favouring(self, layer: LayerCall, sign: int, relevance: Array) -> Array:
        def favoured(kernel: Array, sign: int) -> Array:
            return kernel + self.gamma * _part(kernel, sign)

        def modified(a: Array) -> Array:
            z = layer.product(a if layer.is_positive else jax.nn.relu(a), favoured(layer.kernel, sign))
            return z if layer.is_positive else z + layer.product(_part(a, -1), favoured(layer.kernel, -sign))

        z, pull = jax.vjp(modified, layer.input)
        return pull(_quotient(relevance, z + favoured(layer.bias, sign), self.epsilon))[0]


@dataclasses.dataclass(frozen=True)
class ZBox:
    r"""LRP-zB, for a layer that reads an input with bounds :math:`l \le x \le h`.

    :math:`R_i = \sum_j \frac{x_iW_{ij} - l_iW_{ij}^+ - h_iW_{ij}^-}{z_j - \sum_i (l_iW_{ij}^+ + h_iW_{ij}^-)} R_j`,
    with the bias in neither.
    """

    low: float
    high: float
    epsilon: float

    def __call__(self, layer: LayerCall) -> Array:
        """The relevance of the layer's input: not its cotangent, for an input of 0 may have some."""
        low, high = (jnp.full_like(layer.input, bound) for bound in (self.low, self.high))

        def boxed(x: Array, low: Array, high: Array) -> Array:
            return (
                layer.product(x, layer.kernel)
                - layer.product(low, _part(layer.kernel, 1))
                - layer.product(high, _part(layer.kernel, -1))
            )

        z, pull = jax.vjp(boxed, layer.input, low, high)
        slopes = pull(_quotient(layer.cotangent * layer.output, z, self.epsilon))
        return sum(value * slope for value, slope in zip((layer.input, low, high), slopes, strict=True))


LayerRule = Epsilon | AlphaBeta | Gamma | ZBox

Composite = Callable[[LinearLayer], LayerRule]
"""Gives each layer its rule. Layers of kind "sum" split by `Epsilon` with the ε of the rule they are given."""


def _part(value: Array, sign: int) -> Array:
    """The positive or the negative part, with a derivative of 0 at 0."""
    return jax.nn.relu(value) if sign > 0 else -jax.nn.relu(-value)


def epsilon(epsilon: float = 1e-6) -> Epsilon:
    """LRP-ε; see `Epsilon`. `epsilon(0.0)` is LRP-0.

    Raises:
      ValueError: if ε is negative.
    """
    return Epsilon(_bound("epsilon", epsilon))


def gamma(gamma: float = 0.25, *, epsilon: float = 1e-6) -> Gamma:
    """LRP-γ; see `Gamma`.

    Raises:
      ValueError: if γ or ε is negative.
    """
    return Gamma(_bound("gamma", gamma), _bound("epsilon", epsilon))


def alpha_beta(alpha: float = 2.0, beta: float = 1.0, *, epsilon: float = 1e-6) -> AlphaBeta:
    """LRP-αβ; see `AlphaBeta`.

    Raises:
      ValueError: if α - β is not 1, or β or ε is negative: relevance would not be conserved.
    """
    if abs(alpha - beta - 1) > 1e-6:
        raise ValueError(f"`alpha_beta` conserves relevance only for alpha - beta = 1; got {alpha} and {beta}.")
    return AlphaBeta(alpha, _bound("beta", beta), _bound("epsilon", epsilon))


def z_plus(*, epsilon: float = 1e-6) -> AlphaBeta:
    """LRP-z⁺: `alpha_beta(1, 0)`, positive contributions alone (Montavon et al., 2017)."""
    return alpha_beta(1.0, 0.0, epsilon=epsilon)


def z_box(low: float, high: float, *, epsilon: float = 1e-6) -> ZBox:
    """LRP-zB; see `ZBox`.

    Args:
      low: the smallest value that an entry of the input can have.
      high: the largest.
      epsilon: of the denominator.

    Raises:
      ValueError: if low is not below high, or ε is negative.
    """
    if not low < high:
        raise ValueError(f"`z_box` needs low < high; got {low} and {high}.")
    return ZBox(low, high, _bound("epsilon", epsilon))


def uniform(rule: LayerRule) -> Composite:
    """The same rule for every dense or convolutional layer; sums split by `Epsilon` with the rule's ε."""
    return lambda layer: rule


def epsilon_plus(epsilon: float = 1e-6) -> Composite:
    """LRP-z⁺ for convolutions and LRP-ε for dense layers (Lapuschkin et al., 2017; zennit's EpsilonPlus)."""
    rules: dict[str, LayerRule] = {"conv": z_plus(epsilon=epsilon), "dense": Epsilon(epsilon), "sum": Epsilon(epsilon)}
    return lambda layer: rules[layer.kind]


def epsilon_gamma_box(low: float, high: float, *, epsilon: float = 1e-6, gamma: float = 0.25) -> Composite:
    """LRP-zB where the input is read, LRP-γ for other convolutions, LRP-ε for dense layers (Montavon et al., 2019)."""
    box, favouring = z_box(low, high, epsilon=epsilon), Gamma(gamma, epsilon)

    def rule(layer: LinearLayer) -> LayerRule:
        if layer.reads_input:
            return box
        return favouring if layer.kind == "conv" else Epsilon(epsilon)

    return rule


def by_depth(*rules: tuple[float, LayerRule]) -> Composite:
    """Rules by depth: each holds from its relative depth (0 at the input, 1 behind the last layer) to the next's.

    Args:
      rules: pairs of a relative depth and a rule, the first at depth 0, in increasing order. Sums split by `Epsilon`
        with the ε of the first rule.

    Raises:
      ValueError: if the depths do not start at 0 or do not increase.

    >>> composite = by_depth((0.0, z_plus()), (0.5, gamma(0.25)), (0.9, epsilon()))
    >>> [type(composite(LinearLayer("conv", i, 10, Site("", "conv"), i == 0))).__name__ for i in (0, 5, 9)]
    ['AlphaBeta', 'Gamma', 'Epsilon']
    """
    depths = [depth for depth, _ in rules]
    if not depths or depths[0] != 0 or any(b <= a for a, b in itertools.pairwise(depths)):
        raise ValueError(f"`by_depth` needs depths that start at 0 and increase; got {depths}.")

    def rule(layer: LinearLayer) -> LayerRule:
        return [chosen for depth, chosen in rules if layer.index >= depth * layer.count][-1]

    return rule


def _bound(name: str, value: float) -> float:
    if not value >= 0:
        raise ValueError(f"`{name}` must be >= 0; got {value}.")
    return value
