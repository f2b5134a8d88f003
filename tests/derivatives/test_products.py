"""Products with derivative matrices against the dense matrices."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from jaxinterp import derivatives

TOLERANCE = 1e-11 if jax.config.jax_enable_x64 else 2e-5
SHAPES = {"a": (2,), "b": (3,)}


def random_inputs(seed):
    rng = np.random.default_rng(seed)
    w, a, b = (jnp.asarray(rng.normal(size=s), float) for s in [(4, 5), (2,), (3,)])
    return w, {"a": a, "b": b}


def model(w, x):
    """A dictionary of results of a matrix and a dictionary."""
    z = jnp.tanh(w @ jnp.concatenate([x["a"], x["b"]]))
    return {"z": z, "s": jnp.sum(z**2) * x["a"][0]}


def scalar(w, x):
    out = model(w, x)
    return out["s"] + jnp.sum(jnp.exp(out["z"])) + x["b"][1] ** 3


def loss(out):
    return jnp.sum(jnp.cosh(out["z"])) + out["s"] ** 2 * out["z"][0]


def flat_inputs(argnums, w, x):
    chosen = {0: w, 1: x, (0, 1): (w, x), (1, 0): (x, w)}[argnums]
    return ravel_pytree(chosen)


def flat_function(f, argnums, w, x):
    """`f` as a function of one vector."""
    _, unravel = flat_inputs(argnums, w, x)

    def of_vector(v):
        part = unravel(v)
        args = {0: lambda: (part, x), 1: lambda: (w, part), (0, 1): lambda: part, (1, 0): lambda: part[::-1]}[argnums]()
        return ravel_pytree(f(*args))[0]

    return of_vector


@jax.jit
def dense(w, x):
    """The dense matrices with respect to the second argument, and to both."""
    found = {}
    for argnums in [1, (0, 1), (1, 0)]:
        v, _ = flat_inputs(argnums, w, x)
        jacobian = jax.jacobian(flat_function(model, argnums, w, x))(v)
        out, unravel = ravel_pytree(model(w, x))
        curvature = jax.hessian(lambda o, unravel=unravel: loss(unravel(o)))(out)
        of_scalar = flat_function(scalar, argnums, w, x)
        found[str(argnums)] = {
            "jacobian": jacobian,
            "gradient": jax.jacobian(of_scalar)(v)[0],
            "hessian": jax.hessian(of_scalar)(v)[0],
            "gauss_newton": jnp.einsum("oi,op,pj->ij", jacobian, curvature, jacobian, precision="highest"),
        }
    return found


@jax.jit
def products(w, x, vector, covector):
    """The same products by the library."""
    found = {}
    for argnums in [1, (0, 1), (1, 0)]:
        v = {1: vector[1], (0, 1): vector, (1, 0): vector[::-1]}[argnums]
        gradient, operator = derivatives.hessian(scalar, argnums)(w, x)
        found[str(argnums)] = {
            "jvp": derivatives.jvp(model, argnums)(w, x, vector=v),
            "vjp": derivatives.vjp(model, argnums)(w, x, vector=covector),
            "hvp": derivatives.hvp(scalar, argnums)(w, x, vector=v),
            "gradient": gradient,
            "hessian": operator(v),
            "gauss_newton": derivatives.gauss_newton(model, loss, argnums)(w, x, vector=v),
        }
    return found


def vectors(seed, w, x):
    rng = np.random.default_rng(seed + 1)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), float), ((w, x), model(w, x)))


def assert_close(got, expected):
    expected = np.asarray(expected, np.float64)
    scale = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(ravel_pytree(got)[0], expected, rtol=0, atol=TOLERANCE * scale)


@pytest.mark.core
@pytest.mark.numerics
@hypothesis.settings(max_examples=6, deadline=None)
@hypothesis.given(st.integers(0, 2**31))
def test_products_with_the_dense_matrices(seed):
    w, x = random_inputs(seed)
    vector, covector = vectors(seed, w, x)
    exact, got = dense(w, x), products(w, x, vector, covector)
    for argnums in [1, (0, 1), (1, 0)]:
        matrix = {name: np.asarray(value, np.float64) for name, value in exact[str(argnums)].items()}
        chosen = {1: vector[1], (0, 1): vector, (1, 0): vector[::-1]}[argnums]
        v = np.asarray(ravel_pytree(chosen)[0], np.float64)
        u = np.asarray(ravel_pytree(covector)[0], np.float64)
        product = got[str(argnums)]
        assert_close(product["jvp"], matrix["jacobian"] @ v)
        assert_close(product["vjp"], matrix["jacobian"].T @ u)
        assert_close(product["hvp"], matrix["hessian"] @ v)
        assert_close(product["gradient"], matrix["gradient"])
        assert_close(product["hessian"], matrix["hessian"] @ v)
        assert_close(product["gauss_newton"], matrix["gauss_newton"] @ v)
        for name in ["vjp", "hvp", "gradient", "hessian", "gauss_newton"]:
            assert jax.tree.structure(product[name]) == jax.tree.structure(chosen)
        assert jax.tree.structure(product["jvp"]) == jax.tree.structure(covector)


@pytest.mark.core
def test_without_jit_the_same():
    x, v = jnp.array([1.0, -2.0, 0.5]), jnp.array([1.0, 1.0, 3.0])
    cubic = lambda x: jnp.sum(x) * jnp.sum(x**2)  # noqa: E731
    hessian = 2 * (np.add.outer(x, x) + np.sum(x) * np.eye(3))
    for product in (derivatives.hvp(cubic), jax.jit(derivatives.hvp(cubic))):
        np.testing.assert_allclose(product(x, vector=v), hessian @ np.asarray(v), rtol=1e-5)


def test_vmap_is_a_loop():
    inputs = [random_inputs(seed) for seed in range(3)]
    w, points = inputs[0][0], [x for _, x in inputs]
    vector = vectors(0, w, points[0])[0][1]
    product = derivatives.hvp(scalar, 1)
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *points)
    mapped = jax.jit(jax.vmap(lambda x: product(w, x, vector=vector)))(batch)
    for i, x in enumerate(points):
        single = jax.jit(lambda x: product(w, x, vector=vector))(x)
        for a, b in zip(jax.tree.leaves(mapped), jax.tree.leaves(single), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-5)


@pytest.mark.numerics
def test_products_are_differentiable():
    """The derivative of vᵀH(x)v for f = Σ x⁴ is 24·x·v²."""
    x, v = jnp.array([1.0, -2.0, 0.5]), jnp.array([1.0, 1.0, 3.0])
    curvature = jax.grad(lambda x: jnp.sum(v * derivatives.hvp(lambda y: jnp.sum(y**4))(x, vector=v)))(x)
    np.testing.assert_allclose(curvature, 24 * x * v**2, rtol=TOLERANCE)


@pytest.mark.core
def test_the_gauss_newton_matrix_has_no_curvature_of_the_model():
    x, v = jnp.array([1.0, 2.0]), jnp.array([1.0, -1.0])
    square = lambda x: x**2  # noqa: E731
    linear_loss = derivatives.gauss_newton(square, lambda z: jnp.sum(3.0 * z))(x, vector=v)
    assert linear_loss.tolist() == [0.0, 0.0]
    assert derivatives.hvp(lambda x: jnp.sum(3.0 * square(x)))(x, vector=v).tolist() == [6.0, -6.0]


@pytest.mark.core
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_the_dtype_is_kept(dtype):
    x = jnp.array([1.0, 2.0], dtype)
    f = lambda x: jnp.sum(x**3)  # noqa: E731
    gradient, operator = derivatives.hessian(f)(x)
    got = [
        derivatives.hvp(f)(x, vector=x),
        operator(x),
        derivatives.gauss_newton(lambda x: x**2, f)(x, vector=x),
        derivatives.jvp(lambda x: x**2)(x, vector=x),
        derivatives.vjp(lambda x: x**2)(x, vector=x),
    ]
    assert gradient.dtype == dtype
    assert all(product.dtype == dtype for product in got)
    expected = [[6, 24], [6, 24], [24, 768], [2, 8], [2, 8]]  # J = 2x, ∇²loss = 6x²
    for product, value in zip(got, expected, strict=True):
        np.testing.assert_allclose(np.asarray(product, float), value, rtol=2e-2)


NAMES = ["jvp", "vjp", "hvp", "gauss_newton"]


def built(name, f, argnums=0):
    if name == "gauss_newton":
        return derivatives.gauss_newton(f, jnp.sum, argnums)
    return getattr(derivatives, name)(f, argnums)


@pytest.mark.core
@pytest.mark.parametrize("name", NAMES)
def test_integers_have_no_derivative(name):
    with pytest.raises(TypeError, match=rf"`{name}` needs floating-point arrays, but the leaf `\['n'\]` of its input"):
        built(name, lambda x: x)({"n": jnp.arange(3)}, vector={"n": jnp.ones(3)})


@pytest.mark.core
@pytest.mark.parametrize("name", NAMES)
def test_the_argument_must_exist(name):
    with pytest.raises(ValueError, match=rf"`{name}` was built with argnums=1, .* called with 1 argument"):
        built(name, jnp.sum, 1)(jnp.ones(3), vector=jnp.ones(3))


@pytest.mark.core
@pytest.mark.parametrize("name", NAMES)
def test_the_vector_must_fit(name):
    f = jnp.sum if name == "hvp" else lambda x: 2 * x
    with pytest.raises(ValueError, match=rf"`vector` of `{name}` must have shape \(3,\); got \(2,\)"):
        built(name, f)(jnp.ones(3), vector=jnp.ones(2))
    with pytest.raises(ValueError, match=f"`vector` of `{name}` must have the structure"):
        built(name, f)(jnp.ones(3), vector={"v": jnp.ones(3)})


@pytest.mark.core
def test_second_derivatives_need_a_scalar():
    x = jnp.ones(3)
    with pytest.raises(TypeError, match=r"`hvp` needs a function that returns a scalar.* shape \(3,\)"):
        derivatives.hvp(lambda x: x)(x, vector=x)
    with pytest.raises(TypeError, match=r"`hessian` needs a function that returns a scalar.* shape \(3,\)"):
        derivatives.hessian(lambda x: x)(x)
    with pytest.raises(TypeError, match=r"`gauss_newton` needs a function that returns a scalar.* shape \(3,\)"):
        derivatives.gauss_newton(lambda x: x, lambda z: 2 * z)(x, vector=x)


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_the_jacobian_either_way(chunk_size):
    """Five outputs of three inputs go forward, two of three backward; the arguments are pytrees."""
    rng = np.random.default_rng(0)
    for outputs in (5, 2):
        matrix = jnp.asarray(rng.normal(size=(outputs, 3)), float)
        f = lambda x, s, m=matrix: jnp.tanh(jnp.dot(m, jnp.append(x["u"], x["v"]), precision="highest")) * s  # noqa: E731
        x, scale = {"u": jnp.array([0.3, -0.2]), "v": jnp.asarray(0.5)}, jnp.asarray(2.0)
        value, rows = jax.jit(derivatives.jacobian(f, chunk_size=chunk_size))(x, scale)
        np.testing.assert_allclose(value, f(x, scale), rtol=1e-6)
        for got, wanted in zip(jax.tree.leaves(rows), jax.tree.leaves(jax.jacrev(f)(x, scale)), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    with pytest.raises(TypeError, match=r"returns a vector; it returned shape \(2, 2\)"):
        derivatives.jacobian(lambda x: jnp.outer(x, x))(jnp.ones(2))
