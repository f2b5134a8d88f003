"""The parameters that are kernels of products, dense or convolutional: what they multiply, and how often."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp.interpreters._channels import ELEMENTWISE, PASSING, opened_program
from jaxinterp.interpreters._graph import RESHAPING, Graph, Node
from jaxinterp.interpreters._linearity import LOOPS
from jaxinterp.typing import Array, PyTree

PRODUCTS = ("dot_general", "conv_general_dilated")
SCALING = ("mul", "div", "select_n")
MOVING = (*RESHAPING, *PASSING, "slice", "dynamic_slice", "split", "rev")


@dataclasses.dataclass(frozen=True)
class Product:
    """A product of an intermediate with a parameter, or with what is made of one alone.

    Attributes:
      leaf: the number of the parameter among the leaves of the tree.
      primitive: the name of the equation's primitive.
      multiplications: by its entries, in all; `None` for a loop or a branch, which is not looked into, for a factor
        that is made of several parameters (a product of two), and if both factors are parameters, or data times one.
      axes: its axes in the order (inputs, *window, outputs), or `None` if it is no plain dense or convolution kernel:
        changed before, of several axes of inputs or outputs, or of a grouped convolution.
    """

    leaf: int
    primitive: str
    multiplications: int | None
    axes: tuple[int, ...] | None

    def matrix(self, kernel: Array) -> Array:
        """The kernel as [inputs, window, outputs]."""
        turned = jnp.transpose(kernel, self.axes)
        return turned.reshape(turned.shape[0], -1, turned.shape[-1])

    def kernel(self, matrix: Array, like: Array) -> Array:
        """The inverse of `matrix`, in the shape and dtype of a kernel."""
        turned = matrix.reshape(jnp.transpose(like, self.axes).shape)
        return jnp.transpose(turned, np.argsort(self.axes or ()).tolist()).astype(like.dtype)


def products(f: Callable[..., PyTree], tree: PyTree, *rest: PyTree) -> list[Product]:
    """The products of leaves of `tree` with what depends on the rest, in `f(tree, *rest)`, in the order of execution.

    A leaf that is reshaped, cut into pieces, or changed entry by entry (a mask, a norm) before counts as itself.

    >>> f = lambda p, x: jnp.tanh(x @ p[0]) @ p[1]
    >>> for product in products(f, [jnp.ones((3, 2)), jnp.ones((2, 1))], jnp.ones((5, 3))):
    ...     print(product)
    Product(leaf=0, primitive='dot_general', multiplications=30, axes=(0, 1))
    Product(leaf=1, primitive='dot_general', multiplications=10, axes=(0, 1))
    """
    return [found.product for found in _found(opened_program(f, tree, *rest)[0], len(jax.tree.leaves(tree)))]


def kernel_inputs(f: Callable[..., PyTree], leaf: int) -> Callable[..., Array]:
    r"""Returns `(tree, *rest)` -> what a kernel multiplies, a row for each sum it computes: [rows, inputs, window].

    The rows times `Product.matrix` of the kernel, contracted over inputs and window, are the outputs of the product.
    A kernel that is used several times has the rows of all its products, one after the other.

    Raises:
      ValueError: if the leaf is no plain kernel in each of its uses.

    >>> f = lambda p, x: jnp.tanh(x @ p[0]) @ p[1]
    >>> kernel_inputs(f, 0)([jnp.ones((3, 2)), jnp.ones((2, 1))], jnp.arange(3.0)).tolist()
    [[[0.0], [1.0], [2.0]]]
    """

    def at(tree: PyTree, *rest: PyTree) -> Array:
        program, leaves = opened_program(f, tree, *rest)
        uses = [found for found in _found(program, len(jax.tree.leaves(tree))) if found.product.leaf == leaf]
        if not uses or any(found.product.axes is None for found in uses):
            raise ValueError(f"Leaf {leaf} is no kernel of a plain dense product or convolution.")
        values = program.evaluate(leaves)
        return jnp.concatenate([_rows(found, values[found.node.inputs[1 - found.side]]) for found in uses])

    return at


@dataclasses.dataclass(frozen=True)
class _Found:
    """A product, its equation, and which of the two factors is the parameter."""

    product: Product
    node: Node
    side: int


def _found(program: Graph, num_parameters: int) -> list[_Found]:
    leaf_of = {v: leaf for leaf, v in enumerate(program.inputs[:num_parameters])}
    plain, found = set(leaf_of), []
    moving = set(program.inputs[num_parameters:])  # what depends on more than the parameters
    made_of: dict[int, int] = {}  # other things that depend on parameters alone, and one of these
    for node in program.nodes:
        known, is_moved = [v for v in node.inputs if v in leaf_of], not moving.isdisjoint(node.inputs)
        if is_moved:
            moving.update(node.outputs)
        if known and (node.name in MOVING or _is_itself_again(program, node, known[0], leaf_of[known[0]], is_moved)):
            leaf_of.update(dict.fromkeys(node.outputs, leaf_of[known[0]]))
            if known[0] in plain and node.name in PASSING:
                plain.add(node.outputs[0])
        elif not is_moved:
            sources = [leaves[v] for leaves in (leaf_of, made_of) for v in node.inputs if v in leaves]
            if sources:
                made_of.update(dict.fromkeys(node.outputs, sources[0]))
        elif len(known) == 1 and node.name in PRODUCTS:
            side, shape = node.inputs.index(known[0]), program.avals[known[0]].shape
            multiplications = program.avals[node.outputs[0]].size * _length(node, side, shape)
            axes = _axes(node, side, len(shape)) if known[0] in plain else None
            found.append(_Found(Product(leaf_of[known[0]], node.name, multiplications, axes), node, side))
        elif node.name in PRODUCTS or node.name in LOOPS:
            for v in dict.fromkeys(node.inputs):
                leaf = leaf_of.get(v, made_of.get(v))
                if leaf is not None and (node.name in PRODUCTS or len(program.avals[v].shape) > 1):
                    found.append(_Found(Product(leaf, node.name, None, None), node, 0))
    return found


def _is_itself_again(program: Graph, node: Node, v: int, leaf: int, is_moved: bool) -> bool:
    """Whether a parameter comes out in its own shape: multiplied by a mask, divided by a norm; not a bias, added."""
    if is_moved:
        keeps = node.name in SCALING and len(program.avals[program.inputs[leaf]].shape) > 1
    else:
        keeps = node.name in ELEMENTWISE
    return keeps and program.avals[node.outputs[0]].shape == program.avals[v].shape


def _length(node: Node, side: int, shape: tuple[int, ...]) -> int:
    """How many products each sum adds up."""
    if node.name == "dot_general":
        return math.prod(shape[axis] for axis in node.params["dimension_numbers"][0][side])
    kernel = node.shapes()[1].shape
    return math.prod(kernel) // kernel[node.params["dimension_numbers"].rhs_spec[0]]


def _axes(node: Node, side: int, rank: int) -> tuple[int, ...] | None:
    if node.name == "dot_general":
        contracting, batch = node.params["dimension_numbers"]
        if rank != 2 or len(contracting[side]) != 1 or batch[side]:
            return None
        return (contracting[side][0], 1 - contracting[side][0])
    if side == 0 or node.params["feature_group_count"] != 1 or node.params["batch_group_count"] != 1:
        return None
    outputs, inputs, *window = node.params["dimension_numbers"].rhs_spec
    return (inputs, *window, outputs)


def _rows(found: _Found, data: Array) -> Array:
    """The other factors of each sum: [rows, inputs, window]."""
    params = found.node.params
    if found.node.name == "dot_general":
        (axis,) = params["dimension_numbers"][0][1 - found.side]
        return jnp.moveaxis(data, axis, -1).reshape(-1, data.shape[axis], 1)
    kernel = found.node.shapes()[1].shape
    images = jnp.transpose(data, params["dimension_numbers"].lhs_spec)
    windows = jax.lax.conv_general_dilated_patches(
        images,
        [kernel[axis] for axis in params["dimension_numbers"].rhs_spec[2:]],
        params["window_strides"],
        params["padding"],
        lhs_dilation=params["lhs_dilation"],
        rhs_dilation=params["rhs_dilation"],
        precision=jax.lax.Precision.HIGHEST,
    )
    channels = images.shape[1]
    return jnp.moveaxis(windows, 1, -1).reshape(-1, channels, windows.shape[1] // channels)
