"""Functions of the explained arguments alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import interpreters

pytestmark = pytest.mark.core


def f(a, b, c):
    return a + 10 * b + 100 * c


def test_several_arguments_are_a_tuple():
    g, x = interpreters.restrict("example", f, (2, 0), (1.0, jnp.asarray(2.0), 3.0))
    assert isinstance(x, tuple)
    assert [float(part) for part in x] == [3.0, 1.0]
    assert all(isinstance(part, jax.Array) for part in x)
    assert float(g(x)) == 321
    assert float(g((jnp.asarray(5.0), jnp.asarray(7.0)))) == 527
    g, x = interpreters.restrict("example", f, (1,), (1, 2.0, 3))
    assert float(g((jnp.asarray(4.0),))) == 341


def test_one_argument_is_itself():
    g, x = interpreters.restrict("example", f, -1, (1, 2, 3.0))
    assert float(x) == 3
    assert float(g(jnp.asarray(4.0))) == 421
    g, x = interpreters.restrict_scalar("example", f, 1, (1.0, 2.0, 3.0))
    assert float(x) == 2
    assert float(g(jnp.asarray(4.0))) == 341


def test_trees_of_arguments():
    g, x = interpreters.restrict("example", lambda t, n: t["u"] * n + t["v"][0], 0, ({"u": np.ones(2), "v": [2.0]}, 3))
    assert jax.tree.map(jnp.shape, x) == {"u": (2,), "v": [()]}
    np.testing.assert_array_equal(g(x), [5, 5])
    np.testing.assert_array_equal(g(jax.tree.map(lambda a: 2 * a, x)), [10, 10])


def test_other_arguments_are_handed_on_as_they_are():
    marker = object()
    g, _ = interpreters.restrict("example", lambda x, y: (x, y), 0, (1.0, marker))
    assert g(2.0)[1] is marker


def test_what_is_no_function_is_refused():
    with pytest.raises(TypeError, match=r"`example` takes a function; got 3\.0 of type float"):
        interpreters.restrict("example", 3.0, 0, (1.0,))


@pytest.mark.parametrize(
    ("argnums", "error", "match"),
    [
        (1, ValueError, r"`example` was built with argnums=1, .* called with 1 argument"),
        (-2, ValueError, r"`example` was built with argnums=-2"),
        ((0, 0), ValueError, r"`argnums` of `example` must name at least one argument, each once"),
        ((), ValueError, r"`argnums` of `example` must name at least one argument"),
        ("x", TypeError, r"`argnums` of `example` must be an integer or a tuple of integers; got 'x'"),
        (True, TypeError, r"`argnums` of `example` must be an integer"),
    ],
)
def test_positions_must_exist(argnums, error, match):
    with pytest.raises(error, match=match):
        interpreters.restrict("example", jnp.sum, argnums, (1.0,))


@pytest.mark.parametrize("x", [jnp.arange(3), {"n": jnp.arange(3)}, (jnp.ones(2), 1), jnp.ones(2, complex)])
def test_the_chosen_arguments_must_be_real_numbers(x):
    with pytest.raises(TypeError, match="`example` needs floating-point arrays"):
        interpreters.restrict("example", jnp.sum, 0, (x,))


def test_a_scalar_function_must_return_one_real_number():
    for out, match in ((jnp.ones(3), r"a scalar.* shape \(3,\)"), (jnp.asarray(1, jnp.int32), "dtype int32")):
        g, x = interpreters.restrict_scalar("example", lambda x, out=out: out, 0, (1.0,))
        with pytest.raises(TypeError, match=rf"`example` needs a function that returns .*{match}"):
            g(x)
