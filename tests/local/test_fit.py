"""The framework: popular explanations as its instances against their own definitions, evidence and transformations."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.linear_model
import sklearn.metrics
from jax.flatten_util import ravel_pytree

from jaxinterp import attribution, local

pytestmark = [pytest.mark.core, pytest.mark.numerics]

X64 = jax.config.jax_enable_x64
TOLERANCE = 1e-9 if X64 else 2e-4
RNG = np.random.default_rng(0)
W0, W1 = (jnp.asarray(RNG.normal(size=shape), float) for shape in ((5, 4), (5,)))
B0 = jnp.asarray(RNG.normal(size=5), float)
X = jnp.array([0.8, -1.2, 0.5, 1.5])
BASELINE = jnp.array([0.1, 0.2, -0.3, 0.0])
SHAPLEY = local.Linear("anchored", complete=True)


def mlp(x):
    return jnp.dot(W1, jnp.tanh(jnp.dot(W0, x, precision="highest") + B0), precision="highest")


def in_numpy(points):
    w0, b0, w1 = (np.asarray(a, np.float64) for a in (W0, B0, W1))
    return np.tanh(points @ w0.T + b0) @ w1


def gradient_in_numpy(points):
    w0, b0, w1 = (np.asarray(a, np.float64) for a in (W0, B0, W1))
    return ((1 - np.tanh(points @ w0.T + b0) ** 2) * w1) @ w0


def close(a, b, factor=1.0):
    np.testing.assert_allclose(a, b, rtol=factor * TOLERANCE, atol=factor * TOLERANCE)


def wide(a):
    return np.asarray(a, np.float64)


def shapley_values(value, d):
    """The mean contribution over all orders in which features can be added."""
    found = np.zeros(d)
    for order in itertools.permutations(range(d)):
        mask = np.zeros(d)
        for feature in order:
            before = value(mask)
            mask[feature] = 1
            found[feature] += value(mask) - before
    return found / math.factorial(d)


def masked_mlp(mask):
    return in_numpy(np.where(mask == 1, wide(X), wide(BASELINE)))


def test_the_gradient():
    fit = local.fit(mlp, neighbourhood=local.gaussian, loss="gradient_matching", num_samples=4)
    np.testing.assert_allclose(jax.jit(fit)(jax.random.key(0), X, stddev=1e-5).slope, gradient_in_numpy(wide(X)), 1e-4)


def test_gradient_times_input():
    fit = local.fit(mlp, neighbourhood=local.scaling, loss="gradient_matching", num_samples=3)
    model = jax.jit(fit)(jax.random.key(0), X, baseline=BASELINE, low=1.0)
    close(model.slope, wide(X - BASELINE) * gradient_in_numpy(wide(X)))


def test_occlusion():
    fit = local.fit(mlp, neighbourhood=local.one_hot(), model=local.Linear("anchored"))
    model = jax.jit(fit)(jax.random.key(0), X, baseline=BASELINE)
    expected = [in_numpy(wide(X)) - masked_mlp(1 - np.eye(4)[i]) for i in range(4)]
    close(model.slope, expected)
    assert np.all(np.asarray(model.stderr) == 0)
    assert float(model.intercept) == pytest.approx(float(mlp(X)), rel=1e-5)


def test_integrated_gradients():
    """The integral by Gauss and Legendre; the error falls as n^-1/2 and is what the standard error says."""
    nodes, weights = np.polynomial.legendre.leggauss(60)
    x, b = wide(X), wide(BASELINE)
    path = b + ((nodes + 1) / 2)[:, None] * (x - b)
    expected = (x - b) * (weights / 2 @ gradient_in_numpy(path))
    assert expected.sum() == pytest.approx(in_numpy(x) - in_numpy(b), rel=1e-9)
    errors = []
    for n in (50, 1250):
        fit = local.fit(mlp, neighbourhood=local.scaling, loss="gradient_matching", num_samples=n)
        run = jax.jit(jax.vmap(lambda key, fit=fit: fit(key, X, baseline=BASELINE)))
        models = run(jax.random.split(jax.random.key(1), 100))
        error = wide(models.slope) - expected
        assert np.all(np.abs(error[0]) < 4 * wide(models.stderr[0]))
        np.testing.assert_allclose(np.sqrt((error**2).mean(0)), np.sqrt((wide(models.stderr) ** 2).mean(0)), rtol=0.4)
        errors.append(np.sqrt((error**2).mean()))
    assert errors[0] / errors[1] == pytest.approx(5, rel=0.35)


def test_smooth_grad():
    fit = local.fit(mlp, neighbourhood=local.gaussian, loss="gradient_matching", num_samples=25)
    model = jax.jit(fit)(jax.random.key(2), X, stddev=0.4)
    points = [local.gaussian(jax.random.fold_in(jax.random.key(2), i), X, stddev=0.4).point for i in range(25)]
    gradients = gradient_in_numpy(wide(points))
    close(model.slope, gradients.mean(0))
    close(model.stderr, gradients.std(0, ddof=1) / 5)


def test_c_lime_and_smooth_grad_agree_on_a_quadratic():
    """Both tend to the gradient at x; each within 5 of its standard errors, over 50 keys within 4."""
    hessian = (lambda m: jnp.asarray(m + m.T, float))(RNG.normal(size=(4, 4)))
    f = lambda x: jnp.dot(x, jnp.dot(hessian, x)) / 2 + x[0]  # noqa: E731
    exact = wide(hessian) @ wide(X) + [1, 0, 0, 0]
    for loss in ("squared_error", "gradient_matching"):
        fit = local.fit(f, neighbourhood=local.gaussian, loss=loss, num_samples=400)
        run = jax.jit(jax.vmap(lambda key, fit=fit: fit(key, X, stddev=0.3)))
        models = run(jax.random.split(jax.random.key(3), 50))
        error = wide(models.slope) - exact
        assert np.all(np.abs(error) < 5 * wide(models.stderr))
        assert np.all(np.abs(error.mean(0)) < 4 * wide(models.stderr).mean(0) / np.sqrt(50))


def test_lime():
    weight = local.exponential_weight(1.2)
    fit = local.fit(mlp, neighbourhood=local.binary_mask, weight=weight, num_samples=30)
    model = jax.jit(fit)(jax.random.key(4), X, baseline=BASELINE)
    draw = jax.jit(lambda i: local.binary_mask(jax.random.fold_in(jax.random.key(4), i), X).coordinates)
    masks = wide([draw(i) for i in range(30)])
    weights = np.exp(-(4 - masks.sum(1)) / (2 * 1.2**2))
    values = in_numpy(np.where(masks == 1, wide(X), wide(BASELINE)))
    oracle = sklearn.linear_model.LinearRegression().fit(masks, values, sample_weight=weights)
    close(model.slope, oracle.coef_)
    close(model.intercept, oracle.predict(np.ones((1, 4)))[0])
    expected = sklearn.metrics.r2_score(values, oracle.predict(masks), sample_weight=weights)
    close(model.r_squared, expected)
    close(model.effective_samples, weights.sum() ** 2 / (weights**2).sum())
    centred = np.sqrt(weights)[:, None] * (masks - np.average(masks, axis=0, weights=weights))
    close(model.condition, np.linalg.cond(centred))
    assert (float(model.residual), int(model.num_iterations)) == (0, 0)


@pytest.mark.parametrize("d", [2, 3, 4])
@pytest.mark.parametrize("kind", ["all masks", "coalitions"])
def test_kernel_shap_of_all_masks_is_the_shapley_values(kind, d):
    design, weight = {
        "all masks": (local.all_masks(), local.shapley_weight),
        "coalitions": (local.coalitions(2**d - 2), local.uniform_weight),
    }[kind]
    rest = BASELINE[d:]
    fit = local.fit(
        lambda x: mlp(jnp.concatenate([x, rest])), neighbourhood=design, weight=weight, model=SHAPLEY, chunk_size=3
    )
    model = jax.jit(fit)(jax.random.key(5), X[:d], baseline=BASELINE[:d])
    expected = shapley_values(lambda mask: masked_mlp(np.append(mask, np.zeros(4 - d))), d)
    close(model.slope, expected)
    assert np.all(np.asarray(model.stderr) == 0)
    assert float(model.slope.sum()) == pytest.approx(
        float(mlp(jnp.append(X[:d], rest)) - mlp(BASELINE)), rel=1e-4, abs=1e-5
    )


def test_the_shapley_value_of_one_feature():
    fit = local.fit(lambda x: x[0] ** 2, neighbourhood=local.all_masks(), weight=local.shapley_weight, model=SHAPLEY)
    assert float(fit(jax.random.key(0), jnp.array([3.0]), baseline=1.0).slope[0]) == pytest.approx(8)


def test_shapley_values_of_groups_with_a_background():
    rows, groups = jnp.asarray(RNG.normal(size=(6, 4)), float), jnp.array([0, 2, 1, 0])
    fit = local.fit(mlp, neighbourhood=local.coalitions(6, num_groups=3), model=SHAPLEY)
    model = jax.jit(fit)(jax.random.key(6), X, background=rows, groups=groups)

    def value(mask):
        return in_numpy(np.where(mask[np.asarray(groups)] == 1, wide(X), wide(rows))).mean()

    close(model.slope, shapley_values(value, 3))
    assert model.slope.shape == (3,)


def test_sampled_coalitions_are_near_the_shapley_values():
    """Within 5 standard errors for each of 20 keys; over 200, the mean error is none, and the spread is as stated."""
    w = jnp.asarray(RNG.normal(size=(6, 7)), float)
    f = lambda x: jnp.sum(jnp.tanh(jnp.dot(w, x, precision="highest")) ** 2 * jnp.arange(1.0, 7.0))  # noqa: E731
    x = jnp.asarray(RNG.normal(size=7), float)
    masks = list(itertools.product([0.0, 1.0], repeat=7))
    values = np.tanh(np.array(masks) * wide(x) @ wide(w).T) ** 2 @ np.arange(1.0, 7)
    table = dict(zip(masks, values, strict=True))
    exact = shapley_values(lambda mask: table[tuple(mask)], 7)
    fit = local.fit(f, neighbourhood=local.coalitions(60), model=SHAPLEY)
    models = jax.jit(jax.vmap(lambda key: fit(key, x)))(jax.random.split(jax.random.key(7), 200))
    error, stderr = wide(models.slope) - exact, wide(models.stderr)
    assert np.all(np.abs(error[:20]) < 5 * stderr[:20])
    assert np.all(np.abs(error.mean(0)) < 5 * error.std(0) / np.sqrt(200) + 0.02 * np.abs(exact).max())
    close(error.sum(1), np.zeros(200), 20)
    ratio = np.sqrt((stderr**2).mean(0)) / np.sqrt((error**2).mean(0))
    assert np.all((ratio > 0.7) & (ratio < 2))


def counted(calls):
    def f(x):
        calls.append(x)
        return jnp.sum(x)

    return f


@pytest.mark.parametrize(
    ("model", "loss", "count"),
    [
        (local.Linear(), "squared_error", 5),
        (local.Linear("zero"), "squared_error", 4),
        (local.Quadratic(), "squared_error", 15),
        (local.Quadratic(1), "squared_error", 6),
        (local.Quadratic(), "gradient_matching", 5),
        (local.Additive(1), "squared_error", 9),
        (local.Logistic(), "cross_entropy", 5),
    ],
)
def test_too_few_samples_are_refused_before_the_function_is_evaluated(model, loss, count):
    calls = []
    for build in (local.fit, local.fit_region):
        fit = build(counted(calls), neighbourhood=local.gaussian, model=model, loss=loss, num_samples=count - 1)
        x = X if build is local.fit else X[None]
        with pytest.raises(ValueError, match=rf"cannot determine the {count} coefficients .* from {count - 1} samples"):
            fit(jax.random.key(0), x, stddev=1.0)
    assert not calls


def test_too_few_coalitions_are_refused():
    calls = []
    fit = local.fit(counted(calls), neighbourhood=local.coalitions(4), model=local.Linear())
    with pytest.raises(ValueError, match=r"cannot determine the 6 coefficients .* from 4 samples"):
        fit(jax.random.key(0), jnp.ones(5))
    assert not calls


def test_losses_and_classes_that_do_not_go_together():
    for model, loss in [
        (local.SparseLinear(0.1), "gradient_matching"),
        (local.Additive(), "cross_entropy"),
        (local.Logistic(), "squared_error"),
        (local.Linear(), "cross_entropy"),
    ]:
        for build in (local.fit, local.fit_region):
            with pytest.raises(ValueError, match=f"`{type(model).__name__}` cannot be fitted by the loss '{loss}'"):
                build(jnp.sum, neighbourhood=local.gaussian, num_samples=9, model=model, loss=loss)


def test_bad_options_are_refused():
    with pytest.raises(TypeError, match="`fit` needs `num_samples` for a neighbourhood that is sampled"):
        local.fit(jnp.sum, neighbourhood=local.gaussian)
    with pytest.raises(TypeError, match="`fit` got `num_samples`, but the design"):
        local.fit(jnp.sum, neighbourhood=local.one_hot(), num_samples=4)
    with pytest.raises(ValueError, match="`chunk_size` must be at least 1"):
        local.fit(jnp.sum, neighbourhood=local.gaussian, num_samples=4, chunk_size=0)
    with pytest.raises(TypeError, match="`weight` of `fit` must be a function"):
        local.fit(jnp.sum, neighbourhood=local.gaussian, num_samples=4, weight=1.0)
    with pytest.raises(TypeError, match="`lime` takes a random key as its first argument"):
        local.fit(jnp.sum, neighbourhood=local.gaussian, num_samples=4, name="lime")(0, X, stddev=1.0)
    with pytest.raises(TypeError, match="`fit` needs a function that returns a scalar"):
        local.fit(lambda x: x, neighbourhood=local.gaussian, num_samples=9)(jax.random.key(0), X, stddev=1.0)


TREE = {"u": jnp.array([1.0, -0.5]), "v": jnp.asarray(0.3)}


def of_tree(w, x):
    return jnp.sum(jnp.sin(w * x["u"])) + x["v"] ** 2 * x["u"][0]


@pytest.mark.parametrize(
    ("model", "loss"),
    [
        (local.Linear(), "squared_error"),
        (local.Linear("anchored", complete=True), "squared_error"),
        (local.SparseLinear(0.05), "squared_error"),
        (local.Quadratic(), "gradient_matching"),
        (local.Quadratic(1), "squared_error"),
        (local.Additive(2), "squared_error"),
    ],
)
def test_jit_vmap_chunks_and_loops_agree_on_trees(model, loss):
    def build(chunk_size):
        fit = local.fit(
            of_tree, 1, neighbourhood=local.gaussian, loss=loss, model=model, num_samples=25, chunk_size=chunk_size
        )
        return lambda key, x: fit(key, jnp.array([2.0, -1.0]), x, stddev={"u": 0.5, "v": 0.8})

    keys = jax.random.split(jax.random.key(8), 2)
    points = jax.tree.map(lambda a: jnp.stack([a, a + 0.5]), TREE)
    mapped = jax.jit(jax.vmap(build(None)))(jax.random.clone(keys), points)
    for i, one in enumerate([jax.jit(build(7)), jax.jit(build(25))]):
        x = jax.tree.map(lambda a, i=i: a[i], points)
        single = one(keys[i], x)
        assert jax.tree.structure(single.slope) == jax.tree.structure(single.anchor) == jax.tree.structure(TREE)
        value, expected = single(x), jax.vmap(lambda m, x: m(x))(mapped, points)[i]
        for a, b in [
            (single.slope, jax.tree.map(lambda a, i=i: a[i], mapped.slope)),
            (single.r_squared, mapped.r_squared[i]),
            (single.effective_samples, mapped.effective_samples[i]),
            (single.condition, mapped.condition[i]),
            (value, expected),
        ]:
            np.testing.assert_allclose(ravel_pytree(a)[0], ravel_pytree(b)[0], rtol=3e-3, atol=1e-3)


def test_groups_over_several_arguments():
    f = lambda a, w, b: jnp.sum(w * a) + 10 * jnp.sum(b)  # noqa: E731
    groups = (jnp.array([0, 0, 1]), jnp.array([1, 2]))
    neighbourhood = functools.partial(local.binary_mask, num_groups=3)
    fit = local.fit(f, (0, 2), neighbourhood=neighbourhood, num_samples=40)
    model = jax.jit(fit)(jax.random.key(9), jnp.ones(3), jnp.arange(1.0, 4.0), jnp.ones(2), groups=groups)
    np.testing.assert_allclose(model.slope, [3, 13, 10], rtol=1e-4)
    assert float(model.r_squared) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("loss", ["squared_error", "gradient_matching"])
def test_the_derivative_with_respect_to_the_input(loss):
    """Of a quadratic function, with the same noise, the slope moves with x as the gradient does: by the Hessian."""
    hessian = (lambda m: jnp.asarray(m + m.T, float))(RNG.normal(size=(4, 4)))
    fit = local.fit(
        lambda x: jnp.dot(x, jnp.dot(hessian, x, precision="highest"), precision="highest") / 2,
        neighbourhood=local.gaussian,
        loss=loss,
        num_samples=12,
        chunk_size=5,
    )
    jacobian = jax.jit(jax.jacrev(lambda x: fit(jax.random.key(10), x, stddev=0.5).slope))(X)
    close(jacobian, hessian, 10)


def test_a_region_is_least_squares_on_the_pooled_samples():
    points = jnp.asarray(RNG.normal(size=(3, 4)), float)
    weight = local.exponential_weight(1.0, local.input_distance)
    fit = local.fit_region(mlp, neighbourhood=local.gaussian, num_samples=60, weight=weight, chunk_size=7)
    model = jax.jit(fit)(jax.random.key(11), points, stddev=0.4)

    @jax.jit
    def draw(i):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(11), i), 1)
        return local.gaussian(key, points[i % 3], stddev=0.4).point

    drawn = wide([draw(i) for i in range(60)])
    near = wide(points)[np.arange(60) % 3]
    weights = np.exp(-((drawn - near) ** 2).sum(1) / 2)
    oracle = sklearn.linear_model.LinearRegression().fit(drawn, in_numpy(drawn), sample_weight=weights)
    close(model.slope, oracle.coef_)
    close(model.anchor, wide(points).mean(0))
    close(model.intercept, oracle.predict(wide(points).mean(0, keepdims=True))[0])
    expected = sklearn.metrics.r2_score(in_numpy(drawn), oracle.predict(drawn), sample_weight=weights)
    close(model.r_squared, expected)
    close(model.effective_samples, weights.sum() ** 2 / (weights**2).sum())


def test_a_region_of_one_point_by_other_classes():
    """A quadratic function has one quadratic model, wherever the points are."""
    f = lambda x: jnp.sum(x["u"] ** 2) + x["v"] * x["u"][0] + 1  # noqa: E731
    points = jax.tree.map(lambda a: jnp.stack([a, a + 2, -a]), TREE)
    expected = np.array([[2, 0, 1], [0, 2, 0], [1, 0, 0]])
    for loss in ("squared_error", "gradient_matching"):
        fit = local.fit_region(f, neighbourhood=local.box, num_samples=50, loss=loss, model=local.Quadratic())
        model = jax.jit(fit)(jax.random.key(12), points, radius=1.0)
        close(model.surrogate.hessian(), expected, 10)
        x = {"u": jnp.array([2.0, 0.5]), "v": jnp.asarray(-1.0)}
        assert float(model(x)) == pytest.approx(float(f(x)), rel=1e-3)


def test_learners_take_turns():
    """For linear functions of slopes a_1..a_3 the slope is that of the mean function; 5 standard errors."""
    slopes = jnp.array([[1.0, 0.0], [2.0, -1.0], [6.0, 4.0]])
    fit = local.fit_region(lambda w, x: jnp.dot(w, x), 1, neighbourhood=local.gaussian, num_samples=3000, learners=(0,))
    model = jax.jit(fit)(jax.random.key(13), slopes, jnp.array([[1.0, 1.0], [-1.0, 0.0]]), stddev=1.0)
    assert np.all(np.abs(wide(model.slope) - [3, 1]) < 5 * wide(model.stderr))
    assert np.all(wide(model.stderr) < 0.2)
    assert float(model.r_squared) < 0.95
    single = local.fit_region(
        lambda w, x: jnp.dot(w, x), 1, neighbourhood=local.gaussian, num_samples=20, learners=(0,)
    )(jax.random.key(14), slopes[1:2], jnp.ones((1, 2)), stddev=1.0)
    close(single.slope, slopes[1])


def test_a_region_refuses():
    build = functools.partial(local.fit_region, mlp, num_samples=20)
    with pytest.raises(TypeError, match="`fit_region` got `num_samples`, but the design"):
        build(neighbourhood=local.all_masks())
    with pytest.raises(TypeError, match="`fit_region` samples each point's neighbourhood: it takes a function, not"):
        build(neighbourhood=local.one_hot(), num_samples=None)
    with pytest.raises(ValueError, match="`fit_region` needs a neighbourhood whose coordinates are the input itself"):
        build(neighbourhood=local.binary_mask)(jax.random.key(0), X[None])
    with pytest.raises(ValueError, match="A region has no point at which a model of `fit_region` could be anchored"):
        build(neighbourhood=local.gaussian, model=local.Linear("anchored"))
    with pytest.raises(ValueError, match="`fit_region` needs arrays with a leading axis of one length"):
        local.fit_region(lambda x: x["v"], neighbourhood=local.gaussian, num_samples=20)(
            jax.random.key(0), TREE, stddev=1.0
        )
    with pytest.raises(TypeError, match="`fit_region` takes a random key as its first argument"):
        build(neighbourhood=local.gaussian)(0, X[None], stddev=1.0)


def test_a_complete_model_at_a_point_with_a_zero():
    """Coordinates of x that are 0 are not idle, unless nothing moves them."""
    fit = local.fit(
        lambda x: 3 * x[0] + 2 * x[1] - x[2] + 1,
        neighbourhood=local.gaussian,
        model=local.Linear("anchored", complete=True),
        num_samples=50,
    )
    model = jax.jit(fit)(jax.random.key(0), jnp.array([1.0, 0.0, 2.0]), stddev=0.1)
    np.testing.assert_allclose(model.slope, [3, 2, -1], rtol=1e-3)


def test_few_pairs_of_masks_know_how_little_they_know():
    """A mask and its complement are one equation of an anchored, complete model."""
    f = lambda x: jnp.prod(jnp.tanh(x)) + jnp.sin(jnp.sum(x))  # noqa: E731
    x = jnp.linspace(0.5, 1.5, 6)
    exact = np.asarray(attribution.exact_shapley(f)(x))
    for count, least in ((10, 1.0), (18, 0.85)):
        fit = local.fit(f, neighbourhood=local.coalitions(count), model=local.Linear("anchored", complete=True))
        models = jax.jit(jax.vmap(fit, (0, None)))(jax.random.split(jax.random.key(1), 300), x)
        assert np.mean(np.abs(np.asarray(models.slope) - exact) <= 3 * np.asarray(models.stderr)) >= least


def test_learners_are_drawn_together():
    params, state = jnp.array([1.0, 2.0, 4.0]), jnp.array([1.0, 10.0, 100.0])
    region = local.fit_region(
        lambda a, b, x: a * b + 0 * jnp.sum(x), 2, neighbourhood=local.gaussian, num_samples=2000, learners=(0, 1)
    )
    model = jax.jit(region)(jax.random.key(0), params, state, jnp.ones((2, 1)), stddev=0.1)
    assert float(model.intercept) == pytest.approx((1 + 20 + 400) / 3, abs=20)
    with pytest.raises(ValueError, match="leading axis of one length"):
        region(jax.random.key(0), params, state[:2], jnp.ones((2, 1)), stddev=0.1)
    points_learn = local.fit_region(jnp.sum, neighbourhood=local.gaussian, num_samples=9, learners=0)
    with pytest.raises(ValueError, match="Argument 0 of `fit_region` has the points"):
        points_learn(jax.random.key(0), jnp.ones((2, 1)), stddev=0.1)
    few = local.fit_region(jnp.sum, neighbourhood=local.gaussian, num_samples=9)
    with pytest.raises(ValueError, match="a sample for each of its 10 points; got num_samples=9"):
        few(jax.random.key(0), jnp.ones((10, 1)), stddev=0.1)


def test_what_is_no_class_of_models_or_no_neighbourhood_is_refused():
    with pytest.raises(TypeError, match=r"`model` of `fit` must be a class of models such as `local.Linear\(\)`"):
        local.fit(jnp.sum, neighbourhood=local.gaussian, model="linear", num_samples=5)
    with pytest.raises(TypeError, match="`model` of `fit`"):
        local.fit(jnp.sum, neighbourhood=local.gaussian, model=local.Linear, num_samples=5)
    with pytest.raises(TypeError, match="`all_masks` makes a design"):
        local.fit(jnp.sum, neighbourhood=local.all_masks)
    both = local.fit(jnp.sum, neighbourhood=local.all_masks())
    with pytest.raises(TypeError, match="not by both"):
        both(jax.random.key(0), jnp.ones(2), baseline=jnp.ones(2), background=jnp.ones((3, 2)))
