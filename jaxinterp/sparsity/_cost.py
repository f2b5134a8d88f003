"""What a network costs, and what is left of it: parameters and multiplications, from its program."""

import dataclasses
from collections.abc import Callable, Sequence

import jax

from jaxinterp import tree
from jaxinterp.interpreters import products, rearranged
from jaxinterp.sparsity._gates import count_by_parameter
from jaxinterp.typing import PyTree


@dataclasses.dataclass(frozen=True)
class Cost:
    """Parameters, and multiplications with them.

    Attributes:
      parameters: how many.
      kept: those whose mask is open.
      multiply_adds: multiplications (each with an addition, so two floating-point operations) in one call.
      multiply_adds_kept: those with a parameter whose mask is open.
    """

    parameters: int
    kept: int
    multiply_adds: int
    multiply_adds_kept: int


def cost_by_parameter(f: Callable[..., PyTree], argnums: int = 0) -> Callable[..., dict[str, Cost]]:
    r"""Returns `(*args, masks=())` -> what each parameter of a function costs in one call, by its path.

    A kernel with n entries of which each sum of its product reads r has :math:`m = sr` multiplications for s sums, and
    each of its entries the same number :math:`m/n`; masked entries are counted as saved. Products of a parameter count,
    dense, convolutional, or of several axes, with what depends on the other arguments; sums, normalisations,
    activations, products of intermediates (attention), and what is made of the parameters alone (the norm of a kernel)
    do not, nor does it count less at padded edges.

    Args:
      f: any function; of one example, for the cost of an example.
      argnums: the argument that holds the parameters.

    Returns:
      A function of f's arguments, and by name of masks of the parameters, taken together.

    Raises:
      TypeError: if f is not callable, or a parameter not floating-point.
      ValueError: if a mask does not have as many leaves as the parameters.
      NotImplementedError: if a matrix of parameters enters a loop or a branch together with what depends on the other
        arguments (write loops out with `interpreters.unrolled`), these are multiplied by a matrix that is made of
        several parameters, or what was scaled by a matrix of parameters, entry by entry, by another one.

    >>> import jax.numpy as jnp
    >>> params = {"kernel": jnp.ones((3, 3, 1, 4)), "bias": jnp.zeros(4)}
    >>> def f(params, x):
    ...     return jax.lax.conv(x, params["kernel"].transpose(3, 2, 0, 1), (1, 1), "VALID")
    >>> cost_by_parameter(f)(params, jnp.ones((1, 1, 8, 8)))["kernel"]
    Cost(parameters=36, kept=36, multiply_adds=1296, multiply_adds_kept=1296)
    """

    def found(*args: PyTree, masks: Sequence[PyTree] = ()) -> dict[str, Cost]:
        ordered, params, others = rearranged("cost", f, argnums, args)
        totals: dict[int, int] = {}
        for product in products(ordered, params, *others):
            if product.multiplications is None:
                raise NotImplementedError(
                    f"`cost` cannot count the multiplications of a `{product.primitive}` that takes parameters of the "
                    "function: of loops and branches (write them out with `interpreters.unrolled`), by a kernel that "
                    "is made of several parameters, or of two factors that both were multiplied by parameters."
                )
            totals[product.leaf] = totals.get(product.leaf, 0) + product.multiplications
        open_ones = count_by_parameter(params, *masks)
        costs = {}
        for leaf, (path, value) in enumerate(jax.tree_util.tree_leaves_with_path(params)):
            name, total = tree.path_name(path), totals.get(leaf, 0)
            kept = open_ones[name].kept if name in open_ones else value.size
            costs[name] = Cost(value.size, kept, total, total * kept // max(1, value.size))
        return costs

    return found


def cost(f: Callable[..., PyTree], argnums: int = 0) -> Callable[..., Cost]:
    """Returns `(*args, masks=())` -> what all parameters of a function cost together; see `cost_by_parameter`.

    >>> import jax.numpy as jnp
    >>> params = {"kernel": jnp.ones((3, 4)), "bias": jnp.zeros(4)}
    >>> mask = {"kernel": jnp.array([[1.0], [0.0], [0.0]]), "bias": None}
    >>> cost(lambda p, x: x @ p["kernel"] + p["bias"])(params, jnp.ones(3), masks=[mask])
    Cost(parameters=16, kept=8, multiply_adds=12, multiply_adds_kept=4)
    """

    def found(*args: PyTree, masks: Sequence[PyTree] = ()) -> Cost:
        parts = cost_by_parameter(f, argnums)(*args, masks=masks).values()
        return Cost(*(sum(getattr(part, field.name) for part in parts) for field in dataclasses.fields(Cost)))

    return found
