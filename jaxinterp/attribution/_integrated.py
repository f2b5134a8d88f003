"""Integrated gradients."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxinterp import checks, local, tree
from jaxinterp.derivatives import QuadratureRule, gauss_legendre, weighted_sum
from jaxinterp.interpreters import restrict_scalar
from jaxinterp.typing import Array, PyTree, ScalarFn


def integrated_gradients(
    f: ScalarFn,
    argnums: int | tuple[int, ...] = 0,
    *,
    num_steps: int = 64,
    quadrature: QuadratureRule = gauss_legendre,
    chunk_size: int | None = 1,
) -> Callable[..., PyTree]:
    r"""Integrated gradients: returns `(*args, baseline=0)` -> the gradient averaged along a path, times its length.

    :math:`\phi = (x - b) \odot \int_0^1 \nabla f(b + t(x - b))\,dt`.

    Complete: the map sums to :math:`f(x) - f(b)`, up to the error of the quadrature (`evaluation.completeness_gap`
    measures it). Gauss-Legendre nodes make that error negligible for smooth f; where f has kinks on the path (ReLU) it
    falls like one over the number of steps with any rule.

    Args:
      f: a scalar function.
      argnums: the explained argument, or several (then the path moves them together and the result is a tuple).
      num_steps: number of gradients along the path.
      quadrature: the rule that places them: `derivatives.gauss_legendre`, `midpoint` or `trapezoid`.
      chunk_size: gradients computed together; memory grows with it, the result does not depend on it.
        Raise it for few examples on an accelerator; `None` takes all.

    Returns:
      A function of f's arguments and of the keyword `baseline` (b, a pytree prefix of x; zeros by default). The map is
      like the explained argument, in units of f.

    Raises:
      TypeError: at the call, if f is not scalar or the input is not floating-point.
      ValueError: if `num_steps` or `chunk_size` is not positive, or the baseline does not broadcast to the input.

    Source: Sundararajan, Taly & Yan (2017).

    >>> attribution = integrated_gradients(lambda x: jnp.sum(x**2), num_steps=2)(jnp.array([1.0, 2.0]))
    >>> [round(float(a), 5) for a in attribution]
    [1.0, 4.0]
    """
    rule = quadrature(num_steps)
    checks.optional_chunk_size(chunk_size)

    def attribute(*args: PyTree, baseline: PyTree = 0.0) -> PyTree:
        g, x = restrict_scalar("integrated_gradients", f, argnums, args)
        origin = tree.broadcast_prefix("baseline", baseline, x)
        wide = tree.accumulator(jnp.result_type(*jax.tree.leaves(x)))

        def gradient_at(t: Array) -> PyTree:
            return jax.grad(g)(local.along_segment(t, x, origin))

        nodes, weights = jnp.asarray(rule.nodes, wide), jnp.asarray(rule.weights, wide)
        mean = weighted_sum(gradient_at, nodes, weights, chunk_size=chunk_size)
        return tree.mul(tree.sub(x, origin), mean)

    return attribute
