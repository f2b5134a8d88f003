"""Structured pruning of a whole network from a few examples: layer after layer, each made good by the next one."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp import batching, checks
from jaxinterp.interpreters import Product, kernel_inputs, products, rearranged
from jaxinterp.sparsity._selection import reweighted, select_units
from jaxinterp.sparsity._shrinking import Coupling, couple
from jaxinterp.typing import Array, PyTree

Order = Literal["asymmetric", "sequential", "independent"]


@dataclasses.dataclass(frozen=True)
class ChannelSelection:
    """Channels chosen in a whole network, and the weights with which those that remain are read.

    Attributes:
      coupling: the channels, and what belongs to each.
      kept: which of them remain, bool.
      arguments: the arguments with the new weights, in the old shapes: what reads a removed channel is zero.
      explained: for each kernel that reads pruned channels, by its path, the part of the squared norm of its outputs on
        the calibration examples that is still there (the least, if it reads channels of several kernels).
    """

    coupling: Coupling
    kept: np.ndarray
    arguments: PyTree
    explained: dict[str, float]

    def shrunk(self) -> PyTree:
        """The arguments without the removed channels; the function of them is that of `arguments`."""
        return self.coupling.shrink(self.arguments, self.kept)


def select_channels(
    f: Callable[..., PyTree],
    argnums: int | tuple[int, ...] = 0,
    *,
    kept: float | Mapping[str, float],
    order: Order = "asymmetric",
    reweight: bool = True,
    ridge: float = 0.0,
    num_positions: int = 32,
    batch_size: int = 64,
) -> Callable[..., ChannelSelection]:
    r"""Prunes the channels of a network and makes up for them in the kernels that read them, from examples alone.

    For each kernel W in the order of execution: with the activations A that it reads, it chooses channels S and weights
    :math:`\tilde W` with :math:`\min_{S, \tilde W} \|T - A_S \tilde W\|^2`, see `select_units`. In the "asymmetric"
    order A comes from the network as it is pruned so far and :math:`T = A^0 W` from the one before pruning, so that
    each layer corrects what was lost before it; in the "sequential" order T comes from the pruned one too;
    "independent" takes both from the one before pruning. No labels, no gradients.

    Channels are those of `couple`. Those that several kernels read, or write, such as the stream of a residual network,
    are left alone, and those whose number is written into the code of f (see `Coupling.fits`). With fewer sums
    (examples times positions) than entries of the kernel that are kept for one output, the calibration examples are
    fitted exactly and others badly: take more.

    Args:
      f: a function of one example.
      argnums: the arguments that hold parameters, and running statistics if there are any; the other arguments are
        examples, along their first axis.
      kept: the fraction of the channels of each kernel that remains, at least one; or fractions by the path of the
        kernel that reads them (the others are left alone), such as units of `equal_accuracy_budgets` over widths.
      order: "asymmetric" (the best in the paper), "sequential" or "independent".
      reweight: whether the weights are solved for; without, they are those of W.
      ridge: keeps the new weights near those of W, see `reweighted`.
      num_positions: of each example so many windows of a convolution are taken, spread evenly; all if there are fewer.
      batch_size: examples computed together.

    Returns:
      A function of f's arguments, to be called outside of `jax.jit`; it returns a `ChannelSelection`. By name it takes
      `scores` of the parameters, such as magnitudes or `mean_relevance`, in the structure of the chosen arguments, with
      `None` where there are none: of each kernel's channels those with the highest sums over what writes them (see
      `Coupling.scores`) are kept. Without scores the choice is the greedy one of `select_units`.

    Raises:
      TypeError: if f is not callable or its parameters are not floating-point.
      ValueError: if a fraction is not in (0, 1], a path reads no channel that can be removed, or there is none at all;
        if scores or what a kernel reads is not finite.

    Source: El Halabi, Srinivas & Lacoste-Julien (2022).

    >>> f = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
    >>> params = {"in": jnp.array([[1.0, 2.0, 0.0], [0.0, 0.0, 1.0]]), "out": jnp.ones((3, 1))}
    >>> found = select_channels(f, kept=0.7)(params, jax.random.normal(jax.random.key(0), (16, 2)))
    >>> found.kept.sum(), found.shrunk()["in"].shape, round(found.explained["out"], 4)  # the first two are one
    (np.int64(2), (2, 2), 1.0)
    """
    checks.one_of("order", order, ("asymmetric", "sequential", "independent"))
    checks.functions("select_channels", f=f)
    checks.positive_integer("num_positions", num_positions)
    checks.positive_integer("batch_size", batch_size)
    checks.non_negative("ridge", ridge)
    for fraction in kept.values() if isinstance(kept, Mapping) else (kept,):
        if not 0 < checks.number("kept", fraction) <= 1:
            raise ValueError(f"`kept` must be a fraction above 0, at most 1; got {fraction}.")

    def found(*args: PyTree, scores: PyTree = None) -> ChannelSelection:
        ordered, chosen, examples = rearranged("select_channels", f, argnums, args)
        checks.examples("select_channels", examples)
        examples = jax.tree.map(jnp.asarray, examples)
        first = jax.tree.map(lambda a: a[0], examples)
        coupling = couple(ordered)(chosen, *first)
        layers = [
            layer
            for layer in _layers(coupling, products(ordered, chosen, *first))
            if coupling.fits[layer.channels].all()
        ]
        fractions = _fractions([coupling.paths[layer.product.leaf] for layer in layers], kept)
        ranks = None if scores is None else _finite("scores", coupling.scores(scores))
        take = _Activations(ordered, num_positions, batch_size)
        before, structure = jax.tree.flatten(chosen)
        leaves, is_kept = list(before), np.ones(len(coupling), bool)
        explained: dict[str, float] = {}
        for layer in layers:
            name, leaf = coupling.paths[layer.product.leaf], layer.product.leaf
            if name not in fractions:
                continue
            number = max(1, round(fractions[name] * len(layer.channels)))
            original = layer.blocks(take(leaf, jax.tree.unflatten(structure, before), examples))
            current = original
            if order != "independent":
                current = layer.blocks(take(leaf, jax.tree.unflatten(structure, leaves), examples))
            matrix = layer.matrix(before[leaf])
            source = original if order == "asymmetric" else current
            targets = jnp.einsum("ndb,dbm->nm", source, matrix.astype(source.dtype), precision="highest")
            best = None if ranks is None else np.argsort(-ranks[layer.channels], kind="stable")[:number]
            _finite(f"examples at `{name}`", np.asarray(jnp.sum(targets) + jnp.sum(current)))
            units, weights, part = _pruned(current, matrix, targets, number, best, reweight=reweight, ridge=ridge)
            explained[name] = min(part, explained.get(name, 1.0))
            leaves[leaf] = layer.written_back(leaves[leaf], units, weights)
            is_kept[np.delete(layer.channels, units)] = False
        return ChannelSelection(coupling, is_kept, jax.tree.unflatten(structure, leaves), explained)

    return found


@dataclasses.dataclass(frozen=True)
class _Layer:
    """The channels that one kernel reads, and it alone.

    Attributes:
      product: of the kernel.
      channels: their numbers.
      rows: which of the kernel's inputs each of them is, [channels, inputs of each].
    """

    product: Product
    channels: np.ndarray
    rows: np.ndarray

    def blocks(self, activations: Array) -> Array:
        """What the kernel reads of each channel, [n, channels, inputs of each and window]."""
        return activations[:, self.rows].reshape(len(activations), len(self.channels), -1)

    def matrix(self, kernel: Array) -> Array:
        """The kernel, [channels, inputs of each and window, outputs]."""
        matrix = self.product.matrix(kernel)
        return matrix[self.rows].reshape(len(self.channels), -1, matrix.shape[-1])

    def written_back(self, kernel: Array, units: np.ndarray, weights: Array) -> Array:
        """The kernel with new weights for some of the channels, and zero for the others."""
        matrix = self.product.matrix(kernel)
        shape = (*self.rows[units].shape, *matrix.shape[1:])
        new = matrix.at[self.rows].set(0.0).at[self.rows[units]].set(weights.reshape(shape).astype(matrix.dtype))
        return self.product.kernel(new, kernel)


def _layers(coupling: Coupling, found: list[Product]) -> list[_Layer]:
    """The kernels that alone read channels that one kernel alone writes, in the order of execution."""
    readers: dict[tuple[int, int], list[int]] = {}
    for number, channel in enumerate(coupling.channels):
        pairs = {(r[0], w[0]) for r in channel.read for w in channel.written}
        if len(pairs) == 1 and len(channel.written) == 1:
            readers.setdefault(pairs.pop(), []).append(number)
    layers = []
    for leaf in dict.fromkeys(product.leaf for product in found):
        uses = [product for product in found if product.leaf == leaf]
        for numbers in (of_one for (reader, _), of_one in readers.items() if reader == leaf):
            rows = [[index for _, _, index in coupling.channels[i].read] for i in numbers]
            if all(product.axes for product in uses) and len({len(of_one) for of_one in rows}) == 1:
                layers.append(_Layer(uses[0], np.asarray(numbers), np.asarray(rows)))
    return layers


def _fractions(readers: list[str], kept: float | Mapping[str, float]) -> Mapping[str, float]:
    """The fraction of the channels that remains, by the path of the kernel that reads them."""
    if not readers:
        raise ValueError(
            "`select_channels` found no kernel that alone reads the channels of another: there is nothing to choose."
        )
    fractions = kept if isinstance(kept, Mapping) else dict.fromkeys(readers, kept)
    unknown = sorted(set(fractions) - set(readers))
    if unknown:
        raise ValueError(
            f"`kept` names {', '.join(map(repr, unknown))}, which read no channels that can be removed; those that do "
            f"are {', '.join(map(repr, dict.fromkeys(readers)))}."
        )
    return fractions


def _finite(name: str, values: np.ndarray) -> np.ndarray:
    if not np.all(np.isfinite(values)):
        raise ValueError(f"The {name} of `select_channels` must be finite.")
    return values


class _Activations:
    """What kernels read on the examples: `(leaf, arguments, examples) -> [rows, inputs, window]`."""

    def __init__(self, f: Callable[..., PyTree], num_positions: int, batch_size: int) -> None:
        self.f, self.num_positions, self.batch_size = f, num_positions, batch_size
        self.compiled = functools.cache(self._compiled)

    def __call__(self, leaf: int, arguments: PyTree, examples: tuple) -> Array:
        first = jax.tree.map(lambda a: a[0], examples)
        number = jax.eval_shape(kernel_inputs(self.f, leaf), arguments, *first).shape[0]
        count = len(jax.tree.leaves(examples)[0])
        taken = min(number, self.num_positions)
        shift = np.arange(count)[:, None] * 0.618 % 1  # other ones of each example
        positions = ((np.arange(taken) + shift * (taken < number)) * number / taken).astype(np.int32)
        rows = self.compiled(leaf)(arguments, jnp.asarray(positions, jnp.int32), *examples)
        return rows.reshape(-1, *rows.shape[2:])

    def _compiled(self, leaf: int) -> Callable[..., Array]:
        def chosen(arguments: PyTree, positions: Array, *example: PyTree) -> Array:
            return kernel_inputs(self.f, leaf)(arguments, *example)[positions]

        def all_of_them(arguments: PyTree, positions: Array, *examples: PyTree) -> Array:
            axes = (None, *(0,) * (1 + len(examples)))
            mapped = batching.map_examples(chosen, batch_size=self.batch_size, in_axes=axes)
            return mapped(arguments, positions, *examples)

        return jax.jit(all_of_them)


def _pruned(
    activations: Array,
    matrix: Array,
    targets: Array,
    number: int,
    units: np.ndarray | None,
    *,
    reweight: bool,
    ridge: float,
) -> tuple[np.ndarray, Array, float]:
    """Units, chosen greedily if they are not given, their weights, and the part of the targets that these explain."""
    matrix = matrix.astype(activations.dtype)
    if units is None:
        units = np.asarray(select_units(activations, matrix, num_kept=number, targets=targets, reweight=False).kept)
    weights = matrix[units]
    if reweight:
        weights = reweighted(activations, matrix, jnp.asarray(units), targets=targets, ridge=ridge)
    left = targets - jnp.einsum("ndb,dbm->nm", activations[:, units], weights, precision="highest")
    size = jnp.maximum(jnp.sum(targets**2), jnp.finfo(targets.dtype).tiny)
    return units, weights, float(1 - jnp.sum(left**2) / size)
