"""Certificates: radii within which a prediction cannot change."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from scipy.special import betaincinv

from jaxinterp import checks, local, tree
from jaxinterp.derivatives import weighted_sum
from jaxinterp.interpreters import restrict
from jaxinterp.robustness._events import counted, restricted_margins, same_prediction
from jaxinterp.typing import Array, Key, LogitsFn, PyTree

MOST_SAMPLES = 2**24  # up to which float32 counts


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Certificate:
    """A Euclidean radius within which the prediction of a smoothed classifier does not change.

    Attributes:
      label: what the smoothed classifier predicts, an int32 scalar; -1 where it abstains.
      radius: in the units of x; 0 where it abstains.
      lower: the lower confidence bound of the probability of that class under the noise.
    """

    label: Array
    radius: Array
    lower: Array


def smoothing_certificate(
    f: LogitsFn,
    argnums: int | tuple[int, ...] = 0,
    *,
    num_selection: int = 100,
    num_samples: int = 10_000,
    alpha: float = 0.001,
    chunk_size: int | None = 64,
) -> Callable[..., Certificate]:
    r"""Randomised smoothing: returns `(key, *args, stddev) -> Certificate`, a radius for the smoothed classifier.

    That predicts the class which f predicts most often at :math:`x + \sigma\varepsilon`. The most frequent one of the
    first samples is the candidate. Of n others k predict it; with :math:`\underline p` the Clopper-Pearson lower bound
    of k out of n at level α, the smoothed prediction is the same within :math:`\sigma\,\Phi^{-1}(\underline p)` of x,
    with confidence 1 - α over the samples. Where the bound is below one half it abstains.

    Args:
      f: `(*args) -> [classes]`.
      argnums: the argument, or several, that noise is added to.
      num_selection: samples that choose the candidate.
      num_samples: n.
      alpha: α, between 0 and 1.
      chunk_size: predictions computed together; memory grows with it. `None` takes all.

    Returns:
      A function of a key, f's arguments and the keyword `stddev` (σ > 0 in the units of x, one number).

    Raises:
      TypeError: at the call, if f does not return class scores or the input is not floating-point; where x is
        differentiated.
      ValueError: if a count is not positive, α not between 0 and 1, or σ not one number.

    Source: Cohen, Rosenfeld & Kolter (2019).

    >>> certify = smoothing_certificate(lambda x: jnp.stack([x[0], -x[0]]), num_samples=1000)
    >>> found = certify(jax.random.key(0), jnp.array([1.0]), stddev=1.0)  # the true radius is 1
    >>> int(found.label), bool(0.7 < found.radius < 1)
    (0, True)
    """
    checks.positive_integer("num_selection", num_selection)
    checks.positive_integer("num_samples", num_samples)
    checks.optional_chunk_size(chunk_size)
    if num_samples > MOST_SAMPLES:
        raise ValueError(f"`smoothing_certificate` counts at most {MOST_SAMPLES} samples; got {num_samples}.")
    checks.share("alpha", alpha)

    def certify(key: Key, *args: PyTree, stddev: Array | float) -> Certificate:
        key = checks.key("smoothing_certificate", key)
        g, x = restrict("smoothing_certificate", f, argnums, args)
        x = counted("smoothing_certificate", x)
        if jnp.shape(stddev) != ():
            raise ValueError(f"`stddev` of `smoothing_certificate` must be one number; got shape {jnp.shape(stddev)}.")
        num_classes = jax.eval_shape(lambda point: checks.logits("smoothing_certificate", g(point)), x).shape[0]

        def counts(k: Key, n: int) -> Array:
            def vote(index: Array) -> Array:
                scores = g(local.gaussian(jax.random.fold_in(k, index), x, stddev=stddev).point)
                is_vote = (jnp.arange(num_classes) == jnp.argmax(scores)) & ~jnp.any(jnp.isnan(scores))
                return is_vote.astype(jnp.float32)  # sums of ones are exact up to 2^24

            ones = jnp.ones((n,), jnp.float32)
            return weighted_sum(vote, jnp.arange(n, dtype=jnp.int32), ones, chunk_size=chunk_size).astype(jnp.int32)

        candidate = jnp.argmax(counts(jax.random.fold_in(key, 0), num_selection)).astype(jnp.int32)
        kept = counts(jax.random.fold_in(key, 1), num_samples)[candidate]
        lower = clopper_pearson_lower(kept, num_samples, alpha)
        is_certain = lower > 0.5
        drawn = jax.tree.leaves(tree.broadcast_prefix("stddev", stddev, x))  # rounded to the dtypes of x
        sigma = jnp.min(jnp.stack([jnp.min(leaf).astype(lower.dtype) for leaf in drawn]))
        quantile = ndtri(jnp.where(is_certain, lower, 0.75)) * (
            1 - 4 * float(jnp.finfo(lower.dtype).eps)
        )  # rounded down
        radius = jnp.where(is_certain, sigma * quantile, jnp.zeros_like(lower))
        return Certificate(jnp.where(is_certain, candidate, -1), radius, lower)

    return certify


def clopper_pearson_lower(successes: Array, num_trials: int, alpha: float) -> Array:
    r"""The lower confidence bound of a probability: the p with :math:`P[\mathrm{Bin}(n, p) \ge k] = \alpha`.

    0 for no success and :math:`\alpha^{1/n}` for successes only: a quantile of a beta distribution, in float64 when the
    program is built, rounded down.

    Args:
      successes: k, an integer.
      num_trials: n.
      alpha: α: the bound is above the probability in no more than this share of cases.

    Raises:
      TypeError: if k is not an integer.
      ValueError: if k is not between 0 and n, n not positive, or α not between 0 and 1.

    Source: Clopper & Pearson (1934).

    >>> round(float(clopper_pearson_lower(jnp.asarray(95), 100, 0.05)), 3)
    0.898
    """
    checks.positive_integer("num_trials", num_trials)
    checks.share("alpha", alpha)
    count = jnp.asarray(successes)
    if not jnp.issubdtype(count.dtype, jnp.integer):
        raise TypeError(f"`successes` must be integers; got dtype {count.dtype}.")
    counted = checks.concrete(count)
    if counted is not None and ((counted < 0) | (counted > num_trials)).any():
        raise ValueError(f"`successes` must be between 0 and num_trials={num_trials}; got {counted}.")
    dtype = jnp.result_type(float)
    known = np.arange(1, num_trials + 1)
    bounds = np.append(0.0, betaincinv(known, num_trials - known + 1.0, alpha)) * (1 - 1e-12)
    rounded = bounds.astype(dtype)
    bounds = np.where(rounded > bounds, np.nextafter(rounded, np.zeros((), dtype)), rounded)
    found = jnp.asarray(bounds, dtype)[jnp.clip(count, 0, num_trials)]
    return jnp.where((count >= 0) & (count <= num_trials), found, jnp.full_like(found, jnp.nan))


def lipschitz_certificate(f: LogitsFn, argnums: int | tuple[int, ...] = 0) -> Callable[..., Array]:
    r"""Lipschitz-margin certificate: returns `(*args, lipschitz) -> radius` :math:`= \min_i (f_t - f_i)(x)/L_i`.

    With :math:`L_i` an upper bound of the Lipschitz constant of the margin :math:`f_t - f_i` in a norm, the prediction
    does not change within that radius in that norm. For one number L, a bound of the map to all scores in the Euclidean
    norm, :math:`L_i = \sqrt2\,L`. It must bound the differences of values, so f must be continuous: `geometry.bounds`
    bounds derivatives, and says nothing of jumps.

    Args:
      f: `(*args) -> [classes]`.
      argnums: the argument, or several, that is changed.

    Returns:
      A function of f's arguments and the keyword `lipschitz`: one number L, or :math:`L_i` of the classes other than t
      in their order, [classes - 1]. The radius is in the units of x.

    Raises:
      TypeError: at the call, if f does not return class scores or the input is not floating-point.
      ValueError: if a bound is negative or of another shape.

    Source: Tsuzuku, Sato & Sugiyama (2018).

    >>> float(lipschitz_certificate(lambda x: jnp.stack([x[0], -x[0]]))(jnp.array([3.0]), lipschitz=jnp.array([2.0])))
    3.0
    """

    def radius(*args: PyTree, lipschitz: Array | float) -> Array:
        margins, x, _ = restricted_margins("lipschitz_certificate", f, argnums, _wide_margins, args)
        values = margins(x)
        bound = jnp.asarray(checks.non_negative("lipschitz", lipschitz)).astype(values.dtype)
        if bound.shape not in ((), values.shape):
            raise ValueError(f"`lipschitz` must be one number or {values.shape[0]}; got shape {bound.shape}.")
        bound = jnp.sqrt(2.0).astype(bound.dtype) * bound if bound.ndim == 0 else bound
        is_flat = bound == 0
        radii = jnp.where(is_flat, jnp.inf, values / jnp.where(is_flat, jnp.ones_like(bound), bound))
        return jnp.maximum(jnp.min(radii), 0)

    return radius


def _wide_margins(clean: Array, noisy: Array) -> Array:
    """The margins of the prediction, subtracted in at least float32."""
    scores = checks.logits("lipschitz_certificate", noisy)
    return same_prediction(clean, scores.astype(tree.accumulator(scores.dtype)))
