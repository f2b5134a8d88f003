"""What is known of an array of a program over a ball of inputs, and how each kind of equation passes it on."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxinterp.interpreters._curves import Curve
from jaxinterp.interpreters._graph import Node
from jaxinterp.interpreters._ir import names
from jaxinterp.interpreters._operators import Operator, root, with_infinity
from jaxinterp.typing import Array

ROUNDED = names(
    "add sub mul div dot_general conv_general_dilated reduce_sum reduce_window_sum cumsum convert_element_type"
)
"""The linear primitives that do arithmetic."""


@dataclasses.dataclass(frozen=True)
class Enclosure:
    """Bounds for an array z over a ball around x, and its derivatives at x.

    Attributes:
      centre: z(x).
      middle: of the interval that z stays in.
      tangent: the derivative at x with respect to the input, [entries of x, *shape]; `None` for zeros.
      rows: four numbers per entry, [4, *shape]: half the width of the interval; ‖∇z‖; ‖∇z - ∇z(x)‖; ‖∇²z‖.
      norms: three numbers, [3]: ‖J‖; ‖J - J(x)‖; the norm of the second derivative as a bilinear map.
      is_exact: whether z is continuous with J as its derivative, which it is not behind `stop_gradient`, nor where
        `jnp.where` may jump; a boolean scalar.
    """

    centre: Array
    middle: Array
    tangent: Array | None
    rows: Array
    norms: Array
    is_exact: Array

    @property
    def low(self) -> Array:
        """The least value of each entry."""
        return self.middle - self.rows[0]

    @property
    def high(self) -> Array:
        """The greatest value of each entry."""
        return self.middle + self.rows[0]

    @property
    def spread(self) -> Array:
        """How far each entry moves from the centre."""
        return jnp.abs(self.middle - self.centre.astype(self.middle.dtype)) + self.rows[0]

    def stopped(self) -> "Enclosure":
        """The same values, without a derivative."""
        rows, norms = self.rows.at[1:].set(0), jnp.zeros_like(self.norms)
        return dataclasses.replace(self, tangent=None, rows=rows, norms=norms, is_exact=jnp.asarray(False))

    def nominal(self) -> Array:
        """The norm of each row of the Jacobian at x."""
        if self.tangent is None:
            return jnp.zeros(self.centre.shape, self.rows.dtype)
        return length(self.tangent.astype(self.rows.dtype), 0)


@dataclasses.dataclass(frozen=True)
class Partial:
    """What is known of the derivative of an elementwise function in one operand.

    Attributes:
      operand: its enclosure.
      centre: the derivative at x.
      most: of its absolute value over the ball.
      change: how far it moves from its value at x.
    """

    operand: Enclosure
    centre: Array
    most: Array
    change: Array


@dataclasses.dataclass(frozen=True)
class Second:
    """What is known of a second derivative, in the operands numbered `first` and `second`; see `Partial`."""

    first: int
    second: int
    centre: Array
    most: Array
    change: Array


@dataclasses.dataclass(frozen=True)
class Bend:
    """A nonlinear equation: where the derivative of a program can change.

    Attributes:
      rows: of each entry of the result, how much a change of this equation's derivative moves the gradient.
      partials: for elementwise equations.
      seconds: for elementwise equations.
      unstable: for choices, the entries where it may be made otherwise than at x.
      sources: the variables that it reads.
    """

    rows: Array
    partials: tuple[Partial, ...] = ()
    seconds: tuple[Second, ...] = ()
    unstable: Array | None = None
    sources: tuple[int, ...] = ()


def times(a: Array, b: Array) -> Array:
    """The product, in which nothing times infinity is nothing."""
    nothing = (a == 0) | (b == 0)
    return jnp.where(nothing, 0, jnp.where(nothing, 1, a) * jnp.where(nothing, 1, b))


def length(rows: Array, axis: Any = None) -> Array:
    """The Euclidean norm, infinite if an entry is."""
    return root(jnp.sum(rows**2, axis))


def interval(low: Array, high: Array, centre: Array) -> tuple[Array, Array]:
    """The middle and half the width of an interval around a centre; where it is infinite the centre is the middle."""
    half = jnp.where(low == high, 0, high / 2 - low / 2)  # of a mask it is a point at infinity
    middle = jnp.where(low == high, low, low / 2 + high / 2)
    is_known = jnp.isfinite(half)
    middle = jnp.where(is_known, middle, centre.astype(low.dtype))
    return middle, jnp.where(is_known, half, jnp.inf)


def linear(operator: Operator, operands: Sequence[Enclosure], centre: Array, middle: Array) -> Enclosure:
    """Passes enclosures through an operator that is linear in all of them together."""
    positions = tuple(operator.moving)
    rows = jax.vmap(lambda *parts: operator.absolute(parts))(*[o.rows for o in operands])
    own = [operator.row_norms(i) for i in positions]
    by_rows = sum(times(a[None], o.norms.reshape(3, *[1] * a.ndim)) for a, o in zip(own, operands, strict=True))
    rows = rows.at[1:].min(by_rows)
    if operator.node.name in ROUNDED:
        rounding = 4 * float(jnp.finfo(rows.dtype).eps)
        magnitude = operator.absolute([jnp.abs(o.centre).astype(rows.dtype) for o in operands])
        rounded = rounding * (magnitude + jnp.abs(centre).astype(rows.dtype))
        rows = rows.at[0].add(jnp.where(jnp.isfinite(centre), rounded, 0))
    parts = jnp.stack([times(operator.norm(i), o.norms) for i, o in zip(positions, operands, strict=True)])
    joined = length(parts, 0) if operator.node.name == "concatenate" else jnp.sum(parts, 0)
    tangent = _pushed(operator, operands)
    is_exact = _all([o.is_exact for o in operands])
    return Enclosure(centre, middle.astype(rows.dtype), tangent, rows, _least(joined, rows), is_exact)


def _pushed(apply: Callable[[Sequence[Array]], Array], operands: Sequence[Enclosure]) -> Array | None:
    """The tangent through a linear function of all operands."""
    given = [o.tangent for o in operands]
    count = next((len(t) for t in given if t is not None), None)
    if count is None:
        return None
    zeros = [jnp.zeros((count, *o.centre.shape), o.centre.dtype) for o in operands]
    return jax.vmap(lambda *t: apply(t))(*[z if t is None else t for t, z in zip(given, zeros, strict=True)])


def _least(norms: Array, rows: Array) -> Array:
    return jnp.minimum(norms, length(rows[1:], tuple(range(1, rows.ndim))))


def curve(known: Curve, operand: Enclosure) -> tuple[tuple[Partial, ...], tuple[Second, ...]]:
    """The derivatives of a known function over the interval of its operand."""
    middle = operand.centre.astype(operand.rows.dtype)
    low, high = operand.low, operand.high
    found = []
    for derivative, ranged in ((known.first, known.first_range), (known.second, known.second_range)):
        least, greatest = ranged(low, high)
        at = derivative(middle)
        most = jnp.maximum(jnp.abs(least), jnp.abs(greatest))
        found.append((at, jnp.maximum(most, jnp.abs(at)), jnp.maximum(jnp.maximum(greatest - at, at - least), 0)))
    # With the range of φ'' the mean value theorem may say more of the change of φ'.
    at, most, change = found[0]
    change = jnp.minimum(change, times(found[1][1], operand.spread))
    return (Partial(operand, at, jnp.minimum(most, jnp.abs(at) + change), change),), (Second(0, 0, *found[1]),)


def product(a: Enclosure, b: Enclosure) -> tuple[tuple[Partial, ...], tuple[Second, ...]]:
    """The derivatives of an elementwise product."""
    partials = []
    for one, other in ((a, b), (b, a)):
        at = other.centre.astype(one.rows.dtype)
        most = jnp.maximum(jnp.abs(other.low), jnp.abs(other.high))
        partials.append(Partial(one, at, jnp.maximum(most, jnp.abs(at)), other.spread))
    ones, zeros = jnp.ones(a.centre.shape, a.rows.dtype), jnp.zeros(a.centre.shape, a.rows.dtype)
    return tuple(partials), (Second(0, 1, ones, ones, zeros),)


def range_of_product(a: Enclosure, b: Enclosure) -> tuple[Array, Array]:
    """The least and the greatest value of an elementwise product."""
    corners = jnp.stack([times(p, q) for p in (a.low, a.high) for q in (b.low, b.high)])
    return jnp.min(corners, 0), jnp.max(corners, 0)


def elementwise(
    centre: Array, ends: tuple[Array, Array], partials: tuple[Partial, ...], seconds: tuple[Second, ...]
) -> tuple[Enclosure, Bend]:
    """Passes enclosures through an elementwise equation, whose values lie between the given ends."""
    dtype = partials[0].operand.rows.dtype
    rounding = 4 * float(jnp.finfo(dtype).eps)
    nothing = jnp.zeros(centre.shape, dtype)
    slope, change, bend, moved = nothing, nothing, nothing, nothing
    middle, half = interval(*ends, centre)
    half = half + rounding * jnp.maximum(jnp.abs(centre).astype(dtype), jnp.abs(middle))
    norms = jnp.zeros((3,), dtype)
    for p in partials:
        rows, norm = p.operand.rows, p.operand.norms
        slope = slope + times(p.most, rows[1])
        step = times(p.change, rows[1])
        moved = moved + step
        change = change + step + times(jnp.abs(p.centre), rows[2])
        bend = bend + times(p.most, rows[3])
        most, at = _largest(p.most), _largest(jnp.abs(p.centre))
        step_norm = jnp.minimum(times(_largest(p.change), norm[0]), length(step))
        norms = norms + jnp.stack([times(most, norm[0]), times(at, norm[1]) + step_norm, times(most, norm[2])])
    for s in seconds:
        a, b = partials[s.first].operand, partials[s.second].operand
        twice = 1.0 if s.first == s.second else 2.0
        bend = bend + twice * times(s.most, times(a.rows[1], b.rows[1]))
        cross = jnp.minimum(
            times(_largest(times(s.most, a.rows[1])), b.norms[0]), times(_largest(times(s.most, b.rows[1])), a.norms[0])
        )
        norms = norms.at[2].add(twice * cross)
    rows = jnp.stack([half, slope, change, bend])
    is_exact = _all([p.operand.is_exact for p in partials])
    parts = [
        p.centre.astype(p.operand.tangent.dtype)[None] * p.operand.tangent
        for p in partials
        if p.operand.tangent is not None
    ]
    tangent = functools.reduce(jnp.add, parts) if parts else None
    return Enclosure(centre, middle, tangent, rows, _least(norms, rows), is_exact), Bend(moved, partials, seconds)


def _all(conditions: Sequence[Array]) -> Array:
    return functools.reduce(jnp.logical_and, conditions)


def _largest(array: Array) -> Array:
    return jnp.max(array, initial=0.0)


def choice(
    centre: Array,
    operands: Sequence[Enclosure],
    chosen: Callable[[Sequence[Array]], Array],
    most: Callable[[Sequence[Array]], Array],
    unstable: Array,
    ends: tuple[Array, Array],
    is_continuous: bool,
) -> tuple[Enclosure, Bend]:
    """Passes enclosures through an equation each entry of whose result is one entry of its operands.

    Args:
      centre: its result.
      operands: the arrays chosen from.
      chosen: what the choice made at x takes of other arrays in their place.
      most: the largest of what could be taken.
      unstable: where another choice may be made within the ball.
      ends: the least and the greatest values of the result.
      is_continuous: whether the candidates are equal where the choice changes.
    """
    stacked = [o.rows for o in operands]
    at_x, at_most = jax.vmap(lambda *rows: chosen(rows))(*stacked), jax.vmap(lambda *rows: most(rows))(*stacked)
    middle, half = interval(*ends, centre)
    slope = jnp.where(unstable, at_most[1], at_x[1])
    moved = jnp.where(unstable, 2 * at_most[1], 0)
    bend = jnp.where(unstable, jnp.inf, at_x[3])
    rows = jnp.stack([half, slope, at_x[2] + moved, bend])
    norms = length(jnp.stack([o.norms for o in operands]), 0)
    norms = norms.at[1].add(length(moved)).at[2].max(jnp.where(jnp.any(unstable), jnp.inf, 0))
    tangent = _pushed(chosen, operands)
    is_exact = _all([o.is_exact for o in operands]) & (is_continuous | ~jnp.any(unstable))
    enclosure = Enclosure(centre, middle, tangent, rows, _least(norms, rows), is_exact)
    return enclosure, Bend(moved, unstable=unstable)


def node_choice(node: Node, operands: Sequence[Array]) -> Callable[[Sequence[Array]], Array]:
    """What the choice that a node makes at `operands` takes of other arrays: its derivative, which is a selection."""

    def taken(arrays: Sequence[Array]) -> Array:
        tangents = tuple(a.astype(o.dtype) for a, o in zip(arrays, operands, strict=True))
        out = jax.jvp(lambda *x: node(*x)[0], tuple(operands), tangents)[1]
        return out.astype(arrays[0].dtype)

    return with_infinity(taken)
