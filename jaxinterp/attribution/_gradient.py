"""The gradient, and the gradient times the input."""

from collections.abc import Callable

import jax

from jaxinterp import tree
from jaxinterp.interpreters import restrict_scalar
from jaxinterp.typing import PyTree, ScalarFn


def gradient(f: ScalarFn, argnums: int | tuple[int, ...] = 0) -> Callable[..., PyTree]:
    r"""Vanilla gradient (saliency): returns `(*args)` -> :math:`\nabla f(x)`.

    The same numbers as `jax.grad(f, argnums)`, in the grammar of the other methods and with their checks of the input.
    For a linear function :math:`a^\top x` it is a.

    Args:
      f: a scalar function.
      argnums: the explained argument, or several (then the result is a tuple).

    Returns:
      A function of f's arguments; the map has the structure, shapes and dtypes of the explained argument, in
      units of f per unit of x.

    Raises:
      TypeError: at the call, if f is not scalar or the input is not floating-point.

    Source: Simonyan, Vedaldi & Zisserman (2014).

    >>> gradient(lambda x: jnp.sum(x**2))(jnp.array([1.0, 2.0])).tolist()
    [2.0, 4.0]
    """

    def attribute(*args: PyTree) -> PyTree:
        g, x = restrict_scalar("gradient", f, argnums, args)
        return jax.grad(g)(x)

    return attribute


def gradient_times_input(f: ScalarFn, argnums: int | tuple[int, ...] = 0) -> Callable[..., PyTree]:
    r"""Gradient times input: returns `(*args)` -> :math:`x \odot \nabla f(x)`.

    The first-order estimate of what each entry contributes relative to a zero input; it sums to f(x) for a function
    that is homogeneous of degree one, such as a ReLU network without biases.

    Args:
      f: a scalar function.
      argnums: the explained argument, or several (then the result is a tuple).

    Returns:
      A function of f's arguments; the map is like the explained argument, in units of f.

    Raises:
      TypeError: at the call, if f is not scalar or the input is not floating-point.

    Source: Shrikumar, Greenside, Shcherbina & Kundaje (2016).

    >>> gradient_times_input(lambda x: jnp.sum(x**2))(jnp.array([1.0, 2.0])).tolist()
    [2.0, 8.0]
    """

    def attribute(*args: PyTree) -> PyTree:
        g, x = restrict_scalar("gradient_times_input", f, argnums, args)
        return tree.mul(x, jax.grad(g)(x))

    return attribute
