"""Pruning by relevance: what is irrelevant has none and goes first, and units have that of their weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import attribution, sparsity
from jaxinterp.attribution import lrp_rules

DTYPE = jnp.float64 if jax.config.jax_enable_x64 else jnp.float32
EXACT = 1e-10 if jax.config.jax_enable_x64 else 2e-5
KEPT = 6  # units of the first layer that matter; two are not read, two read what never fires


def logits(params, x):
    hidden = jax.nn.relu(x @ params["w1"])
    return jax.nn.relu(hidden @ params["w2"]) @ params["w3"]


def score(params, x, label):
    return logits(params, x)[label]


def planted(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"w1": (5, KEPT + 4), "w2": (KEPT + 4, 7), "w3": (7, 3)}
    params = {name: rng.normal(0.5, 1, shape) for name, shape in shapes.items()}  # all others fire
    params["w2"][KEPT : KEPT + 2] = 0
    params["w1"][:4, KEPT + 2 :] = 0
    x = np.abs(rng.normal(size=(12, 5)))
    x[:, 4] = 0
    labels = jnp.asarray(rng.integers(0, 3, 12), jnp.int32)
    return {name: jnp.asarray(w, DTYPE) for name, w in params.items()}, jnp.asarray(x, DTYPE), labels


def by_gradient(f):
    return lambda params, *example: jax.tree.map(jnp.multiply, params, jax.grad(f)(params, *example))


def by_lrp(f, rule):
    """Layer-wise relevance propagation to one kernel at a time, while the others are held."""

    def relevance(params, *example):
        def of(name):
            with_kernel = lambda kernel: f({**params, name: kernel}, *example)  # noqa: E731
            return attribution.lrp(with_kernel, composite=lrp_rules.uniform(rule))(params[name])

        return {name: of(name) for name in params}

    return relevance


METHODS = {
    "gradient": by_gradient(score),
    "lrp-epsilon": by_lrp(score, lrp_rules.epsilon(1e-9)),
    "lrp-z-plus": by_lrp(score, lrp_rules.z_plus(epsilon=1e-9)),
}


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("name", METHODS)
def test_irrelevant_units_go_first_and_nothing_changes(name):
    params, x, labels = planted()
    scores = sparsity.mean_relevance(METHODS[name], absolute=True)(params, x, labels)
    coupling = sparsity.couple(logits)(params, x[0])
    found = coupling.scores(scores)
    written = [
        (coupling.paths[leaf], index) for leaf, _, index in (channel.written[0] for channel in coupling.channels)
    ]
    irrelevant = np.array([name == "w1" and index >= KEPT for name, index in written])
    assert (len(written), irrelevant.sum()) == (KEPT + 4 + 7, 4)
    np.testing.assert_array_equal(found[irrelevant], 0)
    assert np.all(found[~irrelevant] > 0)
    keep = np.ones(len(coupling), bool)
    keep[np.argsort(found)[:4]] = False
    small = coupling.shrink(params, keep)
    assert small["w1"].shape == (5, KEPT)
    np.testing.assert_allclose(
        jax.vmap(logits, (None, 0))(small, x), jax.vmap(logits, (None, 0))(params, x), rtol=EXACT
    )


def unit_relevances(params, x, label, share):
    """Relevance of both hidden layers from the definition, output to input, in NumPy."""
    w1, w2, w3 = (np.asarray(params[name], np.float64) for name in ("w1", "w2", "w3"))
    first = np.maximum(np.asarray(x, np.float64) @ w1, 0)
    second = np.maximum(first @ w2, 0)
    relevance = np.where(np.arange(w3.shape[1]) == int(label), second @ w3, 0.0)
    above = share(second[:, None] * w3) @ relevance
    return share(first[:, None] * w2) @ above, above


def part(contributions):
    total = contributions.sum(0)
    return contributions / np.where(total == 0, 1, total)


SHARES = {"lrp-epsilon": part, "lrp-z-plus": lambda z: part(np.maximum(z, 0)), "gradient": part}


@pytest.mark.numerics
@pytest.mark.parametrize("name", METHODS)
def test_the_relevance_of_a_unit_is_that_of_the_weights_that_write_it(name):
    """LRP by its definition; gradient times weight is its epsilon rule for ReLU networks without biases."""
    params, x, labels = planted(1)
    scores = sparsity.mean_relevance(METHODS[name])(params, x, labels)
    wanted = [unit_relevances(params, *example, SHARES[name]) for example in zip(x, labels, strict=True)]
    for weights, relevance in zip(("w1", "w2"), np.mean(np.array(wanted, object), 0), strict=True):
        relevance = relevance.astype(float)
        np.testing.assert_allclose(scores[weights].sum(0), relevance, atol=EXACT * np.max(np.abs(relevance)))


@pytest.mark.numerics
def test_gradient_times_weight_is_gradient_times_activation():
    """Summed over the weights that write a unit, positions of a convolution included; here through both kinds."""
    rng = np.random.default_rng(0)
    shapes = {"conv": (3, 3, 2, 4), "dense": (4 * 4 * 4, 5), "out": (5,)}
    params = {name: jnp.asarray(rng.normal(size=shape), DTYPE) for name, shape in shapes.items()}
    x = jnp.asarray(rng.normal(size=(3, 4, 4, 2)), DTYPE)

    def convolved(params, x):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.nn.relu(
            jax.lax.conv_general_dilated(
                x[None], params["conv"], (1, 1), "SAME", dimension_numbers=numbers, precision="highest"
            )[0]
        )

    above = lambda params, hidden: jax.nn.relu(hidden.reshape(-1) @ params["dense"]) @ params["out"]  # noqa: E731
    f = lambda params, x: above(params, convolved(params, x))  # noqa: E731
    scores = sparsity.mean_relevance(by_gradient(f), batch_size=2)(params, x)
    hidden = jax.vmap(convolved, (None, 0))(params, x)
    slopes = jax.vmap(jax.grad(above, 1), (None, 0))(params, hidden)
    wanted = np.mean(np.sum(np.asarray(hidden) * np.asarray(slopes), (1, 2)), 0)
    np.testing.assert_allclose(scores["conv"].sum((0, 1, 2)), wanted, atol=EXACT * np.max(np.abs(wanted)))
    coupling = sparsity.couple(f)(params, x[0])
    by_channel = coupling.scores({"conv": scores["conv"], "dense": None, "out": None})
    np.testing.assert_allclose(by_channel[by_channel != 0], wanted, atol=EXACT * np.max(np.abs(wanted)))


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("absolute", [False, True])
def test_the_batch_size_does_not_matter(absolute):
    params, x, labels = planted()
    whole = sparsity.mean_relevance(METHODS["lrp-epsilon"], absolute=absolute)(params, x, labels)
    each = [METHODS["lrp-epsilon"](params, *example) for example in zip(x, labels, strict=True)]
    for name in params:
        values = np.array([found[name] for found in each])
        np.testing.assert_allclose(whole[name], np.mean(np.abs(values) if absolute else values, 0), atol=EXACT)
    for batch_size in (5, 100):
        scored = sparsity.mean_relevance(METHODS["lrp-epsilon"], absolute=absolute, batch_size=batch_size)
        for name, found in jax.jit(scored)(params, x, labels).items():
            np.testing.assert_allclose(found, whole[name], atol=EXACT)


@pytest.mark.usefixtures("standard_promotion")
def test_scores_go_into_a_budget():
    params, x, labels = planted()
    scores = sparsity.mean_relevance(METHODS["gradient"], absolute=True)(params, x, labels)
    without = sum(int(np.sum(np.asarray(leaf) == 0)) for leaf in jax.tree.leaves(scores))
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert without > 50
    masks = sparsity.over_all()(scores, without / size)
    assert all(np.all((mask > 0) == (scores[name] != 0)) for name, mask in masks.items())
    masked = sparsity.apply(params, masks)
    for example in zip(x, labels, strict=True):
        np.testing.assert_allclose(score(masked, *example), score(params, *example), rtol=EXACT)


def test_integers_keys_and_trees_of_arguments():
    noisy = lambda w, key, batch: w * jax.random.normal(key, w.shape, w.dtype) * batch["x"].astype(w.dtype)  # noqa: E731
    keys = jax.random.split(jax.random.key(0), 4)
    scores = sparsity.mean_relevance(noisy, batch_size=3)(
        jnp.ones(3, DTYPE), keys, {"x": jnp.arange(4, dtype=jnp.int32)}
    )
    assert (scores.shape, scores.dtype) == ((3,), DTYPE)
    assert (
        sparsity.mean_relevance(lambda w, x: w * x)(jnp.ones(2, jnp.bfloat16), jnp.ones(3, jnp.bfloat16)).dtype
        == jnp.bfloat16
    )


def test_what_is_refused():
    params, x, labels = planted()
    with pytest.raises(TypeError, match="`relevance` of `mean_relevance` must be a function"):
        sparsity.mean_relevance("lrp")
    with pytest.raises(ValueError, match="`batch_size` must be at least 1"):
        sparsity.mean_relevance(METHODS["gradient"], batch_size=0)
    with pytest.raises(ValueError, match="must have the structure"):
        sparsity.mean_relevance(lambda p, x: [p["w1"]])(params, x)
    with pytest.raises(ValueError, match=r"`relevance\['w1'\]` of `mean_relevance` must have shape"):
        sparsity.mean_relevance(lambda p, x: {**p, "w1": p["w1"].sum(0)})(params, x)
    with pytest.raises(TypeError, match="`mean_relevance` needs floating-point"):
        sparsity.mean_relevance(lambda p, x: p)(jnp.ones(3, jnp.int32), x)
    scored = sparsity.mean_relevance(functools.partial(jax.tree.map, lambda p: p), batch_size=4)
    for args in ((), (x, labels[:3]), (x[:0],), (jnp.ones((), DTYPE),)):
        with pytest.raises(ValueError, match="equally many"):
            scored(params, *args)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_what_is_not_finite_is_named(bad):
    params, x, labels = planted()
    scored = sparsity.mean_relevance(METHODS["gradient"])
    with pytest.raises(ValueError, match="The relevance of `w2` that `mean_relevance` averages is not finite"):
        sparsity.mean_relevance(lambda p, x: {**p, "w2": p["w2"] * x[0]})(params, x.at[3, 0].set(bad))
    assert not np.all(np.isfinite(jax.jit(scored)({**params, "w3": params["w3"].at[0].set(bad)}, x, labels)["w3"]))
