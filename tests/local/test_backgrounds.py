"""Background data sets: what is taken for one, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import local

pytestmark = pytest.mark.core

X = {"u": jnp.zeros((2, 3)), "v": jnp.zeros(())}


def test_rows_come_in_the_dtypes_of_the_input():
    x = {"u": jnp.zeros(2, jnp.bfloat16), "v": jnp.zeros((), jnp.float32)}
    rows, count = local.checked_background("method", {"u": np.ones((3, 2)), "v": np.arange(3.0)}, x)
    assert count == 3
    assert jax.tree.map(lambda a: (a.shape, a.dtype.name), rows) == {"u": ((3, 2), "bfloat16"), "v": ((3,), "float32")}
    row = jax.jit(local.background_row)(rows, 2)
    assert row["u"].tolist() == [1.0, 1.0]
    assert float(row["v"]) == 2.0


def test_it_may_be_traced():
    run = jax.jit(lambda b: local.checked_background("method", b, jnp.zeros(2))[0])
    assert run(jnp.ones((4, 2))).shape == (4, 2)


@pytest.mark.parametrize(
    ("background", "error", "message"),
    [
        (jnp.ones((3, 2)), ValueError, "^`background` of `method` must have the structure .* of the input; got"),
        ({"u": jnp.ones((2, 3)), "v": jnp.ones(2)}, ValueError, r"\[rows, 2, 3\]; got \(2, 3\)"),
        ({"u": jnp.ones((4, 3, 3)), "v": jnp.ones(4)}, ValueError, r"`background\['u'\]` of `method`.*got \(4, 3, 3\)"),
        ({"u": jnp.ones((4, 2, 3)), "v": jnp.ones(())}, ValueError, r"`background\['v'\]`.*\[rows\]; got \(\)"),
        ({"u": jnp.ones((0, 2, 3)), "v": jnp.ones(0)}, ValueError, r"one or more rows.*got \(0, 2, 3\)"),
        ({"u": jnp.ones((4, 2, 3)), "v": jnp.ones(5)}, ValueError, "as many rows as the first array, 4; got 5"),
        ({"u": jnp.ones((4, 2, 3), jnp.uint8), "v": jnp.ones(4)}, TypeError, "floating-point.*got dtype uint8"),
    ],
)
def test_what_is_no_background_of_the_input(background, error, message):
    with pytest.raises(error, match=message):
        local.checked_background("method", background, X)
