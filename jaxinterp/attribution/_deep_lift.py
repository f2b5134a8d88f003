"""DeepLIFT: the difference from a baseline, carried back through the program."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxinterp import checks, interpreters, local, tree
from jaxinterp.attribution import rules as tables
from jaxinterp.attribution._propagation import SELECTING, checked_rules, cores, kept_or_missing, num_factors, traced
from jaxinterp.derivatives import gauss_legendre, weighted_sum
from jaxinterp.interpreters import Backward, Call, Graph, Group, Node, Rules
from jaxinterp.typing import Array, PyTree, ScalarFn

LARGEST = ("reduce_max", "reduce_window_max", "max", "cummax")
SMALLEST = ("reduce_min", "reduce_window_min", "min", "cummin")


def deep_lift(
    f: ScalarFn, argnums: int | tuple[int, ...] = 0, *, rules: Rules = tables.deep_lift
) -> Callable[..., PyTree]:
    r"""DeepLIFT with the rescale rule: returns `(*args, baseline=0)` -> what each entry's difference contributes.

    :math:`\phi_i = (x_i - b_i)\,m_i`, where the multipliers m are carried back like gradients: linear maps have their
    derivative, an activation :math:`\frac{\varphi(z) - \varphi(z^b)}{z - z^b}` (its derivative where the difference
    vanishes), a product of two arrays that both depend on x the mean of each factor at x and b, and max-pooling gives
    the difference of its output to the entry chosen at the point where the output is larger (min-pooling: smaller).
    Each of these accounts for its difference exactly, so :math:`\sum_i\phi_i = f(x) - f(b)`. Choices for which no
    multiplier of the entries does, such as sorting and masks computed from x, have no rule.

    A baseline of zeros is a singular point of LayerNorm and RMSNorm, where the difference quotient is taken over a
    jump: give a network that normalises its input a baseline of data, such as their mean.

    Args:
      f: a scalar function.
      argnums: the explained argument, or several (then the result is a tuple).
      rules: backward rules of further primitives, which come before the method's own; see `attribution.rules`. The
        `reference` of their calls is the pair of the inputs and the outputs at the baseline.

    Returns:
      A function of f's arguments and of the keyword `baseline` (b, a pytree prefix of x; zeros by default). The map is
      like the explained argument, in units of f.

    Raises:
      TypeError: at the call, if f is not scalar or the input is not floating-point.
      ValueError: at the call, if the baseline does not broadcast to the input.
      NotImplementedError: at the call, for a primitive without a rule, such as a loop.

    Source: Shrikumar, Greenside & Kundaje (2017).

    >>> deep_lift(lambda x: jax.nn.relu(jnp.sum(x) - 1.0))(jnp.array([3.0, 1.0])).tolist()
    [2.25, 0.75]
    """
    checked_rules("deep_lift", rules)

    def attribute(*args: PyTree, baseline: PyTree = 0.0) -> PyTree:
        program, x = traced("deep_lift", f, argnums, args)
        origin = tree.broadcast_prefix("baseline", baseline, x)
        program = program.unstopped()  # a difference is not stopped where a derivative is
        groups = cores(program, interpreters.apart(program, interpreters.activations(program), rules))
        leaves, structure = jax.tree.flatten(x)
        before = program.evaluate(jax.tree.leaves(origin))
        if program.outputs[0] in program.dependent and program.outputs[0] not in program.active:
            raise NotImplementedError(
                "`deep_lift` found that the output depends on the input by comparisons or integers alone, for whose "
                "differences there are no multipliers; explain a score instead of a decision."
            )
        choose = _chooser(program, rules)

        def reference(group: Group) -> tuple[dict, list]:
            inside = {v: before[v] for node in group.nodes for v in node.inputs if v in program.active}
            return inside, [before[v] for v in group.outputs if v in program.active]

        multipliers = jax.grad(interpreters.with_backward(program, groups, choose, reference))(leaves)
        return tree.mul(tree.sub(x, origin), jax.tree.unflatten(structure, multipliers))

    return attribute


def deep_lift_shap(
    f: ScalarFn,
    argnums: int | tuple[int, ...] = 0,
    *,
    rules: Rules = tables.deep_lift,
    chunk_size: int | None = 1,
) -> Callable[..., PyTree]:
    r"""DeepLiftSHAP: returns `(*args, background)` -> the mean of `deep_lift` over a background data set.

    :math:`\phi = \frac1n\sum_j \phi^{\mathrm{DL}}(x; b_j)`; it sums to :math:`f(x) - \frac1n\sum_j f(b_j)`.

    Args:
      f: a scalar function.
      argnums: the explained argument, or several (then the result is a tuple).
      rules: as for `deep_lift`.
      chunk_size: background examples taken together; memory grows with it. `None` takes all.

    Returns:
      A function of f's arguments and of the keyword `background`, like the explained argument with a leading axis. The
      map is like the explained argument, in units of f.

    Raises:
      TypeError: at the call, if f is not scalar or the input is not floating-point.
      ValueError: at the call, if the background is not like the input with a leading axis.
      NotImplementedError: at the call, for a primitive without a rule, such as a loop.

    Source: Lundberg & Lee (2017).

    >>> explain = deep_lift_shap(lambda x: jnp.sum(x) ** 2)
    >>> explain(jnp.array([1.0, 2.0]), background=jnp.array([[0.0, 0.0], [1.0, 0.0]])).tolist()
    [1.5, 7.0]
    """
    checks.optional_chunk_size(chunk_size)
    explain = deep_lift(f, argnums, rules=rules)

    def attribute(*args: PyTree, background: PyTree) -> PyTree:
        positions = checks.argnums("deep_lift_shap", argnums, len(args))
        x = tuple(args[i] for i in positions) if isinstance(argnums, tuple) else args[positions[0]]
        background, rows = local.checked_background("deep_lift_shap", background, x)
        weights = jnp.full(rows, 1 / rows, tree.accumulator(jnp.result_type(*jax.tree.leaves(x))))
        return weighted_sum(lambda row: explain(*args, baseline=row), background, weights, chunk_size=chunk_size)

    return attribute


def _chooser(program: Graph, rules: Rules) -> Callable[[Group], Backward | None]:
    def choose(group: Group) -> Backward | None:
        node = group.nodes[0]
        if group.kind == "activation":
            return _rescaled
        if group.kind == "affine":
            return None
        if node.equation.primitive in rules:
            return rules[node.equation.primitive]
        if node.name == "stop_gradient":
            return lambda call: tuple(call.cotangents)
        if node.name in LARGEST + SMALLEST:
            return lambda call: _of_chosen(call, 1 if node.name in LARGEST else -1)
        if node.name in SELECTING or _has_condition(node, program):
            raise rules.missing(node)
        moving = [v for v in node.inputs if v in program.active]
        if node.name in ("mul", "dot_general", "conv_general_dilated") and len(moving) == 2:
            return _product_of(2)
        if node.name == "reduce_prod":
            return _product_of(num_factors(node))
        if node.name == "div" and len(moving) == 2:
            return _quotient
        return kept_or_missing(program, node, rules)

    return choose


def _has_condition(node: Node, program: Graph) -> bool:
    """Whether a node also reads a mask or an index that x decides: no multiplier accounts for a difference of it."""
    return any(v in program.dependent and v not in program.active for v in node.inputs)


def _rescaled(call: Call) -> tuple[Array, ...]:
    """Δout / Δin, elementwise; the derivative where the input hardly differs."""
    (z,), (before,), (_, outputs_before) = call.inputs, _before(call), call.reference
    changes = zip(call.cotangents, call.outputs, outputs_before, strict=True)
    change = sum((_change(*parts).astype(z.dtype) for parts in changes), jnp.zeros_like(z))
    return (_over(change, z, before, call.pull(call.cotangents)[0]),)


def _product_of(count: int) -> Backward:
    """A product of several factors: its derivative averaged along the segment between both points.

    The derivative is a polynomial there, so that half as many Gauss-Legendre nodes as factors account for the
    difference exactly: for two, the midpoint.
    """
    rule = gauss_legendre(max(-(-count // 2), 1))

    def backward(call: Call) -> tuple[Array, ...]:
        total = tuple(map(jnp.zeros_like, call.inputs))
        for t, weight in zip(rule.nodes, rule.weights, strict=True):
            between = [old + (z - old) * float(t) for z, old in zip(call.inputs, _before(call), strict=True)]
            slopes = jax.vjp(call.function, *between)[1](call.cotangents)
            total = tuple(a + float(weight) * b for a, b in zip(total, slopes, strict=True))
        return total

    return backward


def _before(call: Call) -> tuple[Array, ...]:
    """The inputs at the baseline."""
    return tuple(call.reference[0][v] for v in call.moving)


def _quotient(call: Call) -> tuple[Array, ...]:
    """A / b, as the product of a and the activation 1 / b."""
    if len(call.inputs) == 1:
        return tuple(map(jnp.zeros_like, call.inputs))
    (a, b), (c,) = call.inputs, call.cotangents
    old_a, old_b = _before(call)
    slopes = (1 / b + 1 / old_b) / 2, -(a + old_a) / 2 / (b * old_b)
    return jax.vjp(lambda a, b: slopes[0] * a + slopes[1] * b, a, b)[1](c)


def _of_chosen(call: Call, sign: int) -> tuple[Array, ...]:
    """The difference of a largest (smallest) entry goes to the entry chosen where the output is larger (smaller)."""
    before = _before(call)
    here, there = [], []
    for c, out, old in zip(call.cotangents, call.outputs, call.reference[1], strict=True):
        change = _change(c, out, old)
        at_x = sign * out > sign * old
        here.append(jnp.where(at_x, change, jnp.zeros_like(change)))
        there.append(jnp.where(at_x, jnp.zeros_like(change), change))
    parts = zip(call.pull(here), jax.vjp(call.function, *before)[1](there), strict=True)
    shares = zip([a + b for a, b in parts], call.inputs, before, call.pull(call.cotangents), strict=True)
    return tuple(_over(*share) for share in shares)


def _change(c: Array, out: Array, old: Array) -> Array:
    """What the difference of an output contributes; masked scores are minus infinity at both points."""
    return jnp.where(out == old, jnp.zeros_like(out), c * (out - old))


def _over(contribution: Array, z: Array, before: Array, slope: Array) -> Array:
    """The multiplier that makes a contribution of the difference; the slope where there is hardly any difference."""
    # Between two errors: that of a quotient of rounding, eps over the difference, and of a slope that misses a kink.
    rounding = float(jnp.finfo(z.dtype).eps) ** 0.75 * jnp.maximum(jnp.abs(z), jnp.abs(before))
    small = (z == before) | (jnp.abs(z - before) <= rounding.astype(z.dtype))
    return jnp.where(small, slope, contribution / jnp.where(small, jnp.ones_like(z), z - before))
