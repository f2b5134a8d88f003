"""Gates: numbers in [0, 1] that multiply parameters and are trained with them until they are open (1) or closed (0).

Gates live in a tree of their own, in the structure of the parameters with `None` where a parameter has no gate. A
*mask* is a tree of the same structure with entries 0 and 1, sampled from the gates or thresholded.

Sources: Srinivas, Subramanya & Babu (2017, Training Sparse Neural Networks) for gates of single weights; Srinivas &
Babu (2016, Learning Neural Network Architectures using Backpropagation) for gates of units.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxinterp import checks, tree
from jaxinterp.typing import Array, Key, PyTree

Granularity = Callable[[tuple[int, ...]], tuple[int, ...]]
"""Takes the shape of a parameter, returns the shape of its gates: as many axes, each of the same size or of 1."""

Predicate = Callable[[str, Array], bool]
"""Takes the path of a parameter (`dense_0/kernel`) and its value; says whether it is gated."""


def per_weight(shape: tuple[int, ...]) -> tuple[int, ...]:
    """One gate for each weight.

    >>> per_weight((3, 3, 8, 16))
    (3, 3, 8, 16)
    """
    return shape


def per_output_unit(shape: tuple[int, ...]) -> tuple[int, ...]:
    """One gate for each output unit: a column of a dense kernel, a feature map of a convolution (the last axis).

    Raises:
      ValueError: for a parameter without axes.

    >>> per_output_unit((3, 3, 8, 16))
    (1, 1, 1, 16)
    """
    if not shape:
        raise ValueError("`per_output_unit` needs a parameter with an axis of outputs; got a scalar.")
    return (*(1,) * (len(shape) - 1), shape[-1])


def per_input_unit(shape: tuple[int, ...]) -> tuple[int, ...]:
    """One gate for each input unit: closed, the unit before is dropped (the last axis but one).

    Raises:
      ValueError: for a parameter of fewer than two axes.

    >>> per_input_unit((3, 3, 8, 16))
    (1, 1, 8, 1)
    """
    if len(shape) < 2:
        raise ValueError(f"`per_input_unit` needs a kernel [..., in, out]; got the shape {shape}.")
    return (*(1,) * (len(shape) - 2), shape[-2], 1)


def per_filter(shape: tuple[int, ...]) -> tuple[int, ...]:
    """One gate for each filter of a convolution: the window that links one input channel to one output channel.

    Raises:
      ValueError: for a parameter of fewer than three axes, which has no window.

    >>> per_filter((3, 3, 8, 16))
    (1, 1, 8, 16)
    """
    if len(shape) < 3:
        raise ValueError(f"`per_filter` needs a convolution kernel [*window, in, out]; got the shape {shape}.")
    return (*(1,) * (len(shape) - 2), *shape[-2:])


def kernels(path: str, value: Array) -> bool:
    """The usual predicate: parameters named `kernel` (of dense and convolutional layers), in an `nnx.State` too.

    >>> kernels("dense_0/kernel", jnp.zeros((2, 3))), kernels("dense_0/bias", jnp.zeros(3))
    (True, False)
    """
    del value
    return path.removesuffix("/value").rsplit("/", 1)[-1] == "kernel"


def attach(
    params: PyTree, *, predicate: Predicate = kernels, granularity: Granularity = per_weight, initial: float = 0.6
) -> PyTree:
    """Returns gates for the parameters that `predicate` selects, all at `initial`.

    Without a gradient from the loss a gate g moves under the two regularisers α·Σg(1-g) and β·Σg; it falls
    to 0 below g* = (1 + β/α)/2 and rises to 1 above. Start between 0.5 and g*: from above, nothing is ever pruned.

    Args:
      params: a pytree of arrays.
      predicate: `(path, value) -> bool`.
      granularity: `per_weight`, `per_output_unit`, `per_filter`, or another map of shapes.
      initial: in [0, 1].

    Raises:
      TypeError: if a selected parameter is not floating-point.
      ValueError: if `initial` is outside [0, 1] or nothing is selected.

    >>> gates = attach({"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}, granularity=per_output_unit)
    >>> gates["kernel"].shape, gates["bias"]
    ((1, 3), None)
    """
    if not 0 <= initial <= 1:
        raise ValueError(f"`initial` of `attach` must be in [0, 1]; got {initial}.")
    return full_gates("attach", params, predicate, granularity, initial)


def full_gates(method: str, params: PyTree, predicate: Predicate, granularity: Granularity, value: float) -> PyTree:
    """Gates of one value for the parameters that are selected; `method` is named in errors."""
    paths = []

    def gate(path: tuple, param: Array) -> Array | None:
        name = tree.path_name(path)
        paths.append(name)
        if not predicate(name, param):
            return None
        if not jnp.issubdtype(param.dtype, jnp.floating):
            raise TypeError(
                f"`{method}` cannot gate `{name}` of dtype {param.dtype}: gates are floating-point numbers of the "
                "dtype of their parameter. Exclude it by the predicate."
            )
        try:
            shape = granularity(param.shape)
        except ValueError as error:
            raise ValueError(f"`{method}` cannot gate `{name}`: {error} Exclude it by the predicate.") from error
        if len(shape) != param.ndim or any(
            ours not in (1, size) for ours, size in zip(shape, param.shape, strict=True)
        ):
            raise ValueError(
                f"`{method}` needs gates with the axes of `{name}`, {param.shape}, each of that size or of 1; "
                f"`granularity` gave {shape}."
            )
        return jnp.full(shape, value, param.dtype)

    gates = jax.tree_util.tree_map_with_path(gate, params)
    if not jax.tree.leaves(gates):
        raise ValueError(f"The predicate of `{method}` selects none of the parameters: {', '.join(paths)}.")
    return gates


@jax.custom_jvp
def straight_through(hard: Array, soft: Array) -> Array:
    """Returns `hard`, with the derivative of `soft`.

    For an expected loss the gradient so obtained is unbiased only where the loss is linear in the gate.

    >>> jax.grad(lambda g: 3.0 * straight_through(jnp.round(g), g))(0.7).tolist()
    3.0
    """
    del soft
    return hard


@straight_through.defjvp
def _straight_through_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return straight_through(*primals), tangents[1]


def sample(key: Key, gates: PyTree) -> PyTree:
    """Returns a mask of independent draws, 1 with the probability of the gate, with straight-through gradients.

    A gate that is NaN gives NaN, here and in `threshold`.

    >>> sample(jax.random.key(0), {"kernel": jnp.array([0.0, 1.0])})["kernel"].tolist()
    [0.0, 1.0]
    """
    drawn = tree.bernoulli_like(checks.key("sample", key), gates, gates)
    return jax.tree.map(straight_through, drawn, gates)


def threshold(gates: PyTree) -> PyTree:
    """Returns the most probable mask, 1 where g > 1/2, with straight-through gradients.

    >>> threshold({"kernel": jnp.array([0.49, 0.5, 0.51])})["kernel"].tolist()
    [0.0, 0.0, 1.0]
    """
    hard = jax.tree.map(lambda g: jnp.where(jnp.isnan(g), g, (g > 0.5).astype(g.dtype)), gates)
    return jax.tree.map(straight_through, hard, gates)


def apply(params: PyTree, mask: PyTree) -> PyTree:
    """Returns the parameters times their mask; those without a gate as they are.

    >>> apply({"kernel": jnp.array([2.0, 3.0]), "bias": 1.0}, {"kernel": jnp.array([0.0, 1.0]), "bias": None})
    {'bias': 1.0, 'kernel': Array([0., 3.], dtype=float32)}
    """

    def leaf(m: Array | None, p: Array) -> Array:
        return p if m is None else p * jnp.broadcast_to(m.astype(p.dtype), p.shape)

    return jax.tree.map(leaf, mask, params, is_leaf=lambda m: m is None)


def project(gates: PyTree) -> PyTree:
    """Returns the gates clipped to [0, 1]; to be applied after each update.

    >>> project(jnp.array([-0.1, 0.5, 1.2])).tolist()
    [0.0, 0.5, 1.0]
    """
    return jax.tree.map(lambda g: jnp.clip(g, 0, 1), gates)


def bimodal_penalty(gates: PyTree) -> Array:
    r"""Returns :math:`\sum g(1 - g)`, the variance of Bernoulli gates: 0 when all are open or closed.

    >>> float(bimodal_penalty({"kernel": jnp.array([0.0, 0.5, 1.0])}))
    0.25
    """
    return tree.vdot(gates, jax.tree.map(lambda g: 1 - g, gates))


def sparsity_penalty(gates: PyTree) -> Array:
    r"""Returns :math:`\sum g`, the expected number of open gates.

    >>> float(sparsity_penalty({"kernel": jnp.array([0.0, 0.5, 1.0])}))
    1.5
    """
    return tree.vdot(gates, tree.ones_like(gates))


@dataclasses.dataclass(frozen=True)
class Count:
    """How many parameters a mask leaves.

    Attributes:
      kept: gated parameters whose gate is open.
      gated: parameters that have a gate.
      total: all parameters, gated or not.
    """

    kept: int
    gated: int
    total: int

    @property
    def sparsity(self) -> float:
        """The fraction of gated parameters that is removed; 0 if there are none."""
        return 1 - self.kept / self.gated if self.gated else 0.0


def count_by_parameter(params: PyTree, *masks: PyTree) -> dict[str, Count]:
    """Counts what one mask, or several together, leave of each gated parameter, by its path.

    Raises:
      ValueError: if a mask does not have the structure of the parameters, or does not broadcast to them.

    >>> params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    >>> count_by_parameter(params, {"kernel": jnp.array([[1.0, 0.0, 0.0]]), "bias": None})
    {'kernel': Count(kept=2, gated=6, total=6)}
    """
    structure: Any = jax.tree.structure(params)
    try:
        flat = [structure.flatten_up_to(mask) for mask in masks]
    except ValueError as error:
        raise ValueError(f"Each mask must have the structure of the parameters, `None` for no mask: {error}") from error
    counts = {}
    for (path, p), *gates in zip(jax.tree_util.tree_leaves_with_path(params), *flat, strict=True):
        open_gates = [jnp.broadcast_to(m != 0, p.shape) for m in gates if m is not None]
        if open_gates:
            kept = int(jnp.sum(functools.reduce(jnp.logical_and, open_gates)))
            counts[tree.path_name(path)] = Count(kept, p.size, p.size)
    return counts


def count(params: PyTree, *masks: PyTree) -> Count:
    """Counts what one mask, or several together, leave of all parameters.

    >>> params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    >>> count(params, {"kernel": jnp.array([[1.0, 0.0, 0.0]]), "bias": None})
    Count(kept=2, gated=6, total=9)
    """
    counts = count_by_parameter(params, *masks).values()
    return Count(sum(c.kept for c in counts), sum(c.gated for c in counts), tree.size(params))
