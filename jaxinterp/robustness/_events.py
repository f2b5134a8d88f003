"""What is to survive the noise: the predicted class, or the value of a regression within a tolerance."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxinterp import checks
from jaxinterp.interpreters import restrict
from jaxinterp.typing import Array, PyTree

Event = Callable[[Array, Array], Array]
"""`(clean output, noisy output) -> margins` [k], none of which is negative where the event holds."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Robustness:
    """The probability that an event, such as the prediction staying the same, survives noise.

    Attributes:
      probability: a scalar; in [0, 1], but for `importance`, whose weights may carry it a little beyond.
      stderr: its standard error from sampling; 0 for a deterministic estimator, whose bias it does not include.
      num_samples: of the function, or of points of a normal CDF, an int32 scalar; 0 for a deterministic estimator.
      remainder: how much the classes that a normal CDF left out could take away from the probability, at most.
    """

    probability: Array
    stderr: Array
    num_samples: Array
    remainder: Array


def as_robustness(
    probability: Array, stderr: Array | None = None, num_samples: Array | int = 0, remainder: Array | None = None
) -> Robustness:
    """A `Robustness` of which only the probability has to be known."""
    nothing = jnp.zeros_like(probability)
    return Robustness(
        probability,
        nothing if stderr is None else stderr,
        jnp.asarray(num_samples, jnp.int32),
        nothing if remainder is None else remainder,
    )


def counted(method: str, values: PyTree) -> PyTree:
    """Returns `values`, with respect to which frequencies have no derivative: it would be 0 wherever it is one."""
    return checks.not_differentiable(
        method, values, "counts, so it has no derivative; differentiate `robustness.mmse` or `taylor`"
    )


def same_prediction(clean: Array, noisy: Array) -> Array:
    r"""The margins :math:`f_t - f_i` of the class t that is predicted without noise over the others i, in their order.

    >>> same_prediction(jnp.array([0.0, 2.0, 1.0]), jnp.array([1.0, 1.5, 3.0])).tolist()
    [0.5, -1.5]
    """
    return leads(noisy, jnp.argmax(checks.logits("same_prediction", clean)))


def leads(scores: Array, label: Array) -> Array:
    """The lead of a class over each other one, in their order; NaN for a label that is not one of the classes."""
    label = jnp.asarray(label)
    others = jnp.arange(scores.shape[0] - 1, dtype=label.dtype)
    valid = (label >= 0) & (label < scores.shape[0])
    scores = scores * jnp.where(valid, 1, jnp.nan).astype(scores.dtype)
    return scores[label][None] - scores[others + (others >= label).astype(label.dtype)]


def within(tolerance: float) -> Event:
    r"""The event :math:`|f(x + \varepsilon) - f(x)| \le \delta` of a scalar function.

    Args:
      tolerance: δ >= 0, in units of f.

    Raises:
      ValueError: if it is negative.
      TypeError: at the call, if the function does not return a scalar.

    >>> within(0.5)(jnp.asarray(1.0), jnp.asarray(1.25)).tolist()
    [0.25, 0.75]
    """
    delta = checks.non_negative("tolerance", tolerance)

    def margins(clean: Array, noisy: Array) -> Array:
        change = checks.scalar("within", noisy) - checks.scalar("within", clean)
        limit = jnp.asarray(delta, change.dtype)
        return jnp.stack([limit - change, limit + change])

    return margins


def restricted_margins(
    method: str, f: Callable[..., Array], argnums: int | tuple[int, ...], event: Event, args: tuple
) -> tuple[Callable[[PyTree], Array], PyTree, Array]:
    """The margins as a function of the perturbed argument, its value, and the clean output."""
    checks.functions(method, event=event)
    g, x = restrict(method, f, argnums, args)
    clean = checks.logits(method, g(x)) if event is same_prediction else g(x)
    margins = event(clean, clean)
    if not isinstance(margins, jax.Array) or margins.ndim != 1 or not jnp.issubdtype(margins.dtype, jnp.floating):
        raise TypeError(
            f"`event` of `{method}` must return margins, a vector of real numbers none of which is negative where the "
            f"event holds; it returned {margins!r}."
        )
    return lambda point: event(clean, g(point)), x, clean
