"""How numbers of channels move, against the equations themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.interpreters._graph import CALLS, graph
from jaxinterp.interpreters._numbering import STRUCTURAL, compact, moved

X = np.arange(1, 25).reshape(2, 3, 4)


@pytest.mark.core
@pytest.mark.parametrize(
    "f",
    [
        lambda x: x.reshape(4, 6),
        lambda x: x.transpose(2, 0, 1),
        lambda x: x[:1, :, 1].squeeze(0)[:, None],
        lambda x: jax.lax.broadcast_in_dim(x, (2, 5, 3, 4), (0, 2, 3)),
        lambda x: jax.lax.slice(x, (0, 1, 0), (2, 3, 4), (1, 2, 3)),
        lambda x: x[:, ::-1, 1:],
        lambda x: jnp.concatenate([x, x[:, :1]], 1),
        lambda x: jax.lax.pad(x, 0, ((1, 0, 2), (0, -1, 0), (-2, 3, 1))),
        lambda x: jax.lax.pad(x, -1, ((0, 0, 0), (-1, 2, 3), (0, -5, 1))),
    ],
)
def test_numbers_move_as_entries_do(f):
    """NumPy's way against that of JAX."""
    program, _ = graph(f, jnp.asarray(X), opened=CALLS)
    values = {program.inputs[0]: X, **{v: np.asarray(a) for v, a in program.constants.items()}}
    for node in program.nodes:
        assert node.name in STRUCTURAL
        inputs = [values[v] for v in node.inputs]
        values[node.outputs[0]] = compact(moved(node, inputs, program.avals[node.outputs[0]].shape))
    np.testing.assert_array_equal(values[program.outputs[0]], f(jnp.asarray(X)))
