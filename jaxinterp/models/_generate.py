"""Text, continued."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxinterp import checks
from jaxinterp.models._function import Function, as_function
from jaxinterp.typing import Array


def generate(model: nnx.Module | Function, tokens: Array, num_tokens: int) -> Array:
    r"""Continues a sequence of tokens, each time by the token of the highest score (greedy decoding).

    .. math:: t_{i+1} = \arg\max_v \mathrm{logits}(t_0, \dots, t_i)_{i, v}

    At every step the network sees a sequence of the final length, filled up with zeros, which a causal network does
    not look at; so all steps together are traced and compiled once. To continue several texts, map and compile it:
    `jax.jit(jax.vmap(lambda tokens: generate(function, tokens, num_tokens)))`.

    Args:
      model: a causal network, from tokens [batch, time] to logits [batch, time, vocab_size], such as `Llama`; or what
        `as_function` makes of one.
      tokens: integers [time], the beginning; at least one.
      num_tokens: how many follow.

    Returns:
      The beginning and what follows, int32 [time + num_tokens].

    Raises:
      TypeError: if `model` is something else, or `tokens` are not integers.
      ValueError: if `tokens` is not a sequence of tokens in the vocabulary, or the network returns other shapes.

    >>> from jaxinterp import models
    >>> llama = models.Llama(10, width=8, num_blocks=1, num_heads=2, num_kv_heads=1, hidden=16, rngs=nnx.Rngs(0))
    >>> models.generate(llama, jnp.array([1, 4]), 3).shape
    (5,)
    """
    checks.positive_integer("num_tokens", num_tokens)
    if not isinstance(model, nnx.Module | Function):
        raise TypeError(f"`generate` needs a Flax NNX network or a `Function`; got {type(model).__name__}.")
    network = model if isinstance(model, Function) else as_function(model)
    tokens = jnp.asarray(tokens)
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise TypeError(f"`generate` continues tokens, which are integers; got {tokens.dtype}.")
    if tokens.ndim != 1 or not tokens.size:
        raise ValueError(f"`generate` continues one sequence of at least one token; got the shape {tokens.shape}.")
    context = jnp.pad(tokens.astype(jnp.int32), (0, num_tokens))
    logits = jax.eval_shape(network.apply, network.params, network.state, context)
    if logits.ndim != 2 or len(context) != logits.shape[0]:
        raise ValueError(
            "`generate` needs a network from tokens [batch, time] to logits [batch, time, vocab_size]; for one "
            f"sequence of {len(context)} tokens it returned the shape {logits.shape}."
        )
    known = checks.concrete(tokens)
    if known is not None and not 0 <= known.min() <= known.max() < logits.shape[1]:
        raise ValueError(f"Tokens must be from 0 to {logits.shape[1] - 1}; got {known.min()} to {known.max()}.")

    def add_token(i: Array, context: Array) -> Array:
        scores = network.apply(network.params, network.state, context)[i - 1]
        return context.at[i].set(jnp.argmax(scores).astype(context.dtype))

    return jax.lax.fori_loop(len(tokens), len(context), add_token, context)
