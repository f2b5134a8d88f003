"""The gradient-norm penalty."""

from collections.abc import Callable

import jax

from jaxinterp import heads, tree
from jaxinterp.interpreters import restrict_scalar
from jaxinterp.typing import Array, Key, LogitsFn, PyTree, ScalarFn

Penalty = Callable[[Callable[..., Array], PyTree, PyTree, Key, PyTree, Array], Array]
"""`(apply, params, state, key, x, label) -> scalar` for one example; `apply(params, state, x)` returns logits."""


def input_gradient_norm(head: Callable[[LogitsFn], ScalarFn] = heads.cross_entropy) -> Penalty:
    r"""Squared norm of the input gradient: :math:`\|\nabla_x\, \text{head}(f)(x, y)\|_2^2` for one example.

    Averaged over a batch it does not depend on the batch size. For the cross-entropy it is double
    backpropagation (Drucker & Le Cun, 1992), with which low-curvature networks are trained (Srinivas et al., 2022).

    Args:
      head: what of the classifier is differentiated, a function of `jaxinterp.heads`.

    Returns:
      A penalty, in squared units of the head per unit of x.

    >>> penalty = input_gradient_norm(heads.logit)
    >>> linear = lambda params, state, x: params @ x
    >>> float(penalty(linear, jnp.array([[3.0, 4.0], [0.0, 0.0]]), {}, jax.random.key(0), jnp.ones(2), 0))
    25.0
    """

    def penalty(apply: Callable[..., Array], params: PyTree, state: PyTree, key: Key, x: PyTree, label: Array) -> Array:
        del key  # deterministic
        scalar, point = restrict_scalar(
            "input_gradient_norm", head(lambda inputs: apply(params, state, inputs)), 0, (x, label)
        )
        return tree.squared_norm(jax.grad(scalar)(point))

    return penalty
