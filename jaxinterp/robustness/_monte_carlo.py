"""The frequency with which an event survives noise."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxinterp import checks, interpreters, local, tree
from jaxinterp.robustness._events import Event, Robustness, as_robustness, counted, restricted_margins, same_prediction
from jaxinterp.typing import Array, Key, LogitsFn, PyTree


def monte_carlo(
    f: LogitsFn,
    argnums: int | tuple[int, ...] = 0,
    *,
    num_samples: int = 1000,
    chunk_size: int | None = 16,
    neighbourhood: local.Neighbourhood = local.gaussian,
    event: Event = same_prediction,
    precision: float | None = None,
) -> Callable[..., Robustness]:
    r"""Monte Carlo: returns `(key, *args, stddev) -> Robustness`, the frequency with which the prediction stays.

    :math:`p = P[\arg\max f(x + \sigma\varepsilon) = \arg\max f(x)],\ \varepsilon \sim \mathcal N(0, I)`; with another
    neighbourhood the noise is that, and with `event=within(δ)` it is :math:`P[|f(x + \varepsilon) - f(x)| \le \delta]`.

    Unbiased, with standard error :math:`\sqrt{p(1 - p)/n}`. That estimate is 0 when all or none of n samples agree;
    the probability is then above :math:`0.05^{1/n}` (or below one minus it) with 95 % confidence, about 1 - 3/n.
    Ties count as kept, a noisy output that is NaN as changed; where the clean one is NaN, so is p.

    Args:
      f: `(*args) -> [classes]`, or a scalar function for `within`.
      argnums: the argument, or several, that noise is added to.
      num_samples: n, or the most samples if a precision is asked for.
      chunk_size: predictions computed together; memory grows with it, the samples do not depend on it. `None` takes
        all.
      neighbourhood: the noise, `(key, x, **arrays) -> Perturbation`: `local.gaussian`, `local.ball`, or your own.
      event: `(clean, noisy) -> margins`: `same_prediction`, `within(δ)`, or your own.
      precision: stop after a chunk as soon as the standard error is below it, counting one sample of each kind more so
        that agreement alone does not stop it. The estimate then has a bias of order 1/n.

    Returns:
      A function of a key, f's arguments and the keywords of the neighbourhood: for Gaussian noise `stddev` (σ >= 0 in
      the units of x, a scalar or a pytree prefix).

    Raises:
      TypeError: at the call, if f does not return class scores or the input is not floating-point; where x or the
        noise is differentiated.
      ValueError: if a count or the precision is not positive, or σ is negative.

    Source: Han, Srinivas & Lakkaraju (2024).

    >>> f = lambda x: jnp.stack([x[0], -x[0]])
    >>> result = monte_carlo(f, num_samples=2000)(jax.random.key(0), jnp.array([1.0]), stddev=1.0)
    >>> bool(abs(result.probability - 0.8413) < 4 * result.stderr)
    True
    """
    n = checks.positive_integer("num_samples", num_samples)
    size = min(checks.optional_chunk_size(chunk_size) or n, n)
    checks.functions("monte_carlo", neighbourhood=neighbourhood, event=event)
    if precision is not None:
        checks.positive("precision", precision)

    def probability(key: Key, *args: PyTree, **arrays: PyTree) -> Robustness:
        key = checks.key("monte_carlo", key)
        margins, x, clean = restricted_margins("monte_carlo", f, argnums, event, args)
        x, arrays = counted("monte_carlo", (x, arrays))

        def noisy(index: Array) -> PyTree:
            drawn = neighbourhood(jax.random.fold_in(key, index), x, **arrays)
            return local.checked_point("monte_carlo", drawn, x)

        def survives(index: Array) -> Array:
            return jnp.all(margins(noisy(index)) >= 0) & (index < n)

        def chunk(done: Array, kept: Array) -> tuple[Array, Array]:
            indices = done + jnp.arange(size, dtype=jnp.int32)
            return jnp.minimum(done + size, n), kept + jnp.sum(jax.vmap(survives)(indices), dtype=jnp.int32)

        def goes_on(state: tuple[Array, Array]) -> Array:
            done, kept = state
            if precision is None:
                return done < n
            taken = (done + 2).astype(jnp.float32)
            share = (kept + 1).astype(jnp.float32) / taken
            return (done < n) & ((done == 0) | (share * (1 - share) > precision**2 * taken))

        step = interpreters.loop_safe(chunk)
        zero = jnp.zeros((), jnp.int32)
        done, kept = jax.lax.while_loop(goes_on, lambda state: tuple(step(*state)), (zero, zero))
        dtype = tree.accumulator(jnp.result_type(clean))
        p = kept.astype(dtype) / done.astype(dtype)
        known = ~jnp.any(jnp.isnan(clean)) & tree.all_finite(noisy(jnp.zeros((), jnp.int32)))
        p = jnp.where(known, p, jnp.full_like(p, jnp.nan))
        return as_robustness(p, jnp.sqrt(p * (1 - p) / done.astype(dtype)), done)

    return probability
