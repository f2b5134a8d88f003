"""Linear equations as operators: applied to absolute values, row by row, and bounds of their norm."""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jaxinterp import tree
from jaxinterp.interpreters._graph import Node
from jaxinterp.interpreters._ir import names
from jaxinterp.interpreters._linearity import LINEAR
from jaxinterp.typing import Array

SIGNS = ("sub", "neg")

OPERATORS = LINEAR | names(
    """conv_general_dilated div dot_general dynamic_update_slice integer_pow mul scatter scatter-add select_n"""
)
"""Linear primitives whose coefficients are entries of a constant operand, their inverses, or ones: no solves."""


def with_infinity(apply: Callable[[Sequence[Array]], Array]) -> Callable[[Sequence[Array]], Array]:
    """A linear function without negative coefficients, where nothing times infinity is nothing."""

    def applied(arrays: Sequence[Array]) -> Array:
        finite = apply([jnp.where(jnp.isinf(a), jnp.zeros_like(a), a) for a in arrays])
        return jnp.where(apply([jnp.isinf(a).astype(a.dtype) for a in arrays]) > 0, jnp.inf, finite)

    return applied


def root(square: Array) -> Array:
    """The square root, whose derivative at zero is zero."""
    is_zero = square == 0
    return jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, square)))


def spectral_bound(matrix: Array, num_squarings: int | None = None) -> Array:
    r"""An upper bound of the largest singular value, by powers of the Gram matrix: :math:`\|G^{2^k}\|_F^{1/2^{k+1}}`.

    It exceeds the truth by a factor of at most :math:`r^{1/2^{k+2}}` with r the rank, and has a derivative. It is a
    bound for any k, unlike what a power iteration finds (Delattre, Barthélemy, Araujo & Allauzen, 2023). Rounding may
    take it below by a few units in the last place times the number of rows.

    Args:
      matrix: [..., rows, columns], real or complex; the bound is of the largest over the leading axes.
      num_squarings: k. By default 22, or 10 for matrices of more than 512 rows and columns.

    >>> round(float(spectral_bound(jnp.array([[3.0, 0.0], [4.0, 5.0]]))), 4)  # √45
    6.7082
    """
    side = min(matrix.shape[-2:])
    count = num_squarings if num_squarings is not None else (22 if side <= 512 else 10)
    largest = jnp.max(jnp.abs(matrix), initial=0.0)
    is_zero = largest == 0
    scale = jax.lax.stop_gradient(jnp.where(is_zero | ~jnp.isfinite(largest), jnp.ones_like(largest), largest))
    matrix = matrix / scale.astype(matrix.dtype)
    other = jnp.conj(jnp.swapaxes(matrix, -1, -2))
    left, right = (matrix, other) if matrix.shape[-2] == side else (other, matrix)
    gram = jnp.matmul(left, right, precision="highest")

    def normalised(gram: Array) -> tuple[Array, Array]:
        length = root(jnp.sum(jnp.abs(gram) ** 2, (-2, -1), keepdims=True))
        safe = jnp.where(length == 0, jnp.ones_like(length), length)
        return gram / safe.astype(gram.dtype), jnp.log(safe)

    def square(step: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        gram, log = state
        gram, more = normalised(jnp.matmul(gram, gram, precision="highest"))
        return gram, log + more * 0.5 ** (step + 1).astype(log.dtype)

    _, log = jax.lax.fori_loop(0, count, square, normalised(gram))
    found = scale * jnp.exp(jnp.max(log) / 2)
    return jnp.where(is_zero, jnp.zeros_like(found), found)


def singular_value(matrix: Array) -> tuple[Array, Array]:
    """A lower and an upper bound of the largest singular value of a real matrix, [rows, columns].

    The lower one is the length of what the matrix makes of a unit vector, that of largest norm in a power of the Gram
    matrix.
    """
    upper = spectral_bound(matrix)
    safe = jnp.where((upper > 0) & jnp.isfinite(upper), upper, jnp.ones_like(upper))
    short = matrix / safe if matrix.shape[0] <= matrix.shape[1] else matrix.T / safe
    gram = jnp.matmul(short, short.T, precision="highest")
    squared = lambda _, g: tree.unit(jnp.matmul(g, g, precision="highest"))[0]  # noqa: E731
    power = jax.lax.fori_loop(0, 12, squared, tree.unit(gram)[0])
    direction, _ = tree.unit(power[jnp.argmax(jnp.sum(power**2, 1))])
    image = jnp.matmul(direction, short, precision="highest")
    return jnp.minimum(safe * root(jnp.sum(image**2)), upper), upper


def convolution_bound(node: Node, kernel: Array) -> Array:
    """An upper bound of the norm of a convolution, over its input, by the norm of a circular one on a larger grid.

    The circular convolution is diagonal by blocks in the frequencies. On a grid of input size plus kernel size less one
    the padded convolution is a part of it: for any padding, stride and dilation (Sedghi, Gupta & Long, 2019).
    """
    params = node.params
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    image = node.shapes()[0].shape
    kernel = jnp.transpose(kernel, (*numbers.rhs_spec[2:], numbers.rhs_spec[1], numbers.rhs_spec[0]))
    sizes = [
        (image[axis] - 1) * dilation + 1
        for axis, dilation in zip(numbers.lhs_spec[2:], params["lhs_dilation"], strict=True)
    ]
    extents = [(n - 1) * dilation + 1 for n, dilation in zip(kernel.shape, params["rhs_dilation"], strict=False)]
    spread = jnp.zeros((*extents, *kernel.shape[-2:]), kernel.dtype)
    spread = spread.at[tuple(slice(None, None, dilation) for dilation in params["rhs_dilation"])].set(kernel)
    grid = [max(n, 1) + k - 1 for n, k in zip(sizes, extents, strict=True)]
    frequencies = jnp.fft.fftn(spread, grid, range(len(grid)))
    inputs, outputs = kernel.shape[-2:]
    blocks = frequencies.reshape(math.prod(grid), inputs, groups, outputs // groups)
    return spectral_bound(jnp.moveaxis(blocks, 2, 1), num_squarings=10)


class Operator:
    """A node that is linear in some of its operands together, with the others held constant.

    Args:
      node: the equation.
      constants: the values of the other operands, by position.
      output: which of its results is meant.
    """

    def __init__(self, node: Node, constants: dict[int, Array], output: int = 0) -> None:
        self.node = node
        self.output = output
        self.constants = constants
        shapes = node.shapes()
        self.moving = {i: shapes[i] for i in range(len(node.inputs)) if i not in constants}

    def __call__(self, tangents: Sequence[Array]) -> Array:
        """The operator applied to one array per moving operand."""
        return self._with(lambda c: c)(tangents)

    def absolute(self, tangents: Sequence[Array]) -> Array:
        """The operator with the absolute values of its coefficients; entries that are infinite stay so."""
        return with_infinity(self._unsigned(jnp.abs))(tangents)

    def row_norms(self, position: int) -> Array:
        """The Euclidean norm of each row of the operator on one operand."""
        return root(self._only(jnp.square, position)(jnp.ones(self.moving[position].shape, self._dtype(position))))

    def norm(self, position: int) -> Array:
        """An upper bound of the norm of the operator on one operand.

        The geometric mean of the largest sums over rows and columns (Schur's test), which is exact where an entry goes
        to several places or several to one; for products and convolutions the spectral norm of the kernel if less.
        """
        apply = self._only(jnp.abs, position)
        ones = jnp.ones(self.moving[position].shape, self._dtype(position))
        rows, transposed = jax.vjp(apply, ones)
        columns = transposed(jnp.ones_like(rows))[0]
        bound = root(jnp.max(rows, initial=0.0)) * root(jnp.max(columns, initial=0.0))
        if self.node.name == "conv_general_dilated" and position == 0 and self.node.params["batch_group_count"] == 1:
            return jnp.minimum(bound, convolution_bound(self.node, self.constants[1]))
        if self.node.name == "dot_general" and len(self.moving) == 1:
            return jnp.minimum(bound, spectral_bound(self._matrices(1 - position)))
        return bound

    def _matrices(self, position: int) -> Array:
        kernel = self.constants[position]
        contracted, batch = (part[position] for part in self.node.params["dimension_numbers"])
        free = [axis for axis in range(kernel.ndim) if axis not in contracted and axis not in batch]
        rows, columns = (math.prod(kernel.shape[axis] for axis in axes) for axes in (free, contracted))
        return jnp.transpose(kernel, (*batch, *free, *contracted)).reshape(-1, rows, columns)

    def _dtype(self, position: int) -> jnp.dtype:
        return tree.accumulator(self.moving[position].dtype)

    def _only(self, change: Callable[[Array], Array], position: int) -> Callable[[Array], Array]:
        apply = self._unsigned(change)
        zeros = {i: jnp.zeros(shape.shape, self._dtype(i)) for i, shape in self.moving.items()}
        return lambda t: apply([t if i == position else zeros[i] for i in zeros])

    def _unsigned(self, change: Callable[[Array], Array]) -> Callable[[Sequence[Array]], Array]:
        if self.node.name not in SIGNS:
            return self._with(change)
        shape = self.node.shapes()[-1].shape
        return lambda tangents: sum(
            (jnp.broadcast_to(t, shape) for t in tangents[1:]), jnp.broadcast_to(tangents[0], shape)
        )

    def _with(self, change: Callable[[Array], Array]) -> Callable[[Sequence[Array]], Array]:
        changed = {
            i: change(c) if jnp.issubdtype(jnp.result_type(c), jnp.inexact) else c for i, c in self.constants.items()
        }

        def at(*moving: Array) -> Array:
            inputs = iter(moving)
            return self.node(*[changed[i] if i in changed else next(inputs) for i in range(len(self.node.inputs))])[
                self.output
            ]

        zeros = [jnp.zeros(shape.shape, shape.dtype) for shape in self.moving.values()]

        def apply(tangents: Sequence[Array]) -> Array:
            tangents = [t.astype(z.dtype) for t, z in zip(tangents, zeros, strict=True)]
            return jax.jvp(at, tuple(zeros), tuple(tangents))[1]

        return apply
