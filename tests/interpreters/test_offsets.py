"""The full-gradient decomposition: it sums to the function for every program, and its terms have closed forms."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from jaxinterp import heads, interpreters, models
from jaxinterp.interpreters import Site, equations, full_gradient, regions
from tests.interpreters import programs
from tests.interpreters.programs import (
    DIFFERENTIABLE,
    EPS,
    X64,
    ZOO,
    B,
    W,
    X,
    assert_close,
    compiled,
    random,
    standard,
)

pytestmark = [pytest.mark.core, pytest.mark.numerics]

COMPLETE = 1e-10 if X64 else 1e-6
"""How far the sum may be from f, relative to the sum of the sizes of all terms: the bound of issue and networks."""

RANDOM_COMPLETE = 1e-10 if X64 else 2e-6
"""The same for random programs of few entries, in which no errors average out: of 500, the worst was 6e-7 off."""


def named(by_site):
    return {str(site): value for site, value in by_site.items()}


def decomposed(f, *groupings):
    """f, its gradient, and for each grouping the total, the sum of the sizes of all terms, and the input gradient."""

    def at(x):
        found = []
        for grouping in groupings:
            full = full_gradient(f, grouping=grouping)(x)
            terms = [full.input_gradient * x, *full.terms().values()]
            found.append((full.total(x), sum(jnp.sum(jnp.abs(t)) for t in terms), full.input_gradient))
        return f(x), jax.grad(f)(x), found

    return at


def assert_complete(value, gradient, found, tolerance=COMPLETE):
    """The total is f relative to the sizes of the terms; the input gradient that of JAX."""
    for total, size, input_gradient in found:
        assert total.dtype == value.dtype
        assert np.all(np.isfinite(size))
        np.testing.assert_array_less(np.abs(np.asarray(total) - np.asarray(value)), tolerance * size + 1e-30)
        assert_close(input_gradient, gradient, 1e-12 if X64 else 1e-6)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_the_sum_of_all_terms_is_the_function(name):
    f = programs.total(ZOO[name])
    assert_complete(*compiled(decomposed(f, regions, equations))(X))


# ------------------------------------------------------------------------------------------------------------- networks


def network(model, seed=0):
    """A network as a function of one example, with drawn parameters and statistics, in the precision of the tests."""
    net = models.as_function(model)
    rng = np.random.default_rng(seed)

    def fresh(path, leaf):
        name = jax.tree_util.keystr(path)
        drawn = rng.uniform(0.5, 1.5, leaf.shape) if "scale" in name or "var" in name else rng.normal(size=leaf.shape)
        weight = 1.0 if leaf.ndim < 2 else np.prod(leaf.shape[:-1]) ** -0.5
        return jnp.asarray(weight * drawn, float)

    params, state = jax.tree_util.tree_map_with_path(fresh, (net.params, net.state))
    return standard(lambda x: net.apply(params, state, x))


def conv_net(activation):
    sizes = {"widths": (4, 6), "num_classes": 3, "batch_norm": True}
    return network(models.ConvNet((6, 6, 2), activation=activation, rngs=nnx.Rngs(0), **sizes))


def transformer(x):
    """A block written out: LayerNorm, masked softmax attention with two heads, GELU; and a last LayerNorm."""

    def layer_norm(x, seed):
        mean = jnp.mean(x, -1, keepdims=True)
        variance = jnp.mean((x - mean) ** 2, -1, keepdims=True)
        return (x - mean) * lax.rsqrt(variance + 1e-5) * random((1, 4), seed) + random((1, 4), seed + 1)

    past = np.tril(np.ones((3, 3), bool))[None]
    q, k, v = (layer_norm(x, 0) @ random((4, 4), seed) for seed in (2, 3, 4))
    q, k, v = (a.reshape(3, 2, 2).transpose(1, 0, 2) for a in (q, k, v))
    scores = jnp.where(past, q @ k.transpose(0, 2, 1) / 1.4, -jnp.inf)
    x = x + (jax.nn.softmax(scores) @ v).transpose(1, 0, 2).reshape(3, 4) @ random((4, 4), 5)
    hidden = jax.nn.gelu(layer_norm(x, 6) @ random((4, 8), 8) + random((1, 8), 9))
    x = x + hidden @ random((8, 4), 10, 0.5)
    return jnp.sum(layer_norm(x, 50) @ random((4, 3), 52), axis=0)


def llama(x):
    model = models.Llama(11, width=8, num_blocks=1, num_heads=2, num_kv_heads=1, hidden=12, rngs=nnx.Rngs(0))
    return network(model)(x)[-1]


NETWORKS = {
    "relu": (lambda: conv_net(nnx.relu), (6, 6, 2)),
    "softplus": (lambda: conv_net(nnx.softplus), (6, 6, 2)),
    "transformer": (lambda: transformer, (3, 4)),
    "llama": (lambda: llama, (5, 8)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_decomposed_completely(name):
    build, shape = NETWORKS[name]
    net = build()
    f = lambda x: net(x)[1]  # noqa: E731
    batch = random((3, *shape), 5)
    value, gradient, found = compiled(jax.vmap(decomposed(f, regions, equations)))(batch)
    assert_complete(value, gradient, found)
    if name != "relu":  # inside softplus, GELU, SiLU and the normalisers, the terms nearly cancel
        assert np.all(found[0][1] < 0.8 * found[1][1])


def test_the_trained_resnet_is_decomposed_completely(trained_resnet, golden):
    f = lambda x: trained_resnet()(x)[3]  # noqa: E731
    images = jnp.asarray(golden("resnet20")["x"][:2], float)
    value, gradient, found = compiled(jax.vmap(decomposed(f, regions)))(images)
    assert_complete(value, gradient, found)


def test_the_language_model_is_decomposed_completely(shared):
    """The score of the next token, with respect to the embeddings of the prompt."""
    net = models.as_function(models.llama_from_llama2c(shared / "data" / "stories260K.bin"))
    params = jax.tree.map(lambda a: a.astype(float), net.params)
    tokens = np.array([1, 403, 407, 261, 378])  # Once upon a time
    embeddings = params["embedding"]["table"][tokens]
    next_token = standard(lambda x: net.apply(params, net.state, x)[-1])
    label = int(jnp.argmax(next_token(embeddings)))
    explained = heads.logit(next_token)
    value, gradient, found = compiled(decomposed(lambda x: explained(x, label), regions))(embeddings)
    assert_complete(value, gradient, found)


# --------------------------------------------------------------------------------------------------------- closed forms


def full(f, *args, **options):
    return compiled(full_gradient(f, **options))(*args)


def test_relu_networks_without_biases_have_no_offsets():
    kernel = random((2, 2, 1, 3), 4)

    def f(x):
        numbers = ("NHWC", "HWIO", "NHWC")
        image = lax.conv_general_dilated(x[None, ..., None], kernel, (1, 1), "SAME", dimension_numbers=numbers)
        image = lax.reduce_window(jax.nn.relu(image), -np.inf, lax.max, (1, 2, 2, 1), (1, 1, 1, 1), "SAME")
        h = jnp.maximum(image.reshape(1, -1) @ random((36, 5), 6), 0)
        h = jnp.where(h > 1, h, 0.1 * h) + jnp.abs(h[:, ::-1]) - jnp.sort(h, axis=1)
        return jnp.max(jnp.pad(jax.nn.leaky_relu(h) / 3, ((0, 0), (1, 0))) * random((1, 6), 7))

    for grouping in (regions, equations):
        found = full(f, X, grouping=grouping)
        assert found.offsets == found.cotangents == found.terms() == {}
        gradient = compiled(jax.grad(f))(X)
        assert_close(found.input_gradient, gradient)
        assert_close(jnp.sum(gradient * X), f(X))


@pytest.mark.parametrize(
    "f",
    [
        lambda x: jnp.abs(jnp.fft.rfft(x)),
        lambda x: lax.top_k(x, 2)[0],
        lambda x: jnp.zeros_like(x).at[jnp.array([2, 0])].add(x[:2]),
        lambda x: lax.dynamic_update_slice(x, x[:1] * 2, (1, 0)) * W[:3],
        lambda x: jnp.take(x, jnp.array([1, 9]), axis=1, mode="clip"),
        lambda x: jnp.cumsum(jnp.sort(x), 1) / 3 - jnp.minimum(x, x[::-1]),
    ],
)
def test_maps_of_degree_one_have_no_sites(f):
    g = programs.total(f)
    found = full(g, X, grouping=equations)
    assert found.offsets == {}
    np.testing.assert_allclose(found.total(X), g(X), rtol=1e-5)


def test_the_offset_of_a_bias_is_the_bias():
    def f(x):
        with jax.named_scope("layer"):
            h = x @ W + B
        return jnp.vdot(h, V)

    found = full(f, X)
    assert list(found.offsets) == [Site("layer", "add")]
    assert_close(found.offsets[Site("layer", "add")], jnp.broadcast_to(B, (3, 4)), 10 * EPS)
    assert_close(found.cotangents[Site("layer", "add")], V, 10 * EPS)
    assert_close(found.terms()[Site("layer", "add")], B * V, 10 * EPS)


V = random((3, 4), 21)


def test_the_offset_of_batch_normalisation_is_the_effective_bias():
    mean, scale, shift, bias = (random((1, 4), seed) for seed in (31, 32, 33, 34))
    variance = jnp.abs(random((1, 4), 35)) + 0.1

    def f(x):
        return jnp.vdot((x @ W + bias - mean) * lax.rsqrt(variance + 1e-5) * scale + shift, V)

    found = full(f, X)
    ((site, offset),) = found.offsets.items()
    assert str(site) == ":add#2"
    expected = shift + (bias - mean) * scale / jnp.sqrt(variance + 1e-5)
    assert_close(offset, jnp.broadcast_to(expected, (3, 4)))
    assert_close(found.cotangents[site], V, 10 * EPS)


UNITS = {
    "softplus": (jax.nn.softplus, lambda z: jax.nn.softplus(z) - z * jax.nn.sigmoid(z)),
    "square": (lambda z: z**2, lambda z: -(z**2)),
    "product with itself": (lambda z: z * z, lambda z: -z * z),
    "exponential": (jnp.exp, lambda z: jnp.exp(z) * (1 - z)),
    "inverse": (lambda z: 1 / z, lambda z: 2 / z),
    "clip": (lambda z: jnp.clip(z, -0.5, 1), lambda z: jnp.where(z < -0.5, -0.5, jnp.where(z > 1, 1.0, 0.0))),
    "softmax": (
        jax.nn.softmax,
        lambda z: jax.nn.softmax(z) * (1 - z + jnp.sum(jax.nn.softmax(z) * z, -1, keepdims=True)),
    ),
    "normalisation": (
        lambda z: (z - jnp.mean(z, -1, keepdims=True)) / jnp.std(z, -1, keepdims=True),
        lambda z: (z - jnp.mean(z, -1, keepdims=True)) / jnp.std(z, -1, keepdims=True),  # it ignores the size of z
    ),
    "false derivative": (programs.steep, lambda z: -3 * z),
    "reversal": (programs.reversal, lambda z: 2 * z),
    "rounded": (lambda z: z + jnp.floor(z), jnp.floor),
    "scan": (
        lambda z: lax.scan(lambda c, row: (row, row * c), z[0], z)[1],
        lambda z: -z * jnp.roll(z, 1, 0).at[0].set(z[0]),
    ),
    "cond": (lambda z: lax.cond(z[0, 0] > -9, lambda z: z + 2, jnp.sin, z), lambda z: jnp.full_like(z, 2)),
    "taken with a value to fill": (
        lambda z: jnp.take(z, jnp.array([1, 7]), axis=0, mode="fill", fill_value=5.0),
        lambda z: jnp.stack([jnp.zeros_like(z[0]), jnp.full_like(z[0], 5)]),
    ),
    "padding": (
        lambda z: jnp.pad(z, ((0, 1), (0, 0)), constant_values=2.0),
        lambda z: jnp.zeros((4, 4), z.dtype).at[3].set(2),
    ),
}


@pytest.mark.parametrize("name", UNITS)
def test_the_offset_of_a_unit(name):
    unit, expected = UNITS[name]
    z = X @ W + B
    weights = random(jax.eval_shape(unit, z).shape, 22)
    ((site, offset),) = full(lambda z: jnp.sum(unit(z) * weights), z).offsets.items()
    assert_close(offset, expected(z), 1e-12 if X64 else 1e-5)
    found = full(lambda z: jnp.sum(unit(z) * weights), z)
    assert_close(found.cotangents[site], weights)


def test_the_offset_of_a_product_of_two_arrays():
    found = full(lambda x: jnp.sum((x @ W) * (x @ W.T)) + jnp.sum((x @ W) @ x.T), X)
    offsets = named(found.offsets)
    assert sorted(offsets) == [":dot_general#3", ":mul#0"]
    assert_close(offsets[":mul#0"], -(X @ W) * (X @ W.T))
    assert_close(offsets[":dot_general#3"], -(X @ W) @ X.T)


def test_a_unit_is_named_by_what_leaves_it():
    def f(x):
        with jax.named_scope("block"):
            with jax.named_scope("act"):
                h = jax.nn.gelu(x)
            return jnp.vdot(jax.nn.softmax(h), V)

    activation, normaliser = sorted(full(f, X).terms())
    assert (normaliser.path, normaliser.primitive) == ("block/act", "mul")
    assert (activation.path, activation.primitive) == ("block", "div")


@pytest.mark.parametrize("grouping", [regions, equations])
def test_an_output_that_does_not_depend_on_the_input_is_one_term(grouping):
    for f in (lambda x: jnp.sum(jnp.cos(W)), lambda x: jnp.argmax(x).astype(x.dtype), lambda x: jnp.sum(jnp.floor(x))):
        found = full(f, X, grouping=grouping)
        (site,) = found.offsets
        assert str(site) in (":constant#0", ":floor#0")
        np.testing.assert_allclose(found.total(X), f(X), rtol=1e-6)
        np.testing.assert_array_equal(found.input_gradient, 0)


def test_the_identity_is_all_input():
    found = full(lambda x: x, jnp.asarray(2.5, float))
    assert found.terms() == {}
    assert float(found.total(jnp.asarray(2.5, float))) == 2.5


# ---------------------------------------------------------------------------------------------- loops, masks, calculus


def test_custom_derivatives_inside_a_loop():
    """Neither a loop nor a call hides that there is no forward derivative inside."""

    def f(x):
        _, rows = lax.scan(lambda c, row: (programs.cubed(c + row), row * c), X[0], x)
        return jnp.sum(rows) + jnp.sum(lax.cond(x[0, 0] > -9, programs.cubed, jnp.sin, x))

    value, gradient, found = compiled(decomposed(f, regions, equations))(X)
    assert_complete(value, gradient, found)


@pytest.mark.parametrize("grouping", [regions, equations])
@pytest.mark.parametrize("masked", [-jnp.inf, jnp.finfo(X.dtype).min])
def test_masked_attention_has_finite_terms(grouping, masked):
    past = np.tril(np.ones((3, 3), bool))

    def f(x):
        scores = jnp.where(past, x @ W @ x.T, masked)
        return jnp.sum(jax.nn.softmax(scores) @ x * V) + jax.nn.logsumexp(scores[:2])

    found = full(f, X, grouping=grouping)
    assert all(np.all(np.isfinite(term)) for term in found.terms().values())
    value, gradient, results = compiled(decomposed(f, grouping))(X)
    assert_complete(value, gradient, results)


def growing(x):
    return lax.while_loop(lambda c: jnp.sum(c) < 10, lambda c: c * 2 + 1, x)


@pytest.mark.parametrize("grouping", [regions, equations])
@pytest.mark.parametrize(
    ("f", "primitive"),
    [
        (growing, "while"),
        (lambda x: lax.scan(lambda c, row: (growing(c + row), None), x[0], x)[0], "scan"),
        (lambda x: lax.cond(x[0, 0] > 0, growing, jnp.sin, x), "cond"),
    ],
)
def test_a_loop_of_unknown_length_is_refused(f, primitive, grouping):
    def g(x):
        with jax.named_scope("block"):
            return jnp.sum(f(jax.nn.gelu(x)))

    where = rf"the primitive `{primitive}`, used in the scope 'block' at .*test_offsets\.py:\d+"
    with pytest.raises(NotImplementedError, match=f"`full_gradient` has no rule for {where}") as error:
        full_gradient(g, grouping=grouping)(X)
    assert "write the `while` loop with `jax.lax.scan`" in str(error.value)


def test_a_primitive_without_a_reverse_derivative_is_refused():
    def f(x):
        start = jnp.zeros((), x.dtype) + x[0, 0]
        return jnp.sum(lax.reduce_window(jnp.sin(x), start, lambda a, b: a * b + 1, (2, 2), (1, 1), "SAME"))

    with pytest.raises(NotImplementedError, match=r"no rule for the primitive `reduce_window`, .*test_offsets\.py:\d+"):
        full_gradient(f)(X)


def test_a_loop_that_passes_no_derivative_may_be_of_unknown_length():
    def f(x, n):
        count = lax.while_loop(lambda c: c < n, lambda c: c * 2.0 + 1.0, 1.0)
        rounds = lax.while_loop(lambda i: i < jnp.argmax(x), lambda i: i + 1, 0)
        return jnp.sum(jnp.sin(x)) * jnp.asarray(count, x.dtype) + rounds.astype(x.dtype)

    value, gradient, found = compiled(decomposed(lambda x: f(x, 5.0), regions, equations))(X)
    assert_complete(value, gradient, found)


def test_complex_values_inside():
    """The terms are the real parts: what reaches the real output."""

    def f(x):
        z = jnp.fft.fft(x)
        return (
            jnp.sum(jnp.real(jnp.fft.ifft(z**2 * jnp.exp(z / 9))))
            + jnp.sum(jnp.imag(z * z[::-1]))
            + jnp.sum(jnp.abs(z))
        )

    value, gradient, found = compiled(decomposed(f, regions, equations))(X)
    assert_complete(value, gradient, found)
    assert all(term.dtype == X.dtype for term in full(f, X).terms().values())


def test_the_gradient_of_the_total_is_that_of_the_function():
    def f(x):
        return jnp.sum(jax.nn.gelu(x @ W) * jax.nn.softmax(x)) + jnp.sum(jax.nn.relu(programs.cubed(x)))

    @compiled
    def both(x):
        parts = [full_gradient(f, grouping=grouping) for grouping in (regions, equations)]
        totals = [lambda x, part=part: part(x).total(x) for part in parts]
        return [jax.grad(total)(x) for total in totals], [jax.grad(f)(x)] * 2

    assert_close(*both(X), 1e-11 if X64 else 1e-5)


def test_one_example_or_a_batch():
    f = programs.total(ZOO["attention"])
    batch = random((3, 3, 4), 8)
    one = compiled(full_gradient(f))
    many = compiled(jax.vmap(full_gradient(f)))(batch)
    for i, x in enumerate(batch):
        expected = one(x)
        got = jax.tree.map(lambda a, i=i: a[i], many)
        assert_close(got, expected, 1e-12 if X64 else 1e-5)


def test_several_arguments_and_trees():
    def f(a, n, tree):
        return jnp.sum(jnp.tanh(a * tree["u"]) * tree["v"][0] + n)

    tree = {"u": X, "v": (X - 1,)}
    n = jnp.asarray(3.0, X.dtype)
    for argnums, x in (((0, 2), (X, tree)), (2, tree), ((2,), (tree,))):
        found = full(f, X, n, tree, argnums=argnums)
        assert_close(found.input_gradient, jax.grad(f, argnums)(X, n, tree))
        assert jax.tree.structure(found.input_gradient) == jax.tree.structure(x)
        np.testing.assert_allclose(found.total(x), f(X, n, tree), rtol=1e-5)
    assert float(full_gradient(lambda x: x**2 + 3)(2.0).total(2.0)) == 7
    assert float(full(f, X, n, tree, argnums=1).total(n)) == pytest.approx(float(f(X, n, tree)), rel=1e-5)


def test_in_bfloat16():
    x = X.astype(jnp.bfloat16)
    w, b = W.astype(x.dtype), B.astype(x.dtype)

    def f(x):
        return jnp.sum(jax.nn.softmax(jax.nn.gelu(x @ w + b)) * x)

    for grouping in (regions, equations):
        found = full(f, x, grouping=grouping)
        assert found.input_gradient.dtype == jnp.bfloat16
        assert {a.dtype for a in jax.tree.leaves((found.offsets, found.cotangents))} == {jnp.dtype(jnp.bfloat16)}
        assert found.total(x).dtype == jnp.float32
        size = sum(float(jnp.sum(jnp.abs(t).astype(jnp.float32))) for t in found.terms().values())
        assert abs(float(found.total(x)) - float(f(x).astype(jnp.float32))) < 2e-2 * (1 + size)


@pytest.mark.parametrize(
    ("f", "x", "match"),
    [
        (jnp.sin, X, r"`full_gradient` needs a function that returns a scalar.* shape \(3, 4\)"),
        (lambda x: jnp.argmax(x), X, "`full_gradient` needs a function that returns a real number"),
        (jnp.sum, jnp.arange(3), "`full_gradient` needs floating-point arrays, but its input has dtype int"),
        (3.0, X, "`full_gradient` takes a function; got 3.0"),
    ],
)
def test_what_cannot_be_decomposed_is_refused(f, x, match):
    with pytest.raises(TypeError, match=match):
        full_gradient(f)(x)


# ------------------------------------------------------------------------------------------------------ random programs


@hypothesis.settings(max_examples=40, deadline=None, derandomize=True, database=None)
@hypothesis.given(**programs.RANDOM)
def test_random_programs_are_decomposed_completely(steps, shape, seed):
    f, x = programs.random_program(steps, shape, seed)

    @compiled
    def at(x):
        program, leaves = interpreters.graph(f, x)
        (evaluated,) = (program.evaluate(leaves)[v] for v in program.outputs)
        sites = [site for site, a in interpreters.sites(f)(x).items() if jnp.issubdtype(a.dtype, jnp.inexact)]
        zeros = {site: jnp.zeros(a.shape, a.dtype) for site, a in interpreters.sites(f)(x).items() if site in sites}
        tapped, _ = interpreters.with_perturbations(f)(zeros, x)
        return decomposed(f, regions, equations)(x), (evaluated, tapped)

    (value, gradient, found), same = at(x)
    assert_complete(value, gradient, found, RANDOM_COMPLETE)
    assert_close(same, (value, value), 100 * EPS)
