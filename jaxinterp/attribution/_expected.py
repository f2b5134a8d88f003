"""Expected gradients: integrated gradients from many baselines, those of a background data set."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxinterp import checks, local, tree
from jaxinterp.attribution._stochastic import averaged
from jaxinterp.derivatives import Estimate, expectation
from jaxinterp.interpreters import restrict_scalar
from jaxinterp.typing import Key, PyTree, ScalarFn


def expected_gradients(
    f: ScalarFn, argnums: int | tuple[int, ...] = 0, *, num_samples: int = 200, chunk_size: int | None = 1
) -> Callable[..., PyTree]:
    r"""Expected gradients: returns `(key, *args, background)` -> integrated gradients averaged over the background.

    :math:`\phi = \mathbb E\,(x - b) \odot \nabla f(b + t(x - b))` over a row b of the background and :math:`t \sim
    U(0, 1)`.

    Complete in expectation: the map sums to f(x) minus the mean of f over the background. Row and position of a sample
    are drawn independently of the others, so the standard error of `with_stderr` is an honest one; it falls with
    the root of n. For a linear function :math:`a^\top x` the expectation is :math:`a \odot (x - \bar b)`.

    Args:
      f: a scalar function.
      argnums: the explained argument, or several (then a row moves them together and the result is a tuple).
      num_samples: n, the number of gradients.
      chunk_size: gradients computed together; memory grows with it, the samples do not depend on it.
        Raise it for few examples on an accelerator; `None` takes all.

    Returns:
      A function of a key, f's arguments and the keyword `background` (a pytree like the explained argument, each
      array with a leading axis of rows). The map is like the explained argument, in units of f. Over a batch:
      `jax.vmap(functools.partial(explain, background=rows))(keys, images, labels)`.

    Raises:
      TypeError: at the call, if f is not scalar, the input or the background not floating-point or the key not a
        typed key.
      ValueError: if a count is not positive, or the background is not shaped like the input.

    Source: Erion, Janizek, Sturmfels, Lundberg & Lee (2021).

    >>> explain = expected_gradients(lambda x: jnp.sum(3.0 * x), num_samples=4)
    >>> explain(jax.random.key(0), jnp.ones(2), background=jnp.array([[0.0, 0.5]])).tolist()
    [3.0, 1.5]
    """
    checks.positive_integer("num_samples", num_samples)
    checks.optional_chunk_size(chunk_size)

    def estimate(key: Key, *args: PyTree, background: PyTree) -> Estimate:
        g, x = restrict_scalar("expected_gradients", f, argnums, args)
        rows, count = local.checked_background("expected_gradients", background, x)

        def sample(k: Key) -> PyTree:
            row = local.background_row(rows, jax.random.randint(jax.random.fold_in(k, 0), (), 0, count, jnp.int32))
            point = local.segment(jax.random.fold_in(k, 1), x, baseline=row).point
            return tree.mul(tree.sub(x, row), jax.grad(g)(point))

        return expectation(sample, num_samples, chunk_size=chunk_size)(key)

    return averaged("expected_gradients", estimate)
