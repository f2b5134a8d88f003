"""Several eigenvalues, and the density of all of them, of a symmetric operator that is known by its products only."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxinterp import checks, tree
from jaxinterp.derivatives._expectation import Estimate, expectation
from jaxinterp.derivatives._spectral import flat_products, tridiagonalised
from jaxinterp.typing import Array, Key, MatVec, PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Eigenpairs:
    """Eigenvalues found by iteration, largest magnitude first, with the evidence.

    Attributes:
      values: [pairs].
      vectors: unit eigenvectors, a pytree with a leading axis of pairs.
      residuals: ‖Av - λv‖ of each: a symmetric A has an eigenvalue within this distance of the value.
      num_iterations: products with A that the iteration took, an int32 scalar.
    """

    values: Array
    vectors: PyTree
    residuals: Array
    num_iterations: Array


def eigenpairs(matvec: MatVec, num_pairs: int, *, num_iterations: int = 64) -> Callable[[Key, PyTree], Eigenpairs]:
    """The eigenpairs of largest magnitude: returns `(key, like) -> Eigenpairs`.

    Ritz pairs of a Krylov space of `num_iterations` vectors with full reorthogonalisation (Lanczos; Golub & Van Loan,
    2013, ch. 10). Of an eigenvalue that occurs several times one copy is found for certain; as soon as a Krylov space
    is exhausted it goes on from a fresh direction, which may find others. The values are differentiable, at constant
    vectors; the vectors are not.

    Memory: `num_iterations` vectors.

    Args:
      matvec: v -> A·v on pytrees, A symmetric.
      num_pairs: how many.
      num_iterations: products; more than the dimension is never used.

    The argument `like` of the returned function is a pytree with the structure and shapes of v.

    Raises:
      ValueError: if there are fewer iterations, or entries of v, than pairs.

    >>> found = eigenpairs(lambda v: jnp.array([1.0, -4.0, 2.0]) * v, 2)(jax.random.key(0), jnp.zeros(3))
    >>> [round(float(value), 3) for value in found.values]
    [-4.0, 2.0]
    """
    count = checks.positive_integer("num_pairs", num_pairs)
    if checks.positive_integer("num_iterations", num_iterations) < count:
        raise ValueError(f"`eigenpairs` needs an iteration for each of {count} pairs; got {num_iterations}.")

    def iterate(key: Key, like: PyTree) -> Eigenpairs:
        flat, unravel = tree.ravel(checks.floating("eigenpairs", like))
        if flat.size < count:
            raise ValueError(f"`eigenpairs` was asked for {count} pairs of an operator on {flat.size} entries.")
        constant, product = flat_products(matvec, like)
        found = tridiagonalised(checks.key("eigenpairs", key), constant, flat.size, flat.dtype, num_iterations)
        basis, matrix = found
        values, vectors = jnp.linalg.eigh(matrix)
        chosen = jnp.argsort(-jnp.abs(values))[:count]
        rows = jnp.dot(vectors[:, chosen].T, basis, precision="highest")
        rows = rows / jnp.sqrt(jnp.sum(rows**2, 1, keepdims=True))
        rows = jax.lax.stop_gradient(rows)
        images = jax.lax.map(product, rows)
        ritz = jnp.sum(rows * images, 1)
        residuals = jnp.sqrt(jnp.sum(jax.lax.stop_gradient(images - ritz[:, None] * rows) ** 2, 1))
        steps = jnp.asarray(len(basis), jnp.int32)
        return Eigenpairs(ritz, jax.vmap(unravel)(rows), residuals, steps)

    return iterate


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SpectralDensity:
    r"""The distribution of the eigenvalues of an operator, as quadrature rules of several probes.

    Attributes:
      nodes: Ritz values, [probes, iterations].
      weights: of each rule; they sum to one, [probes, iterations].
      dimension: how many eigenvalues there are.
    """

    nodes: Array
    weights: Array
    dimension: int = dataclasses.field(metadata={"static": True})

    def trace_of(self, function: Callable[[Array], Array]) -> Estimate:
        r"""An estimate of :math:`\operatorname{tr} h(A) = \sum_i h(\lambda_i)`, for instance of powers of A.

        The standard error is that over the probes; that of the rules themselves is below it after few iterations.
        """
        single = self.dimension * jnp.sum(self.weights * function(self.nodes), 1)
        count = single.shape[0]
        spread = jnp.std(single, ddof=1) if count > 1 else jnp.full((), jnp.inf, single.dtype)
        return Estimate(jnp.mean(single), spread / count**0.5, jnp.asarray(count, jnp.int32))

    def density(self, points: Array, width: Array | float) -> Array:
        r"""The density at some points, each node spread to a normal density of standard deviation `width`.

        Args:
          points: [points], in units of A.
          width: in the same units.
        """
        distance = (jnp.asarray(points)[:, None, None] - self.nodes[None]) / width
        bumps = jnp.exp(-0.5 * distance**2) / (width * (2 * jnp.pi) ** 0.5)
        return jnp.mean(jnp.sum(self.weights[None] * bumps, 2), 1)


def spectral_density(
    matvec: MatVec, *, num_samples: int = 8, num_iterations: int = 32
) -> Callable[[Key, PyTree], SpectralDensity]:
    r"""Stochastic Lanczos quadrature: returns `(key, like) -> SpectralDensity`.

    For a unit vector v, :math:`v^\top h(A)v \approx \sum_j \tau_j^2 h(\theta_j)` with θ the eigenvalues of the Lanczos
    matrix started at v and τ the first entries of its eigenvectors: exact for polynomials up to degree 2m - 1. The mean
    over random signs v is :math:`\operatorname{tr} h(A)/n`. A counts as a constant under differentiation.

    Args:
      matvec: v -> A·v on pytrees, A symmetric.
      num_samples: probes; they are taken one after the other.
      num_iterations: m, products for each.

    The argument `like` of the returned function is a pytree with the structure and shapes of v.

    Source: Ubaru, Chen & Saad (2017); for networks Ghorbani, Krishnan & Xiao (2019).

    >>> found = spectral_density(lambda v: jnp.array([1.0, 3.0]) * v)(jax.random.key(0), jnp.zeros(2))
    >>> round(float(found.trace_of(lambda t: t).mean), 4)
    4.0
    """
    checks.positive_integer("num_samples", num_samples)
    checks.positive_integer("num_iterations", num_iterations)

    def estimate(key: Key, like: PyTree) -> SpectralDensity:
        key = checks.key("spectral_density", key)
        flat, _ = tree.ravel(checks.floating("spectral_density", like))
        product, _ = flat_products(matvec, like)

        def rule(index: Array) -> tuple[Array, Array]:
            probe = tree.rademacher_like(jax.random.fold_in(key, index), flat)
            own = jax.random.fold_in(key, num_samples + index)
            _, matrix = tridiagonalised(own, product, flat.size, flat.dtype, num_iterations, probe)
            nodes, vectors = jnp.linalg.eigh(matrix)
            return nodes, vectors[0] ** 2

        nodes, weights = jax.lax.map(rule, jnp.arange(num_samples, dtype=jnp.int32))
        return SpectralDensity(nodes, weights, flat.size)

    return estimate


def hutch_plus_plus(matvec: MatVec, *, num_products: int) -> Callable[[Key, PyTree], Estimate]:
    r"""Trace with less variance: returns `(key, like) -> Estimate` of :math:`\operatorname{tr} A`.

    A third of the products finds an orthonormal basis Q of the range of A on random signs, a third gives the trace on
    it exactly, and a third estimates that of the rest by Hutchinson's probes:
    :math:`\operatorname{tr} A = \operatorname{tr} Q^\top A Q + \operatorname{tr}(I - QQ^\top)A(I - QQ^\top)`. It is
    unbiased, and exact for a rank up to a third of the products; its error falls with 1/products instead of the root,
    where the eigenvalues decay.

    Args:
      matvec: v -> A·v on pytrees.
      num_products: products with A in all, at least 6.

    The argument `like` of the returned function is a pytree with the structure and shapes of v. The number of samples
    of the result is that of the probes of the rest.

    Source: Meyer, Musco, Musco & Woodruff (2021).

    >>> estimate = hutch_plus_plus(lambda v: jnp.sum(v) * jnp.ones(9), num_products=6)(jax.random.key(0), jnp.zeros(9))
    >>> round(float(estimate.mean), 3)  # rank one: exact
    9.0
    """
    if checks.positive_integer("num_products", num_products) < 6:
        raise ValueError(f"`hutch_plus_plus` needs 6 products or more; got {num_products}.")

    def estimate(key: Key, like: PyTree) -> Estimate:
        key = checks.key("hutch_plus_plus", key)
        flat, _ = tree.ravel(checks.floating("hutch_plus_plus", like))
        constant, product = flat_products(matvec, like)
        rank = min(num_products // 3, flat.size)
        draw = lambda i: tree.rademacher_like(jax.random.fold_in(key, i), flat)  # noqa: E731
        sketch = jax.lax.map(lambda i: constant(draw(i)), jnp.arange(rank, dtype=jnp.int32))
        basis = jnp.linalg.qr(sketch.T)[0].T  # a constant: the mean is tr A for any
        known = jnp.sum(basis * jax.lax.map(product, basis))

        def rest(own: Key) -> Array:
            probe = tree.rademacher_like(own, flat)
            probe = probe - jnp.dot(jnp.dot(basis, probe, precision="highest"), basis, precision="highest")
            return jnp.vdot(probe, product(probe), precision="highest")

        found = expectation(rest, num_products - 2 * rank, chunk_size=1)(jax.random.fold_in(key, rank))
        return Estimate(found.mean + known, found.stderr, found.num_samples)

    return estimate
