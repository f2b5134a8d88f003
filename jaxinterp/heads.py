"""Heads: choose what about a classifier is explained, by turning its logits into a scalar.

A head takes `f: (*args) -> [classes]` and returns `(*args, label) -> scalar`. The label is an ordinary trailing
argument, so `jax.vmap` maps it like any other, and there is no other place in the library where a class is chosen.

JAX clamps an index outside an array without a word. Here a label outside the classes is an error while its value is
known; under `jax.jit` or `jax.vmap`, where it is not, the result and all its derivatives are NaN.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxinterp import checks
from jaxinterp.typing import Array, LogitsFn, PyTree, ScalarFn


def _head(name: str, f: LogitsFn, select: Callable[[Array, Array], Array]) -> ScalarFn:
    @functools.wraps(f, updated=())
    def headed(*args: PyTree) -> Array:
        if len(args) < 2:
            raise TypeError(
                f"`{name}(f)` takes the arguments of f and then the label; got {len(args)} argument(s) in all."
            )
        *inputs, label = args
        scores = checks.logits(name, f(*inputs))
        checks.label(f"{name}(f)", label, scores.shape[0])
        label = jnp.asarray(label)
        label = label.astype(jnp.int32) if label.dtype.itemsize < 4 else label  # wide enough for any number of classes
        valid = (label >= 0) & (label < scores.shape[0])
        # All scores are multiplied, and not the selected one alone, so that every derivative becomes NaN too.
        return select(scores * jnp.where(valid, 1.0, jnp.nan).astype(scores.dtype), label)

    del headed.__wrapped__  # its signature lacks the label

    return headed


def _others(scores: Array, label: Array) -> Array:
    """The scores with that of the label replaced by minus infinity."""
    return jnp.where(jnp.arange(scores.shape[0], dtype=label.dtype) == label, -jnp.inf, scores)


def _surprise(scores: Array, label: Array) -> Array:
    """Minus the log-probability, as softplus of the log-odds against the label."""
    return jax.nn.softplus(jax.nn.logsumexp(_others(scores, label)) - scores[label])


def logit(f: LogitsFn) -> ScalarFn:
    r"""The score of one class: :math:`(x, y) \mapsto f_y(x)`.

    >>> score = logit(lambda x: jnp.array([1.0, 2.0]) * x)
    >>> float(score(3.0, 1))
    6.0
    """
    return _head("logit", f, lambda scores, label: scores[label])


def log_prob(f: LogitsFn) -> ScalarFn:
    r"""The log-probability of one class: :math:`(x, y) \mapsto f_y(x) - \log\sum_j e^{f_j(x)}`.

    Unlike a logit it does not change when a function of x is added to all logits (Srinivas & Fleuret, 2021). It is
    computed as :math:`-\log(1 + \sum_{j \ne y} e^{f_j - f_y})`, so that it and its derivatives keep their relative
    precision where the network is nearly sure; the difference of two large numbers would leave rounding noise
    there.

    >>> round(float(log_prob(lambda x: x)(jnp.zeros(4), 0)), 4)
    -1.3863
    """
    return _head("log_prob", f, lambda scores, label: -_surprise(scores, label))


def cross_entropy(f: LogitsFn) -> ScalarFn:
    r"""The cross-entropy loss at one label: :math:`(x, y) \mapsto \log\sum_j e^{f_j(x)} - f_y(x)`.

    >>> round(float(cross_entropy(lambda x: x)(jnp.zeros(4), 0)), 4)
    1.3863
    """
    return _head("cross_entropy", f, _surprise)


def margin(f: LogitsFn) -> ScalarFn:
    r"""The lead over the best other class: :math:`(x, y) \mapsto f_y(x) - \max_{j \ne y} f_j(x)`.

    It is positive exactly where y is predicted.

    >>> float(margin(lambda x: x)(jnp.array([3.0, 5.0, 1.0]), 1))
    2.0
    """

    def select(scores: Array, label: Array) -> Array:
        return scores[label] - jnp.max(_others(scores, label))

    return _head("margin", f, select)
