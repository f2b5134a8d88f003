"""LIME: the coefficients of a weighted linear model over random masks, or over noise (C-LIME)."""

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
    num_features: int | None = None,
    chunk_size: int | None = 16,
) -> Callable[..., PyTree]:
    r"""LIME: returns `(key, *args, baseline=0, background=None, groups=None)` -> coefficients over random masks.

    Minimises :math:`\sum_i \pi_i\,(f(z_i \odot x + (1 - z_i) \odot b) - a - w^\top z_i)^2 + \lambda\|w\|^2` over
    masks :math:`z_i` of fair coin flips, with :math:`\pi_i = \exp(-d_i^2/2\omega^2)` and d the root of the number
    of removed features: `local.fit` over the neighbourhood `local.binary_mask`, in closed form. A feature is an
    entry of the input, or a group of entries, such as a patch of an image (`local.grid_groups`). With a background, f
    is replaced by its mean over the rows b.

    Args:
      f: a scalar function.
      argnums: the explained argument, or several (then the result is a tuple).
      num_samples: number of masks, more than the number of features unless `ridge` > 0.
      num_groups: the number of features if `groups` are given at the call.
      kernel_width: ω; by default 0.75·√(number of features), the default of the lime package for tables.
      ridge: λ >= 0, in the units of the weights.
      num_features: how many features to keep, by least-angle regression; the others get 0. `None` keeps all.
      chunk_size: masks evaluated together; memory grows with it, the samples do not depend on it. `None` takes all.

    Returns:
      A function of a key, f's arguments and the keywords `baseline` (b, a pytree prefix of x; zeros by default),
      `background` (like x with a leading axis of rows) and `groups` (integer arrays like x, naming the feature of each
      entry). The map is like the explained argument, in
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
    neighbourhood = functools.partial(local.binary_mask, num_groups=num_groups)
    model = local.Linear(ridge=ridge, num_features=num_features)

    def estimate(key: Key, *args: PyTree, **arrays: PyTree) -> Estimate:
        _, x = restrict("lime", f, argnums, args)
        removing = local.masks("lime", x, num_groups=num_groups, **arrays)
        width = 0.75 * removing.num_features**0.5 if kernel_width is None else kernel_width
        fit = local.fit(
            f,
            argnums,
            neighbourhood=neighbourhood,
            model=model,
            num_samples=num_samples,
            weight=local.exponential_weight(width),
            chunk_size=chunk_size,
            name="lime",
        )
        found = fit(key, *args, **arrays)
        slope, stderr = (removing.spread_mask(values) for values in (found.slope, found.stderr))
        return Estimate(slope, stderr, jnp.asarray(num_samples, jnp.int32))

    return averaged("lime", estimate)


def c_lime(
    f: ScalarFn, argnums: int | tuple[int, ...] = 0, *, num_samples: int = 1000, chunk_size: int | None = 16
) -> Callable[..., PyTree]:
    r"""C-LIME: returns `(key, *args, stddev)` -> the coefficients of a linear model of f under Gaussian noise.

    Minimises :math:`\sum_i (f(x + \sigma\varepsilon_i) - a - w^\top \sigma\varepsilon_i)^2`: `local.fit` over
    `local.gaussian`. With many samples it tends to SmoothGrad, :math:`\mathbb E \nabla f(x + \sigma\varepsilon)`,
    without derivatives of f, which may have steps.

    Args:
      f: a scalar function.
      argnums: the explained argument, or several (then the result is a tuple).
      num_samples: number of noisy copies, more than the number of entries.
      chunk_size: copies evaluated together; memory grows with it, the samples do not depend on it. `None` takes all.

    Returns:
      A function of a key, f's arguments and the keyword `stddev` (σ > 0 in the units of x). The map is like the
      explained argument, in units of f per unit of x.

    Raises:
      TypeError: at the call, if f is not scalar, the input not floating-point or the key not a typed key.
      ValueError: if there are too few samples.

    Source: Garreau & von Luxburg (2020), Agarwal, Jabbari, Agarwal, Upadhyay, Wu & Lakkaraju (2021).

    >>> explain = c_lime(lambda x: jnp.sum(x**2), num_samples=500)
    >>> [round(float(a), 1) for a in explain(jax.random.key(0), jnp.array([1.0, 2.0]), stddev=0.1)]
    [2.0, 4.0]
    """
    fit = local.fit(
        f, argnums, neighbourhood=local.gaussian, num_samples=num_samples, chunk_size=chunk_size, name="c_lime"
    )

    def estimate(key: Key, *args: PyTree, stddev: PyTree) -> Estimate:
        found = fit(key, *args, stddev=stddev)
        return Estimate(found.slope, found.stderr, jnp.asarray(num_samples, jnp.int32))

    return averaged("c_lime", estimate)
