"""The masks that pruning keeps in the state of an optimiser."""

from typing import Any

import jax

from jaxinterp.sparsity._pruning import PruneState
from jaxinterp.sparsity._rewiring import RewireState
from jaxinterp.typing import PyTree


def optimizer_masks(opt_state: Any) -> tuple[PyTree, ...]:
    """Returns the masks of all `prune` and `rewire` in the state of an optimiser, the outermost first; maybe none.

    >>> import optax
    >>> import jax.numpy as jnp
    >>> from jaxinterp import sparsity
    >>> optimizer = optax.chain(sparsity.prune(optax.adam(0.1), sparsity.one_shot(0.5, step=1)))
    >>> optimizer_masks(optimizer.init({"kernel": jnp.ones(2), "bias": jnp.ones(2)}))
    ({'bias': None, 'kernel': Array([1., 1.], dtype=float32)},)
    """
    kinds = (PruneState, RewireState)
    found = [
        node for node in jax.tree.leaves(opt_state, is_leaf=lambda n: isinstance(n, kinds)) if isinstance(node, kinds)
    ]
    return tuple(masks for state in found for masks in (state.masks, *optimizer_masks(state.inner)))
