"""Shapley values: exact from all subsets, by weighted least squares (KernelSHAP), and from random orders."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxinterp import checks, local
from jaxinterp.attribution._coalitions import all_values, marginals
from jaxinterp.attribution._stochastic import averaged
from jaxinterp.derivatives import Estimate, expectation
from jaxinterp.interpreters import restrict_scalar
from jaxinterp.typing import Array, Key, PyTree, ScalarFn

MODEL = local.Linear(intercept="anchored", complete=True)


def exact_shapley(
    f: ScalarFn,
    argnums: int | tuple[int, ...] = 0,
    *,
    num_groups: int | None = None,
    chunk_size: int | None = 256,
) -> Callable[..., PyTree]:
    r"""Shapley values from all subsets: returns `(*args, baseline=0, background=None, groups=None)` -> the values.

    :math:`\phi_i = \sum_{S \not\ni i} \frac{|S|!\,(d - |S| - 1)!}{d!}\,\bigl(v(S \cup i) - v(S)\bigr)`, where v(S) is f
    with the features outside S taken from the baseline, or its mean with them taken from the rows of the background
    (interventional). They sum to f(x) - f(b). It takes :math:`2^d` evaluations of f, for each row.

    Args:
      f: a scalar function.
      argnums: the explained argument, or several (then the result is a tuple).
      num_groups: the number of features d if `groups` are given at the call; at most 16.
      chunk_size: subsets evaluated together; memory grows with it. `None` takes all.

    Returns:
      A function of f's arguments and of the keywords `baseline` (a pytree prefix of x; zeros by default), `background`
      (like x with a leading axis of rows) and `groups` (integer arrays like x, naming the feature of each entry). The
      map is like the explained argument, in units of f; all entries of a group carry the value of the group.

    Raises:
      TypeError: at the call, if f is not scalar, the input not floating-point or the groups not integers.
      ValueError: at the call, if there are more than 16 features, or a baseline, background or groups do not fit.

    Source: Shapley (1953); for f as here Lundberg & Lee (2017), Janzing, Minorics & Blöbaum (2020).

    >>> exact_shapley(lambda x: x[0] * x[1] + x[2])(jnp.array([2.0, 3.0, 1.0])).tolist()
    [3.0, 3.0, 1.0]
    """
    checks.optional_chunk_size(chunk_size)
    remedy = ", or use `kernel_shap` or `sampling_shapley`"
    evaluate = all_values("exact_shapley", f, argnums, num_groups=num_groups, chunk_size=chunk_size, remedy=remedy)

    def attribute(*args: PyTree, **arrays: PyTree) -> PyTree:
        removing, values = evaluate(*args, **arrays)
        weights, change = marginals(values, removing.num_features)
        return removing.spread(jnp.sum(weights * change, 1))

    return attribute


def kernel_shap(
    f: ScalarFn,
    argnums: int | tuple[int, ...] = 0,
    *,
    num_samples: int = 1024,
    num_groups: int | None = None,
    chunk_size: int | None = 16,
) -> Callable[..., PyTree]:
    r"""KernelSHAP: returns `(key, *args, baseline=0, background=None, groups=None)` -> estimated Shapley values.

    The slope of the linear model of f that is nearest to it over masks z in the Shapley kernel :math:`\pi(z)`, and
    equal to it at the full and at the empty mask: `local.fit` over `local.coalitions`. So the values sum to f(x) - f(b)
    exactly. Small and large masks are all taken, as far as the samples reach, the others in pairs of a mask and its
    complement; with :math:`2^d - 2` samples or more it is `exact_shapley`. Features that removing does not change have
    the value 0, and no derivative. With few samples the estimate is biased, of order 1/samples, and its error is
    uncertain: take ten for each feature or more.

    Args:
      f: a scalar function.
      argnums: the explained argument, or several (then the result is a tuple).
      num_samples: the most masks; f is evaluated at two more.
      num_groups: the number of features d if `groups` are given at the call.
      chunk_size: masks evaluated together; memory grows with it, the samples do not depend on it. `None` takes all.

    Returns:
      A function of a key, f's arguments and the keywords `baseline`, `background` and `groups` of `exact_shapley`. The
      map is like the explained argument, in units of f. The standard error: see `with_stderr`; it is 0 where nothing
      was sampled.

    Raises:
      TypeError: at the call, if f is not scalar, the input not floating-point or the key not a typed key.
      ValueError: if there are fewer than 2(d - 1) samples.

    Source: Lundberg & Lee (2017); pairs of masks by Covert & Lee (2021).

    >>> explain = kernel_shap(lambda x: x[0] * x[1] + x[2])
    >>> [round(float(v), 4) for v in explain(jax.random.key(0), jnp.array([2.0, 3.0, 1.0]))]
    [3.0, 3.0, 1.0]
    """
    checks.optional_chunk_size(chunk_size)
    design = local.coalitions(num_samples, num_groups=num_groups)
    fit = local.fit(f, argnums, neighbourhood=design, model=MODEL, chunk_size=chunk_size, name="kernel_shap")

    def estimate(key: Key, *args: PyTree, **arrays: PyTree) -> Estimate:
        g, x = restrict_scalar("kernel_shap", f, argnums, args)
        removing = local.masks("kernel_shap", x, num_groups=num_groups, **arrays)
        d = removing.num_features
        if num_samples < 2 * (d - 1):
            raise ValueError(
                f"`kernel_shap` needs {2 * (d - 1)} samples for {d} features, two for each but one: a mask and its "
                f"complement tell the same; got num_samples={num_samples}."
            )
        if d == 1:
            v = removing.function(g)
            change = v(removing.shaped(jnp.ones(1))) - v(removing.shaped(jnp.zeros(1)))
            nothing = removing.spread(jnp.zeros_like(change)[None])
            return Estimate(removing.spread(change[None]), nothing, jnp.zeros((), jnp.int32))
        model = fit(key, *args, **arrays)
        size = design.size(x)
        count = jnp.asarray(0 if design.fixed(x) == size else size, jnp.int32)  # 0 where nothing is sampled
        return Estimate(removing.spread_mask(model.slope), removing.spread_mask(model.stderr), count)

    return averaged("kernel_shap", estimate)


def sampling_shapley(
    f: ScalarFn,
    argnums: int | tuple[int, ...] = 0,
    *,
    num_permutations: int = 32,
    num_groups: int | None = None,
    chunk_size: int | None = 1,
) -> Callable[..., PyTree]:
    r"""Shapley values by random orders: returns `(key, *args, baseline=0, background=None, groups=None)` -> estimates.

    :math:`\phi_i = \mathbb E_\pi\bigl[v(S_\pi(i) \cup i) - v(S_\pi(i))\bigr]`, where :math:`S_\pi(i)` are the features
    before i in the order π; each order is taken forwards and backwards. The estimate is unbiased, and for every order
    its sum is f(x) - f(b). f is evaluated 2(d - 1) times for each, and at x and b.

    Args:
      f: a scalar function.
      argnums: the explained argument, or several (then the result is a tuple).
      num_permutations: how many orders.
      num_groups: the number of features d if `groups` are given at the call.
      chunk_size: orders evaluated together, with 2(d - 1) inputs each. `None` takes all.

    Returns:
      A function of a key, f's arguments and the keywords of `exact_shapley`; the map is like the explained argument, in
      units of f. The standard error: see `with_stderr`.

    Raises:
      TypeError: at the call, if f is not scalar, the input not floating-point or the key not a typed key.
      ValueError: if a count is not positive, or a baseline, background or groups do not fit.

    Source: Castro, Gómez & Tejada (2009); pairs of orders by Mitchell, Cooper, Frank & Holmes (2022).

    >>> explain = sampling_shapley(lambda x: x[0] * x[1] + x[2])
    >>> explain(jax.random.key(0), jnp.array([2.0, 3.0, 1.0])).tolist()
    [3.0, 3.0, 1.0]
    """
    checks.positive_integer("num_permutations", num_permutations)
    checks.optional_chunk_size(chunk_size)

    def estimate(key: Key, *args: PyTree, **arrays: PyTree) -> Estimate:
        g, x = restrict_scalar("sampling_shapley", f, argnums, args)
        removing = local.masks("sampling_shapley", x, num_groups=num_groups, **arrays)
        d = removing.num_features
        v = removing.function(g)
        ends = jnp.stack([v(removing.shaped(mask)) for mask in (jnp.zeros(d), jnp.ones(d))])

        def contributions(rank: Array) -> Array:
            kept = rank[None] < jnp.arange(1, d, dtype=rank.dtype)[:, None]
            inner = jax.vmap(lambda mask: v(removing.shaped(mask)))(kept) if d > 1 else ends[:0]
            values = jnp.concatenate([ends[:1], inner, ends[1:]])
            return values[rank + 1] - values[rank]

        def sample(k: Key) -> PyTree:
            rank = jax.random.permutation(k, jnp.arange(d, dtype=jnp.int32))
            both = jax.vmap(contributions)(jnp.stack([rank, d - 1 - rank]))
            return removing.spread(jnp.mean(both, 0))

        return expectation(sample, num_permutations, chunk_size=chunk_size)(key)

    return averaged("sampling_shapley", estimate)
