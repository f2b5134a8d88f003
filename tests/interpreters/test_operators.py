"""Linear equations as operators, against their dense matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.interpreters import _operators, graph

X64 = jax.config.jax_enable_x64
DTYPE = jnp.float64 if X64 else jnp.float32
RNG = np.random.default_rng(3)
W = jnp.asarray(RNG.normal(size=(6, 5)), DTYPE)


def kernel(*shape):
    return jnp.asarray(np.random.default_rng(5).normal(size=shape), DTYPE)


def convolution(x, *, strides=(1, 1), padding="SAME", k=(3, 3, 2, 4), dilation=(1, 1), spread=(1, 1), groups=1):
    return jax.lax.conv_general_dilated(
        x[None],
        kernel(*k),
        strides,
        padding,
        lhs_dilation=spread,
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )[0]


LINEAR = {
    "dense": (lambda x: x @ W, (6,)),
    "dense of rows": (lambda x: x @ W, (3, 6)),
    "product from the left": (lambda x: W.T @ x, (6, 2)),
    "scaling": (lambda x: x * W[0], (5,)),
    "difference": (lambda x: W[0] - x, (5,)),
    "sum": (lambda x: jnp.sum(x, 0), (3, 5)),
    "spread": (lambda x: jnp.broadcast_to(x[None], (4, 3)), (3,)),
    "slice": (lambda x: x[::2], (7,)),
    "running sum": (lambda x: jnp.cumsum(x), (5,)),
    "choice": (lambda x: jnp.where(W[0] > 0, x, 0 * W[0]), (5,)),
    "convolution": (convolution, (6, 6, 2)),
    "valid": (lambda x: convolution(x, padding="VALID"), (6, 6, 2)),
    "wide padding": (lambda x: convolution(x, padding=((4, 1), (0, 3))), (5, 6, 2)),
    "stride": (lambda x: convolution(x, strides=(2, 2)), (6, 6, 2)),
    "dilation": (lambda x: convolution(x, dilation=(2, 2)), (6, 6, 2)),
    "transposed": (lambda x: convolution(x, spread=(2, 2), padding=((1, 2), (0, 1))), (3, 3, 2)),
    "groups": (lambda x: convolution(x, k=(3, 3, 1, 4), groups=2), (6, 6, 2)),
}


def operator(f, shape):
    """The last node of the program that does arithmetic, and the shape of what it reads."""
    program, (x,) = graph(f, jnp.zeros(shape, DTYPE))
    values = program.start([x])
    moving = [node for node in program.nodes if program.dependent_inputs(node)]
    node = next((n for n in moving if n.name in ("conv_general_dilated", "dot_general")), moving[-1])
    constants = {i: values[v] for i, v in enumerate(node.inputs) if v not in program.dependent}
    return _operators.Operator(node, constants)


@pytest.mark.core
@pytest.mark.parametrize("name", sorted(LINEAR))
def test_against_the_dense_matrix(name):
    found = operator(*LINEAR[name])
    (position,) = found.moving
    shape = found.moving[position].shape
    matrix = jax.jacobian(lambda x: found([x]).ravel())(jnp.zeros(shape, DTYPE)).reshape(-1, int(np.prod(shape)))
    x = jnp.asarray(RNG.normal(size=shape), DTYPE)
    close = {"rtol": 1e-9 if X64 else 2e-5, "atol": 1e-9 if X64 else 2e-5}
    np.testing.assert_allclose(found([x]).ravel(), matrix @ x.ravel(), **close)
    np.testing.assert_allclose(found.absolute([jnp.abs(x)]).ravel(), jnp.abs(matrix) @ jnp.abs(x).ravel(), **close)
    np.testing.assert_allclose(found.row_norms(position).ravel(), np.linalg.norm(matrix, axis=1), **close)
    truth = np.linalg.norm(np.asarray(matrix, np.float64), 2)
    assert truth * (1 - 1e-5) <= float(found.norm(position)) <= (2.0 if "conv" in str(found.node.name) else 1.5) * truth


@pytest.mark.parametrize(
    "name", ["dense", "dense of rows", "scaling", "difference", "sum", "spread", "slice", "choice"]
)
def test_norms_that_are_exact(name):
    found = operator(*LINEAR[name])
    (position,) = found.moving
    shape = found.moving[position].shape
    matrix = jax.jacobian(lambda x: found([x]).ravel())(jnp.zeros(shape, DTYPE)).reshape(-1, int(np.prod(shape)))
    assert float(found.norm(position)) == pytest.approx(np.linalg.norm(matrix, 2), rel=3e-6)


def test_infinity_goes_only_where_a_coefficient_takes_it():
    found = operator(*LINEAR["slice"])
    out = found.absolute([jnp.asarray([1.0, jnp.inf, 2.0, 0.0, jnp.inf, 1.0, 1.0], DTYPE)])
    np.testing.assert_array_equal(out, [1.0, 2.0, np.inf, 1.0])
    with_zero = operator(lambda x: x * jnp.asarray([0.0, 1.0], DTYPE), (2,))
    np.testing.assert_array_equal(with_zero.absolute([jnp.full(2, jnp.inf, DTYPE)]), [0.0, np.inf])


@pytest.mark.core
@pytest.mark.parametrize("shape", [(4, 4), (3, 7), (9, 2), (1, 5)])
def test_singular_values_are_bracketed(shape):
    matrix = jnp.asarray(RNG.normal(size=shape), DTYPE)
    low, high = jax.jit(_operators.singular_value)(matrix)
    truth = np.linalg.norm(np.asarray(matrix, np.float64), 2)
    assert float(low) <= truth * (1 + 1e-6) <= float(high) * (1 + 3e-6)
    assert float(high) == pytest.approx(truth, rel=1e-5)
    assert float(low) == pytest.approx(truth, rel=1e-4)


def test_singular_values_far_from_one():
    for scale in (1e-25, 0.0, 1e25):
        bound = float(_operators.spectral_bound(scale * jnp.eye(3, dtype=DTYPE)))
        assert bound == pytest.approx(scale, rel=1e-5)
    equal = jnp.eye(40, dtype=DTYPE)
    assert 1 <= float(_operators.spectral_bound(equal, 3)) <= 40 ** (1 / 2**5) * 1.001  # the factor of the docstring
