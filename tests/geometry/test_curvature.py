"""Hessian norms and curvature against dense Hessians and numpy.linalg.eigvalsh, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import geometry, heads

X64 = jax.config.jax_enable_x64
TOLERANCE = 1e-10 if X64 else 1e-4
BETA = 3.0
NETS = 24


def softplus(z):
    return jnp.logaddexp(BETA * z, jnp.zeros_like(z)) / BETA


def network(params, x):
    """Two hidden layers of softplus units, one output."""
    h = softplus(jnp.dot(params["w0"], x, precision="highest") + params["b0"])
    h = softplus(jnp.dot(params["w1"], h, precision="highest") + params["b1"])
    return jnp.dot(params["w2"], h, precision="highest")


def random_nets():
    """Convex, concave and indefinite networks: the signs of the output weights decide."""
    rng = np.random.default_rng(0)
    signs = np.repeat([1, -1, 0], NETS // 3)[:, None]
    out = rng.normal(size=(NETS, 9))
    return {
        "w0": rng.normal(size=(NETS, 8, 6)),
        "b0": rng.normal(size=(NETS, 8)),
        "w1": np.where(signs[..., None] == 0, 1, 0) * rng.normal(size=(NETS, 9, 8)) / 2
        + np.abs(signs[..., None]) * np.abs(rng.normal(size=(NETS, 9, 8))) / 4,
        "b1": rng.normal(size=(NETS, 9)),
        "w2": np.where(signs == 0, out, signs * np.abs(out)),
    }, rng.normal(size=(NETS, 6))


def exact(params, x):
    """Gradient and Hessian in float64: the sum over layers of J_zᵀ diag(∂f/∂h ⊙ s''(z)) J_z."""
    sigmoid = lambda z: 1 / (1 + np.exp(-BETA * z))  # noqa: E731
    z0 = params["w0"] @ x + params["b0"]
    z1 = params["w1"] @ (np.logaddexp(0, BETA * z0) / BETA) + params["b1"]
    s0, s1 = sigmoid(z0), sigmoid(z1)
    by_h1, by_h0 = params["w2"], params["w1"].T @ (params["w2"] * s1)
    j0 = params["w0"]
    j1 = params["w1"] @ (s0[:, None] * j0)
    hessian = j0.T @ np.diag(by_h0 * BETA * s0 * (1 - s0)) @ j0 + j1.T @ np.diag(by_h1 * BETA * s1 * (1 - s1)) @ j1
    return j0.T @ (s0 * by_h0), hessian


def one(batch, i):
    return jax.tree.map(lambda a: a[i], batch)


@functools.cache
def spectra():
    nets, points = random_nets()
    return [exact(one(nets, i), points[i]) for i in range(NETS)]


@functools.cache
def compiled(**options):
    run = jax.jit(jax.vmap(geometry.curvature(network, 1, **options)))
    nets, points = jax.tree.map(lambda a: jnp.asarray(a, float), random_nets())
    return lambda seed: run(jax.random.split(jax.random.key(seed), NETS), nets, points)


def column(values):
    return np.asarray(values, np.float64)


@pytest.mark.core
def test_the_oracle_is_the_hessian():
    """And the nets are what they should be: positive, negative, and of both signs."""
    nets, points = jax.tree.map(lambda a: jnp.asarray(a, float), random_nets())
    dense = jax.jit(jax.vmap(jax.hessian(network, 1)))(nets, points)
    for (_, hessian), other in zip(spectra(), dense, strict=True):
        np.testing.assert_allclose(other, hessian, rtol=0, atol=1e-4 * np.max(np.abs(hessian)))
    ends = np.array([np.linalg.eigvalsh(hessian)[[0, -1]] for _, hessian in spectra()])
    assert np.all(ends[:8] > -1e-12)
    assert np.all(ends[8:16] < 1e-12)
    mixed = ends[16:]
    assert np.sum((mixed[:, 0] < -0.1) & (mixed[:, 1] > 0.1)) >= 5
    assert len(np.unique(-mixed[:, 0] > mixed[:, 1])) == 2


@pytest.mark.core
@pytest.mark.numerics
def test_curvature_of_softplus_networks():
    got = compiled(tolerance=0.0, epsilon=0.25)(0)
    norms = np.array([np.abs(np.linalg.eigvalsh(hessian)).max() for _, hessian in spectra()])
    slopes = np.array([np.linalg.norm(gradient) for gradient, _ in spectra()])
    np.testing.assert_allclose(got.hessian_norm, norms, rtol=TOLERANCE)
    np.testing.assert_allclose(got.gradient_norm, slopes, rtol=TOLERANCE)
    np.testing.assert_allclose(got.normalised, norms / (slopes + 0.25), rtol=TOLERANCE)
    assert np.all(column(got.residual) < TOLERANCE * norms)
    assert got.num_iterations.dtype == jnp.int32
    np.testing.assert_array_equal(got.num_iterations, np.full(NETS, 6))


@pytest.mark.core
def test_few_products_give_a_lower_bound_with_an_honest_residual():
    for products in (1, 3):
        got = compiled(tolerance=0.0, num_iterations=products)(1)
        assert np.all(column(got.num_iterations) == products)
        for value, residual, (_, hessian) in zip(
            column(got.hessian_norm), column(got.residual), spectra(), strict=True
        ):
            magnitudes = np.abs(np.linalg.eigvalsh(hessian))
            rounding = 1e-5 * magnitudes.max()
            assert value <= magnitudes.max() + rounding
            assert np.min(np.abs(magnitudes - value)) <= residual + rounding
        assert np.mean(column(got.residual) > 1e-3 * column(got.hessian_norm)) > 0.9


@pytest.mark.core
def test_the_key_does_not_decide_the_value():
    """To the tolerance at which the iteration stops; the residual bounds the error, which is far below it."""
    norms = np.array([np.abs(np.linalg.eigvalsh(hessian)).max() for _, hessian in spectra()])
    for seed in range(4):
        got = compiled(tolerance=1e-3)(seed)
        np.testing.assert_allclose(got.hessian_norm, norms, rtol=1e-3)
        assert np.all(column(got.residual) < 2e-3 * norms)


@pytest.mark.core
@pytest.mark.numerics
def test_the_norm_alone_of_one_point_without_jit():
    nets, points = jax.tree.map(lambda a: jnp.asarray(a, float), random_nets())
    batch, i = compiled(tolerance=1e-3)(0), 20
    alone = geometry.hessian_norm(network, 1)(jax.random.split(jax.random.key(0), NETS)[i], one(nets, i), points[i])
    assert float(alone.value) == pytest.approx(float(batch.hessian_norm[i]), rel=TOLERANCE)
    assert int(alone.num_iterations) == int(batch.num_iterations[i])
    vector = column(alone.vector)
    assert np.linalg.norm(vector) == pytest.approx(1, rel=1e-5)
    assert abs(vector @ spectra()[i][1] @ vector) == pytest.approx(float(alone.value), rel=10 * TOLERANCE)


@pytest.mark.core
def test_without_curvature_the_norm_is_exactly_zero():
    w = np.random.default_rng(1).normal(size=(5, 4))
    x = np.array([1.0, 2.0, -1.0, 0.5])

    def f(x, share):
        z = jnp.asarray(w, x.dtype) @ x
        return share[0] * jnp.sum(jax.nn.relu(z)) + share[1] * jnp.sum(z)

    measure = jax.jit(geometry.curvature(f))
    for share, slope in [((1.0, 0.0), w.T @ (w @ x > 0)), ((0.0, 1.0), w.sum(0)), ((0.0, 0.0), np.zeros(4))]:
        got = measure(jax.random.key(0), jnp.asarray(x, float), jnp.asarray(share))
        assert float(got.hessian_norm) == float(got.normalised) == float(got.residual) == 0
        assert float(got.gradient_norm) == pytest.approx(np.linalg.norm(slope), rel=1e-5)


@pytest.mark.core
def test_epsilon_guards_a_point_without_slope():
    """At the minimum of |x|² the Hessian norm is 2, relative to ε alone."""
    got = jax.jit(geometry.curvature(lambda x: jnp.sum(x**2)))(jax.random.key(0), jnp.zeros(3))
    assert float(got.gradient_norm) == 0
    assert float(got.normalised) == pytest.approx(2e6, rel=1e-5)


@pytest.mark.core
def test_normalised_curvature_does_not_see_the_scale_of_the_function():
    f = lambda x, scale: scale * (jnp.sum(jnp.sin(x)) + x[0] * x[1])  # noqa: E731
    measure = jax.jit(geometry.curvature(f, epsilon=0.0))
    small, large = (measure(jax.random.key(0), jnp.array([0.3, -0.8, 1.1]), jnp.asarray(s)) for s in (1e-3, -1e3))
    assert float(small.normalised) == pytest.approx(float(large.normalised), rel=1e-5)
    assert float(large.hessian_norm) == pytest.approx(1e6 * float(small.hessian_norm), rel=1e-5)


@pytest.mark.core
def test_the_hessian_is_that_of_all_explained_arguments():
    """Of abc in (a, c) it is [[0, b], [b, 0]]; in a alone there is none."""
    f = lambda a, b, c: a["p"] * b * c  # noqa: E731
    args = {"p": jnp.asarray(2.0)}, jnp.asarray(-3.0), jnp.asarray(5.0)
    both = jax.jit(geometry.curvature(f, (2, 0)))(jax.random.key(0), *args)
    assert float(both.hessian_norm) == pytest.approx(3, rel=1e-5)
    assert float(both.gradient_norm) == pytest.approx(np.hypot(6, 15), rel=1e-5)
    assert float(jax.jit(geometry.hessian_norm(f))(jax.random.key(1), *args).value) == 0


def test_a_net_whose_curvature_exceeds_the_product_of_its_layers():
    """The gradients of two units nearly cancel: C = 96.5, where β‖W‖, doubled for the two units, is 14."""
    first, out, beta = jnp.array([[1.0, 0.0], [1.0, 0.01]]), jnp.array([1.0, -0.791068]), 5.0
    x = np.array([0.2, 30.0])

    def f(x):
        return jnp.vdot(out, jnp.logaddexp(beta * jnp.dot(first, x, precision="highest"), 0.0) / beta)

    s = 1 / (1 + np.exp(-beta * column(first) @ x))
    slope = column(first).T @ (column(out) * s)
    hessian = column(first).T @ np.diag(column(out) * beta * s * (1 - s)) @ column(first)
    norm = np.abs(np.linalg.eigvalsh(hessian)).max()
    got = jax.jit(geometry.curvature(f))(jax.random.key(0), jnp.asarray(x, float))
    assert float(got.hessian_norm) == pytest.approx(norm, rel=1e-4)
    assert float(got.gradient_norm) == pytest.approx(np.linalg.norm(slope), rel=1e-4)
    assert float(got.normalised) == pytest.approx(96.5, abs=0.1)
    assert 2 * beta * np.linalg.norm(first, 2) < 15
    assert norm == pytest.approx(0.706, abs=1e-3)


@pytest.mark.numerics
def test_the_norm_is_differentiable_in_the_parameters():
    """Against central differences of dense eigenvalues in float64, for norms from either end of the spectrum."""
    nets, points = random_nets()
    slope = jax.jit(
        jax.vmap(
            jax.grad(lambda p, key, x: geometry.hessian_norm(network, 1, tolerance=1e-6)(key, p, x).value),
        )
    )
    chosen = np.array([1, 9, 18, 20])
    picked = jax.tree.map(lambda a: jnp.asarray(a[chosen], float), nets)
    got = slope(picked, jax.random.split(jax.random.key(2), 4), jnp.asarray(points[chosen], float))
    rng = np.random.default_rng(3)
    for k, i in enumerate(chosen):
        for name in nets:
            direction = rng.normal(size=nets[name][i].shape)
            norm = {}
            for sign in (-1, 1):
                moved = one(nets, i) | {name: nets[name][i] + sign * 1e-5 * direction}
                norm[sign] = np.abs(np.linalg.eigvalsh(exact(moved, points[i])[1])).max()
            expected = (norm[1] - norm[-1]) / 2e-5
            scale = np.linalg.norm(column(got[name][k])) * np.linalg.norm(direction)
            assert np.sum(column(got[name][k]) * direction) == pytest.approx(
                expected, abs=1e-6 * scale if X64 else 2e-3 * scale
            )


W = np.array([[0.5, -1.0, 0.25], [-0.5, 2.0, 1.0], [1.0, 0.5, -1.5]])


def linear_softmax(x, lead):
    """Gradient and Hessian in x of minus the log-probability of the second class, which leads by about `lead`."""
    scores = W @ x + [0, lead, -1]
    odds = np.exp(np.delete(scores - scores[1], 1))
    p, differences = odds / (1 + odds.sum()), np.delete(W - W[1], 1, axis=0)
    return p @ differences, differences.T @ (np.diag(p) - np.outer(p, p)) @ differences


@functools.cache
def linear_softmax_curvature(head):
    def f(x, lead):
        shift = jnp.stack([jnp.zeros_like(lead), lead, -jnp.ones_like(lead)])
        return jnp.dot(jnp.asarray(W, x.dtype), x, precision="highest") + shift

    return jax.jit(geometry.curvature(head(f), epsilon=0.0))


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("head", [heads.cross_entropy, heads.log_prob])
@pytest.mark.parametrize("lead", [-3.0, 0.0, 15.0, 30.0, 50.0, 80.0])
def test_a_sure_prediction_keeps_its_curvature(head, lead):
    """Wᵀ(diag p - ppᵀ)W, down to e⁻⁸⁰."""
    x = np.array([0.25, -0.5, 1.0])
    gradient, hessian = linear_softmax(x, lead)
    got = linear_softmax_curvature(head)(jax.random.key(0), jnp.asarray(x, float), jnp.asarray(lead), 1)
    slope, norm = np.linalg.norm(gradient), np.linalg.eigvalsh(hessian)[-1]
    assert float(got.gradient_norm) == pytest.approx(slope, rel=1e-4, abs=0)
    assert float(got.hessian_norm) == pytest.approx(norm, rel=1e-4, abs=0)
    assert float(got.normalised) == pytest.approx(norm / slope, rel=1e-4, abs=0)


@pytest.mark.core
@pytest.mark.parametrize("method", [geometry.curvature, geometry.hessian_norm])
def test_what_is_refused(method):
    x = jnp.ones(3)
    with pytest.raises(ValueError, match="`num_iterations` must be at least 1; got 0"):
        method(jnp.sum, num_iterations=0)(jax.random.key(0), x)
    with pytest.raises(ValueError, match="`tolerance` must be finite and >= 0; got -1"):
        method(jnp.sum, tolerance=-1.0)(jax.random.key(0), x)
    with pytest.raises(TypeError, match="takes a random key as its first argument"):
        method(jnp.sum)(0, x)
    with pytest.raises(TypeError, match="needs floating-point arrays"):
        method(jnp.sum)(jax.random.key(0), jnp.arange(3))
    with pytest.raises(TypeError, match="needs a function that returns a scalar"):
        method(jnp.sin)(jax.random.key(0), x)
