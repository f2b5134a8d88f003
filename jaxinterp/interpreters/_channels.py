"""Which entries of the parameters belong to one channel: found from the program, whatever the layers are called."""

import dataclasses
from collections.abc import Callable, Iterable

import jax
import numpy as np

from jaxinterp.interpreters._graph import CALLS, CUSTOM, Graph, Node, graph
from jaxinterp.interpreters._ir import names
from jaxinterp.interpreters._numbering import STRUCTURAL, compact, moved, without_repeats
from jaxinterp.typing import PyTree

NONE, FIXED = -1, 0

PASSING = names("convert_element_type reduce_precision stop_gradient optimization_barrier")
ELEMENTWISE = names(
    """abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp cos cosh div eq erf erf_inv erfc exp
    exp2 expm1 floor ge gt integer_pow is_finite le lgamma log log1p logistic lt max min mul ne neg nextafter not or pow
    rem round rsqrt select_n sign sin sinh sqrt square sub tan tanh xor"""
)
REDUCING = names("reduce_sum reduce_max reduce_min reduce_and reduce_or")
POOLING = names("reduce_window_sum reduce_window_max reduce_window_min cumsum cummax")


@dataclasses.dataclass(frozen=True)
class Channel:
    """A channel: the entries of the parameters that belong to it.

    Attributes:
      written: entries whose product with what comes before is the channel, as (leaf, axis, index).
      read: entries that multiply it; those of tied kernels are among both.
      carried: entries that are added to it or scale it: biases, and scales and statistics of normalisations.
    """

    written: tuple[tuple[int, int, int], ...]
    read: tuple[tuple[int, int, int], ...]
    carried: tuple[tuple[int, int, int], ...]


def channels(f: Callable[..., PyTree], tree: PyTree, *rest: PyTree) -> list[Channel]:
    """The channels of `f(tree, *rest)` that can be removed, each with all that is tied to it, by residual sums too.

    >>> import jax.numpy as jnp
    >>> f = lambda p, x: jnp.tanh(x @ p[0]) @ p[1]
    >>> channels(f, [jnp.ones((3, 2)), jnp.ones((2, 1))], jnp.ones(3))[0]
    Channel(written=((0, 1, 0),), read=((1, 0, 0),), carried=())
    """
    program, leaves = opened_program(f, tree, *rest)
    count = len(jax.tree.leaves(tree))
    return _Walk(program, [np.shape(leaf) for leaf in leaves], count).found()


def outline(f: Callable[..., PyTree], *args: PyTree) -> list[tuple]:
    """The names of the equations of a program and the numbers in them: what its code says but for shapes.

    >>> import jax.numpy as jnp
    >>> wide, narrow = jnp.ones(4), jnp.ones(3)
    >>> [outline(f, wide) == outline(f, narrow) for f in (lambda x: x / 2, lambda x: x / x.size)]
    [True, False]
    """
    program, _ = opened_program(f, *args)
    return [
        (
            node.name,
            node.params.get("y"),  # the exponent of integer_pow
            *(np.asarray(program.constants[v]).tobytes() for v in node.inputs if v in program.literals),
        )
        for node in program.nodes
    ]


def opened_program(f: Callable[..., PyTree], *args: PyTree) -> tuple[Graph, list]:
    """The program of a function down to its primitives, whatever rules of promotion are set, and its inputs."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return graph(f, *args, opened=(*CALLS, *CUSTOM))


class _Walk:
    """Passes through a program the number of the channel to which each entry of each array belongs.

    `NONE` is no channel (a zero, or a number that all entries share), `FIXED` a channel that must stay. An array of
    parameters with several axes has channels along each, until it is contracted.
    """

    def __init__(self, program: Graph, shapes: list[tuple[int, ...]], num_parameters: int) -> None:
        self.program = program
        self.parent = [FIXED]
        self.entries: dict[int, tuple[int, int, int]] = {}  # of each channel of a parameter
        self.roles: dict[int, set[str]] = {}
        self.ids: dict[int, np.ndarray] = {}
        self.axes: dict[int, list[np.ndarray]] = {}
        for leaf, (v, shape) in enumerate(zip(program.inputs, shapes, strict=True)):
            if leaf >= num_parameters:
                self.ids[v] = np.full(shape, FIXED)
            elif len(shape) == 1:
                self.ids[v] = self.fresh(leaf, 0, shape[0])
            elif shape:
                self.axes[v] = [self.fresh(leaf, axis, size) for axis, size in enumerate(shape)]
            else:
                self.ids[v] = np.full(shape, NONE)
        for v, value in program.constants.items():
            shape = np.shape(value)
            self.ids[v] = np.full(shape, NONE if v in program.literals or not shape else FIXED)
        for node in program.nodes:
            self.visit(node)
        for v in program.outputs:
            self.fix(v)

    def fresh(self, leaf: int, axis: int, size: int) -> np.ndarray:
        start = len(self.parent)
        self.parent.extend(range(start, start + size))
        self.entries.update({start + i: (leaf, axis, i) for i in range(size)})
        return np.arange(start, start + size)

    def root(self, number: int) -> int:
        while self.parent[number] != number:
            self.parent[number] = self.parent[self.parent[number]]
            number = self.parent[number]
        return number

    def tie(self, a: np.ndarray, b: np.ndarray) -> None:
        """The channels at the same places are one."""
        a, b = without_repeats(a, b)
        pairs = np.unique(np.stack([np.ravel(a), np.ravel(b)], 1), axis=0)
        for first, second in pairs[(pairs >= 0).all(1)].tolist():
            low, high = sorted((self.root(first), self.root(second)))
            self.parent[high] = low

    def fix(self, v: int) -> None:
        """What a variable holds must stay."""
        for channels in [*self.axes.get(v, []), *([self.ids[v]] if v in self.ids else [])]:
            self.tie(channels, np.full(channels.shape, FIXED))

    def visit(self, node: Node) -> None:
        if not node.outputs:  # it looks at values and changes none
            return
        whole = [v for v in node.inputs if v in self.axes]
        if node.name in PASSING and whole:
            self.axes[node.outputs[0]] = self.axes[whole[0]]
        elif node.name == "dot_general" and len(whole) == 1:
            self.contracted(node, *node.params["dimension_numbers"])
        elif node.name == "conv_general_dilated" and node.inputs[1] in self.axes and len(whole) == 1:
            self.convolved(node)
        elif whole or not self.passed(node):
            self.unknown(node)

    def passed(self, node: Node) -> bool:
        """Rules for arrays of entries; whether there is one."""
        channels, out = [self.ids[v] for v in node.inputs], node.outputs[0]
        shape = self.program.avals[out].shape
        if node.name in PASSING:
            self.ids[out] = channels[0]
        elif node.name in STRUCTURAL:
            self.ids[out] = compact(moved(node, channels, shape))
        elif node.name in ELEMENTWISE:
            spread = without_repeats(*(np.broadcast_to(c, shape) for c in channels))
            result = spread[0]
            for other in spread[1:]:
                self.tie(result, other)
                result = np.where(result >= 0, result, other)
            self.ids[out] = np.broadcast_to(result, shape)
        elif node.name in REDUCING:
            along = self.same_along(channels[0], node.params["axes"])
            if along is None:
                return False
            self.ids[out] = along
        elif node.name in POOLING:
            return self.pooled(node, channels[0], shape)
        else:
            return False
        return True

    def same_along(self, channels: np.ndarray, axes: Iterable[int]) -> np.ndarray | None:
        """The channels with some axes taken out, if they do not change along them."""
        axes = tuple(axes)
        low, high = channels.min(axes), channels.max(axes)
        return low if np.array_equal(low, high) else None

    def pooled(self, node: Node, channels: np.ndarray, shape: tuple[int, ...]) -> bool:
        windows = node.params.get("window_dimensions")
        if windows is None:
            axes = [node.params["axis"]]
        else:  # a stride alone takes entries away, too
            axes = [i for i, size in enumerate(windows) if size > 1 or shape[i] != channels.shape[i]]
        along = self.same_along(channels, axes)
        if along is None:
            return False
        self.ids[node.outputs[0]] = np.broadcast_to(np.expand_dims(along, axes), shape)
        return True

    def contracted(self, node: Node, contracting: tuple, batch: tuple) -> None:
        """A product of an array and a parameter over one axis of each."""
        side = 0 if node.inputs[0] in self.axes else 1
        weights, data = self.axes[node.inputs[side]], self.ids[node.inputs[1 - side]]
        inner, outer = contracting[side], contracting[1 - side]
        free = [axis for axis in range(len(weights)) if axis not in inner]
        if len(inner) != 1 or len(free) != 1 or batch[0]:
            self.unknown(node)
            return
        self.read(data, outer[0], weights[inner[0]])
        shape = self.program.avals[node.outputs[0]].shape
        position = 0 if side == 0 else len(shape) - 1
        self.written(node.outputs[0], shape, position, weights[free[0]])

    def convolved(self, node: Node) -> None:
        numbers, shape = node.params["dimension_numbers"], self.program.avals[node.outputs[0]].shape
        weights, data = self.axes[node.inputs[1]], self.ids[node.inputs[0]]
        grouped = node.params["feature_group_count"] != 1 or node.params["batch_group_count"] != 1
        if grouped:
            self.unknown(node)
            return
        self.read(data, numbers.lhs_spec[1], weights[numbers.rhs_spec[1]])
        self.written(node.outputs[0], shape, numbers.out_spec[1], weights[numbers.rhs_spec[0]])

    def unknown(self, node: Node) -> None:
        """Without a rule everything that comes in stays, and what goes out is no channel that could go."""
        for v in node.inputs:
            self.fix(v)
        for v in node.outputs:
            self.ids[v] = np.full(self.program.avals[v].shape, FIXED)

    def read(self, data: np.ndarray, axis: int, weights: np.ndarray) -> None:
        along = self.same_along(data, [i for i in range(data.ndim) if i != axis])
        if along is None:
            self.tie(data, np.full(data.shape, FIXED))
            along = np.full(weights.shape, FIXED)
        self.serves(weights, "read")
        self.tie(along, weights)
        constant = along == NONE  # always the same number: no channel comes in here
        self.tie(weights[constant], np.full(int(constant.sum()), FIXED))

    def written(self, out: int, shape: tuple[int, ...], axis: int, weights: np.ndarray) -> None:
        self.serves(weights, "written")
        place = [1] * len(shape)
        place[axis] = -1
        self.ids[out] = np.broadcast_to(weights.reshape(place), shape)

    def serves(self, weights: np.ndarray, role: str) -> None:
        for number in weights.tolist():
            self.roles.setdefault(number, set()).add(role)

    def found(self) -> list[Channel]:
        classes: dict[int, list[int]] = {}
        for number in self.entries:
            classes.setdefault(self.root(number), []).append(number)
        result = []
        for number in sorted(classes):
            roles: dict[str, list] = {"written": [], "read": [], "carried": []}
            for member in classes[number]:
                for role in self.roles.get(member, ("carried",)):
                    roles[role].append(self.entries[member])
            if number != FIXED and roles["written"] and roles["read"]:
                result.append(Channel(*(tuple(roles[role]) for role in ("written", "read", "carried"))))
        return result
