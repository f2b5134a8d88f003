"""LIME: the coefficients of a weighted linear model over random masks."""

import functools
from collections.abc import Callable

import jax.numpy as jnp

from jaxinterp import checks, local
from jaxinterp.attribution._stochastic import averaged
from jaxinterp.derivatives import Estimate
from jaxinterp.interpreters import restrict
from jaxinterp.typing import Key, PyTree, ScalarFn


def lime(
    f: ScalarFn,
    argnums: int | tuple[int, ...] = 0,
    *,
    num_samples: int = 1000,
    num_groups: int | None = None,
    kernel_width: float | None = None,
    ridge: float = 0.0,
    chunk_size: int | None = 16,
) -> Callable[..., PyTree]:
    r"""LIME: returns `(key, *args, baseline=0, groups=None)` -> the coefficients of a linear model over random masks.

    Minimises :math:`\sum_i \pi_i\,(f(z_i \odot x + (1 - z_i) \odot b) - a - w^\top z_i)^2 + \lambda\|w\|^2` over
    masks :math:`z_i` of fair coin flips, with :math:`\pi_i = \exp(-d_i^2/2\omega^2)` and d the root of the number
    of removed features: `local.secant` over the neighbourhood `local.binary_mask`, in closed form. A feature is an
    entry of the input, or a group of entries.

    Args:
      f: a scalar function.
      argnums: the explained argument, or several (then the result is a tuple).
      num_samples: number of masks, more than the number of features unless `ridge` > 0.
      num_groups: the number of features if `groups` are given at the call.
      kernel_width: ω; by default 0.75·√(number of features), the default of the lime package for tables.
      ridge: λ >= 0, in the units of the weights.
      chunk_size: masks evaluated together; memory grows with it, the samples do not depend on it. `None` takes all.

    Returns:
      A function of a key, f's arguments and the keywords `baseline` (b, a pytree prefix of x; zeros by default) and
      `groups` (integer arrays like x, naming the feature of each entry). The map is like the explained argument, in
      units of f; all entries of a group carry the coefficient of the group. For a linear function it is :math:`a
      \odot (x - b)`.

    Raises:
      TypeError: at the call, if f is not scalar, the input not floating-point or the key not a typed key.
      ValueError: if there are too few samples, or a group is not in 0..num_groups-1.

    Source: Ribeiro, Singh & Guestrin (2016).

    >>> explain = lime(lambda x: jnp.vdot(x, jnp.array([1.0, -2.0])), num_samples=50)
    >>> [round(float(a), 3) for a in explain(jax.random.key(0), jnp.ones(2))]
    [1.0, -2.0]
    """
    checks.positive_integer("num_samples", num_samples)
    checks.optional_chunk_size(chunk_size)
    checks.non_negative("ridge", ridge)

    def estimate(key: Key, *args: PyTree, baseline: PyTree = 0.0, groups: PyTree | None = None) -> Estimate:
        _, x = restrict("lime", f, argnums, args)
        _, features = local.feature_groups("lime", groups, num_groups, x)
        fit = local.secant(
            f,
            argnums,
            neighbourhood=functools.partial(local.binary_mask, num_groups=num_groups),
            num_samples=num_samples,
            weight=local.exponential_weight(0.75 * features**0.5 if kernel_width is None else kernel_width),
            ridge=ridge,
            chunk_size=chunk_size,
        )
        model = fit(key, *args, baseline=baseline, groups=groups)

        def spread(values: PyTree) -> PyTree:
            return values if groups is None else local.spread_over(groups, values, x)

        return Estimate(spread(model.slope), spread(model.stderr), jnp.asarray(num_samples, jnp.int32))

    return averaged(estimate)
