"""Loops written out, so that what happens in them can be seen."""

from collections.abc import Callable

from jaxinterp import checks
from jaxinterp.interpreters import _ir
from jaxinterp.typing import PyTree


def unrolled(f: Callable[..., PyTree], *, max_length: int = 64) -> Callable[..., PyTree]:
    """The same function with every `jax.lax.scan` of known length written out step by step.

    A loop is one equation of a program: its inside has no sites, and the propagation rules cannot enter it. Written
    out, the layers of a network that scans over its blocks are as visible as any other. `fori_loop`s with known
    bounds are scans when they are differentiated; write them as scans. The program grows with the number of steps.

    Args:
      f: any function.
      max_length: the longest loop to write out.

    Returns:
      A function of the same arguments. Each call traces `f` once.

    Raises:
      ValueError: at the call, if a loop is longer.

    >>> import jax
    >>> from jaxinterp import interpreters
    >>> f = lambda x: jax.lax.scan(lambda h, w: (jax.numpy.tanh(w * h), None), x, jax.numpy.ones(3))[0]
    >>> [site.primitive for site in interpreters.sites(unrolled(f))(1.0) if site.primitive == "tanh"]
    ['tanh', 'tanh', 'tanh']
    """
    checks.positive_integer("max_length", max_length)

    def opened(equation: _ir.Equation, operands: list) -> list | None:
        if _is_scan(equation) and equation.params["length"]:
            if equation.params["length"] > max_length:
                raise ValueError(
                    f"`unrolled` met a loop of {equation.params['length']} steps at {_ir.source(equation)}; the limit "
                    f"is max_length={max_length}."
                )
            return _ir.unroll(equation, opened, operands)
        if _ir.contains_inside(equation, _is_scan):
            return _ir.bind(equation, operands, **_ir.rewritten_inside(equation, opened))
        return None

    def at(*args: PyTree) -> PyTree:
        return _ir.trace(f, *args).interpret(opened, *args)

    return at


def _is_scan(equation: _ir.Equation) -> bool:
    return equation.primitive.name == "scan"
