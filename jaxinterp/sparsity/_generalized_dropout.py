"""Generalized dropout: Beta priors on the probabilities that gates are open."""

import functools
import operator

import jax
import jax.numpy as jnp

from jaxinterp import checks
from jaxinterp.sparsity._gates import straight_through
from jaxinterp.typing import Array, PyTree


def beta_penalty(gates: PyTree, *, alpha: float, beta: float, epsilon: float = 1e-3) -> Array:
    r"""Generalized dropout: minus the logarithm of a Beta prior on the gates.

    It is :math:`-(\alpha-1)\sum\log k - (\beta-1)\sum\log(1-k)`, k being the probability that a gate is open (not the
    rate at which it is dropped). With masks by `sample` it gives

    - α = β = 1: Dropout++(flat), no prior; the probabilities are learnt by the loss alone,
    - α = β > 1: Dropout++(0.5), which for α → ∞ is dropout at 1/2,
    - α > 1, β = 1: Dropout++(1), with its mode at 1; α = 1, β > 1: Dropout++(0) (the thesis has these names swapped),
    - α, β < 1: stochastic architecture learning, with mass at both ends; β/α decides how many units remain.

    The gates stand for the units whose outgoing weights they multiply (`per_input_unit`). In evaluation multiply by k
    itself: `apply(params, gates)`; nothing is divided by k in training.

    Args:
      gates: k, a pytree.
      alpha: α > 0.
      beta: β > 0.
      epsilon: k is clipped to [ε, 1 - ε] inside the logarithms, which are not bounded below for α or β < 1.

    Raises:
      ValueError: if α, β or ε are not positive.

    Source: Srinivas & Babu (2016, Generalized Dropout).

    >>> round(float(beta_penalty({"kernel": jnp.array([0.5])}, alpha=2.0, beta=2.0)), 4)
    1.3863
    """
    for name, value in {"alpha": alpha, "beta": beta, "epsilon": epsilon}.items():
        checks.positive(name, value, "beta_penalty")

    def one(gate: Array) -> Array:
        k = straight_through(jnp.clip(gate, epsilon, 1 - epsilon), gate)  # so that the ends do not hold it for ever
        return -(alpha - 1) * jnp.sum(jnp.log(k)) - (beta - 1) * jnp.sum(jnp.log1p(-k))

    return functools.reduce(operator.add, map(one, jax.tree.leaves(gates)), jnp.zeros(()))
