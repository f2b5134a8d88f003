"""The transformer against NumPy: its numbers, its causality, and the two kinds of input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxinterp as ji
from jaxinterp import models

pytestmark = pytest.mark.core

X64 = jax.config.jax_enable_x64
FLOAT, TOLERANCE = (np.float64, 1e-10) if X64 else (np.float32, 2e-5)
SIZES = {"width": 24, "num_blocks": 2, "num_heads": 6, "num_kv_heads": 3, "hidden": 20}
VOCAB_SIZE = 11
TOKENS = np.array([1, 7, 7, 0, 10, 3, 2], np.int32)


def network(**sizes):
    """A network with random parameters, the scales of its norms included, in the precision of the tests."""
    net = models.as_function(models.Llama(VOCAB_SIZE, **(SIZES | sizes), rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    leaves, structure = jax.tree.flatten(net.params)
    drawn = [
        rng.normal(size=a.shape) / np.sqrt(a.shape[0]) if a.ndim > 1 else rng.uniform(0.5, 2, a.shape) for a in leaves
    ]
    return models.Function(
        jax.jit(net.apply), jax.tree.unflatten(structure, [jnp.asarray(a, FLOAT) for a in drawn]), {}
    )


def by_hand(params, embeddings, *, num_heads, num_kv_heads, base=10_000.0, epsilon=1e-5):
    """The logits of one sequence of embeddings, in float64, one head and one position after the other."""
    params = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    x = np.asarray(embeddings, np.float64)
    size = x.shape[1] // num_heads

    def norm(x, scale):
        return x / np.sqrt((x**2).mean(1, keepdims=True) + epsilon) * scale

    def turned(head):
        pairs = head.reshape(len(head), -1, 2)
        numbers = pairs[..., 0] + 1j * pairs[..., 1]
        angles = np.arange(len(head))[:, None] / base ** (np.arange(0, size, 2) / size)
        numbers = numbers * np.exp(1j * angles)
        return np.stack([numbers.real, numbers.imag], -1).reshape(head.shape)

    def heads(x, kernel):
        return np.split(x @ kernel, kernel.shape[1] // size, axis=1)

    def attention(x, p):
        queries, keys, values = (heads(x, p[name]["kernel"]) for name in ("query", "key", "value"))
        out = np.zeros((len(x), num_heads * size))
        for h, query in enumerate(map(turned, queries)):
            shared = h // (num_heads // num_kv_heads)
            key, value = turned(keys[shared]), values[shared]
            for t in range(len(x)):
                weights = np.exp(query[t] @ key[: t + 1].T / np.sqrt(size))
                out[t, h * size : (h + 1) * size] = weights / weights.sum() @ value[: t + 1]
        return out @ p["output"]["kernel"]

    def mlp(x, p):
        gate = x @ p["gate"]["kernel"]
        return (gate / (1 + np.exp(-gate)) * (x @ p["up"]["kernel"])) @ p["down"]["kernel"]

    for i in range(sum(name.startswith("blocks_") for name in params)):
        block = params[f"blocks_{i}"]
        x = x + attention(norm(x, block["attention_norm"]["scale"]), block["attention"])
        x = x + mlp(norm(x, block["mlp_norm"]["scale"]), block["mlp"])
    return norm(x, params["norm"]["scale"]) @ params["embedding"]["table"].T


def assert_close(got, wanted, tolerance=TOLERANCE):
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


@pytest.mark.numerics
@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(6, 3), (6, 1), (4, 4), (12, 4), (1, 1)])
def test_it_is_the_network_written_by_hand(num_heads, num_kv_heads):
    heads = {"num_heads": num_heads, "num_kv_heads": num_kv_heads}
    net = network(**heads)
    embeddings = net.params["embedding"]["table"][TOKENS]
    wanted = by_hand(net.params, embeddings, **heads)
    for x in (TOKENS, embeddings):
        logits = net.apply(net.params, net.state, x)
        assert logits.dtype == FLOAT
        assert_close(logits, wanted)


@pytest.mark.numerics
def test_base_and_epsilon_can_be_chosen():
    net = network(rotary_base=50.0, epsilon=0.3)
    wanted = by_hand(
        net.params, net.params["embedding"]["table"][TOKENS], num_heads=6, num_kv_heads=3, base=50.0, epsilon=0.3
    )
    assert_close(net.apply(net.params, net.state, TOKENS), wanted)


@pytest.mark.numerics
def test_large_scores_do_not_overflow():
    """Queries a thousand times as large: attention looks at one token only, and the gradient stays finite."""
    net = network()
    params = jax.tree.map(lambda a: a, net.params)
    params["blocks_0"]["attention"]["query"]["kernel"] *= 1000.0
    embeddings = params["embedding"]["table"][TOKENS]
    logits = net.apply(params, {}, embeddings)
    gradient = jax.grad(lambda e: net.apply(params, {}, e)[2, 3])(embeddings)
    assert np.all(np.isfinite(logits))
    assert np.all(np.isfinite(gradient))


@pytest.mark.numerics
def test_what_comes_later_is_not_seen():
    net = network()
    embeddings = net.params["embedding"]["table"][TOKENS]
    logits = net.apply(net.params, net.state, embeddings)
    jacobian = jax.jit(jax.jacrev(lambda e: net.apply(net.params, net.state, e).sum(1)))(
        embeddings
    )  # [time, time, width]
    size = np.abs(jacobian).max(2)
    np.testing.assert_array_equal(size[np.triu_indices(len(TOKENS), 1)], 0)
    assert np.all(size[np.tril_indices(len(TOKENS))] > 0)
    for time in range(1, len(TOKENS)):
        other = np.concatenate([embeddings[:time], 100 * embeddings[: len(TOKENS) - time]])
        np.testing.assert_array_equal(net.apply(net.params, net.state, other)[:time], logits[:time])
    for time in (1, 4):
        assert_close(net.apply(net.params, net.state, embeddings[:time]), logits[:time])


def test_positions_count_by_their_distance(key):
    """Zeros before a sequence have the score 0 and the value 0: they shorten what a head gives, and do not turn it."""
    attention = models.Llama(VOCAB_SIZE, **SIZES, rngs=nnx.Rngs(0)).blocks_0.attention
    attention.output.kernel[...] = jnp.eye(24, dtype=jnp.float32)
    x = jax.random.normal(key, (1, 5, 24), jnp.float32) / 2
    shifted = jnp.concatenate([jnp.zeros((1, 3, 24), jnp.float32), x], axis=1)
    heads, later = (np.asarray(nnx.jit(attention)(a))[0, -5:].reshape(5, 6, 4) for a in (x, shifted))
    lengths, shorter = (np.linalg.norm(a, axis=-1, keepdims=True) for a in (heads, later))
    np.testing.assert_allclose(later / shorter, heads / lengths, atol=1e-4)
    assert np.all(shorter < lengths)


def test_sequences_of_a_batch_do_not_see_each_other():
    model = models.Llama(VOCAB_SIZE, **SIZES, rngs=nnx.Rngs(0))
    batch = np.stack([TOKENS, TOKENS[::-1], np.roll(TOKENS, 2)])
    logits = nnx.jit(model)(batch)
    assert logits.shape == (3, len(TOKENS), VOCAB_SIZE)
    assert_close(nnx.jit(model)(model.embed(batch)), logits, 2e-5)
    net = models.as_function(model)
    for i, tokens in enumerate(batch):
        assert_close(jax.jit(net.apply)(net.params, net.state, tokens), logits[i], 2e-5)
    assert_close(jax.jit(jax.vmap(net.apply, (None, None, 0)))(net.params, net.state, batch), logits, 2e-5)


def test_the_gradient_of_the_embeddings_is_that_of_the_table(key):
    """Each token occurs once, so that the rows of the table and the embeddings move together."""
    net = network()
    tokens = np.array([4, 2, 9, 5], np.int32)
    weights = jax.random.normal(key, (4, VOCAB_SIZE), FLOAT)
    table = net.params["embedding"]["table"]

    def scalar(embeddings, table):
        params = net.params | {"embedding": {"table": table}}
        return jnp.sum(weights * net.apply(params, net.state, embeddings))

    wanted = jax.grad(lambda t: scalar(t[tokens], table))(table)
    np.testing.assert_array_equal(wanted[np.array([0, 1, 3])], 0)
    assert_close(jax.grad(scalar)(table[tokens], table), wanted[tokens])
    through_tokens = jax.grad(lambda t: scalar(tokens, t) - scalar(tokens, jax.lax.stop_gradient(t)))(table)
    output = jax.grad(scalar, argnums=1)(table[tokens], table)
    assert_close(through_tokens, wanted + output)


@pytest.mark.numerics
def test_attributions_explain_the_embeddings():
    """As the docstring says; from the mean of the table they add up to the change of the logit."""
    net = network()
    table = net.params["embedding"]["table"]
    embeddings = table[TOKENS]
    baseline = jnp.broadcast_to(table.mean(0, keepdims=True), embeddings.shape)
    logit = ji.heads.logit(lambda e: net.apply(net.params, net.state, e)[-1])
    attribution = jax.jit(ji.attribution.integrated_gradients(logit, num_steps=64))(embeddings, 4, baseline=baseline)
    assert attribution.shape == embeddings.shape
    change = logit(embeddings, 4) - logit(baseline, 4)
    assert abs(change) > 0.1
    np.testing.assert_allclose(attribution.sum(), change, rtol=1e-3)


def test_a_token_outside_of_the_vocabulary_gives_nan():
    net = network()
    for token in (-1, VOCAB_SIZE):
        logits = net.apply(net.params, net.state, np.array([1, 2, token, 3], np.int32))
        assert np.all(np.isnan(logits))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_it_computes_in_the_dtype_of_parameters_and_embeddings(dtype):
    net = network()
    params = jax.tree.map(lambda a: a.astype(dtype), net.params)
    wanted = by_hand(params, params["embedding"]["table"][TOKENS], num_heads=6, num_kv_heads=3)
    for x in (TOKENS, params["embedding"]["table"][TOKENS]):
        logits = net.apply(params, net.state, x)
        assert logits.dtype == dtype
        assert_close(logits.astype(np.float64 if X64 else np.float32), wanted, 30 * float(jnp.finfo(dtype).eps))


def test_modules_and_parameters_are_named_by_what_they_do():
    net = models.as_function(models.Llama(VOCAB_SIZE, **SIZES, rngs=nnx.Rngs(0)))
    block = {
        "attention_norm": {"scale": (24,)},
        "attention": {
            name: {"kernel": (24, 12 if name in ("key", "value") else 24)}
            for name in ("query", "key", "value", "output")
        },
        "mlp_norm": {"scale": (24,)},
        "mlp": {"gate": {"kernel": (24, 20)}, "up": {"kernel": (24, 20)}, "down": {"kernel": (20, 24)}},
    }
    shapes = {"embedding": {"table": (VOCAB_SIZE, 24)}, "blocks_0": block, "blocks_1": block, "norm": {"scale": (24,)}}
    assert jax.tree.map(jnp.shape, net.params) == shapes
    jaxpr = jax.make_jaxpr(net.apply)(net.params, net.state, TOKENS).jaxpr
    found = {str(eqn.source_info.name_stack) for eqn in jaxpr.eqns}
    blocks = {f"blocks_{i}" for i in range(2)}
    parts = {"", "/attention_norm", "/attention", "/mlp_norm", "/mlp", "/mlp/gate", "/mlp/up", "/mlp/down"}
    parts |= {f"/attention/{name}" for name in ("query", "key", "value", "output")}
    assert found == {"", "embedding", "norm"} | {b + p for b in blocks for p in parts}


def test_it_can_be_trained(key):
    """A few steps of gradient descent learn the sequence by heart."""
    training = models.as_training_function(models.Llama(VOCAB_SIZE, **SIZES, rngs=nnx.Rngs(0)))
    batch = jnp.asarray(TOKENS[None])

    def loss(params):
        logits, _ = training.apply(params, training.state, key, batch[:, :-1])
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), batch[:, 1:, None], -1))

    step = jax.jit(lambda params: jax.tree.map(lambda p, g: p - 0.3 * g, params, jax.grad(loss)(params)))
    params = training.params
    before = loss(params)
    for _ in range(60):
        params = step(params)
    assert before > 1.5
    assert loss(params) < 0.1


@pytest.mark.parametrize("name", ["vocab_size", *SIZES])
@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (-4, ValueError), (2.0, TypeError), (True, TypeError)])
def test_a_size_must_be_a_positive_integer(name, value, error):
    sizes = {"vocab_size": VOCAB_SIZE} | SIZES | {name: value}
    with pytest.raises(error, match=rf"`{name}` must be.*{value}"):
        models.Llama(sizes.pop("vocab_size"), **sizes, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("sizes", [{"width": 22}, {"width": 18}, {"num_kv_heads": 4}, {"num_kv_heads": 12}])
def test_sizes_must_divide(sizes):
    with pytest.raises(ValueError, match=r"even multiple of `num_heads`.*got width=.*num_kv_heads="):
        models.Llama(VOCAB_SIZE, **(SIZES | sizes), rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    "x",
    [
        np.zeros(3, np.int32),
        np.zeros((1, 3), np.float32),
        np.zeros((1, 3), bool),
        np.zeros((1, 3, 23), np.float32),
        np.zeros((1, 3, 24), np.int32),
        np.zeros((1, 3, 24), np.complex64),
    ],
    ids=lambda x: f"{x.dtype}{list(x.shape)}",
)
def test_another_input_is_refused(x):
    model = models.Llama(VOCAB_SIZE, **SIZES, rngs=nnx.Rngs(0))
    with pytest.raises(
        TypeError, match=rf"`Llama` needs tokens.*\[batch, time, 24\]; got {x.dtype} of shape \({x.shape[0]}"
    ):
        model(x)
