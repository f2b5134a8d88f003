"""Guided backpropagation and deconvolution: gradients whose negative parts are cut off at every activation."""

import functools
import operator
from collections.abc import Callable

import jax

from jaxinterp import interpreters
from jaxinterp.attribution import rules as tables
from jaxinterp.attribution._propagation import checked_rules, cores, kept_or_missing, pulled, traced
from jaxinterp.interpreters import Backward, Call, Group, Rules
from jaxinterp.typing import Array, PyTree, ScalarFn


def guided_backprop(
    f: ScalarFn, argnums: int | tuple[int, ...] = 0, *, rules: Rules = tables.guided_backprop
) -> Callable[..., PyTree]:
    r"""Guided backpropagation: returns `(*args)` -> the gradient with only positive signals passing activations.

    At each ReLU the incoming gradient g becomes :math:`\max(g, 0)\,1[z > 0]`; at another activation φ, by the same
    reasoning, :math:`\max(g, 0)\,\varphi'(z)`. Everything else has its ordinary derivative, factors and signs right
    before and behind an activation too. The activations are found in the program of f, however they are written.

    Explain a logit: behind a log-softmax every signal but that of the class itself is negative and cut off.

    The map shows what the first layers respond to rather than what decides: it hardly changes when the last layers
    are randomised (Adebayo et al., 2018).

    Args:
      f: a scalar function.
      argnums: the explained argument, or several (then the result is a tuple).
      rules: backward rules of further primitives, which come before the method's own; see `attribution.rules`.

    Returns:
      A function of f's arguments; the map is like the explained argument, in units of f per unit of x.

    Raises:
      TypeError: at the call, if f is not scalar or the input is not floating-point.
      NotImplementedError: at the call, for a primitive without a rule, such as a loop.

    Source: Springenberg, Dosovitskiy, Brox & Riedmiller (2015).

    >>> f = lambda x: jnp.sum(jnp.array([1.0, -2.0]) * jax.nn.relu(x))
    >>> guided_backprop(f)(jnp.array([3.0, 4.0])).tolist()
    [1.0, 0.0]
    """

    def backward(call: Call) -> tuple[Array, ...]:
        return call.pull([jax.nn.relu(g) for g in call.cotangents])

    return _cut("guided_backprop", f, argnums, rules, backward)


def deconvolution(
    f: ScalarFn, argnums: int | tuple[int, ...] = 0, *, rules: Rules = tables.deconvolution
) -> Callable[..., PyTree]:
    r"""Deconvolution: returns `(*args)` -> the gradient with activations replaced by a ReLU of the signal.

    At each activation the incoming gradient g becomes :math:`\max(g, 0)`, whatever the activation's input was. The
    rest is as for `guided_backprop`, the caveat included.

    Args:
      f: a scalar function.
      argnums: the explained argument, or several (then the result is a tuple).
      rules: backward rules of further primitives, which come before the method's own; see `attribution.rules`.

    Returns:
      A function of f's arguments; the map is like the explained argument, in units of f per unit of x.

    Raises:
      TypeError: at the call, if f is not scalar or the input is not floating-point.
      NotImplementedError: at the call, for a primitive without a rule, such as a loop.

    Source: Zeiler & Fergus (2014).

    >>> f = lambda x: jnp.sum(jnp.array([1.0, -2.0]) * jax.nn.relu(x))
    >>> deconvolution(f)(jnp.array([-3.0, 4.0])).tolist()
    [1.0, 0.0]
    """

    def backward(call: Call) -> tuple[Array, ...]:
        return (functools.reduce(operator.add, map(jax.nn.relu, call.cotangents)),)

    return _cut("deconvolution", f, argnums, rules, backward)


def _cut(
    method: str, f: ScalarFn, argnums: int | tuple[int, ...], rules: Rules, activation: Backward
) -> Callable[..., PyTree]:
    checked_rules(method, rules)

    def attribute(*args: PyTree) -> PyTree:
        program, x = traced(method, f, argnums, args)

        def choose(group: Group) -> Backward | None:
            if group.kind == "activation":
                return activation
            if group.kind != "equation" or group.nodes[0].name in PRODUCTS:
                return None
            return kept_or_missing(program, group.nodes[0], rules)

        return pulled(
            program, cores(program, interpreters.apart(program, interpreters.regions(program), rules)), choose, x
        )

    return attribute


PRODUCTS = ("mul", "div", "dot_general", "conv_general_dilated", "reduce_prod")
"""Products of two arrays that both depend on the input: gates and attention, which have their ordinary derivative."""
