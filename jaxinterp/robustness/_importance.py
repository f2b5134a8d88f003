"""Rare failures: importance sampling along the directions in which the smoothed margins fall."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr

from jaxinterp import checks, tree
from jaxinterp.derivatives import expectation, jacobian
from jaxinterp.robustness._events import Event, Robustness, counted, restricted_margins, same_prediction
from jaxinterp.robustness._noise import flat_rows, gaussian_noise
from jaxinterp.typing import Array, Key, LogitsFn, PyTree

DEFENSIVE = 0.2  # the share of unshifted noise, which bounds the weights by its inverse
MOST_REACH = 12.0  # standard deviations of the noise that a shift may have
MOST_SCALE = 40.0  # so that squares of the scaled weights stay below the largest float32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RareRobustness(Robustness):
    """A `Robustness` near 1, with the probability of failure by itself.

    Attributes:
      failure: 1 - probability, without the rounding of that difference: 1e-9 is 1e-9.
    """

    failure: Array


@dataclasses.dataclass(frozen=True, eq=False)
class _Proposal:
    """A mixture of standard normal distributions around 0 and around some shifts.

    Attributes:
      shifts: [components, inputs].
      shares: of the shifted components, [components].
      fails_rarely: whether failures are to be counted, or else survivals.
    """

    shifts: Array
    shares: Array
    fails_rarely: Array


def importance(
    f: LogitsFn,
    argnums: int | tuple[int, ...] = 0,
    *,
    num_samples: int = 1000,
    num_pilot: int = 16,
    num_margins: int = 4,
    chunk_size: int | None = 16,
    event: Event = same_prediction,
) -> Callable[..., RareRobustness]:
    r"""Importance sampling: returns `(key, *args, stddev) -> RareRobustness`, for failures too rare to count.

    The noise :math:`\varepsilon` is drawn from a mixture :math:`q = \alpha_0\varphi + \sum_k\alpha_k
    \varphi(\cdot - \mu_k)` and a failure counts :math:`w(\varepsilon) = \varphi(\varepsilon)/q(\varepsilon)`:
    :math:`\hat P = \frac1n\sum_i w(\varepsilon_i)\,1[\text{a margin is negative at } x + \sigma\varepsilon_i]`.

    It is unbiased for any shifts: :math:`\mathbb E_q[w\,1_A] = \int q\,\frac{\varphi}{q}1_A = P(A)`, since q > 0
    everywhere, and the shifts come from other random numbers than the samples. As :math:`w \le 1/\alpha_0 = 5`, the
    variance is at most :math:`5P/n` whatever the shifts, 5 times that of Monte Carlo where P is small, and it falls by
    orders of magnitude where failures are rare and the margins near enough to linear. It is not clipped to [0, 1].

    The shifts: of the margins with the smallest :math:`\beta_k = \bar g_k/s_k`, mean over standard deviation under the
    noise, the mean gradient gives a direction and its correlation :math:`\rho` with the margin; the length
    :math:`\rho\beta/(2 - \rho^2)` makes the second moment of :math:`w 1_A` least for a normal margin. Where
    :math:`\beta < 0` the survivals are rare, and counted.

    The standard error is that of the samples: it does not see failures that no sample met. Those are the ones in
    directions without a shift: of more margins that are as near as the nearest than `num_margins`, or of a margin whose
    mean gradient vanishes, as for an even function. Failures below 1e-38 are 0 in float32.

    It takes n + (3 + 2·margins)·pilot evaluations of f, a gradient counted as two; `num_samples` is n.

    Args:
      f: `(*args) -> [classes]`, or a scalar function for `within`.
      argnums: the argument, or several, that noise is added to.
      num_samples: n.
      num_pilot: noisy copies for the shifts, at least 2.
      num_margins: how many margins get a shift.
      chunk_size: predictions computed together; memory grows with it. `None` takes all.
      event: `(clean, noisy) -> margins`: `same_prediction`, `within(δ)`, or your own.

    Returns:
      A function of a key, f's arguments and one of the keywords `stddev` and `factor`, as for `taylor`.

    Raises:
      TypeError: at the call, if f does not return class scores, the input is not floating-point, or not one of
        `stddev` and `factor` is given; where the result is differentiated.
      ValueError: if a count is too small, σ is negative, or the factor does not fit.

    Source: defensive mixtures by Hesterberg (1995), Owen & Zhou (2000); the shifts are ours.

    >>> f = lambda x: jnp.stack([x[0], -x[0]])
    >>> result = importance(f)(jax.random.key(0), jnp.array([5.0]), stddev=1.0)  # Φ(-5) = 2.87e-7
    >>> bool(abs(result.failure / 2.8665e-7 - 1) < 0.2)
    True
    """
    n = checks.positive_integer("num_samples", num_samples)
    checks.optional_chunk_size(chunk_size)
    checks.positive_integer("num_margins", num_margins)
    if checks.positive_integer("num_pilot", num_pilot) < 2:
        raise ValueError("`importance` needs a pilot of two noisy copies or more; got num_pilot=1.")

    def probability(
        key: Key, *args: PyTree, stddev: PyTree | None = None, factor: Array | None = None
    ) -> RareRobustness:
        key = checks.key("importance", key)
        margins, x, clean = restricted_margins("importance", f, argnums, event, args)
        noise = gaussian_noise("importance", x, stddev, factor)
        at = lambda draw: margins(noise.at(draw))  # noqa: E731
        proposal = _proposal(jax.random.fold_in(key, 0), at, noise.like, num_pilot, num_margins, chunk_size)
        edges, squares = jnp.cumsum(proposal.shares), jnp.sum(proposal.shifts**2, 1)
        nearest = jnp.min(jnp.where(squares > 0, squares, jnp.inf))
        nearest = jnp.where(jnp.isinf(nearest), jnp.zeros_like(nearest), nearest)
        log_scale = jnp.minimum(nearest / 2, MOST_SCALE)  # keeps the squares of tiny weights in the range

        def weighed(k: Key) -> Array:
            component = jnp.sum(jax.random.uniform(jax.random.fold_in(k, 0), (), edges.dtype) >= edges, dtype=jnp.int32)
            is_shifted = component < len(edges)
            shift = proposal.shifts[jnp.minimum(component, len(edges) - 1)]
            draw = tree.normal_like(jax.random.fold_in(k, 1), noise.like)
            flat, unravel = tree.ravel(draw)
            flat = flat.astype(shift.dtype) + jnp.where(is_shifted, shift, jnp.zeros_like(shift))
            tilts = jnp.dot(proposal.shifts, flat, precision="highest") - squares / 2 + jnp.log(proposal.shares)
            tilts = jnp.concatenate([tilts, jnp.log1p(-edges[-1:])])
            weight = jnp.exp(log_scale - jax.nn.logsumexp(tilts))
            kept = jnp.all(at(unravel(flat)) >= 0)
            return jnp.where(kept != proposal.fails_rarely, weight, jnp.zeros_like(weight))

        found = expectation(weighed, n, chunk_size=chunk_size)(jax.random.fold_in(key, 1))
        known = ~jnp.any(jnp.isnan(clean)) & tree.all_finite((noise.scale, x))
        scale = jnp.where(known, jnp.exp(-log_scale), jnp.full_like(log_scale, jnp.nan))
        rare, stderr = found.mean * scale, found.stderr * scale
        failure = jnp.where(proposal.fails_rarely, rare, 1 - rare)
        nothing, count = jnp.zeros_like(rare), jnp.asarray(n, jnp.int32)
        return counted("importance", RareRobustness(1 - failure, stderr, count, nothing, failure))

    return probability


def _proposal(
    key: Key, at: Callable[[PyTree], Array], like: PyTree, num_pilot: int, num_margins: int, chunk_size: int | None
) -> _Proposal:
    """The mixture for the margins at noise; see `importance`."""

    def bounded(noise: PyTree) -> Array:
        values = at(noise)
        values = values.astype(tree.accumulator(values.dtype))
        most = float(jnp.finfo(values.dtype).max) ** 0.25  # a class that is masked trails by infinity
        return jnp.clip(values, -most, most)

    def moments(k: Key) -> tuple[Array, Array]:
        values = bounded(tree.normal_like(k, like))
        return values, values**2

    mean, square = expectation(moments, num_pilot, chunk_size=chunk_size)(key).mean
    spread = jnp.sqrt(jnp.maximum(square - mean**2, 0)) + 1e-3 * jnp.abs(mean) + float(jnp.finfo(mean.dtype).tiny)
    count = min(num_margins, len(mean))
    nearest = jnp.argsort(jnp.where(jnp.isnan(mean), -jnp.inf, mean / spread))[:count]

    def slopes(k: Key) -> tuple[Array, Array]:
        _, rows = jacobian(lambda noise: bounded(noise)[nearest])(tree.normal_like(k, like))
        flat = flat_rows(rows).astype(mean.dtype)
        return flat, jnp.sum(flat**2, 1)

    slope, energy = expectation(slopes, num_pilot, chunk_size=chunk_size)(key).mean
    length = jnp.sqrt(jnp.sum(slope**2, 1))
    linear = jnp.maximum((num_pilot * length**2 - energy) / (num_pilot - 1), 0)  # of the mean itself, without its noise

    def rest(k: Key) -> tuple[Array, Array]:
        noise = tree.normal_like(k, like)
        flat = tree.ravel(noise)[0].astype(mean.dtype)
        values = bounded(noise)[nearest] - jnp.dot(slope, flat, precision="highest")
        return values, values**2

    middle, square = expectation(rest, num_pilot, chunk_size=chunk_size)(jax.random.fold_in(key, num_pilot)).mean
    curved = jnp.maximum(square - middle**2, 0) * (num_pilot / (num_pilot - 1)) - (length**2 - linear)
    spread = jnp.sqrt(linear + jnp.maximum(curved, 0)) + float(jnp.finfo(mean.dtype).tiny)
    beta = jnp.clip(jnp.nan_to_num(middle / spread), -1e3, 1e3)
    safe = jnp.where(length > 0, length, jnp.ones_like(length))
    rho = jnp.clip(linear / (safe * spread), 0, 1)
    reach = jnp.where(length > 0, jnp.clip(rho * beta / (2 - rho**2), -MOST_REACH, MOST_REACH), 0)
    chance = ndtr(-jnp.abs(beta)) + float(jnp.finfo(mean.dtype).tiny)
    shares = (1 - DEFENSIVE) * (0.5 * chance / jnp.sum(chance) + 0.5 / count)
    shifts = -reach[:, None] * slope / safe[:, None]
    shifts = jnp.where(jnp.isfinite(shifts), shifts, jnp.zeros_like(shifts))  # a pilot that was NaN tells nothing
    return _Proposal(shifts, shares, jnp.min(beta) > 0)
