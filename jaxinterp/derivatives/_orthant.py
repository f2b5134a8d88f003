"""The multivariate normal distribution function: the probability of an orthant."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri

from jaxinterp import batching, checks, tree
from jaxinterp.derivatives._bivariate import bivariate_normal
from jaxinterp.derivatives._expectation import Estimate
from jaxinterp.derivatives._lattice import generating_vector, lattice_size
from jaxinterp.typing import Array, Key

MOST_DIMENSIONS = 200
BLOCK = 256  # points at once: few enough for the caches when problems are batched
FAR = 40.0  # standard deviations, in place of an infinite limit
REACH = 5.5  # standard deviations; beyond is less than 2e-8
FREE = 0.01  # of its variance must be left when a variable's turn comes; with less, the integrand is nearly a step
SETTLED = 1e-3  # with less it is not a step of its own: what is left is drawn before all others


def orthant(*, num_points: int = 10_000, num_shifts: int = 8) -> Callable[[Key, Array, Array], Estimate]:
    r"""Multivariate normal CDF: returns `(key, limits, covariance) -> Estimate` of :math:`\Phi_\Sigma(b)`.

    :math:`\Phi_\Sigma(b) = P[X_1 \le b_1, \dots, X_d \le b_d],\ X \sim \mathcal N(0, \Sigma)`.

    In one and two dimensions in closed form. Above that by separation of variables: with :math:`\Sigma = LL^\top` the
    probability is the integral over the unit cube of a product of d one-dimensional probabilities, each given the
    variables before. Those with the tightest limits come first. A lattice with random shifts integrates it, and the
    spread over the shifts is the standard error; the error is below 3 of them in 97 % of cases for 8 shifts. It falls
    nearly as 1/points where Σ is well conditioned.

    Σ may be singular. Where the variables before determine one up to a hundredth of its variance, its limit cuts the
    range of those, 5.5 standard deviations beyond, which keeps the integrand continuous. That leaves out up to 2e-8 for
    each variable: the error is absolute, and probabilities below 1e-6 have no digits. Where they determine it up to a
    thousandth, its remainder given those before is drawn first, so that its limit cuts exactly. Such a Σ takes several
    times as long, and under `jax.vmap` all of a batch take as long if one does. A remainder of less than 8 machine
    epsilons of the variance is taken for rounding and left out: in float32 that is up to 1e-3 standard deviations,
    which shifts a probability by up to 5e-4 in 20 dimensions and is not in the standard error.

    The first derivatives with respect to b and Σ are those of the same sum, at the same points, and that of Σ is
    symmetric: half of it lies on either side of the diagonal. They recompute each block of points, and keep none.

    Args:
      num_points: points of all shifts together; each shift has the largest prime number of points that fits, at most
        46 337. They are taken 256 at a time.
      num_shifts: random shifts, at least 2.

    Returns:
      A function of a key, the limits b [d] (infinite ones are allowed) and the covariance Σ [d, d], d <= 200. NaN where
      Σ has a negative eigenvalue that rounding does not explain. Its `num_samples` is the number of points, 0 for a
      closed form.

    Raises:
      TypeError: at the call, if the limits are not floating-point or the key not a typed key.
      ValueError: if a count is too small, or at the call if the shapes do not fit or Σ is not symmetric.

    Source: Genz (1992), Genz & Bretz (2009); order after Gibson, Glasbey & Elston (1994); lattice by Nuyens & Cools
    (2006).

    >>> correlation = jnp.full((4, 4), 0.5) + 0.5 * jnp.eye(4)
    >>> estimate = orthant(num_points=2000)(jax.random.key(0), jnp.zeros(4), correlation)  # exactly 1/5
    >>> bool(abs(estimate.mean - 0.2) < 1e-4)
    True
    """
    checks.positive_integer("num_points", num_points)
    if checks.positive_integer("num_shifts", num_shifts) < 2:
        raise ValueError("`orthant` needs two shifts or more, whose spread is its standard error; got num_shifts=1.")
    if num_points < 3 * num_shifts:
        raise ValueError(f"`orthant` needs 3 points for each of {num_shifts} shifts; got num_points={num_points}.")
    size = lattice_size(num_points // num_shifts)
    blocks = -(-size // BLOCK)
    block = -(-size // blocks)

    def probability(key: Key, limits: Array, covariance: Array) -> Estimate:
        key = checks.key("orthant", key)
        b, sigma = _checked(limits, covariance)
        variances = jnp.diagonal(sigma)
        positive = variances > 0
        scale = jnp.sqrt(jnp.where(positive, variances, jnp.ones_like(variances)))
        correlation = sigma / (scale[:, None] * scale[None])
        is_valid = jnp.all(variances >= 0) & jnp.all(jnp.abs(correlation) <= 1 + _noise(b.dtype))
        is_valid = is_valid & ~jnp.any(jnp.isnan(b))
        is_empty = jnp.any((b == -jnp.inf) | ~positive & (b < 0)) & ~jnp.any(jnp.isnan(b))
        b = jnp.where(jnp.isinf(b) | ~positive, jnp.where(b < 0, -FAR, FAR), jnp.where(jnp.isinf(b), 0, b) / scale)
        b = jnp.clip(b, -FAR, FAR)
        if b.shape[0] <= 2:
            is_valid = is_valid & jnp.all(positive[:, None] | (sigma == 0))
            p = ndtr(b[0]) if b.shape[0] == 1 else bivariate_normal(b[0], b[1], correlation[0, 1])
            p = _known(p, is_valid, is_empty)
            return Estimate(p, _known(jnp.zeros_like(p), is_valid, is_empty), jnp.zeros((), jnp.int32))
        order, factor, num_free, is_whole = _ordered_factor(b, correlation)
        b = b[order]
        vector = jnp.asarray(generating_vector(b.shape[0] - 1, size))

        def summed(integrand: Callable[..., Array], *arrays: Array) -> Array:
            def block_sum(index: Array) -> Array:
                shift = jax.random.uniform(jax.random.fold_in(key, index // blocks), (b.shape[0] - 1, 1), b.dtype)
                place = index % blocks * block + jnp.arange(block, dtype=jnp.int32)
                values = integrand(*arrays, _lattice(vector, size, jnp.minimum(place, size - 1), shift))
                return jnp.sum(jnp.where(place < size, values, jnp.zeros_like(values)))

            return jax.lax.map(jax.checkpoint(block_sum), jnp.arange(num_shifts * blocks, dtype=jnp.int32))

        is_narrow = jnp.any(jax.lax.stop_gradient(jnp.diagonal(factor)) ** 2 < FREE)
        sums = jax.lax.cond(
            batching.any_example(is_narrow),
            lambda: summed(_cut_integrand, b, factor, num_free),
            lambda: summed(_integrand, b, factor),
        )
        values = jnp.sum(sums.reshape(num_shifts, blocks), 1) / size
        both = (jnp.mean(values), jnp.std(values, ddof=1) / num_shifts**0.5)
        mean, stderr = (_known(value, is_valid & is_whole, is_empty) for value in both)
        return Estimate(mean, stderr, jnp.asarray(size * num_shifts, jnp.int32))

    return probability


def _known(value: Array, is_valid: Array, is_empty: Array) -> Array:
    """NaN for what is no covariance, and 0 where nothing is below the limits."""
    value = jnp.where(is_empty, jnp.zeros_like(value), value)
    return jnp.where(is_valid, value, jnp.full_like(value, jnp.nan))


def _checked(limits: Array, covariance: Array) -> tuple[Array, Array]:
    limits, covariance = checks.floating("orthant", (jnp.asarray(limits), jnp.asarray(covariance)))
    d = limits.size
    if limits.ndim != 1 or covariance.shape != (d, d) or not 1 <= d <= MOST_DIMENSIONS:
        raise ValueError(
            f"`orthant` needs limits [d] and a covariance [d, d] with d from 1 to {MOST_DIMENSIONS}; got shapes "
            f"{limits.shape} and {covariance.shape}."
        )
    known = checks.concrete(covariance)
    if known is not None:
        known = known.astype(np.float64)
        scale = np.sqrt(np.abs(np.diagonal(known)))
        if np.any(np.abs(known - known.T) > 1e-2 * np.abs(known) + 1e-6 * np.outer(scale, scale)):
            raise ValueError("`covariance` of `orthant` must be symmetric.")
    dtype = tree.accumulator(jnp.promote_types(limits.dtype, covariance.dtype))
    wide = covariance.astype(dtype)
    return limits.astype(dtype), (wide + wide.T) / 2


def _lattice(vector: Array, size: int, place: Array, shift: Array) -> Array:
    """Points of a shifted lattice, folded so that the integrand is periodic, [dimension, points]."""
    multiples = place[None] * vector[:, None] % size
    points = (multiples.astype(shift.dtype) / size + shift) % 1
    return 1 - jnp.abs(2 * points - 1)


def _ordered_factor(b: Array, correlation: Array) -> tuple[Array, Array, Array, Array]:
    """The Cholesky factor with its rows in the order in which they are integrated.

    Returns:
      The order, [d], in which variables nearly determined by others come after those; the factor L of the reordered
      correlation, [d, d], with a column of zeros where a variable is determined by those before; how many variables,
      the first ones, are not nearly determined; and whether nothing is left in the end, as it must be without negative
      eigenvalues.
    """
    d, noise = b.shape[0], _noise(b.dtype)
    limits = jax.lax.stop_gradient(b)

    def step(k: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        left, mean, order, factor, is_used, num_free = state
        variance = jax.lax.stop_gradient(jnp.diagonal(left))
        tightness = limits - mean
        # The tightest of the free variables; then of the nearly determined that with most left; then the determined.
        group = jnp.where(variance >= SETTLED, 0, jnp.where(variance > noise, 1, 2))
        group = jnp.where(is_used, 3, group)
        rank = jnp.where(group == 0, tightness, -variance)
        chosen = jnp.argmin(jnp.where(group == jnp.min(group), rank, jnp.full_like(rank, jnp.inf)))
        is_determined = group[chosen] == 2
        deviation = jnp.sqrt(jnp.where(is_determined, jnp.ones_like(noise), left[chosen, chosen]))
        column = jnp.where(is_determined | is_used, jnp.zeros_like(b), left[:, chosen] / deviation)
        mean = mean + jax.lax.stop_gradient(column * _truncated_mean(tightness[chosen] / deviation))
        return (
            left - column[:, None] * column[None],
            mean,
            order.at[k].set(chosen.astype(jnp.int32)),
            factor.at[:, k].set(column),
            is_used.at[chosen].set(True),
            num_free + (group[chosen] == 0).astype(jnp.int32),
        )

    none, zeros = jnp.zeros((), jnp.int32), jnp.zeros((d, d), b.dtype)
    start = (correlation, jnp.zeros_like(b), jnp.zeros((d,), jnp.int32), zeros, jnp.zeros((d,), bool), none)
    left, _, order, factor, _, num_free = jax.lax.fori_loop(0, d, step, start)
    return order, factor[order], num_free, jnp.max(jnp.abs(left)) <= 4 * jnp.sqrt(noise)


def _noise(dtype: jnp.dtype) -> Array:
    """The variance below which a variable of variance 1 counts as determined: what rounding may leave."""
    return jnp.asarray(8 * float(jnp.finfo(dtype).eps), dtype)


def _truncated_mean(limit: Array) -> Array:
    """The mean of a standard normal variable below a limit."""
    chance = ndtr(limit)
    density = jnp.exp(-0.5 * limit**2) / (2 * jnp.pi) ** 0.5
    return jnp.where(chance > 1e-6, -density / jnp.maximum(chance, 1e-6), limit)


def _integrand(b: Array, factor: Array, points: Array) -> Array:
    """The product of the one-dimensional probabilities at points of the unit cube, [d - 1, n]."""
    d, eps = b.shape[0], float(jnp.finfo(b.dtype).eps)
    diagonal = jnp.diagonal(factor)
    points = jnp.concatenate([points, jnp.zeros_like(points[:1])])

    def step(k: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        """One variable: how probable it is that it stays below its limit, given those before."""
        before, product = state
        mass = ndtr((b[k] - jnp.dot(factor[k], before, precision="highest")) / diagonal[k])
        y = ndtri(jnp.clip(points[k] * mass, float(jnp.finfo(b.dtype).tiny), 1 - eps))
        return before.at[k].set(y), product * mass

    start = (jnp.zeros((d, points.shape[1]), b.dtype), jnp.ones(points.shape[1:], b.dtype))
    return jax.lax.fori_loop(0, d, step, start)[1]


def _cut_integrand(b: Array, factor: Array, num_free: Array, points: Array) -> Array:
    """The same where the variables after the first `num_free` are determined by those, or nearly: they cut their range.

    What is left of such a variable is drawn first, so that the last of those that determine it is integrated exactly
    between the limits of all: the integrand has kinks and no steps, however little is left.
    """
    d, noise = b.shape[0], _noise(b.dtype)
    smallest, eps = float(jnp.finfo(b.dtype).tiny), float(jnp.finfo(b.dtype).eps)
    place = jnp.arange(d, dtype=jnp.int32)
    diagonal = jnp.diagonal(factor)
    is_free = place < num_free
    diagonal = jnp.where(is_free, diagonal, jnp.ones_like(diagonal))
    free = jnp.where(is_free[None], jax.lax.stop_gradient(factor), jnp.zeros_like(factor))
    remaining = jnp.flip(jnp.cumsum(jnp.flip(free**2, 1), 1), 1) - free**2
    slack = REACH * jnp.sqrt(jnp.where(remaining > noise, remaining, jnp.zeros_like(remaining)))
    points = points[jnp.clip(place - (place >= num_free).astype(jnp.int32), 0, d - 2)]  # the last free one needs none
    drawn = jnp.where(is_free[:, None], jnp.zeros_like(points), ndtri(jnp.clip(points, smallest, 1 - eps)))
    rest = jnp.dot(factor, drawn, precision="highest")

    def step(k: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        """One variable: how probable it is that it, and those that it determines, stay below their limits."""
        mean, product = state
        column = factor[:, k]
        cuts = (place > k) & (column**2 > noise)
        inverse = jnp.where(cuts, 1 / jnp.where(cuts, column, jnp.ones_like(column)), jnp.zeros_like(column))
        bound = jnp.where(cuts[:, None], ((b + slack[:, k])[:, None] - mean) * inverse[:, None], jnp.zeros_like(mean))
        upper = jnp.min(jnp.where(inverse[:, None] > 0, bound, jnp.full_like(bound, jnp.inf)), 0)
        lower = jnp.max(jnp.where(inverse[:, None] < 0, bound, jnp.full_like(bound, -jnp.inf)), 0)
        upper = jnp.minimum(upper, (b[k] - mean[k]) / diagonal[k])
        is_high = lower > 0  # where the lower tail keeps more digits
        low, high = jnp.where(is_high, -upper, lower), jnp.where(is_high, -lower, upper)
        below = ndtr(low)
        mass = jnp.maximum(ndtr(high) - below, jnp.zeros_like(below))
        y = ndtri(jnp.clip(below + points[k] * mass, smallest, 1 - eps))
        y = jnp.where(is_free[k], jnp.where(is_high, -y, y), jnp.zeros_like(y))
        mean = mean + column[:, None] * y[None]
        return mean, product * jnp.where(is_free[k], mass, jnp.ones_like(mass))

    return jax.lax.fori_loop(0, d, step, (rest, jnp.ones(points.shape[1:], b.dtype)))[1]
