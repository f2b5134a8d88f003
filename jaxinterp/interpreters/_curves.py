"""Elementwise functions whose derivatives are known to stay within certain numbers over an interval."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.special import erf

from jaxinterp.typing import Array

Bound = tuple[Array, Array]
"""The least and the greatest value."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """A function of one number, with the ranges of its first two derivatives.

    Attributes:
      value: φ.
      first: φ'.
      second: φ''.
      first_turns: where φ' has its extremes, apart from the ends of an interval.
      second_turns: where φ'' has its extremes; both sides of a jump.
      pole: where φ is not defined; nothing is known of an interval that holds it.
      above_pole: whether φ is defined above the pole only.
      is_periodic: whether φ and the two derivatives lie between -1 and 1 and change by no more than their argument.
      turns: where φ has its extremes.
    """

    value: Callable[[Array], Array]
    first: Callable[[Array], Array]
    second: Callable[[Array], Array]
    first_turns: tuple[float, ...] = ()
    second_turns: tuple[float, ...] = ()
    pole: float | None = None
    above_pole: bool = False
    is_periodic: bool = False
    turns: tuple[float, ...] = ()

    def range(self, low: Array, high: Array) -> Bound:
        """The range of φ between two numbers, which may be infinite."""
        return self._range(self.value, self.turns, low, high)

    def first_range(self, low: Array, high: Array) -> Bound:
        """The range of φ' between two numbers."""
        return self._range(self.first, self.first_turns, low, high)

    def second_range(self, low: Array, high: Array) -> Bound:
        """The range of φ'' between two numbers."""
        return self._range(self.second, self.second_turns, low, high)

    def _range(self, h: Callable[[Array], Array], turns: tuple[float, ...], low: Array, high: Array) -> Bound:
        if self.is_periodic:
            ends = jnp.isfinite(low) & jnp.isfinite(high)
            half = jnp.where(ends, (high - low) / 2, jnp.ones_like(low))
            middle = h(jnp.where(ends, (low + high) / 2, jnp.zeros_like(low)))
            limit = jnp.where(ends, half, jnp.full_like(half, 2.0))
            return jnp.maximum(middle - limit, -1), jnp.minimum(middle + limit, 1)
        most = float(jnp.finfo(low.dtype).max) ** 0.25  # for what is not a number at infinity: it is constant beyond
        at_low, at_high = (jnp.where(jnp.isnan(h(z)), h(jnp.clip(z, -most, most)), h(z)) for z in (low, high))
        least, greatest = jnp.minimum(at_low, at_high), jnp.maximum(at_low, at_high)
        for turn in turns:
            inside = (low < turn) & (turn < high)
            extreme = h(jnp.full_like(low, turn))
            least = jnp.where(inside, jnp.minimum(least, extreme), least)
            greatest = jnp.where(inside, jnp.maximum(greatest, extreme), greatest)
        if self.pole is None:
            return least, greatest
        unknown = (low <= self.pole) if self.above_pole else (low <= self.pole) & (self.pole <= high)
        return jnp.where(unknown, -jnp.inf, least), jnp.where(unknown, jnp.inf, greatest)


def _normal_density(x: Array) -> Array:
    return jnp.exp(-x * x / 2) * (2 * jnp.pi) ** -0.5


def _gelu_first(x: Array) -> Array:
    return 0.5 * jax.lax.erfc(-x * 0.5**0.5) + x * _normal_density(x)


def _gelu_second(x: Array) -> Array:
    return (2 - x * x) * _normal_density(x)


def _silu_first(x: Array) -> Array:
    s = jax.nn.sigmoid(x)
    return s + x * s * (1 - s)


def _silu_second(x: Array) -> Array:
    s = jax.nn.sigmoid(x)
    return s * (1 - s) * (2 + x * (1 - 2 * s))


def _tanh_first(x: Array) -> Array:
    return 4 * jax.nn.sigmoid(2 * x) * jax.nn.sigmoid(-2 * x)  # 1 - tanh², without the difference


def _tanh_second(x: Array) -> Array:
    return -2 * jnp.tanh(x) * _tanh_first(x)


def _tanh_gelu_parts(x: Array) -> tuple[Array, Array, Array, Array]:
    scale, cubic = (2 / jnp.pi) ** 0.5, 0.044715
    x = jnp.clip(x, -50, 50)  # beyond which the derivative of the hyperbolic tangent is 0, times any power
    return x, scale * (x + cubic * x**3), scale * (1 + 3 * cubic * x**2), scale * 6 * cubic * x


def _tanh_gelu_first(x: Array) -> Array:
    x, inner, slope, _ = _tanh_gelu_parts(x)
    return jax.nn.sigmoid(2 * inner) + 0.5 * x * _tanh_first(inner) * slope


def _tanh_gelu_second(x: Array) -> Array:
    x, inner, slope, bend = _tanh_gelu_parts(x)
    return 0.5 * _tanh_first(inner) * (2 * slope + x * bend - 2 * x * jnp.tanh(inner) * slope * slope)


def _logistic_first(x: Array) -> Array:
    s = jax.nn.sigmoid(x)
    return s * (1 - s)


def _logistic_second(x: Array) -> Array:
    s = jax.nn.sigmoid(x)
    return s * (1 - s) * (1 - 2 * s)


def _erf_first(x: Array) -> Array:
    return 2 * jnp.pi**-0.5 * jnp.exp(-x * x)


def _minus_sin(x: Array) -> Array:
    return -jnp.sin(x)


def _minus_cos(x: Array) -> Array:
    return -jnp.cos(x)


def _elu_first(x: Array) -> Array:
    return jnp.where(x > 0, 1, jnp.exp(jnp.minimum(x, 0)))


def _elu_second(x: Array) -> Array:
    return jnp.where(x > 0, 0, jnp.exp(jnp.minimum(x, 0)))


def power(exponent: int) -> Curve:
    """The integer power, of either sign."""
    y = exponent
    turns = (0.0,) if y >= 3 else ()
    return Curve(
        lambda x: jax.lax.integer_pow(x, y),
        lambda x: y * jax.lax.integer_pow(x, y - 1),
        lambda x: y * (y - 1) * jax.lax.integer_pow(x, y - 2),
        turns,
        turns,
        0.0 if y < 0 else None,
        turns=(0.0,) if y >= 2 else (),
    )


_exponential = Curve(jnp.exp, jnp.exp, jnp.exp)
_tanh_second_turn = 0.65847894846240835  # artanh 1/√3
_logistic_second_turn = 1.3169578969248166

PRIMITIVES = {
    "tanh": Curve(
        jnp.tanh,
        _tanh_first,
        _tanh_second,
        (0.0,),
        (-_tanh_second_turn, _tanh_second_turn),
    ),
    "logistic": Curve(
        jax.nn.sigmoid,
        _logistic_first,
        _logistic_second,
        (0.0,),
        (-_logistic_second_turn, _logistic_second_turn),
    ),
    "exp": _exponential,
    "expm1": dataclasses.replace(_exponential, value=jnp.expm1),
    "log": Curve(jnp.log, lambda x: 1 / x, lambda x: -1 / (x * x), pole=0.0, above_pole=True),
    "log1p": Curve(jnp.log1p, lambda x: 1 / (1 + x), lambda x: -((1 + x) ** -2), pole=-1.0, above_pole=True),
    "sqrt": Curve(jnp.sqrt, lambda x: 0.5 * x**-0.5, lambda x: -0.25 * x**-1.5, pole=0.0, above_pole=True),
    "rsqrt": Curve(jax.lax.rsqrt, lambda x: -0.5 * x**-1.5, lambda x: 0.75 * x**-2.5, pole=0.0, above_pole=True),
    "sin": Curve(jnp.sin, jnp.cos, _minus_sin, is_periodic=True),
    "cos": Curve(jnp.cos, _minus_sin, _minus_cos, is_periodic=True),
    "erf": Curve(erf, _erf_first, lambda x: -2 * x * _erf_first(x), (0.0,), (-(0.5**0.5), 0.5**0.5)),
    "erfc": Curve(
        jax.lax.erfc, lambda x: -_erf_first(x), lambda x: 2 * x * _erf_first(x), (0.0,), (-(0.5**0.5), 0.5**0.5)
    ),
}
"""By the name of JAX's primitive."""

FUNCTIONS: tuple[tuple[Callable[[Array], Array], Curve], ...] = (
    (jax.nn.softplus, Curve(jax.nn.softplus, jax.nn.sigmoid, _logistic_first, (), (0.0,))),
    (
        functools.partial(jax.nn.gelu, approximate=False),
        Curve(
            functools.partial(jax.nn.gelu, approximate=False),
            _gelu_first,
            _gelu_second,
            (-(2**0.5), 2**0.5),
            (-2.0, 0.0, 2.0),
            turns=(-0.7517915246935645,),
        ),
    ),
    (
        jax.nn.gelu,
        Curve(
            jax.nn.gelu,
            _tanh_gelu_first,
            _tanh_gelu_second,
            (-1.4185040087908285, 1.4185040087908285),
            (-2.0134807246242577, 0.0, 2.0134807246242577),
            turns=(-0.7524614220710163,),
        ),
    ),
    (
        jax.nn.silu,
        Curve(
            jax.nn.silu,
            _silu_first,
            _silu_second,
            (-2.3993572805154684, 2.3993572805154684),
            (-3.4358409935351110, 0.0, 3.4358409935351110),
            turns=(-1.2784645427610738,),
        ),
    ),
    (jax.nn.elu, Curve(jax.nn.elu, _elu_first, _elu_second, (), (-1e-30, 1e-30))),
)
"""JAX's activations, with the function whose program is looked for."""
