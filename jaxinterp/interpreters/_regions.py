"""Which equations of a program belong together: an activation, an affine chain, a normaliser.

A single primitive is rarely a unit of meaning: GELU is ten equations, LayerNorm a dozen, batch normalisation in
evaluation mode four. Terms of a decomposition that are taken apart inside such a unit nearly cancel, and a rule for
propagation has no sense there. The units are recognised by the shape of the program alone, so that it does not matter
which library wrote it:

* an *activation* is a set of elementwise equations of one array and of single numbers;
* an *affine* chain is a sequence of elementwise equations that multiply one array by constants and add constants, such
  as a bias or batch normalisation in evaluation mode;
* a *normaliser* relates one array to reductions of itself, such as softmax, LayerNorm or RMSNorm (without the scale and
  offset per channel that may follow).

All other equations stand by themselves.
"""

import collections
import math
from collections.abc import Container, Sequence

from jaxinterp.interpreters._graph import Graph, Node, called
from jaxinterp.interpreters._groups import Group, Kind, assembled, grouped
from jaxinterp.interpreters._ir import names

AFFINE = names("""add sub mul div neg add_any convert_element_type copy copy_p select_n reduce_precision name""")

NONLINEAR = names(
    """abs acos acosh asin asinh atan atan2 atanh cbrt ceil clamp cos cosh digamma eq erf erf_inv erfc exp exp2 expm1
    floor ge gt integer_pow is_finite le lgamma log log1p log2 logistic lt max min ne nextafter not one_minus_square
    and or xor polynomial pow rem round rsqrt sign sin sinh sqrt square stop_gradient tan tanh"""
)

REDUCTIONS = names("reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or")

SPREADING = names("broadcast_in_dim reshape squeeze expand_dims")


def activations(graph: Graph) -> tuple[Group, ...]:
    """Activations, with constants of any shape, as one group each; every other equation by itself."""
    found = _Finder(graph).activations(any_shape=True)
    return assembled(graph, [("activation", nodes) for nodes in found if _is_curved(nodes, graph)])


def apart(graph: Graph, groups: tuple[Group, ...], primitives: Container) -> tuple[Group, ...]:
    """The same groups, but those that hold one of some primitives equation by equation: for rules of their own."""
    if all(node.equation.primitive not in primitives for group in groups for node in group.nodes):
        return groups
    parts: list[Group] = []
    for group in groups:
        own = [node.equation.primitive in primitives for node in group.nodes]
        if not any(own):
            parts.append(group)
            continue
        for node, is_own in zip(group.nodes, own, strict=True):
            if not is_own and len(graph.dependent_inputs(node)) == 1 and _is_elementwise(node, graph):
                parts.append(Group("activation" if _is_curved([node], graph) else "affine", (node,), (), ()))
    return grouped(graph, parts)


def regions(graph: Graph) -> tuple[Group, ...]:
    """Activations, affine chains and normalisers as one group each; every other equation by itself."""
    finder = _Finder(graph)
    activations, chains = finder.activations(), finder.chains()
    normalisers = finder.merged(finder.normalisers(), activations)
    taken = {id(node) for nodes in normalisers for node in nodes}
    found: list[tuple[Kind, list[Node]]] = [("normaliser", nodes) for nodes in normalisers]
    for nodes in activations:
        rest = [node for node in nodes if id(node) not in taken]
        if _is_curved(rest, graph):
            found.append(("activation", rest))
            taken.update(map(id, rest))
    found += [("affine", part) for nodes in chains if (part := [n for n in nodes if id(n) not in taken])]
    return assembled(graph, found)


class _Finder:
    """Recognises the units of one graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.producers = graph.producers
        self.uses = graph.uses()
        self.elementwise = {id(node): _is_elementwise(node, graph) for node in graph.nodes}
        self.nodes = [node for node in graph.nodes if graph.dependent_inputs(node)]

    def size(self, v: int) -> int:
        return math.prod(self.graph.avals[v].shape)

    def shape(self, v: int) -> tuple[int, ...]:
        return self.graph.avals[v].shape

    def constants(self, node: Node) -> list[int]:
        return [v for v in node.inputs if v not in self.graph.dependent]

    def is_number(self, v: int) -> bool:
        """Whether a constant is a single number, spread over an array or not."""
        while v in self.producers and self.producers[v].name in SPREADING:
            v = self.producers[v].inputs[0]
        return self.size(v) == 1

    def is_literal(self, v: int) -> bool:
        while v in self.producers and self.producers[v].name in (*SPREADING, "convert_element_type"):
            v = self.producers[v].inputs[0]
        return v in self.graph.literals

    def is_chosen(self, node: Node) -> bool:
        """Whether a node chooses between an array and numbers by a constant mask."""
        return node.name == "select_n" and all(
            map(self.is_number, [v for v in self.constants(node) if v != node.inputs[0]])
        )

    def activations(self, any_shape: bool = False) -> list[list[Node]]:
        """Maximal sets of elementwise nodes that are functions of one array and of numbers (or constant arrays)."""
        origin: dict[int, int] = {}
        members: dict[int, list[Node]] = collections.defaultdict(list)
        for node in self.nodes:
            numbers = any_shape or all(map(self.is_number, self.constants(node))) or self.is_chosen(node)
            sources = {origin.get(v, v) for v in self.graph.dependent_inputs(node)}
            if not self.elementwise[id(node)] or not numbers or len(sources) != 1:
                continue
            (source,) = sources
            if all(self.shape(v) == self.shape(source) for v in node.outputs):
                origin.update(dict.fromkeys(node.outputs, source))
                members[source].append(node)
        return [trimmed for source, nodes in members.items() if (trimmed := self._without_bias(source, nodes))]

    def _without_bias(self, source: int, nodes: list[Node]) -> list[Node]:
        """Leaves out leading numbers that are no literals: those of a layer with one channel, its bias or its norm."""
        while nodes and self.is_affine(nodes[0]) and sum(source in node.inputs for node in nodes) == 1:
            constants = self.constants(nodes[0])
            if len(constants) != 1 or self.is_literal(constants[0]):
                break
            source, nodes = nodes[0].outputs[0], nodes[1:]
        return nodes

    def chains(self) -> list[list[Node]]:
        """Sequences of elementwise affine nodes."""
        chain_of: dict[int, list[Node]] = {}
        chains = []
        for node in self.nodes:
            if not self.is_affine(node):
                continue
            (source,) = self.graph.dependent_inputs(node)
            chain = chain_of.pop(source, None) if self.uses[source] == 1 else None
            if chain is None:
                chain = []
                chains.append(chain)
            chain.append(node)
            chain_of[node.outputs[0]] = chain
        return chains

    def is_affine(self, node: Node) -> bool:
        """Whether a node multiplies one array by constants or adds constants, elementwise."""
        sources = self.graph.dependent_inputs(node)
        if node.name not in AFFINE or len(sources) != 1 or node.inputs.count(sources[0]) != 1:
            return False
        if node.name == "div" and node.inputs[0] != sources[0]:
            return False
        if node.name == "select_n" and node.inputs[0] == sources[0]:
            return False
        return sources[0] in self.graph.active and self.shape(sources[0]) == self.shape(node.outputs[0])

    def normalisers(self) -> list[list[Node]]:
        """Closed sets of nodes between an array and the elementwise meeting of it with reductions of itself."""
        dominators: dict[int, frozenset[int]] = {}
        found = []
        for node in self.nodes:
            sources = self.graph.dependent_inputs(node)
            common = frozenset.intersection(*(dominators.get(v, frozenset({v})) for v in sources))
            out = node.outputs[0]
            if self.elementwise[id(node)] and len(sources) > 1:
                between = self._between(max((v for v in common if self.size(v) == self.size(out)), default=None), node)
                if between is not None and any(n.name in REDUCTIONS for n in between):
                    found.append(between)
            fusible = node.name in (*REDUCTIONS, *SPREADING, "transpose") or self.elementwise[id(node)]
            for v in node.outputs:
                dominators[v] = (common if fusible else frozenset()) | {v}
        return found

    def _between(self, source: int | None, last: Node) -> list[Node] | None:
        """The nodes on the paths from `source` to `last`, if none of their results is read elsewhere."""
        if source is None:
            return None
        reached, waiting = {id(last): last}, [v for v in self.graph.dependent_inputs(last) if v != source]
        while waiting:
            node = self.producers[waiting.pop()]
            if id(node) not in reached:
                reached[id(node)] = node
                waiting += [v for v in self.graph.dependent_inputs(node) if v != source]
        nodes = [node for node in self.nodes if id(node) in reached]
        return nodes if self._is_closed(nodes) else None

    def _is_closed(self, nodes: list[Node]) -> bool:
        """Whether what all nodes but the last compute is read by these nodes only."""
        read = collections.Counter(v for node in nodes for v in node.inputs)
        return all(self.uses[v] == read[v] for node in nodes[:-1] for v in node.outputs)

    def merged(self, found: list[list[Node]], activations: list[list[Node]]) -> list[list[Node]]:
        """Joins normalisers that follow each other, directly or with one activation between, and the mask before."""
        result: list[list[Node]] = []
        by_output = {v: nodes for nodes in activations for node in nodes for v in node.outputs}
        for nodes in found:
            result.append(self._joined(result, nodes, by_output))
        return [self._with_mask(nodes) for nodes in result]

    def _joined(self, result: list[list[Node]], nodes: list[Node], activations: dict[int, list[Node]]) -> list[Node]:
        source, between = self._source(nodes), list[Node]()
        inside = {id(node) for node in nodes}
        if source in activations:
            between = [node for node in activations[source] if id(node) not in inside]
            source = self._source(between) if between else source
        for earlier in result:
            whole = [*earlier, *between, *nodes]
            if earlier[-1].outputs[0] == source and self._is_closed(whole):
                taken = {id(node) for node in whole}
                result[:] = [part for part in result if taken.isdisjoint(map(id, part))]
                return whole
        overlapping = [earlier for earlier in result if not inside.isdisjoint(map(id, earlier))]
        result[:] = [earlier for earlier in result if inside.isdisjoint(map(id, earlier))]
        return [node for node in self.nodes if any(node is n for part in (nodes, *overlapping) for n in part)]

    def _source(self, nodes: list[Node]) -> int:
        inside = {v for node in nodes for v in node.outputs}
        return next(v for node in nodes for v in self.graph.dependent_inputs(node) if v not in inside)

    def _with_mask(self, nodes: list[Node]) -> list[Node]:
        """A softmax takes in the mask before it, which may hold minus infinity."""
        while any(node.name == "exp" for node in nodes):
            source = self._source(nodes)
            before = self.producers.get(source)
            users = sum(source in node.inputs for node in self.nodes) - sum(source in node.inputs for node in nodes)
            is_mask = before is not None and before.name in ("select_n", "add", "sub") and self.is_affine(before)
            if before is None or not is_mask or users or source in self.graph.outputs:
                break
            nodes = [before, *nodes]
        return nodes


def _is_curved(nodes: Sequence[Node], graph: Graph) -> bool:
    return any(node.name not in AFFINE or (node.name == "div" and node.inputs[1] in graph.active) for node in nodes)


def _is_elementwise(node: Node, graph: Graph) -> bool:
    shapes = {graph.avals[v].shape for v in node.outputs}
    inner = called(node)
    if inner is not None:
        return len(shapes) == 1 and all(_is_elementwise(n, inner) or n.name in SPREADING for n in inner.nodes)
    return node.name in AFFINE or node.name in NONLINEAR
