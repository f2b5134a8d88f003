"""Certified bounds of a function and its first two derivatives over a ball."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax

from jaxinterp import checks, interpreters
from jaxinterp.typing import Array, PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bracket:
    """Two certified bounds of a number.

    Attributes:
      lower: at most the number.
      upper: at least the number; infinite where no finite bound was found.
    """

    lower: Array
    upper: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bounds:
    """What a function and its derivatives can be over a ball.

    Attributes:
      value: for each output, the least and the greatest value, of the output's shape.
      lipschitz: sup ‖J‖₂ over the ball, the norm of the gradient for a scalar function; the lower bound is attained at
        the centre.
      curvature: sup ‖∇²f‖₂ over the ball, for several outputs the norm of the second derivative as a bilinear map; the
        lower bound is attained at the centre, for several outputs by the most curved of them alone.
    """

    value: Bracket
    lipschitz: Bracket
    curvature: Bracket


def bounds(
    f: Callable[..., Array],
    argnums: int | tuple[int, ...] = 0,
    *,
    norm: Literal["l2", "linf"] = "l2",
    telescoping: bool = True,
) -> Callable[..., Bounds]:
    r"""Certified bounds: returns `(*args, radius) -> Bounds` of f, its Jacobian and its second derivative over a ball.

    For all :math:`x'` with :math:`\|x' - x\| \le r`: value.lower <= f(x') <= value.upper,
    :math:`\|J_f(x')\|_2 \le` lipschitz.upper and :math:`\|\nabla^2 f(x')\|_2 \le` curvature.upper.

    They are found by one walk through the program of f, and tend to the truth as the radius goes to zero (for
    the curvature of several outputs to the norm of their stacked Hessians, which is above it): the Jacobians at the
    centre are carried as dense matrices, and only how far the derivative of each nonlinear equation moves is bounded,
    by the range of its second derivative over the interval of its operand. An affine function has the bounds it
    attains. The radius may be infinite, for bounds that hold everywhere; these are products of norms over the depth.

    The primitives: everything linear (dense layers, convolutions, pooling by means, batch normalisation in evaluation
    mode, residual sums, slices), tanh, logistic, exp, log, sqrt, rsqrt, sin, cos, erf, powers, softplus, GELU, SiLU
    and ELU, products and quotients (softmax, LayerNorm, attention), and choices: ReLU, max pooling, `jnp.where`.
    Choices that may be made otherwise within the ball have a kink there: the curvature is then infinite.

    What is bounded is the derivative that JAX takes: where f may jump (`jnp.where` between different values) or holds a
    `stop_gradient`, that of f's values is not bounded by it, and must not be used as a certificate. A function with a
    derivative of its own counts by its values. A power needs a positive base, or an exponent that is a whole number
    known when the program is traced. Bounds hold in real arithmetic, and rounding is allowed for by 64 units in the
    last place, and by 4 for each linear equation: in float32 they are not a proof against its rounding.

    Call it under `jax.jit`: it makes many small operations. Compiling takes seconds for dense layers and minutes for
    attention. The memory: inputs times the largest array.

    Args:
      f: a function that returns one array; only supported primitives may depend on the input.
      argnums: the argument, or several, that varies; the norm is that of all together.
      norm: of the ball. The derivatives are measured in the Euclidean norm in both cases.
      telescoping: whether the derivatives between all pairs of nonlinear equations are looked at, which takes one
        product with a derivative of the program, twice, for each entry of each nonlinear equation. Without it changes
        are passed on from layer to layer by norms: fast, valid, and loose beyond a few layers; of the curvature nothing
        is found, from 0 to infinity.

    Returns:
      A function of f's arguments and the keyword `radius` (>= 0, in the units of x; infinite for global bounds).

    Raises:
      TypeError: at the call, if the input is not floating-point, f returns more than one array, or anything between is
        computed in less than float32.
      ValueError: if the norm is unknown, or the radius negative or NaN.
      NotImplementedError: at the call, for a primitive without a rule, naming it and where it comes from.

    Source: the walk is ours; interval bounds by Gowal et al. (2018), powers of the Gram matrix by Delattre, Barthélemy,
    Araujo & Allauzen (2023).

    >>> f = lambda x: jnp.tanh(x[0]) + 2 * x[1]
    >>> found = bounds(f)(jnp.zeros(2), radius=0.1)
    >>> round(float(found.lipschitz.lower), 4), round(float(found.lipschitz.upper), 3)  # √5, at the centre
    (2.2361, 2.246)
    """
    checks.one_of("norm", norm, ("l2", "linf"))

    def bounded(*args: PyTree, radius: Array | float) -> Bounds:
        g, x = interpreters.restrict("bounds", f, argnums, args)
        enclosed = interpreters.enclose(
            "bounds", g, x, checks.distance("radius", radius, finite=False), norm == "linf", telescoping
        )
        return Bounds(Bracket(*enclosed.value), Bracket(*enclosed.lipschitz), Bracket(*enclosed.curvature))

    return bounded
