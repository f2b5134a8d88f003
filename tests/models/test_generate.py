"""Greedy continuation against the loop that grows its sequence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from jaxinterp import models

pytestmark = pytest.mark.core

START = np.array([3, 1, 4], np.int32)


@pytest.fixture(scope="module")
def llama():
    return models.Llama(9, width=8, num_blocks=1, num_heads=2, num_kv_heads=1, hidden=12, rngs=nnx.Rngs(2))


def grown(model, tokens, num_tokens):
    """The same with a sequence that becomes longer at each step."""
    tokens, logits = list(tokens), nnx.jit(model)
    for _ in range(num_tokens):
        tokens.append(int(np.argmax(logits(jnp.asarray([tokens]))[0, -1])))
    return tokens


def test_each_token_is_the_best_after_those_before(llama):
    wanted = grown(llama, START, 6)
    assert len(set(wanted[3:])) > 1
    for model in (llama, models.as_function(llama)):
        out = models.generate(model, START, 6)
        assert out.dtype == jnp.int32
        assert out.tolist() == wanted
    assert models.generate(llama, [3, 1, 4], 6).tolist() == wanted
    assert models.generate(llama, START.astype(np.uint8), 1).tolist() == wanted[:4]


def test_it_can_be_compiled_and_mapped(llama):
    net = models.as_function(llama)
    batch = np.stack([START, START[::-1]])
    out = jax.jit(jax.vmap(lambda tokens: models.generate(net, tokens, 4)))(batch)
    assert out.tolist() == [grown(llama, tokens, 4) for tokens in batch]


def test_the_network_is_traced_once_for_all_steps():
    shapes = []

    class Counting(nnx.Module):
        def __call__(self, tokens):
            shapes.append(tokens.shape)
            return jax.nn.one_hot((tokens + 1) % 50, 50)

    assert models.generate(Counting(), START, 40).tolist() == [3, 1, 4, *range(5, 45)]
    assert len(shapes) <= 3
    assert set(shapes) == {(1, 43)}


def test_a_linen_network_is_continued_as_a_function(key):
    class Next(linen.Module):
        @linen.compact
        def __call__(self, tokens):
            return linen.Embed(5, 5, embedding_init=lambda *_: jnp.roll(jnp.eye(5), 1, axis=1))(tokens)

    variables = Next().init(key, START[None] * 0)
    assert models.generate(models.as_function(Next(), variables), [2], 4).tolist() == [2, 3, 4, 0, 1]


@pytest.mark.parametrize("num_tokens", [0, -1])
def test_at_least_one_token_follows(llama, num_tokens):
    with pytest.raises(ValueError, match=f"`num_tokens` must be at least 1; got {num_tokens}"):
        models.generate(llama, START, num_tokens)


def test_the_number_of_tokens_is_an_integer(llama):
    with pytest.raises(TypeError, match="`num_tokens` must be a Python integer"):
        models.generate(llama, START, 2.0)


@pytest.mark.parametrize("model", [lambda tokens: tokens, None, linen.Dense(3)], ids=["function", "none", "linen"])
def test_another_kind_of_model_is_refused(model):
    with pytest.raises(TypeError, match=rf"NNX network or a `Function`; got {type(model).__name__}"):
        models.generate(model, START, 2)


@pytest.mark.parametrize(
    "tokens", [START.astype(np.float32), np.array([True]), []], ids=["float", "bool", "empty list"]
)
def test_tokens_are_integers(llama, tokens):
    with pytest.raises(TypeError, match="`generate` continues tokens, which are integers; got"):
        models.generate(llama, tokens, 2)


@pytest.mark.parametrize("shape", [(), (0,), (1, 3)])
def test_tokens_are_one_sequence(llama, shape):
    with pytest.raises(
        ValueError, match=rf"one sequence of at least one token; got the shape \({shape[0] if shape else ''}"
    ):
        models.generate(llama, np.zeros(shape, np.int32), 2)


@pytest.mark.parametrize("wrong", [-1, 9])
def test_tokens_are_in_the_vocabulary(llama, wrong):
    with pytest.raises(ValueError, match="Tokens must be from 0 to 8; got"):
        models.generate(llama, np.array([1, wrong], np.int32), 2)


def test_a_network_of_other_shapes_is_refused():
    class Classifier(nnx.Module):
        def __call__(self, tokens):
            return jnp.zeros((len(tokens), 3))

    with pytest.raises(ValueError, match=r"for one sequence of 5 tokens it returned the shape \(3,\)"):
        models.generate(Classifier(), START, 2)
