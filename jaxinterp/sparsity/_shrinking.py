"""Physical surgery: channels that are masked are cut out of all arrays that they run through."""

import bisect
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp import checks, tree
from jaxinterp.interpreters import Channel, channels, outline, rearranged
from jaxinterp.sparsity._gates import apply, threshold
from jaxinterp.typing import Array, PyTree


@dataclasses.dataclass(frozen=True)
class Coupling:
    """The channels of a function that can be removed, and what of its arguments belongs to each.

    Attributes:
      channels: with their entries as (leaf, axis, index), the leaves of the chosen arguments being numbered in order.
      paths: of the leaves.
      shapes: of the leaves.
      structure: of the arguments.
      fits: for each channel, whether the function is the same without it as it is written, bool [channels]. The code of
        the others has their number in it (a reshape, a padding, a division by a width, the layers of Flax Linen) and
        has to be changed with them. Tried for one channel of each group that runs along the same axes.
    """

    channels: tuple[Channel, ...]
    paths: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    structure: Any
    fits: np.ndarray

    def __len__(self) -> int:
        return len(self.channels)

    def scores(self, scores: PyTree) -> np.ndarray:
        """The sum of the scores of the weights that write each channel, [channels]; `None` leaves count as 0.

        Of channels that a residual sum ties together all writers count.
        """
        return self._sums(self._leaves("scores", scores), "written")

    def _sums(self, leaves: list, role: Literal["written", "read"]) -> np.ndarray:
        sums: dict[tuple[int, int], np.ndarray] = {}
        totals = np.zeros(len(self.channels))
        for number, channel in enumerate(self.channels):
            for leaf, axis, index in getattr(channel, role):
                if leaves[leaf] is None:
                    continue
                if (leaf, axis) not in sums:
                    spread = np.broadcast_to(np.asarray(leaves[leaf], np.float64), self.shapes[leaf])
                    sums[leaf, axis] = np.moveaxis(spread, axis, 0).reshape(self.shapes[leaf][axis], -1).sum(1)
                totals[number] += sums[leaf, axis][index]
        return totals

    def kept(self, masks: PyTree) -> np.ndarray:
        """Which channels are still written and read by a weight whose mask is open, bool [channels].

        Parameters without a mask, `None`, count as open.
        """
        return self.is_read(masks) & self._has_open(masks, "written")

    def is_read(self, masks: PyTree) -> np.ndarray:
        """Which channels are still read by a weight whose mask is open; without the others the function is the same."""
        return self._has_open(masks, "read")

    def _has_open(self, masks: PyTree, role: Literal["written", "read"]) -> np.ndarray:
        pairs = zip(self._leaves("masks", masks), self.shapes, strict=True)
        open_masks = [jnp.ones(shape) if mask is None else mask != 0 for mask, shape in pairs]
        return self._sums(open_masks, role) > 0

    def masks(self, keep: Array | np.ndarray) -> PyTree:
        """Masks of the arguments: 0 for all entries of a channel that is not kept, what reads it and its biases too."""

        def mask(axes: list[np.ndarray]) -> Array:
            crossed = functools.reduce(np.logical_and, np.meshgrid(*axes, indexing="ij", sparse=True), np.True_)
            return jnp.asarray(crossed, float)

        return jax.tree.unflatten(self.structure, [mask(axes) for axes in self._left(self._chosen(keep))])

    def shrink(self, tree: PyTree, keep: Array | np.ndarray) -> PyTree:
        """The arguments without the channels that are not kept.

        For channels that fit (see `fits`), the function of them is that of the arguments times `masks(keep)`, and of
        the arguments before if what reads the channels was zero. The others need new numbers in the code.
        """
        left = self._left(self._chosen(keep))
        leaves = self._leaves("arguments", tree)
        smaller = []
        for path, shape, array, axes in zip(self.paths, self.shapes, leaves, left, strict=True):
            if array is not None and np.shape(array) != shape:
                raise ValueError(
                    f"`{path}` must have the shape {shape} for which this coupling was found; got {np.shape(array)}."
                )
            for axis, entries in enumerate(axes):
                if array is not None and not entries.all():
                    array = jnp.take(array, jnp.asarray(np.flatnonzero(entries)), axis)
            smaller.append(array)
        return jax.tree.unflatten(self.structure, smaller)

    def _leaves(self, name: str, tree: PyTree) -> list:
        try:
            return self.structure.flatten_up_to(tree)
        except ValueError as error:
            raise ValueError(f"The {name} must have the structure of the coupled arguments: {error}") from error

    def _chosen(self, keep: Array | np.ndarray) -> np.ndarray:
        chosen = np.asarray(keep)
        if chosen.shape != (len(self.channels),) or chosen.dtype != bool:
            raise ValueError(
                f"`keep` must be a bool array [{len(self.channels)}], one for each channel; got {chosen.dtype} with "
                f"shape {chosen.shape}."
            )
        return chosen

    def _left(self, keep: np.ndarray) -> list[list[np.ndarray]]:
        """Which entries of each axis of each leaf are left."""
        left = [[np.ones(size, bool) for size in shape] for shape in self.shapes]
        for channel in (self.channels[i] for i in np.flatnonzero(~keep)):
            for leaf, axis, index in (*channel.written, *channel.read, *channel.carried):
                left[leaf][axis][index] = False
        for path, axes in zip(self.paths, left, strict=True):
            empty = [axis for axis, entries in enumerate(axes) if entries.size and not entries.any()]
            if empty and len(axes) > 1:  # a kernel; what is carried along may be empty
                raise ValueError(f"At least one channel must be kept; axis {empty[0]} of `{path}` would be empty.")
        return left


def couple(f: Callable[..., PyTree], argnums: int | tuple[int, ...] = 0) -> Callable[..., Coupling]:
    r"""Finds what belongs together when a channel is removed: returns `(*args) -> Coupling`.

    A channel is what one column of a kernel writes and others read. Its program tells what else runs along with it:
    biases, scales and statistics of normalisations, the rows of all kernels that read it (through flattening too, where
    it owns many), and the channels that residual sums add to it, which go together. Inputs, outputs, and what runs
    through anything without a rule (sums over channels, as in LayerNorm; attention; grouped convolutions) stays.

    Args:
      f: a function of one example or of a batch; only its program counts, not the names of its layers.
      argnums: the arguments that hold parameters, and running statistics if there are any.

    Raises:
      TypeError: if f is not callable, or an entry of the chosen arguments not floating-point.
      ValueError: if no channel can be removed.

    >>> f = lambda p, x: jax.nn.relu(x @ p["in"] + p["bias"]) @ p["out"]
    >>> params = {"in": jnp.ones((3, 4)), "bias": jnp.zeros(4), "out": jnp.ones((4, 2))}
    >>> coupling = couple(f)(params, jnp.ones(3))
    >>> small = coupling.shrink(params, np.array([True, False, True, True]))
    >>> {name: array.shape for name, array in small.items()}
    {'bias': (3,), 'in': (3, 3), 'out': (3, 2)}
    """
    checks.functions("couple", f=f)

    def found(*args: PyTree) -> Coupling:
        ordered, chosen, others = rearranged("couple", f, argnums, args)
        removable = channels(ordered, chosen, *others)
        if not removable:
            raise ValueError(
                "`couple` found no channel that can be removed: none is written by one kernel and read by another "
                "without running through something that has no rule. Running statistics must be among `argnums`."
            )
        with_paths = jax.tree_util.tree_leaves_with_path(chosen)
        paths = tuple(tree.path_name(path) for path, _ in with_paths)
        shapes = tuple(np.shape(leaf) for _, leaf in with_paths)
        coupling = Coupling(
            tuple(removable), paths, shapes, jax.tree.structure(chosen), fits=np.zeros(len(removable), bool)
        )
        return dataclasses.replace(coupling, fits=_fits(ordered, coupling, chosen, others))

    return found


def _fits(f: Callable[..., PyTree], coupling: Coupling, arguments: PyTree, others: tuple) -> np.ndarray:
    """Whether without a channel f has the same equations with the same numbers, and ties the others as before."""
    before = outline(f, arguments, *others)
    groups: dict[frozenset, list[int]] = {}
    for number, channel in enumerate(coupling.channels):
        axes = frozenset((leaf, axis) for leaf, axis, _ in (*channel.written, *channel.read, *channel.carried))
        groups.setdefault(axes, []).append(number)

    def is_the_same_without(number: int) -> bool:
        keep = np.arange(len(coupling)) != number
        try:
            smaller = jax.eval_shape(lambda tree: coupling.shrink(tree, keep), arguments)
            return outline(f, smaller, *others) == before and channels(f, smaller, *others) == _without(
                coupling.channels, number
            )
        except Exception:  # of whatever kind: how code complains of shapes is its own affair
            return False

    fits = np.zeros(len(coupling), bool)
    for members in groups.values():
        fits[members] = is_the_same_without(members[0])
    return fits


def _without(given: tuple[Channel, ...], number: int) -> list[Channel]:
    """The other channels, as their entries are numbered when one has been cut out."""
    gone = given[number]
    cut: dict[tuple[int, int], list[int]] = {}
    for leaf, axis, index in sorted({*gone.written, *gone.read, *gone.carried}):
        cut.setdefault((leaf, axis), []).append(index)

    def moved(entries: tuple[tuple[int, int, int], ...]) -> tuple[tuple[int, int, int], ...]:
        return tuple((leaf, axis, i - bisect.bisect(cut.get((leaf, axis), []), i)) for leaf, axis, i in entries)

    others = given[:number] + given[number + 1 :]
    return [Channel(moved(one.written), moved(one.read), moved(one.carried)) for one in others]


def collapse(params: PyTree, gates: PyTree, *, coupling: Coupling | None = None, cut_unwritten: bool = False) -> PyTree:
    r"""Returns the plain network that gates have left: parameters times thresholded gates, smaller if it can be.

    With a coupling, channels that no open weight reads are cut out, without any change of the function. Those that no
    open weight writes are constants, of their biases, normalisations and activations; they are cut out if it is asked
    for, without change if they are zero: biases gated along with the weights, and an activation that maps 0 to 0.

    Args:
      params: the chosen arguments of the function: parameters, or a tuple of them and of running statistics.
      gates: in their structure, `None` where there are none (`jax.tree.map(lambda _: None, state)` for statistics): in
        [0, 1], open from 1/2 on, or a mask. What `HardConcrete.threshold` returns may be between 0 and 1 and multiplies
        the parameters before: `collapse(apply(params, m), jax.tree.map(lambda g: 1.0 * (g > 0), m))`.
      coupling: from `couple`, at the same arguments.
      cut_unwritten: whether channels go that no open weight writes.

    Raises:
      ValueError: if gates and parameters differ in structure, or a layer would keep no channel.

    >>> f = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
    >>> params = {"in": jnp.ones((3, 4)), "out": jnp.ones((4, 2))}
    >>> gates = {"in": None, "out": jnp.array([[0.9], [0.1], [0.8], [0.7]])}
    >>> small = collapse(params, gates, coupling=couple(f)(params, jnp.ones(3)))
    >>> small["in"].shape, small["out"].shape
    ((3, 3), (3, 2))
    """
    mask = threshold(gates)
    left = apply(params, mask)
    if coupling is None:
        return left
    return coupling.shrink(left, coupling.kept(mask) if cut_unwritten else coupling.is_read(mask))
