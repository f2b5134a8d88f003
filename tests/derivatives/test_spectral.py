"""Extreme eigenvalues against numpy.linalg.eigh."""

import functools

import hypothesis
import hypothesis.extra.numpy as arrays
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxinterp import derivatives

X64 = jax.config.jax_enable_x64
EPS = float(jnp.finfo(jnp.result_type(float)).eps)
N = 6


@functools.cache
def solver(name, n, num_iterations, tolerance):
    """The compiled method on dense matrices of n rows."""
    method = getattr(derivatives, name)

    def run(key, matrix):
        product = lambda v: jnp.dot(matrix, v, precision="highest")  # noqa: E731
        return method(product, num_iterations=num_iterations, tolerance=tolerance)(key, jnp.zeros(n))

    return jax.jit(run)


def lanczos(matrix, seed=0, num_iterations=64, tolerance=1e-4):
    return solver("lanczos", len(matrix), num_iterations, tolerance)(jax.random.key(seed), jnp.asarray(matrix, float))


def power(matrix, seed=0, num_iterations=100, tolerance=1e-3):
    run = solver("power_iteration", len(matrix), num_iterations, tolerance)
    return run(jax.random.key(seed), jnp.asarray(matrix, float))


def with_spectrum(values, seed=0):
    """A symmetric matrix with these eigenvalues."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values), len(values))))
    matrix = q @ np.diag(np.asarray(values, float)) @ q.T
    return (matrix + matrix.T) / 2


def assert_honest(found, matrix):
    """Vector of unit length, value its quotient, and an eigenvalue within the residual, up to rounding."""
    matrix = np.asarray(jnp.asarray(matrix, float), np.float64)
    vector, value = np.asarray(found.vector, np.float64), float(found.value)
    slack = 30 * EPS * (np.linalg.norm(matrix) + 1e-30)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=30 * EPS)
    assert value == pytest.approx(vector @ matrix @ vector, abs=slack)
    assert float(found.residual) == pytest.approx(np.linalg.norm(matrix @ vector - value * vector), abs=slack)
    assert np.min(np.abs(np.linalg.eigvalsh(matrix) - value)) <= float(found.residual) + slack


SPECTRA = arrays.arrays(float, N, elements=st.sampled_from([-2.0, -1.0, 0.0, 0.5, 2.0]))


@pytest.mark.core
@pytest.mark.numerics
@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(values=SPECTRA, seed=st.integers(0, 1000))
@hypothesis.example(values=np.zeros(N), seed=0)
@hypothesis.example(values=np.full(N, 2.0), seed=0)
@hypothesis.example(values=np.full(N, -1.0), seed=0)
@hypothesis.example(values=np.array([2.0, 0, 0, 0, 0, 0]), seed=0)
@hypothesis.example(values=np.array([2.0, 2.0, 2.0, -2.0, -2.0, -2.0]), seed=0)
def test_lanczos_finds_both_ends(values, seed):
    """Repeated, tied and zero eigenvalues included."""
    matrix = with_spectrum(values, seed)
    low, high = lanczos(matrix, seed)
    tolerance = 3e-4 * np.abs(values).max() + 1e-30
    assert float(low.value) == pytest.approx(values.min(), abs=tolerance)
    assert float(high.value) == pytest.approx(values.max(), abs=tolerance)
    for found in (low, high):
        assert_honest(found, matrix)
        assert float(found.residual) <= 2 * tolerance
        assert found.num_iterations.dtype == jnp.int32
        assert 1 <= int(found.num_iterations) <= N


@pytest.mark.core
@pytest.mark.parametrize("n", [2, 3, 5, 9])
@pytest.mark.parametrize("value", [2.0, -0.7, 1 / 3])
def test_lanczos_of_multiples_of_the_identity(n, value):
    for seed in range(6):
        low, high = lanczos(value * np.eye(n), seed)
        for found in (low, high):
            assert float(found.value) == pytest.approx(value, rel=1e-5)
            assert_honest(found, value * np.eye(n))


@pytest.mark.core
@pytest.mark.parametrize("value", [-3.0, 0.0, 5.0])
def test_one_dimension(value):
    low, high = lanczos([[value]])
    for found in (low, high, power([[value]])):
        assert float(found.value) == pytest.approx(value, rel=1e-6)
        assert float(found.residual) == pytest.approx(0, abs=1e-5)
        assert abs(float(found.vector[0])) == pytest.approx(1, rel=1e-6)


@pytest.mark.core
@pytest.mark.parametrize("method", [lanczos, power])
def test_the_zero_operator(method):
    results = method(np.zeros((N, N)))
    for found in results if isinstance(results, tuple) else (results,):
        assert float(found.value) == 0
        assert float(found.residual) == 0
        assert np.linalg.norm(found.vector) == pytest.approx(1, rel=1e-5)
        assert int(found.num_iterations) <= 2


@pytest.mark.numerics
@pytest.mark.parametrize("seed", range(3))
def test_lanczos_to_the_last_digit(seed):
    """Without tolerance and with as many products as dimensions."""
    matrix = np.random.default_rng(seed).normal(size=(N, N))
    matrix = matrix + matrix.T
    values, vectors = np.linalg.eigh(matrix)
    for found, i in zip(lanczos(matrix, seed, tolerance=0.0), (0, -1), strict=True):
        assert float(found.value) == pytest.approx(values[i], abs=50 * EPS * np.abs(values).max())
        gap = np.abs(values[i] - np.delete(values, i)).min()
        alignment = abs(np.asarray(found.vector, np.float64) @ vectors[:, i])
        assert alignment == pytest.approx(1, abs=1e3 * EPS / min(gap, 1))
        assert int(found.num_iterations) == N


def test_small_and_large_operators_are_alike():
    """The criteria are relative: scaling the operator scales the result."""
    matrix = with_spectrum([-3.0, -1.0, 0.0, 0.5, 1.0, 4.0])
    steps = set()
    for scale in (1e-12, 1.0, 1e12):
        low, high = lanczos(scale * matrix, 3)
        assert float(low.value) == pytest.approx(-3 * scale, rel=1e-3)
        assert float(high.value) == pytest.approx(4 * scale, rel=1e-3)
        steps.add(int(high.num_iterations))
        assert float(power(scale * matrix, 3).value) == pytest.approx(4 * scale, rel=1e-3)
    assert len(steps) == 1


@pytest.mark.core
def test_lanczos_stops_when_both_ends_are_found():
    values = np.concatenate([[-5.0], np.linspace(-1, 1, 38), [5.0]])
    matrix = with_spectrum(values)
    low, high = lanczos(matrix)
    assert int(low.num_iterations) == int(high.num_iterations) < 25
    for found, value in [(low, -5), (high, 5)]:
        assert float(found.value) == pytest.approx(value, rel=1e-5)
        assert float(found.residual) < 5e-4 + 100 * EPS
    strict = lanczos(matrix, tolerance=1e-6)[1]
    assert int(strict.num_iterations) > int(high.num_iterations)
    loose = lanczos(matrix, tolerance=1e-1)[1]
    assert int(loose.num_iterations) < int(high.num_iterations)


@pytest.mark.core
def test_lanczos_does_not_stop_at_the_first_end():
    """The largest eigenvalue stands alone, the smallest has neighbours."""
    matrix = with_spectrum(np.append(np.linspace(-1, 1, 39), 5.0))
    low, high = lanczos(matrix)
    for found, value in [(low, -1), (high, 5)]:
        assert float(found.residual) <= 1.1 * 1e-4 * 5 + 100 * EPS
        assert float(found.value) == pytest.approx(value, abs=1e-3)


def test_stopping_early_is_the_same_as_a_limit():
    """Rows of the tridiagonal matrix that were not reached leave no trace."""
    matrix = with_spectrum(np.linspace(-1, 1, 40))
    stopped = lanczos(matrix, tolerance=0.15)
    steps = int(stopped[0].num_iterations)
    assert 2 < steps < 20
    limited = lanczos(matrix, num_iterations=steps, tolerance=0.0)
    for a, b in zip(stopped, limited, strict=True):
        assert float(a.value) == pytest.approx(float(b.value), rel=1e-5)
        assert float(a.residual) == pytest.approx(float(b.residual), rel=1e-3)


HARD = {
    "low rank": np.append([1.0, 0.9, 0.8], np.zeros(17)),
    "geometric": 2.0 ** -np.arange(20),
    "shifted": 1e4 + np.arange(20),
}


@pytest.mark.numerics
@pytest.mark.parametrize("name", HARD)
def test_the_basis_stays_orthogonal(name):
    """Without tolerance the iteration goes on in a space that is all but exhausted, where rounding errors are large."""
    values = HARD[name]
    rounding = 30 * EPS * values.max()
    low, high = lanczos(with_spectrum(values), tolerance=0.0)
    for found, value in [(low, values.min()), (high, values.max())]:
        assert float(found.value) == pytest.approx(value, abs=rounding)
        assert float(found.residual) <= rounding


@pytest.mark.core
@pytest.mark.parametrize("products", [1, 2, 5])
def test_too_few_products_show_in_the_residual(products):
    values = np.linspace(-1, 1, 40)
    matrix = with_spectrum(values)
    for found in lanczos(matrix, num_iterations=products):
        assert int(found.num_iterations) == products
        assert float(found.residual) > 1e-3
        assert_honest(found, matrix)
    found = power(matrix, num_iterations=products)
    assert int(found.num_iterations) == products
    assert float(found.residual) > 1e-3
    assert_honest(found, matrix)


def test_the_ends_move_out_with_more_products():
    """Krylov spaces are nested, and so are the intervals of Ritz values."""
    matrix = with_spectrum(np.linspace(-1, 1, 20), 2)
    ends = [[float(f.value) for f in lanczos(matrix, num_iterations=k, tolerance=0.0)] for k in (1, 2, 4, 8)]
    lows, highs = np.array(ends).T
    assert np.all(np.diff(lows) < 0)
    assert np.all(np.diff(highs) > 0)
    assert lows[0] == pytest.approx(highs[0], abs=1e-6)  # one vector has one quotient


@pytest.mark.core
@pytest.mark.numerics
@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(seed=st.integers(0, 1000), sign=st.sampled_from([-1.0, 1.0]))
def test_power_iteration_finds_the_largest_magnitude(seed, sign):
    values = sign * np.array([-1.0, -0.3, 0.0, 0.5, 1.0, 2.0])
    matrix = with_spectrum(values, seed)
    found = power(matrix, seed)
    assert float(found.value) == pytest.approx(2 * sign, rel=1e-4)
    assert float(found.residual) <= 2.1e-3
    assert int(found.num_iterations) < 100
    assert_honest(found, matrix)


def test_power_iteration_stops_at_its_tolerance():
    matrix = with_spectrum([0.0, 0.1, 0.2, 0.3, 1.5, 2.0])
    steps = [int(power(matrix, tolerance=t).num_iterations) for t in (1e-2, 1e-3, 1e-4)]
    assert steps == sorted(set(steps))
    exact = power(matrix, tolerance=0.0, num_iterations=60)
    assert int(exact.num_iterations) == 60 or float(exact.residual) <= 10 * EPS
    # Each step multiplies the residual by 3/4: a tenth of it takes log(10)/log(4/3) = 8 steps.
    assert steps[2] - steps[1] == pytest.approx(8, abs=2)


@pytest.mark.core
def test_a_tie_of_signs_shows_in_the_residual():
    matrix = with_spectrum([-2.0, 2.0, 0.1, 0.1, 0.1, 0.1])
    found = power(matrix, 1)
    assert int(found.num_iterations) == 100
    assert float(found.residual) > 0.1
    assert_honest(found, matrix)
    assert [float(f.value) for f in lanczos(matrix, 1)] == pytest.approx([-2, 2], rel=1e-4)


@pytest.mark.core
@pytest.mark.parametrize("entries", [[np.nan] * N, [1.0, np.nan, 1, 1, 1, 1]], ids=["all", "one"])
def test_an_operator_with_nan_has_no_eigenvalue(entries):
    for found in (*lanczos(np.diag(entries)), power(np.diag(entries))):
        assert np.isnan(found.value)
        assert np.isnan(found.residual)


MATRIX = with_spectrum([-3.0, -1.0, 0.0, 0.5, 1.0, 4.0], 5)
DIRECTION = with_spectrum([1.0, 0.0, -2.0, 0.3, 0.7, 0.1], 6)
VALUES, VECTORS = np.linalg.eigh(MATRIX)


def extremes(name, t, key):
    """The eigenvalues of A + tB by a method, as [k]."""
    matrix = jnp.asarray(MATRIX, float) + t * jnp.asarray(DIRECTION, float)
    product = lambda v: jnp.dot(matrix, v, precision="highest")  # noqa: E731
    results = getattr(derivatives, name)(product, tolerance=1e-6)(key, jnp.zeros(N))
    return jnp.stack([found.value for found in results]) if name == "lanczos" else results.value[None]


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize(("name", "ends"), [("lanczos", [0, -1]), ("power_iteration", [-1])])
def test_the_derivative_of_an_eigenvalue(name, ends):
    """dλ = v·dA·v, under grad, jit, vmap and forwards."""
    value = functools.partial(extremes, name)
    exact = [VECTORS[:, i] @ DIRECTION @ VECTORS[:, i] for i in ends]
    backwards = jax.jit(jax.jacrev(value))(0.0, jax.random.key(0))
    forwards = jax.jit(jax.jacfwd(value))(0.0, jax.random.key(0))
    np.testing.assert_allclose(backwards, exact, rtol=1e-3)
    np.testing.assert_allclose(forwards, backwards, rtol=1e-5)
    points = jnp.array([0.0, 0.2])
    mapped = jax.jit(jax.vmap(jax.jacrev(value), (0, None)))(points, jax.random.key(0))
    np.testing.assert_allclose(mapped[0], exact, rtol=1e-3)
    vectors = np.linalg.eigh(MATRIX + 0.2 * DIRECTION)[1]
    np.testing.assert_allclose(mapped[1], [vectors[:, i] @ DIRECTION @ vectors[:, i] for i in ends], rtol=1e-3)


@pytest.mark.core
@pytest.mark.parametrize("name", ["lanczos", "power_iteration"])
def test_vector_and_residual_are_constants(name):
    def rest(t):
        results = getattr(derivatives, name)(lambda v: t * jnp.arange(1.0, 4.0) * v, num_iterations=2)(
            jax.random.key(0), jnp.zeros(3)
        )
        found = results[0] if name == "lanczos" else results
        return found.residual + jnp.sum(found.vector**3)

    assert float(jax.jit(jax.grad(rest))(2.0)) == 0


@pytest.mark.numerics
@pytest.mark.parametrize("name", ["lanczos", "power_iteration"])
def test_the_curvature_of_a_function_and_its_gradient(name):
    """f = Σ x⁴/12 has the Hessian diag(x²): the largest eigenvalue is max x², its gradient 2x there."""
    x = jnp.array([0.5, -2.0, 1.0])

    def curvature(x):
        _, product = derivatives.hessian(lambda y: jnp.sum(y**4) / 12)(x)
        results = getattr(derivatives, name)(product, tolerance=1e-6)(jax.random.key(0), x)
        return results[1].value if name == "lanczos" else results.value

    value, gradient = jax.jit(jax.value_and_grad(curvature))(x)
    assert float(value) == pytest.approx(4, rel=1e-5)
    np.testing.assert_allclose(gradient, [0, -4, 0], atol=1e-4)


@pytest.mark.core
@pytest.mark.parametrize("name", ["lanczos", "power_iteration"])
def test_vectors_are_trees(name):
    weights = {"a": jnp.array([1.0, -1.0]), "b": (jnp.array([[3.0]]), jnp.asarray(0.5))}
    product = lambda v: jax.tree.map(jnp.multiply, weights, v)  # noqa: E731
    like = jax.tree.map(jnp.zeros_like, weights)
    results = jax.jit(lambda key: getattr(derivatives, name)(product)(key, like))(jax.random.key(0))
    high = results[1] if name == "lanczos" else results
    assert jax.tree.structure(high.vector) == jax.tree.structure(like)
    assert float(high.value) == pytest.approx(3, rel=1e-4)
    assert abs(float(high.vector["b"][0][0, 0])) == pytest.approx(1, rel=1e-3)
    if name == "lanczos":
        assert float(results[0].value) == pytest.approx(-1, abs=1e-3)
        assert abs(float(results[0].vector["a"][1])) == pytest.approx(1, rel=1e-3)


@pytest.mark.core
@pytest.mark.parametrize("name", ["lanczos", "power_iteration"])
def test_vectors_of_bfloat16(name):
    """The vector has 8 bits, the value is a sum in float32."""
    diagonal = jnp.array([1.0, -1.0, 4.0, 0.5], jnp.bfloat16)
    results = getattr(derivatives, name)(lambda v: diagonal * v, tolerance=1e-2)(
        jax.random.key(0), jnp.zeros(4, jnp.bfloat16)
    )
    high = results[1] if name == "lanczos" else results
    assert high.vector.dtype == jnp.bfloat16
    assert high.value.dtype == high.residual.dtype == jnp.float32
    assert float(high.value) == pytest.approx(4, rel=0.02)


@pytest.mark.core
@pytest.mark.parametrize("name", ["lanczos", "power_iteration"])
def test_the_key_chooses_the_start(name):
    results = [
        getattr(derivatives, name)(lambda v: jnp.arange(1.0, 21.0) * v, num_iterations=3)(
            jax.random.key(seed), jnp.zeros(20)
        )
        for seed in (1, 1, 2)
    ]
    vectors = [(r[1] if name == "lanczos" else r).vector for r in results]
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert np.any(np.abs(vectors[0] - vectors[2]) > 1e-3)


@pytest.mark.core
@pytest.mark.parametrize("name", ["lanczos", "power_iteration"])
def test_the_operator_is_traced_a_few_times_only(name):
    calls = []

    def product(v):
        calls.append(1)
        return 2.0 * v

    getattr(derivatives, name)(product)(jax.random.key(0), jnp.zeros(5))
    assert 1 <= len(calls) <= 4


def layouts(jaxpr):
    """(inside a while loop?, dimension numbers) of all convolutions of a program."""
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        if equation.primitive.name == "conv_general_dilated":
            yield False, tuple(equation.params["dimension_numbers"])
        leaves = jax.tree.leaves(dict(equation.params), is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr"))
        for inner in leaves:
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from ((within or equation.primitive.name == "while", d) for within, d in layouts(inner))


@pytest.mark.parametrize("name", ["lanczos", "power_iteration"])
def test_convolutions_in_the_loop_are_in_its_fast_layout(name):
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(2, 1, 3, 3)), float)

    def top(x):
        _, product = derivatives.hessian(lambda y: jnp.sum(jax.lax.conv(y, kernel, (1, 1), "SAME") ** 3))(x)
        return getattr(derivatives, name)(product)(jax.random.key(0), x)

    looped = [numbers for within, numbers in layouts(jax.make_jaxpr(top)(jnp.ones((1, 1, 4, 4)))) if within]
    assert len(looped) >= 2
    assert set(looped) == {((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))}


@pytest.mark.core
@pytest.mark.parametrize("name", ["lanczos", "power_iteration"])
def test_arguments_are_checked(name):
    method = getattr(derivatives, name)
    with pytest.raises(ValueError, match="`num_iterations` must be at least 1; got 0"):
        method(jnp.negative, num_iterations=0)
    with pytest.raises(TypeError, match="`num_iterations`"):
        method(jnp.negative, num_iterations=2.0)
    with pytest.raises(ValueError, match="`tolerance` must be finite and >= 0; got -1"):
        method(jnp.negative, tolerance=-1.0)
    with pytest.raises(TypeError, match=f"`{name}` takes a random key as its first argument"):
        method(jnp.negative)(0, jnp.zeros(3))
    with pytest.raises(TypeError, match=f"`{name}` needs floating-point arrays, but its input has dtype int"):
        method(jnp.negative)(jax.random.key(0), jnp.arange(3))


@pytest.mark.core
def test_lanczos_of_a_large_operator():
    """The coupling of Krylov vectors falls like the root of the dimension; it must not be taken for rounding."""
    n = 1_000_000
    diagonal = jnp.linspace(0.0, 0.5, n).at[0].set(-2.0).at[-1].set(1.0)
    run = jax.jit(derivatives.lanczos(lambda v: diagonal * v, num_iterations=40, tolerance=1e-4))
    low, high = run(jax.random.key(0), jnp.zeros(n))
    assert float(low.value) == pytest.approx(-2, rel=1e-3)
    assert float(high.value) == pytest.approx(1, rel=1e-3)
    assert max(float(low.residual), float(high.residual)) < 5e-3
