"""Expected gradients against a loop over their own samples, and against closed forms of the expectation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.attribution import expected_gradients, integrated_gradients, with_stderr

X64 = jax.config.jax_enable_x64
TOLERANCE = 1e-7 if X64 else 1e-4
"""Also in float64 the position on the path is drawn in float32."""
X = {"u": np.array([0.4, -0.9]), "v": np.array([[1.2]])}
B = {"u": np.array([[0.0, 0.3], [1.0, -1.0], [-0.7, 0.5]]), "v": np.array([[[0.0]], [[0.5]], [[2.0]]])}
W = np.array([1.5, 0.7])


def f(x):
    return jnp.sum(jnp.sin(jnp.asarray(W, x["u"].dtype) * x["u"])) * jnp.sum(x["v"] ** 2)


def to_jax(tree):
    return jax.tree.map(lambda a: jnp.asarray(a, float), tree)


def own_samples(seed, n):
    """As documented: of sample i with the key key/i, the row is drawn from its fold 0 and the position from fold 1."""
    keys = [jax.random.fold_in(jax.random.key(seed), i) for i in range(n)]
    rows = [int(jax.random.randint(jax.random.fold_in(k, 0), (), 0, 3, jnp.int32)) for k in keys]
    return np.array(rows), np.array(
        [float(jax.random.uniform(jax.random.fold_in(k, 1), (), jnp.float32)) for k in keys]
    )


def contributions(rows, t):
    """(x - b) ∇f(b + t(x - b)) in float64: for u [n, 2] and for v [n]."""
    u, v = B["u"][rows], B["v"][rows, 0, 0]
    step_u, step_v = X["u"] - u, X["v"][0, 0] - v
    u, v = u + t[:, None] * step_u, v + t * step_v
    return step_u * W * np.cos(W * u) * v[:, None] ** 2, step_v * 2 * v * np.sin(W * u).sum(1)


@pytest.mark.core
@pytest.mark.numerics
def test_it_is_the_mean_over_its_own_samples():
    by_u, by_v = contributions(*own_samples(1, 11))
    method = expected_gradients(f, num_samples=11, chunk_size=4)
    got = jax.jit(method)(jax.random.key(1), to_jax(X), background=to_jax(B))
    np.testing.assert_allclose(got["u"], by_u.mean(0), rtol=TOLERANCE, atol=TOLERANCE)
    np.testing.assert_allclose(got["v"], [[by_v.mean()]], rtol=TOLERANCE, atol=TOLERANCE)
    estimate = jax.jit(with_stderr(method))(jax.random.key(1), to_jax(X), background=to_jax(B))
    np.testing.assert_allclose(estimate.mean["u"], got["u"], rtol=TOLERANCE)
    np.testing.assert_allclose(estimate.stderr["u"], by_u.std(0, ddof=1) / 11**0.5, rtol=TOLERANCE)
    np.testing.assert_allclose(estimate.stderr["v"], [[by_v.std(ddof=1) / 11**0.5]], rtol=TOLERANCE)
    assert int(estimate.num_samples) == 11


def flat(tree):
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


@functools.cache
def many():
    """From 20 000 samples."""
    run = jax.jit(with_stderr(expected_gradients(f, num_samples=20_000, chunk_size=5000)))
    return run(jax.random.key(2), to_jax(X), background=to_jax(B))


def test_it_is_the_mean_of_integrated_gradients_over_the_rows():
    """4 standard errors of 3 entries fail for one key in 5000."""
    explain = jax.jit(jax.vmap(lambda b: integrated_gradients(f)(to_jax(X), baseline=b)))
    wanted = np.mean([flat(jax.tree.map(lambda a: a[i], explain(to_jax(B)))) for i in range(3)], 0)  # noqa: B023
    mean, stderr = flat(many().mean), flat(many().stderr)
    assert np.all(np.abs(mean - wanted) < 4 * stderr)
    assert np.all(stderr < 0.02 * np.abs(wanted).max())


def test_it_is_complete_in_expectation():
    """The sum against f(x) minus the mean output; the error of a sum is at most the sum of the errors."""
    outputs = jax.vmap(f)(to_jax(B))
    gap = flat(many().mean).sum() - float(f(to_jax(X)) - jnp.mean(outputs))
    assert abs(gap) < 4 * flat(many().stderr).sum()
    assert abs(flat(many().mean).sum() - float(f(to_jax(X)))) > 10 * flat(many().stderr).sum(), "the background counts"


def test_the_standard_error_is_honest():
    """Of 400 t-values with 99 degrees of freedom 0.05 are expected beyond 4; within 1 are 68 % (± 2.3 %)."""
    g = lambda x: jnp.sum(jnp.sin(2 * x) * x)  # noqa: E731
    x, rows = jnp.array([1.3]), jnp.array([[0.0], [-1.0], [0.6], [2.0]])
    method = with_stderr(expected_gradients(g, num_samples=100, chunk_size=None))
    estimate = jax.jit(jax.vmap(lambda key: method(key, x, background=rows)))(jax.random.split(jax.random.key(7), 400))
    truth = float(g(x) - jnp.mean(jax.vmap(g)(rows)))
    distance = np.abs(np.asarray(estimate.mean, np.float64)[:, 0] - truth) / np.asarray(estimate.stderr)[:, 0]
    assert np.sum(distance > 4) <= 2
    assert 0.58 < np.mean(distance < 1) < 0.78


@pytest.mark.core
@pytest.mark.numerics
def test_a_linear_function_is_explained_exactly_by_one_row():
    a, x, b = np.random.default_rng(0).normal(size=(3, 4))
    explain = jax.jit(expected_gradients(lambda z: jnp.vdot(jnp.asarray(a, z.dtype), z), num_samples=3))
    got = explain(jax.random.key(0), jnp.asarray(x, float), background=jnp.asarray(b, float)[None])
    np.testing.assert_allclose(got, a * (x - b), rtol=1e-12 if X64 else 1e-5)


@pytest.mark.core
def test_a_row_moves_all_arguments_together():
    """For f = ab and rows (r, -r) the two maps add up to f(x) - f(row) for each sample, on average over t."""
    rows = jnp.array([1.0, 3.0])
    method = with_stderr(expected_gradients(lambda a, b, c: a * b + c, (1, 0), num_samples=4000, chunk_size=None))
    estimate = jax.jit(method)(jax.random.key(4), 2.0, -1.0, 7.0, background=(-rows, rows))
    # ∫ (x - b) ∂f dt = (x - b) times the mean of the other argument at both ends
    wanted = [np.mean([(-1 + r) * (2 + r) / 2 for r in (1, 3)]), np.mean([(2 - r) * (-1 - r) / 2 for r in (1, 3)])]
    for mean, stderr, truth in zip(estimate.mean, estimate.stderr, wanted, strict=True):
        assert abs(float(mean) - truth) < 4 * float(stderr)


@pytest.mark.core
def test_it_is_differentiable():
    """In the parameter a of Σ a²x³: 2/a of the map."""
    explain = expected_gradients(lambda a, x: jnp.sum(a**2 * x**3), 1, num_samples=9)
    explain = functools.partial(explain, background=jnp.array([[0.5, 0.1], [0.0, 1.0]]))
    x = jnp.array([1.0, -2.0])
    slope = jax.jit(jax.jacobian(explain, 1))(jax.random.key(5), 2.0, x)
    np.testing.assert_allclose(slope, jax.jit(explain)(jax.random.key(5), 2.0, x), rtol=1e-5)


@pytest.mark.core
def test_what_is_refused():
    with pytest.raises(ValueError, match="`num_samples` must be at least 1; got 0"):
        expected_gradients(f, num_samples=0)
    with pytest.raises(ValueError, match="`chunk_size` must be at least 1; got 0"):
        expected_gradients(f, chunk_size=0)
    x, rows = jnp.ones(3), jnp.zeros((2, 3))
    with pytest.raises(TypeError, match="background"):
        expected_gradients(jnp.sum)(jax.random.key(0), x)
    with pytest.raises(ValueError, match=r"^`background` of `expected_gradients` must have .*\[rows, 3\]; got \(3,\)"):
        expected_gradients(jnp.sum)(jax.random.key(0), x, background=x)
    with pytest.raises(TypeError, match=r"^`background` of `expected_gradients` must hold floating-point"):
        expected_gradients(jnp.sum)(jax.random.key(0), x, background=rows.astype(jnp.int32))
    with pytest.raises(TypeError, match=r"^`expected_gradients` needs floating-point arrays"):
        expected_gradients(jnp.sum)(jax.random.key(0), jnp.arange(3), background=rows)
    with pytest.raises(TypeError, match=r"^`expected_gradients` needs a function that returns a scalar"):
        expected_gradients(jnp.sin)(jax.random.key(0), x, background=rows)
    with pytest.raises(TypeError, match=r"^`expected_gradients` takes a random key .* Got 0 of type int"):
        expected_gradients(jnp.sum)(0, x, background=rows)
