"""Extreme eigenvalues of a symmetric operator that is known by its products only."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxinterp import checks, interpreters, tree
from jaxinterp.typing import Array, Key, MatVec, PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Spectral:
    """An eigenvalue found by iteration, with the evidence.

    Differentiable: the value is the Rayleigh quotient v·Av at the vector found, held constant, whose derivative is
    that of a simple eigenvalue.

    Attributes:
      value: the eigenvalue, a scalar.
      vector: its unit eigenvector, a pytree.
      residual: ‖Av - value·v‖; a symmetric A has an eigenvalue within this distance of `value`.
      num_iterations: products with A that the iteration took, an int32 scalar.
    """

    value: Array
    vector: PyTree
    residual: Array
    num_iterations: Array


def _evidence(matvec: MatVec, vector: PyTree, num_iterations: Array) -> Spectral:
    vector = jax.lax.stop_gradient(vector)
    image = matvec(vector)
    value = tree.vdot(vector, image)
    residual = tree.norm(tree.axpy(-value, vector, image))
    return Spectral(value, vector, jax.lax.stop_gradient(residual), num_iterations)


def constant_program(matvec: MatVec, like: PyTree) -> MatVec:
    """`matvec` traced once, constant under differentiation, fast in a loop."""
    return interpreters.loop_safe(interpreters.detached(interpreters.trace(matvec, like)))


def flat_products(matvec: MatVec, like: PyTree) -> tuple[MatVec, MatVec]:
    """`matvec` on flat vectors, traced once and fast in a loop: constant under differentiation, and not."""
    flat, unravel = tree.ravel(like)
    program = interpreters.trace(matvec, like)

    def on_flat(product: MatVec) -> MatVec:
        return lambda vector: tree.ravel(product(unravel(vector)))[0].astype(flat.dtype)

    constant, differentiable = map(interpreters.loop_safe, (interpreters.detached(program), program))
    return on_flat(constant), on_flat(differentiable)


def power_iteration(
    matvec: MatVec, *, num_iterations: int = 100, tolerance: float = 1e-3
) -> Callable[[Key, PyTree], Spectral]:
    """The eigenvalue of largest magnitude: returns `(key, like) -> Spectral`, starting from a random direction.

    v ← Av/‖Av‖ until ‖Av - λv‖ <= tolerance·|λ|, or for `num_iterations` products. The error falls with the ratio
    of the two largest magnitudes; where an eigenvalue and its negative tie it does not converge, which the residual
    shows (`lanczos` has no such trouble and needs fewer products).

    Args:
      matvec: v -> A·v on pytrees, A symmetric.
      num_iterations: largest number of products.
      tolerance: relative residual at which to stop.

    The argument `like` of the returned function is a pytree with the structure and shapes of v.

    >>> top = power_iteration(lambda v: jnp.array([1.0, -4.0]) * v)(jax.random.key(0), jnp.zeros(2))
    >>> round(float(top.value), 3)
    -4.0
    """
    checks.positive_integer("num_iterations", num_iterations)
    checks.non_negative("tolerance", tolerance)

    def iterate(key: Key, like: PyTree) -> Spectral:
        product = constant_program(matvec, checks.floating("power_iteration", like))
        start = _unit(tree.normal_like(checks.key("power_iteration", key), like))

        def unfinished(state: tuple) -> Array:
            _, value, residual, step = state
            return (step < num_iterations) & ~(residual <= tolerance * jnp.abs(value))

        def advance(state: tuple) -> tuple:
            vector, _, _, step = state
            image = product(vector)
            value = tree.vdot(vector, image)
            residual = tree.norm(tree.axpy(-value, vector, image))
            return _unit(image, otherwise=vector), value, residual, step + 1

        scalar = jax.eval_shape(tree.norm, start)
        initial = (start, jnp.zeros((), scalar.dtype), jnp.full((), jnp.inf, scalar.dtype), jnp.zeros((), jnp.int32))
        vector, _, _, steps = jax.lax.while_loop(unfinished, advance, initial)
        return _evidence(matvec, vector, steps)

    return iterate


def lanczos(
    matvec: MatVec, *, num_iterations: int = 64, tolerance: float = 1e-4
) -> Callable[[Key, PyTree], tuple[Spectral, Spectral]]:
    r"""The smallest and the largest eigenvalue: returns `(key, like) -> (smallest, largest)`.

    The Lanczos iteration with full reorthogonalisation builds an orthonormal basis Q of the Krylov space, in which
    A is tridiagonal (T); the eigenvectors are Q·s for the extreme eigenvectors s of T (Golub & Van Loan, 2013, ch.
    10). It stops when both residual estimates :math:`\beta_k |s_k|` are below tolerance·max|θ|, or after
    `num_iterations` products. When the Krylov space is exhausted after one direction it goes on from a fresh one.

    Memory: `num_iterations` vectors.

    Args:
      matvec: v -> A·v on pytrees, A symmetric.
      num_iterations: largest number of products; more than the dimension is never used.
      tolerance: residual, relative to the largest magnitude, at which to stop.

    The argument `like` of the returned function is a pytree with the structure and shapes of v.

    >>> low, high = lanczos(lambda v: jnp.array([1.0, -4.0, 2.0]) * v)(jax.random.key(0), jnp.zeros(3))
    >>> round(float(low.value), 3), round(float(high.value), 3)
    (-4.0, 2.0)
    """
    checks.positive_integer("num_iterations", num_iterations)
    checks.non_negative("tolerance", tolerance)

    def iterate(key: Key, like: PyTree) -> tuple[Spectral, Spectral]:
        checks.key("lanczos", key)
        flat, unravel = tree.ravel(checks.floating("lanczos", like))
        product, _ = flat_products(matvec, like)
        low, high, steps = _krylov_extremes(key, product, flat.size, flat.dtype, num_iterations, tolerance)
        smallest, largest = (unravel(vector) for vector in (low, high))
        return _evidence(matvec, smallest, steps), _evidence(matvec, largest, steps)

    return iterate


def tridiagonalised(
    key: Key, product: MatVec, dimension: int, dtype: jnp.dtype, num_iterations: int, start: Array | None = None
) -> tuple[Array, Array]:
    """An orthonormal basis of a Krylov space, [k, dimension], and the operator in it, [k, k], tridiagonal.

    It has `num_iterations` vectors, or as many as there are dimensions, and begins with `start`, or a random one.
    """
    _, (basis, diagonal, off_diagonal, _, _) = _krylov(key, product, dimension, dtype, num_iterations, 0.0, start)
    inner = off_diagonal[:-1]
    return basis, jnp.diag(diagonal) + jnp.diag(inner, 1) + jnp.diag(inner, -1)


def _krylov_extremes(
    key: Key, product: MatVec, dimension: int, dtype: jnp.dtype, num_iterations: int, tolerance: float
) -> tuple[Array, Array, Array]:
    """Unit vectors for the two ends of the spectrum, and the number of products."""
    steps, (basis, diagonal, off_diagonal, _, _) = _krylov(key, product, dimension, dtype, num_iterations, tolerance)
    _, vectors = _ritz(diagonal, off_diagonal, steps - 1)
    low, high = (_unit(jnp.dot(s, basis, precision="highest")) for s in vectors)
    return low, high, steps


def _krylov(
    key: Key,
    product: MatVec,
    dimension: int,
    dtype: jnp.dtype,
    num_iterations: int,
    tolerance: float,
    start: Array | None = None,
) -> tuple[Array, tuple]:
    """The number of products, and the state of the iteration: basis, diagonal, off-diagonal, error and step."""
    size = min(num_iterations, dimension)
    tiny = 10 * jnp.finfo(dtype).eps  # rounding errors, relative to the operator

    def fresh(step: Array, basis: Array) -> Array:
        noise = jax.random.normal(jax.random.fold_in(key, step), (dimension,), jnp.float32).astype(dtype)
        return _unit(_orthogonal(noise, basis))

    def advance(state: tuple) -> tuple:
        basis, diagonal, off_diagonal, _, step = state
        image = product(basis[step])
        alpha = jnp.vdot(basis[step], image, precision="highest")
        rest = _orthogonal(image, basis)
        beta = tree.norm(rest)
        diagonal = diagonal.at[step].set(alpha)
        scale = jnp.maximum(jnp.max(jnp.abs(diagonal)), jnp.max(jnp.abs(off_diagonal)))
        exhausted = beta <= tiny * scale
        beta = jnp.where(exhausted, jnp.zeros_like(beta), beta)
        unit = _unit(_orthogonal(rest / jnp.where(exhausted, jnp.ones_like(beta), beta), basis))
        following = jnp.where(exhausted, fresh(step + 1, basis), unit)
        basis = basis.at[step + 1].set(following, mode="drop")
        off_diagonal = off_diagonal.at[step].set(beta)
        error = _ritz(diagonal, off_diagonal, step)[0] if tolerance else jnp.full_like(beta, jnp.inf)
        return basis, diagonal, off_diagonal, error, step + 1

    def unfinished(state: tuple) -> Array:
        return (state[4] < size) & ~(state[3] <= tolerance)

    basis = jnp.zeros((size, dimension), dtype)
    basis = basis.at[0].set(fresh(jnp.zeros((), jnp.int32), basis) if start is None else _unit(start))
    nothing = jnp.zeros((size,), dtype)
    state = (basis, nothing, nothing, jnp.asarray(jnp.inf, dtype), jnp.zeros((), jnp.int32))
    state = jax.lax.while_loop(unfinished, advance, state)
    return state[4], state


def _ritz(diagonal: Array, off_diagonal: Array, last: Array) -> tuple[Array, tuple[Array, Array]]:
    """The relative residual estimate and the extreme eigenvectors of the tridiagonal matrix up to row `last`.

    Rows not yet reached are decoupled from the others and hold a value above all eigenvalues (Gershgorin), so that the
    ordered eigenvectors of the rows reached come first.
    """
    size = diagonal.shape[0]
    rows = jnp.arange(size, dtype=last.dtype)
    reached = rows <= last
    beyond = 4 * jnp.maximum(jnp.max(jnp.abs(diagonal)), jnp.max(jnp.abs(off_diagonal)))
    beyond = jnp.where(beyond == 0, jnp.ones_like(beyond), beyond)
    inner = jnp.where(rows[:-1] < last, off_diagonal[:-1], jnp.zeros_like(off_diagonal[:-1]))
    matrix = jnp.diag(jnp.where(reached, diagonal, beyond)) + jnp.diag(inner, 1) + jnp.diag(inner, -1)
    values, vectors = jnp.linalg.eigh(matrix)

    def at_last(array: Array) -> Array:
        return jax.lax.dynamic_index_in_dim(array, last, -1, keepdims=False)

    low, high = vectors[:, 0], at_last(vectors)
    ends = jnp.maximum(jnp.abs(at_last(low)), jnp.abs(at_last(high))) * at_last(off_diagonal)
    magnitude = jnp.maximum(jnp.abs(values[0]), jnp.abs(at_last(values)))
    # One direction alone, though it be an eigenvector, does not show both ends.
    error = jnp.where(
        (last == 0) & (size > 1), jnp.inf, ends / jnp.where(magnitude == 0, jnp.ones_like(magnitude), magnitude)
    )
    return error, (low, high)


def _orthogonal(vector: Array, basis: Array) -> Array:
    """`vector` without its components along the rows of `basis`; twice, for the first pass leaves rounding behind."""
    for _ in range(2):
        components = jnp.dot(basis, vector, precision="highest")
        vector = vector - jnp.dot(components, basis, precision="highest")
    return vector


def _unit(vector: PyTree, otherwise: PyTree | None = None) -> PyTree:
    """`vector` divided by its norm; a zero vector gives `otherwise` (by default itself)."""
    length = tree.norm(vector)
    is_zero = length == 0
    scaled = tree.scale(1 / jnp.where(is_zero, jnp.ones_like(length), length), vector)
    return jax.tree.map(lambda s, o: jnp.where(is_zero, o, s), scaled, vector if otherwise is None else otherwise)
