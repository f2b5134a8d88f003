"""Penalties on the parameters that hold down the curvature and the slope of low-curvature networks."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxinterp.penalties._gradient_norm import Penalty
from jaxinterp.typing import Array, Key, PyTree


def activation_curvature(name: str = "log_beta") -> Penalty:
    r"""Sum of the curvature bounds of the activations: :math:`\sum_l \beta_l`.

    Of a centred softplus :math:`s''/s' \le \beta`; the sum bounds the normalised curvature of a chain of them.

    Args:
      name: of the parameters, which hold log β.

    Returns:
      A penalty; it does not depend on the example.

    Source: Srinivas, Matoba, Lakkaraju & Fleuret (2022).

    >>> params = {"block": {"log_beta": jnp.log(3.0)}, "head": jnp.ones(2)}
    >>> round(float(activation_curvature()(None, params, {}, jax.random.key(0), jnp.ones(1), 0)), 4)
    3.0
    """
    return _of_parameters(name, jnp.exp)


def normalisation_slope(name: str = "log_gamma") -> Penalty:
    r"""Sum of the logarithms of the Lipschitz bounds of the normalisations: :math:`\sum_l |\log\gamma_l|`.

    It pulls γ to 1 from both sides.

    Args:
      name: of the parameters, which hold log γ.

    Returns:
      A penalty; it does not depend on the example.

    Source: Srinivas, Matoba, Lakkaraju & Fleuret (2022).

    >>> params = [{"log_gamma": jnp.asarray(-0.5)}, {"log_gamma": jnp.asarray(2.0)}]
    >>> float(normalisation_slope()(None, params, {}, jax.random.key(0), jnp.ones(1), 0))
    2.5
    """
    return _of_parameters(name, jnp.abs)


def _of_parameters(name: str, measure: Callable[[Array], Array]) -> Penalty:
    def penalty(apply: Callable[..., Array], params: PyTree, state: PyTree, key: Key, x: PyTree, label: Array) -> Array:
        del apply, state, key, x, label
        leaves = jax.tree_util.tree_leaves_with_path(params)
        chosen = [leaf for path, leaf in leaves if path and getattr(path[-1], "key", None) == name]
        if not chosen:
            raise ValueError(f"There is no parameter named `{name}` to penalise in {jax.tree.structure(params)}.")
        return jnp.stack([jnp.sum(measure(leaf)) for leaf in chosen]).sum()

    return penalty
