"""Average-case robustness: the probability that a prediction survives Gaussian noise."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxinterp import checks, local, tree
from jaxinterp.derivatives import expectation
from jaxinterp.interpreters import restrict
from jaxinterp.typing import Array, Key, LogitsFn, PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Robustness:
    """The probability that the predicted class stays the same.

    Attributes:
      probability: in [0, 1], a scalar.
      stderr: its standard error from sampling; 0 for a deterministic estimator, whose bias it does not include.
      num_samples: number of noise samples, an int32 scalar; 0 for a deterministic estimator.
    """

    probability: Array
    stderr: Array
    num_samples: Array


def monte_carlo(
    f: LogitsFn, argnums: int | tuple[int, ...] = 0, *, num_samples: int = 1000, chunk_size: int | None = 16
) -> Callable[..., Robustness]:
    r"""Monte Carlo: returns `(key, *args, stddev) -> Robustness`, the frequency with which the prediction stays.

    :math:`p = P[\arg\max f(x + \sigma\varepsilon) = \arg\max f(x)],\ \varepsilon \sim \mathcal N(0, I)`.

    Unbiased, with standard error :math:`\sqrt{p(1 - p)/n}`. That estimate is 0 when all or none of n samples agree;
    the probability is then above :math:`0.05^{1/n}` (or below one minus it) with 95 % confidence, about 1 - 3/n.
    Not differentiable. A noisy prediction that is NaN counts as changed; where the clean one is NaN, so is p.

    Args:
      f: `(*args) -> [classes]`.
      argnums: the argument, or several, that noise is added to.
      num_samples: n.
      chunk_size: predictions computed together; memory grows with it, the samples do not depend on it. `None` takes
        all.

    Returns:
      A function of a key, f's arguments and the keyword `stddev` (σ >= 0 in the units of x, a scalar or a pytree
      prefix).

    Raises:
      TypeError: at the call, if f does not return class scores or the input is not floating-point.
      ValueError: if a count is not positive or σ is negative.

    Source: Han, Srinivas & Lakkaraju (2024).

    >>> f = lambda x: jnp.stack([x[0], -x[0]])
    >>> result = monte_carlo(f, num_samples=2000)(jax.random.key(0), jnp.array([1.0]), stddev=1.0)
    >>> bool(abs(result.probability - 0.8413) < 4 * result.stderr)
    True
    """
    n = checks.positive_integer("num_samples", num_samples)
    checks.optional_chunk_size(chunk_size)

    def probability(key: Key, *args: PyTree, stddev: PyTree) -> Robustness:
        g, x = _classifier("monte_carlo", f, argnums, args)
        clean = g(x)
        predicted = jnp.argmax(clean)
        sigma = checks.non_negative("stddev", stddev)

        def survives(k: Key) -> Array:
            scores = g(local.gaussian(k, x, stddev=sigma).point)
            same = (jnp.argmax(scores) == predicted) & ~jnp.any(jnp.isnan(scores))
            return same.astype(tree.accumulator(scores.dtype))

        p = expectation(survives, n, chunk_size=chunk_size)(checks.key("monte_carlo", key)).mean
        known = ~jnp.any(jnp.isnan(clean)) & tree.all_finite(sigma)
        p = jnp.where(known, p, jnp.full_like(p, jnp.nan))
        return Robustness(p, jnp.sqrt(p * (1 - p) / n), jnp.asarray(n, jnp.int32))

    return probability


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
    del correlation
    return jnp.exp(-jax.nn.logsumexp(jnp.concatenate([jnp.zeros((1,), z.dtype), -z])))


def taylor(
    f: LogitsFn, argnums: int | tuple[int, ...] = 0, *, cdf: Callable[[Array, Array], Array] = multivariate_sigmoid
) -> Callable[..., Robustness]:
    r"""Taylor estimate: returns `(*args, stddev) -> Robustness` with :math:`p = F(z, R)` of the linearised margins.

    With t the predicted class and margins :math:`g_i = f_t - f_i`, :math:`z_i = g_i(x)/(\sigma\|\nabla g_i(x)\|)`
    and R the matrix of cosines between the gradients :math:`\nabla g_i`. With the normal CDF for F it is exact for
    a linear f; with `multivariate_sigmoid`, the default, it is a bounded, differentiable proxy of the same order.
    For curved f it is optimistic far from the boundary. One reverse pass per class.

    Args:
      f: `(*args) -> [classes]`.
      argnums: the argument, or several, that noise is added to.
      cdf: F, a function of z [classes - 1] and R [classes - 1, classes - 1].

    Returns:
      A function of f's arguments and the keyword `stddev` (σ > 0 in the units of x, a scalar).

    Raises:
      TypeError: at the call, if f does not return class scores or the input is not floating-point.
      ValueError: if σ is negative or not one number.

    Source: Han, Srinivas & Lakkaraju (2024).

    >>> f = lambda x: jnp.stack([x[0], -x[0]])
    >>> round(float(taylor(f)(jnp.array([1.0]), stddev=1.0).probability), 4)
    0.7311
    """

    def probability(*args: PyTree, stddev: Array | float) -> Robustness:
        g, x = _classifier("taylor", f, argnums, args)
        sigma = _one_number("taylor", "stddev", stddev)
        scores, pull_back = jax.vjp(g, x)
        (gradients,) = jax.vmap(pull_back)(jnp.eye(scores.shape[0], dtype=scores.dtype))
        predicted = jnp.argmax(scores)
        margins = _margins(scores, predicted).astype(tree.accumulator(scores.dtype))
        slopes = [_margins(leaf, predicted) for leaf in jax.tree.leaves(gradients)]
        flat = jnp.concatenate([leaf.reshape(len(margins), -1).astype(margins.dtype) for leaf in slopes], axis=1)
        norms = jax.vmap(tree.norm)(flat)
        norms = norms.astype(margins.dtype)
        unit = flat / jnp.where(norms == 0, jnp.ones_like(norms), norms)[:, None]
        p = cdf(_ratio(margins, sigma.astype(margins.dtype) * norms), jnp.dot(unit, unit.T, precision="highest"))
        return Robustness(p, jnp.zeros_like(p), jnp.zeros((), jnp.int32))

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
        t = _one_number("softmax", "temperature", temperature)
        scores = checks.logits("softmax", f(*args))
        p = multivariate_sigmoid(_ratio(_margins(scores, jnp.argmax(scores)), t.astype(scores.dtype)))
        return Robustness(p, jnp.zeros_like(p), jnp.zeros((), jnp.int32))

    return probability


def _classifier(
    method: str, f: LogitsFn, argnums: int | tuple[int, ...], args: tuple
) -> tuple[Callable[[PyTree], Array], PyTree]:
    g, x = restrict(method, f, argnums, args)
    return lambda point: checks.logits(method, g(point)), x


def _one_number(method: str, name: str, value: Array | float) -> Array:
    if jnp.shape(value) != ():
        raise ValueError(f"`{name}` of `{method}` must be one number; got an array of shape {jnp.shape(value)}.")
    return jnp.asarray(checks.non_negative(name, value))


def _ratio(margins: Array, scale: Array) -> Array:
    """Returns margins / scale; where the scale is 0 a constant, infinite with the sign of the margin (0/0 is NaN)."""
    is_zero = scale == 0
    limit = jax.lax.stop_gradient(margins * jnp.inf)
    return jnp.where(is_zero, limit, margins / jnp.where(is_zero, jnp.ones_like(scale), scale))


def _margins(scores: Array, predicted: Array) -> Array:
    """The lead of the predicted class over each other class, in the order of the classes, along the first axis."""
    others = jnp.arange(scores.shape[0] - 1)
    return scores[predicted][None] - scores[others + (others >= predicted).astype(others.dtype)]
