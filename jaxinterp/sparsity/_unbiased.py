"""Gradients of expected losses with respect to the probabilities of gates, without the bias of straight-through."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from jaxinterp import checks, interpreters, tree
from jaxinterp.derivatives import Estimate
from jaxinterp.typing import Array, Key, PyTree

SMALLEST = 1e-6  # of k and 1 - k, by which the gradients divide; at least the precision of the gates


def unbiased_gradient(
    loss: Callable[[PyTree], Array], *, num_samples: int = 8, method: Literal["arm", "reinforce"] = "arm"
) -> Callable[[Key, PyTree], tuple[Array, Estimate]]:
    r"""Returns `(key, gates) -> (value, gradient)` of :math:`E_{m \sim \mathrm{Bernoulli}(k)}\,\text{loss}(m)`.

    The straight-through gradient is unbiased only for losses that are linear in the mask: for :math:`(m - a)^2` it is
    :math:`2(k - a)` on average, the truth :math:`1 - 2a`. These two only evaluate the loss.

    - "reinforce": :math:`(\text{loss}(m) - b)\,\frac{m - k}{k(1-k)}` with b the mean of the other samples.
    - "arm": with u uniform, :math:`(\text{loss}(\mathbb 1[u > 1-k]) - \text{loss}(\mathbb 1[u < k]))\,
      \frac{u - 1/2}{k(1-k)}`: two evaluations for each sample, with opposite noise, and usually less variance.

    Args:
      loss: a scalar function of a mask, a pytree like the gates.
      num_samples: masks (pairs of masks for "arm"), at least 2.
      method: "arm" or "reinforce".

    Returns:
      A function of a key and the gates k; the gradient's mean and standard error are pytrees like them. Gates at 0 or 1
      are taken as 1e-6 from there, or the precision of their dtype if it is coarser.

    Raises:
      ValueError: if the method is unknown or there are fewer than two samples.

    Source: Williams (1992); Kool, van Hoof & Welling (2019) for the baseline; Yin & Zhou (2019) for ARM.

    >>> value, gradient = unbiased_gradient(lambda m: 3 * m, num_samples=1000)(jax.random.key(0), jnp.asarray(0.3))
    >>> bool(abs(gradient.mean - 3) < 4 * gradient.stderr)
    True
    """
    checks.one_of("method", method, ("arm", "reinforce"))
    if checks.positive_integer("num_samples", num_samples) < 2:
        raise ValueError("`unbiased_gradient` needs 2 samples or more, whose spread is its standard error; got 1.")

    def estimate(key: Key, gates: PyTree) -> tuple[Array, Estimate]:
        key = checks.key("unbiased_gradient", key)
        k = jax.tree.map(_inside, gates)
        look = interpreters.loop_safe(lambda mask: checks.scalar("unbiased_gradient", loss(mask)))

        def one(index: Array) -> tuple[Array, Array, PyTree]:
            """The loss, what multiplies the direction but for the baseline, and the direction."""
            noise = tree.uniform_like(jax.random.fold_in(key, index), k)
            u = jax.tree.map(lambda n: (n + 1) / 2, noise)
            below = jax.tree.map(lambda u, p: (u < p).astype(p.dtype), u, k)
            value = look(below)
            if method == "reinforce":
                return value, value, jax.tree.map(lambda m, p: (m - p) / (p * (1 - p)), below, k)
            above = look(jax.tree.map(lambda u, p: (u > 1 - p).astype(p.dtype), u, k))
            direction = jax.tree.map(lambda u, p: (u - 0.5) / (p * (1 - p)), u, k)
            return (value + above) / 2, above - value, direction

        values, factors, directions = jax.lax.map(one, jnp.arange(num_samples, dtype=jnp.int32))
        if method == "reinforce":
            factors = (factors - jnp.mean(factors)) * (num_samples / (num_samples - 1))

        def moments(d: Array) -> tuple[Array, Array]:
            each = factors.astype(d.dtype).reshape(-1, *(1,) * (d.ndim - 1)) * d
            return jnp.mean(each, 0), jnp.std(each, 0, ddof=1) / num_samples**0.5

        pairs = jax.tree.map(moments, directions)
        mean, stderr = jax.tree.transpose(jax.tree.structure(k), jax.tree.structure((0, 0)), pairs)
        return jnp.mean(values), Estimate(mean, stderr, jnp.asarray(num_samples, jnp.int32))

    return estimate


def _inside(gates: Array) -> Array:
    margin = max(SMALLEST, float(jnp.finfo(gates.dtype).eps))
    return jnp.clip(gates, margin, 1 - margin)
