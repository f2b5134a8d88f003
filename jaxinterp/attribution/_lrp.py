"""Layer-wise relevance propagation."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxinterp import interpreters, tree
from jaxinterp.attribution import rules as tables
from jaxinterp.attribution._propagation import checked_rules, kept_or_missing, num_factors, traced
from jaxinterp.attribution.lrp_rules import Composite, Epsilon, LayerCall, LayerRule, LinearLayer, ZBox, epsilon_plus
from jaxinterp.interpreters import Backward, Call, Graph, Group, Layer, Node, Rules
from jaxinterp.typing import Array, PyTree, ScalarFn

SUMS = ("add", "sub", "add_any", "reduce_sum", "reduce_window_sum", "cumsum")
SCALING = ("mul", "div", "neg", "convert_element_type", "copy", "copy_p", "reduce_precision", "name")


def lrp(
    f: ScalarFn,
    argnums: int | tuple[int, ...] = 0,
    *,
    composite: Composite | None = None,
    rules: Rules = tables.lrp,
) -> Callable[..., PyTree]:
    r"""Layer-wise relevance propagation: returns `(*args)` -> the share of f(x) that falls to each entry of x.

    Starting with f(x) at the output, each part of the program hands its relevance to its inputs. A linear layer
    :math:`z = W a + b` does so by the rule that the composite gives it, in the simplest case
    :math:`R_i = \sum_j \frac{a_i W_{ij}}{z_j} R_j`; sums split in proportion to their summands; activations and
    max-pooling pass the relevance on. What biases contribute stays with them; a network without biases conserves:
    :math:`\sum_i \phi_i = f(x)`.

    Explain a logit or another score in which the relevance of several inputs adds up. A softmax or log-softmax as the
    last step divides by quantities close to zero or hands out negative logarithms; the papers leave it out, too.

    Layers are found in the program, and batch normalisation behind one is merged into its kernel and bias first. The
    normalisers of softmax, LayerNorm and RMSNorm count as constants, and a product of two arrays gives each factor
    half: with these rules attention conserves, with the naive ones it explodes (Ali et al., 2022; Achtibat et al.,
    2024).

    Args:
      f: a scalar function.
      argnums: the explained argument, or several (then the result is a tuple).
      composite: gives each linear layer its rule, such as `lrp_rules.epsilon_plus()` (the default),
        `lrp_rules.uniform(lrp_rules.epsilon(1e-6))` or a function of your own.
      rules: backward rules of further primitives; see `attribution.rules`. They come before the method's own, and
        activations and normalisers with such a primitive inside are taken apart.

    Returns:
      A function of f's arguments; the map is like the explained argument, in units of f.

    Raises:
      TypeError: if `composite` is not a function of a layer; at the call, if f is not scalar or the input is not
        floating-point.
      ValueError: at the call, if `z_box` is given to a layer that does not read x itself.
      NotImplementedError: at the call, for a primitive without a rule, such as a loop.

    Source: Bach, Binder, Montavon, Klauschen, Müller & Samek (2015); Montavon et al. (2019).

    >>> from jaxinterp.attribution import lrp_rules
    >>> f = lambda x: jnp.array([1.0, -1.0]) @ jax.nn.relu(jnp.array([[2.0, 1.0], [0.0, 3.0]]) @ x)
    >>> lrp(f, composite=lrp_rules.uniform(lrp_rules.epsilon(0.0)))(jnp.array([1.0, 1.0])).tolist()
    [2.0, -2.0]
    """
    checked_rules("lrp", rules)
    given = epsilon_plus() if composite is None else composite
    if isinstance(given, LayerRule) or not callable(given):
        raise TypeError(
            "`composite` of `lrp` is a function from a layer to its rule; for one rule everywhere write "
            f"`lrp_rules.uniform(rule)`. Got {given!r}."
        )

    def attribute(*args: PyTree) -> PyTree:
        program, x = traced("lrp", f, argnums, args)
        stops = _normaliser_stops(program)
        program = program.detached(stops)
        parts, layers = interpreters.layers(
            program, lambda program: interpreters.apart(program, _with_normalisers(program, stops), rules)
        )
        choose, boxed = _rules(program, parts, layers, stops, given, rules)
        leaves, structure = jax.tree.flatten(x)
        probes = {key: jnp.zeros(program.avals[v].shape, program.avals[v].dtype) for key, v in boxed.items()}

        def value(leaves: list[Array], probes: dict[int, Array]) -> Array:
            return interpreters.with_backward(program, parts, choose, lambda group: probes.get(id(group)))(leaves)

        slopes, relevances = jax.grad(value, argnums=(0, 1))(leaves, probes)
        total = [a * c for a, c in zip(leaves, slopes, strict=True)]
        for key, relevance in relevances.items():
            back = _to_input(program, boxed[key], leaves, relevance)
            total = tree.add(total, back)
        return jax.tree.unflatten(structure, total)

    return attribute


def _normaliser_stops(program: Graph) -> frozenset[int]:
    """The results of nonlinear functions inside normalisers, which count as constants."""
    return frozenset(
        v
        for group in interpreters.regions(program)
        if group.kind == "normaliser"
        for node in group.nodes
        if node.name not in ("mul", "div") and not interpreters.is_linear(node, program)
        for v in node.outputs
    )


def _with_normalisers(program: Graph, stops: frozenset[int]) -> tuple[Group, ...]:
    """The regions; a normaliser without constants, such as x / sum(x), goes equation by equation."""

    def is_whole(group: Group) -> bool:
        inside = (v for node in group.nodes for v in node.outputs)
        return group.kind != "equation" and (group.kind != "normaliser" or not stops.isdisjoint(inside))

    return interpreters.grouped(program, list(filter(is_whole, interpreters.regions(program))))


def _rules(
    program: Graph,
    parts: tuple[Group, ...],
    layers: dict[int, Layer],
    stops: frozenset[int],
    composite: Composite,
    rules: Rules,
) -> tuple[Callable[[Group], Backward | None], dict[int, int]]:
    """How relevance passes each part; and, of the layers with a rule for the input itself, the variable they read."""
    positive = interpreters.nonnegative(program)
    first = program.copies()
    scalings, averaged = _scalings(program, parts, rules)
    chosen: dict[int, Any] = {}
    boxed: dict[int, int] = {}
    for index, part in enumerate(group for group in parts if id(group) in layers):
        layer = layers[id(part)]
        where = LinearLayer(layer.kind, index, len(layers), layer.node.site(), part.inputs[0] in first)
        rule = _checked(composite(where), where)
        if isinstance(rule, ZBox):
            if not where.reads_input:
                raise ValueError(
                    f"`z_box` is a rule for layers that read the input; the layer {where.site} does not. Explain the "
                    "network without its input normalisation, or give `z_box` where `layer.reads_input` holds."
                )
            boxed[id(part)] = part.inputs[0]
        chosen[id(part)] = _through_layer(layer, rule, part.inputs[0] in positive)

    def sum_rule(node: Node) -> Backward:
        rule = composite(LinearLayer("sum", 0, len(layers), node.site(), False))
        return _through_sum(Epsilon(rule.epsilon))

    def choose(group: Group) -> Backward | None:
        node = group.nodes[0]
        if id(group) in chosen:
            return chosen[id(group)]
        if group.kind == "activation":
            return _through_activation
        if group.kind == "normaliser":
            return lambda call: _stopped(call, stops)
        if id(group) in scalings or node.outputs[0] in averaged:
            return sum_rule(node) if group.inputs[0] in averaged else None
        if group.kind == "affine" or (node.name in SUMS and node.equation.primitive not in rules):
            return sum_rule(node)
        if node.equation.primitive in rules:
            return rules[node.equation.primitive]
        moving = sum(v in program.active for v in node.inputs)
        if node.name in ("mul", "dot_general", "conv_general_dilated") and moving == 2:
            return _through_product(2)
        if node.name == "reduce_prod":
            return _through_product(num_factors(node))
        if node.name == "div" and moving == 2:
            return lambda call: (call.pull(call.cotangents)[0], *map(jnp.zeros_like, call.inputs[1:]))
        return kept_or_missing(program, node, rules)

    return choose, boxed


def _scalings(program: Graph, parts: tuple[Group, ...], rules: Rules) -> tuple[set[int], set[int]]:
    """The chains that only scale, which keep no relevance; and the sums they scale: an average splits as a whole."""
    chains = [g for g in parts if g.kind == "affine" and all(node.name in SCALING for node in g.nodes)]
    uses = program.uses()
    sums = {
        v
        for node in program.nodes
        for v in node.outputs
        if node.name in SUMS and node.equation.primitive not in rules and uses[v] == 1
    }
    return {id(g) for g in chains}, sums.intersection(v for g in chains for v in g.inputs)


def _checked(rule: Any, layer: LinearLayer) -> LayerRule:
    if not isinstance(rule, LayerRule):
        raise TypeError(
            f"The composite of `lrp` must give the layer {layer.site} a rule of `lrp_rules`, such as "
            f"`lrp_rules.epsilon(1e-6)`; it gave {rule!r}."
        )
    return rule


def _through_layer(layer: Layer, rule: Any, is_positive: bool) -> Backward:
    def backward(call: Call) -> tuple[Array, ...]:
        product, kernel, bias = layer.merged(call.values)
        (a,), (out,), (cotangent,) = call.inputs, call.outputs, call.cotangents
        result = rule(LayerCall(product, kernel, bias, a, out, cotangent, is_positive))
        return (jnp.zeros_like(a), result) if isinstance(rule, ZBox) else (result,)

    return backward


def _through_sum(rule: Epsilon) -> Backward:
    """Sums and elementwise affine maps: the relevance is split in proportion, the offsets keep theirs."""

    def backward(call: Call) -> tuple[Array, ...]:
        return call.pull([c * rule.share(out) for c, out in zip(call.cotangents, call.outputs, strict=True)])

    return backward


def _through_activation(call: Call) -> tuple[Array, ...]:
    """The output's relevance becomes the input's; at an input of 0, where nothing is to pass, the derivative."""
    (r,) = call.inputs
    at_zero = call.pull(call.cotangents)[0]
    outputs = zip(call.cotangents, call.outputs, strict=True)
    relevance = sum(jnp.where(c == 0, jnp.zeros_like(c), c * out).astype(r.dtype) for c, out in outputs)
    return (jnp.where(r == 0, at_zero, relevance / jnp.where(r == 0, jnp.ones_like(r), r)),)


def _through_product(count: int) -> Backward:
    """Every factor gets the same share."""
    return lambda call: tuple(c / max(count, 1) for c in call.pull(call.cotangents))


def _stopped(call: Call, stops: frozenset[int]) -> tuple[Array, ...]:
    """The derivative of a normaliser with its nonlinear statistics held constant."""

    def function(*inputs: Array) -> list[Array]:
        everything = {**call.values, **dict(zip(call.moving, inputs, strict=True))}
        outputs = call.group.apply(everything, [everything[v] for v in call.group.inputs], stops)
        return [out for v, out in zip(call.group.outputs, outputs, strict=True) if v in call.outgoing]

    return jax.vjp(function, *call.inputs)[1](call.cotangents)


def _to_input(program: Graph, v: int, leaves: list[Array], relevance: Array) -> list[Array]:
    """Relevance of a reshaped input, in the shape of the inputs."""
    copies = program.copies()

    def reshaped(arrays: list[Array]) -> Array:
        values = dict(zip(program.inputs, arrays, strict=True))
        for node in program.nodes:
            if not copies.isdisjoint(node.outputs):
                values[node.outputs[0]] = node(*[values[u] for u in node.inputs])[0]
        return values[v]

    return jax.vjp(reshaped, leaves)[1](relevance)[0]
