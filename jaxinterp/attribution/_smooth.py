"""Statistics of the gradient under Gaussian noise: its mean (SmoothGrad), mean square and variance (VarGrad)."""

from collections.abc import Callable

import jax

from jaxinterp import checks, local, tree
from jaxinterp.attribution._stochastic import Stochastic, averaged
from jaxinterp.derivatives import Estimate, expectation, variance
from jaxinterp.interpreters import restrict_scalar
from jaxinterp.typing import Key, PyTree, ScalarFn


def _noisy_gradient(method: str, f: ScalarFn, argnums: int | tuple[int, ...]) -> Callable[..., PyTree]:
    def sample(key: Key, *args: PyTree, stddev: PyTree) -> PyTree:
        g, x = restrict_scalar(method, f, argnums, args)
        return jax.grad(g)(local.gaussian(key, x, stddev=stddev).point)

    return sample


def smooth_grad(
    f: ScalarFn, argnums: int | tuple[int, ...] = 0, *, num_samples: int = 64, chunk_size: int | None = 1
) -> Callable[..., PyTree]:
    r"""SmoothGrad: returns `(key, *args, stddev)` -> the mean gradient under noise.

    :math:`\phi = \mathbb E\,\nabla f(x + \sigma\varepsilon),\ \varepsilon \sim \mathcal N(0, I)`.

    The gradient of the smoothed function :math:`\mathbb E f(x + \sigma\varepsilon)`: the slope of the linear model
    that matches the gradients of f over a Gaussian neighbourhood. The average over n samples has a standard error;
    see `with_stderr`.

    Args:
      f: a scalar function.
      argnums: the explained argument, or several (noise is added to each, and the result is a tuple).
      num_samples: n.
      chunk_size: gradients computed together; memory grows with it, the samples do not depend on it.
        Raise it for few examples on an accelerator; `None` takes all.

    Returns:
      A function of a key, f's arguments and the keyword `stddev` (σ >= 0 in the units of x, a scalar or a pytree
      prefix). The map is like the explained argument, in units of f per unit of x. Over a batch:
      `jax.vmap(functools.partial(explain, stddev=0.1))(keys, images, labels)`.

    Raises:
      TypeError: at the call, if f is not scalar, the input not floating-point or the key not a typed key.
      ValueError: if a count is not positive or σ is negative.

    Source: Smilkov, Thorat, Kim, Viégas & Wattenberg (2017).

    >>> explain = smooth_grad(lambda x: jnp.sum(3.0 * x), num_samples=4)
    >>> explain(jax.random.key(0), jnp.ones(2), stddev=0.1).tolist()
    [3.0, 3.0]
    """
    return averaged(
        "smooth_grad", expectation(_noisy_gradient("smooth_grad", f, argnums), num_samples, chunk_size=chunk_size)
    )


def square_grad(
    f: ScalarFn, argnums: int | tuple[int, ...] = 0, *, num_samples: int = 64, chunk_size: int | None = 1
) -> Callable[..., PyTree]:
    r"""SmoothGrad squared: returns `(key, *args, stddev)` -> the mean squared gradient under noise, entry by entry.

    :math:`\phi_i = \mathbb E\,(\partial_i f(x + \sigma\varepsilon))^2,\ \varepsilon \sim \mathcal N(0, I)`.

    The square of `smooth_grad` plus `var_grad`: it does not cancel where the gradient changes sign. For a linear
    function :math:`a^\top x` it is a². The average over n samples has a standard error; see `with_stderr`.

    Args:
      f: a scalar function.
      argnums: the explained argument, or several (noise is added to each, and the result is a tuple).
      num_samples: n.
      chunk_size: gradients computed together; memory grows with it, the samples do not depend on it.
        Raise it for few examples on an accelerator; `None` takes all.

    Returns:
      A function of a key, f's arguments and the keyword `stddev`, as for `smooth_grad`; the map is like the
      explained argument, not negative, in units of the square of f per unit of x.

    Raises:
      TypeError: at the call, if f is not scalar, the input not floating-point or the key not a typed key.
      ValueError: if a count is not positive or σ is negative.

    Source: Hooker, Erhan, Kindermans & Kim (2019).

    >>> explain = square_grad(lambda x: jnp.sum(3.0 * x), num_samples=4)
    >>> explain(jax.random.key(0), jnp.ones(2), stddev=0.1).tolist()
    [9.0, 9.0]
    """
    noisy_gradient = _noisy_gradient("square_grad", f, argnums)

    def sample(key: Key, *args: PyTree, stddev: PyTree) -> PyTree:
        slope = noisy_gradient(key, *args, stddev=stddev)
        return tree.mul(slope, slope)

    return averaged("square_grad", expectation(sample, num_samples, chunk_size=chunk_size))


def var_grad(
    f: ScalarFn, argnums: int | tuple[int, ...] = 0, *, num_samples: int = 64, chunk_size: int | None = 1
) -> Callable[..., PyTree]:
    r"""VarGrad: returns `(key, *args, stddev)` -> the variance of the gradient under noise, entry by entry.

    :math:`\phi_i = \operatorname{Var}\,\partial_i f(x + \sigma\varepsilon),\ \varepsilon \sim \mathcal N(0, I)`.

    The variance over n samples is divided by n, not n - 1. It is zero for a linear function: the map shows where
    the gradient changes, not where it is large. The standard error of `with_stderr` is that of the mean of the
    squared deviations; it takes a second pass over the same samples.

    Args:
      f: a scalar function.
      argnums: the explained argument, or several (noise is added to each, and the result is a tuple).
      num_samples: n >= 2.
      chunk_size: gradients computed together; memory grows with it, the samples do not depend on it.
        Raise it for few examples on an accelerator; `None` takes all.

    Returns:
      A function of a key, f's arguments and the keyword `stddev`, as for `smooth_grad`; the map is like the
      explained argument.

    Raises:
      TypeError: at the call, if f is not scalar, the input not floating-point or the key not a typed key.
      ValueError: if there are fewer than two samples or σ is negative.

    Source: Adebayo, Gilmer, Goodfellow & Kim (2018).

    >>> explain = var_grad(lambda x: jnp.sum(x**2), num_samples=500)
    >>> bool(jnp.allclose(explain(jax.random.key(0), jnp.ones(2), stddev=0.5), 1.0, atol=0.3))
    True
    """
    if checks.positive_integer("num_samples", num_samples) < 2:
        raise ValueError("`var_grad` needs num_samples >= 2: one sample has no variance.")
    sample = _noisy_gradient("var_grad", f, argnums)
    attribute = variance(sample, num_samples, chunk_size=chunk_size)

    def estimate(key: Key, *args: PyTree, stddev: PyTree) -> Estimate:
        mean = expectation(sample, num_samples, chunk_size=chunk_size)(key, *args, stddev=stddev).mean

        def squared_deviation(k: Key) -> PyTree:
            deviation = tree.sub(sample(k, *args, stddev=stddev), mean)
            return tree.mul(deviation, deviation)

        return expectation(squared_deviation, num_samples, chunk_size=chunk_size)(key)

    return Stochastic(attribute, estimate)
