"""Derivatives between places of a program against dense Jacobians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.interpreters import _bounds, _streams, _templates

DTYPE = jnp.float64 if jax.config.jax_enable_x64 else jnp.float32
WEIGHTS = [jnp.asarray(np.random.default_rng(i).normal(size=s) / 3, DTYPE) for i, s in enumerate([(4, 90), (90, 3)])]


@pytest.fixture(scope="module", autouse=True)
def standard():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def head(hidden):
    y = jax.nn.softplus(hidden @ WEIGHTS[1])
    return y * jnp.sum(y) + jax.lax.stop_gradient(y)


def network(x):
    return head(jnp.tanh(x @ WEIGHTS[0]))


def test_chunks_put_together_are_the_jacobian():
    """90 entries are two chunks, the second not full."""
    x = jnp.asarray([0.3, -0.2, 0.5, 0.1], DTYPE)
    zero = jnp.zeros((), DTYPE)
    found = _bounds.walk(*_templates.canonical(network, x), zero, zero, False)
    source = min(found.bends)
    (out,) = found.program.outputs
    stream = found.stream([source], [out])
    assert stream.reached == [out]

    def consume(total, indices, tangents):
        return total + jnp.sum(jnp.abs(tangents[0]), 0), (indices, tangents[0])

    total, (indices, rows) = stream.reduced(consume, jnp.zeros(3, DTYPE))
    wanted = jax.jacobian(head)(jnp.tanh(x @ WEIGHTS[0])).T
    np.testing.assert_allclose(rows, wanted, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(total, jnp.sum(jnp.abs(wanted), 0), rtol=1e-4)
    np.testing.assert_array_equal(indices, np.arange(90))
    assert _streams.CHUNK < 90 < 2 * _streams.CHUNK


def test_what_is_not_behind_the_source_is_not_reached():
    zero = jnp.zeros((), DTYPE)
    found = _bounds.walk(*_templates.canonical(network, jnp.ones(4, DTYPE)), zero, zero, False)
    last, first = max(found.bends), min(found.bends)
    assert found.stream([last], [first]).reached == []
