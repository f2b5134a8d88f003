"""Methods that average over samples, and their standard errors."""

import dataclasses
from collections.abc import Callable

from jaxinterp import checks
from jaxinterp.derivatives import Estimate
from jaxinterp.typing import Key, PyTree


@dataclasses.dataclass(frozen=True)
class Stochastic:
    """A built stochastic method: called, it returns the map alone.

    Attributes:
      attribute: `(key, *args, **arrays)` -> the map.
      estimate: the same with its standard error, an `Estimate`.
    """

    attribute: Callable[..., PyTree]
    estimate: Callable[..., Estimate]

    def __call__(self, key: Key, *args: PyTree, **arrays: PyTree) -> PyTree:
        """Returns the map."""
        return self.attribute(key, *args, **arrays)


def averaged(method: str, estimate: Callable[..., Estimate]) -> Stochastic:
    """The stochastic method of this name whose map is the mean of `estimate`; its key is checked before all else."""

    def estimated(key: Key, *args: PyTree, **arrays: PyTree) -> Estimate:
        return estimate(checks.key(method, key), *args, **arrays)

    return Stochastic(lambda key, *args, **arrays: estimated(key, *args, **arrays).mean, estimated)


def with_stderr(method: Callable[..., PyTree]) -> Callable[..., Estimate]:
    """The same stochastic method, returning `Estimate(mean, stderr, num_samples)` instead of the mean alone.

    Apply it to the built method, before `jax.vmap` or `jax.jit`.

    Args:
      method: a method built by a stochastic transformation of this package, such as `smooth_grad(f, num_samples=64)`.

    Raises:
      TypeError: for anything else, a deterministic method included: it has no sampling error.

    >>> import jax, jax.numpy as jnp
    >>> from jaxinterp.attribution import smooth_grad
    >>> method = smooth_grad(lambda x: jnp.sum(x**2), num_samples=100)
    >>> estimate = with_stderr(method)(jax.random.key(0), jnp.ones(1), stddev=0.5)
    >>> bool(abs(estimate.mean[0] - 2.0) < 4 * estimate.stderr[0]), int(estimate.num_samples)
    (True, 100)
    """
    if not isinstance(method, Stochastic):
        raise TypeError(
            "`with_stderr` takes a stochastic method of `jaxinterp.attribution` as it was built, before `jax.vmap` or "
            f"`jax.jit`; got {method!r}. Write `jax.jit(jax.vmap(with_stderr(smooth_grad(f, num_samples=64))))`."
        )
    return method.estimate
