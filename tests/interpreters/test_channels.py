"""Channels of programs; their use by surgery is tested with it."""

import jax
import jax.numpy as jnp
import pytest

from jaxinterp.interpreters import channels


@pytest.mark.core
def test_biases_and_scales_are_carried():
    f = lambda p, x: jax.nn.softplus((x @ p["w"] - p["mean"]) * p["scale"]) @ p["v"]  # noqa: E731
    tree = {"mean": jnp.ones(3), "scale": jnp.ones(3), "v": jnp.ones((3, 2)), "w": jnp.ones((4, 3))}
    found = channels(f, tree, jnp.ones(4))
    assert [(c.written, c.read) for c in found] == [(((3, 1, i),), ((2, 0, i),)) for i in range(3)]
    assert [sorted(c.carried) for c in found] == [[(0, 0, i), (1, 0, i)] for i in range(3)]


@pytest.mark.core
@pytest.mark.parametrize(
    "f",
    [
        lambda p, x: jax.nn.softmax(x @ p[0]) @ p[1],  # a sum over the channels
        lambda p, x: jnp.cumsum(x @ p[0]) @ p[1],
        lambda p, x: jnp.sort(x @ p[0]) @ p[1],
        lambda p, x: (x @ p[0] + x) @ p[1],  # tied to the input
        lambda p, x: jnp.tanh(x @ p[0]) * jnp.arange(4.0) @ p[1],  # and to an array of the code
        lambda p, x: x @ (p[0] / jnp.linalg.norm(p[0])) @ p[1],  # a kernel that is normalised
    ],
)
def test_what_has_no_rule_stays(f):
    assert not channels(f, [jnp.ones((4, 4)), jnp.ones((4, 2))], jnp.ones(4))


def test_outputs_stay_and_shared_kernels_are_tied():
    """The same kernel twice: its columns are its rows."""
    f = lambda p, x: jnp.tanh(jnp.tanh(jnp.tanh(x @ p[0]) @ p[1]) @ p[1]) @ p[2]  # noqa: E731
    found = channels(f, [jnp.ones((2, 3)), jnp.ones((3, 3)), jnp.ones((3, 1))], jnp.ones(2))
    assert len(found) == 3
    assert {leaf for leaf, _, _ in (*found[0].written, *found[0].read)} == {0, 1, 2}
    assert not channels(lambda p, x: x @ p[0], [jnp.ones((2, 3))], jnp.ones(2))
