"""Feature ablation and permutation against loops in NumPy, and where they must be exact."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.attribution import feature_ablation, occlusion, permutation, with_stderr

X64 = jax.config.jax_enable_x64
TOLERANCE = 1e-12 if X64 else 2e-5
RNG = np.random.default_rng(0)
X = {"u": RNG.normal(size=(2, 3)), "v": RNG.normal(size=4)}
B = {"u": RNG.normal(size=(5, 2, 3)), "v": RNG.normal(size=(5, 4))}
GROUPS = {"u": np.array([[0, 1, 1], [3, 2, 2]]), "v": np.array([3, 0, 5, 5])}  # there is no entry of group 4
SINGLE = {"u": np.arange(6).reshape(2, 3), "v": np.arange(6, 10)}
WEIGHTS = RNG.normal(size=(7, 10))


def f(x, xp=jnp):
    flat = xp.concatenate([x["u"].reshape(-1), x["v"]])
    return xp.sum(xp.tanh(xp.asarray(WEIGHTS, flat.dtype) @ flat)) + flat[0] * flat[9]


def by_hand(g, x, rows, groups):
    """The mean over the rows, in float64, of what g loses when each group is taken from the row."""
    total = jax.tree.map(np.zeros_like, x)
    count = len(jax.tree.leaves(rows)[0])
    for number in range(count):
        row = jax.tree.map(lambda a: a[number], rows)  # noqa: B023
        for group in range(10):
            changed = jax.tree.map(lambda i, a, b: np.where(i == group, b, a), groups, x, row)  # noqa: B023
            drop = (g(x, np) - g(changed, np)) / count
            total = jax.tree.map(lambda i, t: t + drop * (i == group), groups, total)  # noqa: B023
    return total


def to_jax(tree):
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.int32 if a.dtype == int else float), tree)


def assert_close(got, wanted):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE * 10)


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("chunk_size", [1, 7, None])
def test_they_are_the_loop_over_features_and_rows(grouped, chunk_size):
    options = {"num_groups": 6 if grouped else None, "chunk_size": chunk_size}
    arrays = {"groups": to_jax(GROUPS)} if grouped else {}
    groups = GROUPS if grouped else SINGLE
    got = jax.jit(permutation(f, **options))(to_jax(X), background=to_jax(B), **arrays)
    assert_close(got, by_hand(f, X, B, groups))
    first = jax.tree.map(lambda a: a[:1], B)
    baseline = to_jax(jax.tree.map(lambda a: a[0], B))
    got = jax.jit(feature_ablation(f, **options))(to_jax(X), baseline=baseline, **arrays)
    assert_close(got, by_hand(f, X, first, groups))


@pytest.mark.core
@pytest.mark.numerics
def test_linear_functions_are_explained_exactly():
    """Groups reach across arguments; each entry of a group carries what the whole group contributes."""
    a = jax.tree.map(lambda leaf: np.random.default_rng(1).normal(size=leaf.shape), X)
    linear = lambda v, shift, u: jnp.vdot(to_jax(a)["u"], u) + jnp.vdot(to_jax(a)["v"], v) + shift  # noqa: E731
    single = jax.tree.map(lambda s, t, b: s * (t - b.mean(0)), a, X, B)
    total = np.zeros(6)
    for g, s in zip(jax.tree.leaves(GROUPS), jax.tree.leaves(single), strict=True):
        np.add.at(total, g, s)
    x, rows, groups = to_jax(X), to_jax(B), to_jax(GROUPS)
    in_order = lambda t: (t["u"], t["v"])  # noqa: E731
    arrays = {"background": in_order(rows), "groups": in_order(groups)}
    got = jax.jit(permutation(linear, (2, 0), num_groups=6))(x["v"], 3.0, x["u"], **arrays)
    assert_close(got, in_order(jax.tree.map(lambda g: total[g], GROUPS)))
    got = jax.jit(permutation(linear, (2, 0)))(x["v"], 3.0, x["u"], background=in_order(rows))
    assert_close(got, in_order(single))
    got = jax.jit(feature_ablation(linear, 2))(x["v"], 3.0, x["u"], baseline=0.5)
    assert_close(got, a["u"] * (X["u"] - 0.5))


@pytest.mark.core
def test_single_entries_are_those_of_occlusion():
    x = to_jax(X)
    assert_close(jax.jit(feature_ablation(f))(x), jax.jit(occlusion(f))(x))


@pytest.mark.core
def test_over_a_batch_they_are_a_loop():
    x = jnp.asarray(RNG.normal(size=(3, 4)), float)
    g = lambda z: jnp.sum(jnp.sin(z)) * z[0]  # noqa: E731
    explain = functools.partial(permutation(g), background=x)
    assert_close(jax.jit(jax.vmap(explain))(x), jnp.stack([explain(row) for row in x]))


@pytest.mark.core
def test_what_is_hidden_does_not_matter_and_what_is_broken_stays_in_its_group():
    explain = jax.jit(feature_ablation(lambda z: 1 / z[0] + z[1], chunk_size=1))
    hidden = explain(jnp.array([2.0, 1.0]), baseline=jnp.array([jnp.inf, 0.0]))
    np.testing.assert_allclose(hidden, [0.5, 1.0])
    broken = explain(jnp.array([2.0, 1.0]), baseline=jnp.zeros(2))
    assert broken.tolist() == [-np.inf, 1.0]


@pytest.mark.core
def test_an_empty_group_is_nobodys():
    """Nothing is replaced, nothing is lost, and no entry is told."""
    got = jax.jit(feature_ablation(jnp.sum, num_groups=9))(jnp.ones(3), groups=jnp.array([8, 0, 8]))
    assert got.tolist() == [2.0, 1.0, 2.0]


@pytest.mark.core
def test_the_map_is_differentiable():
    """In the parameter of Σ w²x²: the map is w²x² for single entries."""
    x = jnp.array([1.0, 2.0, -1.0])
    explain = feature_ablation(lambda w, x: jnp.sum(w**2 * x**2), 1, chunk_size=2)
    np.testing.assert_allclose(jax.jit(jax.jacobian(explain))(3.0, x), 6.0 * np.asarray(x) ** 2, rtol=1e-5)


METHODS = pytest.mark.parametrize(
    ("method", "arrays"), [(feature_ablation, {}), (permutation, {"background": jnp.zeros((2, 3))})]
)


@pytest.mark.core
@METHODS
@pytest.mark.parametrize("groups", [[0, 5, 1], [0, -1, 1]])
def test_a_group_outside_is_nan_where_it_cannot_be_refused(method, arrays, groups):
    run = jax.jit(lambda g: method(jnp.sum, num_groups=2)(jnp.ones(3), groups=g, **arrays))
    assert np.isnan(run(jnp.array(groups))).all()
    assert np.isfinite(run(jnp.array([0, 1, 1]))).all()


@pytest.mark.core
@METHODS
def test_groups_are_refused_as_by_lime(method, arrays):
    name, x = method.__name__, jnp.ones(3)
    for groups, error, message in [
        (jnp.array([0, 1, 2]), ValueError, rf"`groups` of `{name}` must lie in 0\.\.1 .*; got values from 0 to 2"),
        (jnp.array([-1, 0, 1]), ValueError, r"got values from -1 to 1"),
        (jnp.array([0, 1]), ValueError, r"must have shape \(3,\); got \(2,\)"),
        (jnp.array([0.0, 1.0, 1.0]), TypeError, "must be integers; got dtype float"),
        (None, TypeError, f"^`{name}` needs `num_groups` .* got num_groups=2 and groups missing"),
    ]:
        with pytest.raises(error, match=message):
            method(jnp.sum, num_groups=2)(x, groups=groups, **arrays)
    with pytest.raises(TypeError, match="got num_groups=None and groups given"):
        method(jnp.sum)(x, groups=jnp.array([0, 1, 1]), **arrays)


@pytest.mark.core
@METHODS
def test_what_is_refused(method, arrays):
    name = method.__name__
    for options, error, message in [
        ({"num_groups": 0}, ValueError, "`num_groups` must be at least 1; got 0"),
        ({"num_groups": 2.0}, TypeError, "`num_groups` must be a Python integer"),
        ({"chunk_size": 0}, ValueError, "`chunk_size` must be at least 1; got 0"),
    ]:
        with pytest.raises(error, match=message):
            method(jnp.sum, **options)
    with pytest.raises(TypeError, match=f"^`{name}` needs floating-point arrays"):
        method(jnp.sum)(jnp.arange(3), **arrays)
    with pytest.raises(TypeError, match=f"^`{name}` needs a function that returns a scalar"):
        method(jnp.sin)(jnp.ones(3), **arrays)
    with pytest.raises(TypeError, match="`with_stderr` takes a stochastic method"):
        with_stderr(method(jnp.sum))


@pytest.mark.core
def test_backgrounds_and_baselines_are_refused_by_name():
    with pytest.raises(TypeError, match="background"):
        permutation(jnp.sum)(jnp.ones(3))
    with pytest.raises(ValueError, match=r"^`background` of `permutation` must have .*\[rows, 3\]; got \(3,\)"):
        permutation(jnp.sum)(jnp.ones(3), background=jnp.ones(3))
    with pytest.raises(ValueError, match=r"`baseline` of shape \(2,\) does not broadcast"):
        feature_ablation(jnp.sum)(jnp.ones(3), baseline=jnp.ones(2))
