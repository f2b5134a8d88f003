"""Bounds for the second derivative of a program over a ball, from what a walk through it found.

The Hessian of an output is a sum over the nonlinear equations, each with the adjoint δ of what it writes and the
Jacobian J of what it reads:

    H = Σ_k J_kᵀ diag(δ_k ⊙ φ_k'') J_k.

At the centre it is known exactly; how far each of the three factors moves is bounded. The adjoints telescope like the
Jacobians, backwards: Δδ_k = Σ_l M_{kl}(x)ᵀ (ΔD_lᵀ δ_l(x')) over the later equations l.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp.interpreters._bounds import Walk
from jaxinterp.interpreters._enclosures import Bend, times
from jaxinterp.interpreters._sharpening import product_of
from jaxinterp.typing import Array


def hessian_change(walk: Walk) -> tuple[Array, Array]:
    """For each output, bounds of ‖H(x') - H(x)‖ and of ‖H(x')‖ over the ball, [outputs]."""
    outputs, dtype = walk.output.centre.size, walk.output.rows.dtype
    change, most = jnp.zeros((outputs,), dtype), jnp.zeros((outputs,), dtype)
    moved: dict[int, Array] = {}  # how far the adjoints of operands move because of later equations
    shifts = _Shifts(walk, outputs)
    for source in reversed(walk.adjoints):
        bend, shape = walk.bends[source], walk.bends[source].rows.shape
        adjoint = jnp.abs(walk.adjoints[source].astype(dtype)).reshape(-1, outputs).T.reshape(outputs, *shape)
        shift = shifts.of(source, moved).T.reshape(outputs, *shape)
        amounts = [times(p.change[None], adjoint + shift) for p in bend.partials]
        if bend.unstable is not None:
            amounts = [jnp.where(bend.unstable[None], adjoint + shift, 0) for _ in bend.sources]
        for v, amount in zip(bend.sources, amounts, strict=True):
            shifts.add(v, amount)
            moved[v] = moved[v] + amount if v in moved else amount
        own_change, own_most = jax.vmap(lambda a, s, bend=bend: _of_one(bend, a, s))(adjoint, shift)
        change, most = change + own_change, most + own_most
    return change, most


class _Shifts:
    """How far the adjoints of what equations write move with those of later operands."""

    def __init__(self, walk: Walk, outputs: int) -> None:
        self.walk, self.outputs, self.dtype = walk, outputs, walk.output.rows.dtype
        sizes = [bend.rows.size for bend in walk.bends.values()]
        ends = np.cumsum(sizes).tolist()
        self.places = {v: slice(end - n, end) for v, n, end in zip(walk.bends, sizes, ends, strict=True)}
        self.total = jnp.zeros((sum(sizes), outputs), self.dtype)

    def add(self, v: int, amount: Array) -> None:
        """The adjoint of an operand moves by that amount, [outputs, *shape]."""
        if v in self.walk.links:
            to = jnp.abs(self.walk.links[v].astype(self.dtype)).reshape(len(self.total), -1)
            self.total = self.total + product_of(to, amount.reshape(self.outputs, -1).T)

    def of(self, source: int, moved: dict[int, Array]) -> Array:
        """The shift for each entry of what an equation writes, [entries, outputs]."""
        if self.walk.links:
            return self.total[self.places[source]]
        stream = self.walk.stream([source], moved)

        def consume(carried: None, indices: Array, tangents: list[Array]) -> tuple[None, Array]:
            total = jnp.zeros((len(indices), self.outputs), self.dtype)
            for v, tangent in zip(stream.reached, tangents, strict=True):
                to = jnp.abs(tangent.astype(self.dtype)).reshape(len(indices), -1)
                total = total + product_of(to, moved[v].reshape(self.outputs, -1).T)
            return carried, total

        return stream.reduced(consume, None)[1]


def _of_one(bend: Bend, adjoint: Array, shift: Array) -> tuple[Array, Array]:
    """What one equation adds, by the size of its adjoint at the centre and how far it moves."""
    total = adjoint + shift
    change, most = jnp.zeros((), adjoint.dtype), jnp.zeros((), adjoint.dtype)
    if bend.unstable is not None:
        kink = jnp.where(jnp.any(bend.unstable & (total > 0)), jnp.inf, 0).astype(adjoint.dtype)
        change, most = change + kink, most + kink
    for s in bend.seconds:
        a, b = bend.partials[s.first].operand, bend.partials[s.second].operand
        twice = 1.0 if s.first == s.second else 2.0
        (_, slope_a, moved_a, _), (_, slope_b, moved_b, _) = a.rows, b.rows
        (norm_a, change_a, _), (norm_b, change_b, _) = a.norms, b.norms

        def quadratic(weight: Array, norms: Array, slopes: Array) -> Array:
            return jnp.minimum(times(jnp.max(weight, initial=0.0), norms), jnp.sum(times(weight, slopes)))

        both, both_slopes = times(norm_a, norm_b), times(slope_a, slope_b)
        factor = times(total, s.change) + times(shift, jnp.abs(s.centre))
        sides = times(change_a, norm_b) + times(norm_a, change_b)
        side_slopes = times(moved_a, slope_b) + times(slope_a, moved_b)
        fixed = times(adjoint, jnp.abs(s.centre))
        change = change + twice * (quadratic(factor, both, both_slopes) + quadratic(fixed, sides, side_slopes))
        most = most + twice * quadratic(times(total, s.most), both, both_slopes)
    return change, most
