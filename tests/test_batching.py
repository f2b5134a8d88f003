"""Mapping over a batch in pieces is `jax.vmap`, whatever the size of the pieces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import batching

BATCH = 10
SIZES = [1, 3, 7, BATCH, BATCH + 3]


def example(w, x):
    return {"norm": jnp.sum(jnp.sin(w * x["a"])), "shift": x["a"] + x["b"]}


def inputs():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, BATCH, 3))
    return jnp.asarray(rng.normal(size=(3,)), float), {"a": jnp.asarray(a, float), "b": jnp.asarray(b, float)}


@pytest.mark.core
@pytest.mark.parametrize("size", SIZES)
def test_pieces_give_what_a_loop_gives(size):
    w, x = inputs()
    mapped = batching.map_examples(example, in_axes=(None, 0), batch_size=size)
    results = [mapped(w, x), jax.jit(mapped)(w, x)]
    a, b = np.asarray(x["a"], np.float64), np.asarray(x["b"], np.float64)
    for result in results:
        np.testing.assert_allclose(result["norm"], np.sin(np.asarray(w, np.float64) * a).sum(1), atol=1e-6)
        np.testing.assert_allclose(result["shift"], a + b, rtol=1e-6)


@pytest.mark.core
@pytest.mark.parametrize("size", SIZES)
def test_one_axis_for_all_arguments(size):
    x, y = jnp.arange(10.0), jnp.arange(10.0)[::-1]
    np.testing.assert_array_equal(batching.map_examples(lambda u, v: u - 2 * v, batch_size=size)(x, y), x - 2 * y)


def test_the_gradient_passes_through():
    w, x = inputs()

    def total(w):
        return jnp.sum(batching.map_examples(example, in_axes=(None, 0), batch_size=3)(w, x)["norm"])

    a = np.asarray(x["a"], np.float64)
    expected = np.sum(a * np.cos(np.asarray(w, np.float64) * a), axis=0)
    np.testing.assert_allclose(jax.jit(jax.grad(total))(w), expected, rtol=1e-5)


def test_keys_are_mapped():
    keys = jax.random.split(jax.random.key(0), 5)
    drawn = batching.map_examples(jax.random.normal, batch_size=2)(jax.random.clone(keys))
    np.testing.assert_array_equal(drawn, jax.vmap(jax.random.normal)(keys))


def test_a_piece_is_computed_together_and_no_more():
    """In the program, the table of one example has the rows of a piece, never those of the batch."""
    table = lambda x: jnp.sum(jnp.sin(x[:, None] * x[None]))  # noqa: E731
    x = jnp.ones((8, 100))
    for size in (1, 2, 4):
        program = str(jax.make_jaxpr(batching.map_examples(table, batch_size=size))(x))
        shapes = {n for n in range(1, 9) if f"[{n},100,100]" in program}
        assert shapes == {size}
    assert "[8,100,100]" in str(jax.make_jaxpr(jax.vmap(table))(x))


@pytest.mark.core
@pytest.mark.parametrize("axes", [(None, None), (1, 0), (0, -1), None, [0, None]])
def test_axes_are_zero_or_none_and_zero_once(axes):
    with pytest.raises(ValueError, match="`in_axes` of `map_examples` must be 0 or None per argument, and 0 at least"):
        batching.map_examples(example, in_axes=axes, batch_size=2)(*inputs())


@pytest.mark.core
def test_axes_are_as_many_as_arguments():
    with pytest.raises(ValueError, match="`in_axes` of `map_examples` has 3 entries, but 2 arguments came"):
        batching.map_examples(example, in_axes=(None, 0, 0), batch_size=2)(*inputs())


@pytest.mark.core
def test_a_piece_has_at_least_one_example():
    with pytest.raises(ValueError, match="`batch_size` must be at least 1; got 0"):
        batching.map_examples(example, batch_size=0)
    with pytest.raises(TypeError, match="`batch_size`"):
        batching.map_examples(example, batch_size=2.0)


@pytest.mark.core
def test_one_decision_for_all_examples():
    """In a condition that `vmap` leaves one; under two of them, and where the examples are differentiated."""

    def f(x):
        return jax.lax.cond(batching.any_example(jax.lax.stop_gradient(x) < 0), lambda: -x, lambda: x**2)

    assert "select" not in str(jax.make_jaxpr(jax.vmap(f))(jnp.ones(3)))
    x = jnp.array([[1.0, 2.0], [3.0, -4.0]])
    np.testing.assert_array_equal(jax.vmap(jax.vmap(f))(x), -x)
    np.testing.assert_array_equal(jax.jit(jax.vmap(jax.vmap(f)))(x**2), x**4)
    np.testing.assert_array_equal(jax.vmap(jax.grad(f))(jnp.array([1.0, 2.0])), [2.0, 4.0])
    np.testing.assert_array_equal(jax.lax.map(f, jnp.array([2.0, -3.0])), [4.0, 3.0])
