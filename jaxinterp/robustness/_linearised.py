"""Probabilities from linearised margins: Taylor, MMSE, and the softmax that they explain."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxinterp import checks, tree
from jaxinterp.derivatives import Estimate, expectation, jacobian
from jaxinterp.robustness._events import Event, Robustness, as_robustness, restricted_margins, same_prediction
from jaxinterp.robustness._noise import gaussian_noise
from jaxinterp.typing import Array, Key, LogitsFn, PyTree

MOST_CLASSES = 200  # that a normal CDF takes

CDF = Callable[[Array, Array], Array | Estimate]
"""`(z [k], R [k, k]) -> probability`, of a normal vector with correlations R, or something that stands for it."""


def multivariate_sigmoid(z: Array, correlation: Array | None = None) -> Array:
    r"""The multivariate sigmoid :math:`1/(1 + \sum_i e^{-z_i})`, a cheap stand-in for the normal CDF :math:`\Phi_R(z)`.

    It ignores the correlation, and is not a rescaled normal CDF either: in one dimension it is the logistic function,
    up to 0.117 away from Φ. With :math:`z_i = (f_t - f_i)/T` it is the softmax probability of class t at temperature
    T.

    Args:
      z: standardised margins, [k].
      correlation: ignored; here so that it can take the place of a normal CDF.

    >>> round(float(multivariate_sigmoid(jnp.array([1.0, 2.0]))), 4)
    0.6652
    >>> round(float(jax.nn.softmax(jnp.array([0.0, -1.0, -2.0]))[0]), 4)
    0.6652
    """
    return jnp.exp(-sigmoid_loss(z, correlation))


def sigmoid_loss(z: Array, correlation: Array | None = None) -> Array:
    """The negative logarithm of `multivariate_sigmoid`."""
    del correlation
    return jax.nn.logsumexp(jnp.concatenate([jnp.zeros((1,), z.dtype), -z]))


def taylor(
    f: LogitsFn,
    argnums: int | tuple[int, ...] = 0,
    *,
    cdf: CDF = multivariate_sigmoid,
    event: Event = same_prediction,
    chunk_size: int | None = None,
) -> Callable[..., Robustness]:
    r"""Taylor estimate: returns `(*args, stddev) -> Robustness` with :math:`p = F(z, R)` of the linearised margins.

    With t the predicted class and margins :math:`g_i = f_t - f_i`, :math:`z_i = g_i(x)/(\sigma\|\nabla g_i(x)\|)`
    and R the matrix of cosines between the gradients :math:`\nabla g_i`. With the normal CDF for F it is exact for
    a linear f; with `multivariate_sigmoid`, the default, it is a bounded, differentiable proxy of the same order.
    For curved f it is optimistic far from the boundary. One derivative per class, or per input if these are fewer.

    Args:
      f: `(*args) -> [classes]`, or a scalar function for `within`.
      argnums: the argument, or several, that noise is added to.
      cdf: F, a function of z [k] and R [k, k]. The normal CDF draws points, so it takes a key, which you pass where you
        build: `cdf=functools.partial(derivatives.orthant(num_points=2000), key)`. It takes the 200 smallest z of more,
        and `remainder` is the sum of Φ(-z) over the others.
      event: `(clean, noisy) -> margins`: `same_prediction`, `within(δ)`, or your own.
      chunk_size: derivatives computed together; memory grows with it. `None` takes all.

    Returns:
      A function of f's arguments and one of the keywords `stddev` (σ > 0 in the units of x, a scalar or a pytree
      prefix) and `factor` (A, [inputs, any], for noise :math:`A\varepsilon` of covariance :math:`AA^\top` in the
      flattened input).

    Raises:
      TypeError: at the call, if f does not return class scores, the input is not floating-point, or not one of
        `stddev` and `factor` is given.
      ValueError: if σ is negative, or the factor does not fit.

    Source: Han, Srinivas & Lakkaraju (2024).

    >>> f = lambda x: jnp.stack([x[0], -x[0]])
    >>> round(float(taylor(f)(jnp.array([1.0]), stddev=1.0).probability), 4)
    0.7311
    >>> import functools
    >>> from jaxinterp.derivatives import orthant
    >>> exact = taylor(f, cdf=functools.partial(orthant(), jax.random.key(0)))
    >>> round(float(exact(jnp.array([1.0]), stddev=1.0).probability), 4)
    0.8413
    """
    checks.optional_chunk_size(chunk_size)
    checks.functions("taylor", cdf=cdf)

    def probability(*args: PyTree, stddev: PyTree | None = None, factor: Array | None = None) -> Robustness:
        margins, x, _ = restricted_margins("taylor", f, argnums, event, args)
        noise = gaussian_noise("taylor", x, stddev, factor)
        values, rows = jacobian(margins, chunk_size=chunk_size)(x)
        return _probability(cdf, values, noise.rows(rows))

    return probability


def mmse(
    f: LogitsFn,
    argnums: int | tuple[int, ...] = 0,
    *,
    num_samples: int = 10,
    cdf: CDF = multivariate_sigmoid,
    event: Event = same_prediction,
    chunk_size: int | None = 1,
) -> Callable[..., Robustness]:
    r"""MMSE estimate: returns `(key, *args, stddev) -> Robustness`, the Taylor estimate of the smoothed margins.

    In place of :math:`g_i(x)` and :math:`\nabla g_i(x)` it takes their means over n noisy copies of x, with t fixed at
    the clean prediction: with many copies the linear margins with the least mean squared error under that noise. They
    know what curvature does to the mean, which `taylor` does not. The mean margins are off by about
    :math:`\sigma\|\nabla g_i\|/\sqrt n` in each call, z by :math:`1/\sqrt n`: for a nearly linear f `taylor` is
    better.

    Args:
      f: `(*args) -> [classes]`, or a scalar function for `within`.
      argnums: the argument, or several, that noise is added to.
      num_samples: n, each with one derivative per class.
      cdf: F, as for `taylor`.
      event: as for `taylor`.
      chunk_size: noisy copies taken together; memory grows with it. `None` takes all.

    Returns:
      As for `taylor`, with a leading key. The standard error is that of F alone, 0 for the sigmoid: how much the result
      depends on the copies is not in it. `num_samples` is n, or the number of points of F if that is more.

    Raises:
      TypeError: as for `taylor`, or if the key is not a typed key.
      ValueError: as for `taylor`, or if a count is not positive.

    Source: Han, Srinivas & Lakkaraju (2024).

    >>> f = lambda x: jnp.stack([x[0], -x[0]])
    >>> round(float(mmse(f, num_samples=100)(jax.random.key(0), jnp.array([1.0]), stddev=0.1).probability), 2)
    1.0
    """
    checks.positive_integer("num_samples", num_samples)
    checks.optional_chunk_size(chunk_size)
    checks.functions("mmse", cdf=cdf)

    def probability(key: Key, *args: PyTree, stddev: PyTree | None = None, factor: Array | None = None) -> Robustness:
        key = checks.key("mmse", key)
        margins, x, _ = restricted_margins("mmse", f, argnums, event, args)
        noise = gaussian_noise("mmse", x, stddev, factor)

        def sample(k: Key) -> tuple[Array, Array]:
            values, rows = jacobian(margins)(noise.at(tree.normal_like(k, noise.like)))
            most = float(jnp.finfo(values.dtype).max) ** 0.5  # a class that is masked leads or trails by infinity
            return jnp.clip(values, -most, most), noise.rows(rows)

        mean = expectation(sample, num_samples, chunk_size=chunk_size)(key).mean
        found = _probability(cdf, *mean)
        return dataclasses.replace(found, num_samples=jnp.maximum(found.num_samples, num_samples))

    return probability


def softmax(f: LogitsFn) -> Callable[..., Robustness]:
    r"""Softmax estimate: returns `(*args, temperature) -> Robustness`, the softmax probability of the prediction.

    :math:`p = \operatorname{softmax}(f(x)/T)_t` with t the predicted class.

    The cheapest proxy: no derivative, no noise. It equals `taylor` with the multivariate sigmoid exactly where
    :math:`\sigma\|\nabla(f_t - f_i)(x)\| = T` for all classes i.

    Args:
      f: `(*args) -> [classes]`.

    Returns:
      A function of f's arguments and the keyword `temperature` (T > 0, in units of f).

    Raises:
      TypeError: at the call, if f does not return class scores.
      ValueError: if T is negative or not one number.

    Source: Han, Srinivas & Lakkaraju (2024).

    >>> round(float(softmax(lambda x: x)(jnp.array([2.0, 0.0]), temperature=1.0).probability), 4)
    0.8808
    """

    def probability(*args: PyTree, temperature: Array | float) -> Robustness:
        if jnp.shape(temperature) != ():
            raise ValueError(
                f"`temperature` of `softmax` must be one number; got an array of shape {jnp.shape(temperature)}."
            )
        t = jnp.asarray(checks.non_negative("temperature", temperature))
        scores = checks.logits("softmax", f(*args))
        return as_robustness(multivariate_sigmoid(_ratio(same_prediction(scores, scores), t.astype(scores.dtype))))

    return probability


def _probability(cdf: CDF, margins: Array, rows: Array) -> Robustness:
    """F of margins with these gradients in the coordinates of the noise."""
    margins = margins.astype(rows.dtype)
    norms = jax.vmap(tree.norm)(rows).astype(rows.dtype)
    is_flat = norms == 0
    unit = jax.vmap(lambda row: tree.unit(row)[0])(rows)
    z, remainder = _ratio(margins, norms), jnp.zeros((), rows.dtype)
    if cdf not in (multivariate_sigmoid, sigmoid_loss) and len(z) > MOST_CLASSES:
        nearest = jnp.argsort(z)
        remainder = jnp.sum(jax.scipy.special.ndtr(-z[nearest[MOST_CLASSES:]]))
        z, unit = z[nearest[:MOST_CLASSES]], unit[nearest[:MOST_CLASSES]]
        is_flat = is_flat[nearest[:MOST_CLASSES]]
    cosines = jnp.dot(unit, unit.T, precision="highest") + jnp.diag(is_flat.astype(rows.dtype))
    p = cdf(z, cosines)
    if isinstance(p, Estimate):
        return as_robustness(p.mean, p.stderr, p.num_samples, remainder)
    return as_robustness(p, remainder=jnp.broadcast_to(remainder, jnp.shape(p)))


def _ratio(margins: Array, scale: Array) -> Array:
    """Returns margins / scale; where that is 0 a constant: infinite, and positive for a tie, which counts as kept."""
    is_zero = scale == 0
    signs = jnp.where(margins == 0, jnp.ones_like(margins), margins)
    limit = jax.lax.stop_gradient(signs * jnp.inf)
    safe = jnp.where(is_zero, jnp.ones_like(scale), scale)
    tiny = float(jnp.finfo(safe.dtype).tiny)
    unit = 1 / jnp.clip(
        jax.lax.stop_gradient(safe), tiny, 1 / tiny
    )  # the derivative's square of a scale is out of range
    return jnp.where(is_zero, limit, (margins * unit) / (safe * unit))
