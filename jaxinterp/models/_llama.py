"""A small Llama: a causal transformer that continues text."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxinterp import checks
from jaxinterp.typing import Array


class RMSNorm(nnx.Module):
    """Divides by the root of the mean square over the last axis, and scales: `x / sqrt(mean(x²) + epsilon) * scale`."""

    def __init__(self, width: int, *, epsilon: float) -> None:
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones(width, jnp.float32))

    def __call__(self, x: Array) -> Array:
        scale = self.scale[...].reshape((1,) * (x.ndim - 1) + (-1,))
        return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.epsilon) * scale


class Attention(nnx.Module):
    """Causal attention with rotary positions, in which groups of query heads share a key and a value head."""

    def __init__(self, width: int, *, num_heads: int, num_kv_heads: int, rotary_base: float, rngs: nnx.Rngs) -> None:
        self.num_kv_heads = num_kv_heads
        self.group_size = num_heads // num_kv_heads
        self.head_width = width // num_heads
        self.rotary_base = rotary_base
        self.query = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.key = nnx.Linear(width, num_kv_heads * self.head_width, use_bias=False, rngs=rngs)
        self.value = nnx.Linear(width, num_kv_heads * self.head_width, use_bias=False, rngs=rngs)
        self.output = nnx.Linear(width, width, use_bias=False, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        batch, time, width = x.shape
        # [batch, kv head, query head of its group, time, head width]
        query = self._rotated(self._heads(self.query(x), self.group_size))
        key = self._rotated(self._heads(self.key(x), 1))
        value = self._heads(self.value(x), 1)
        scores = jnp.matmul(query, key.swapaxes(-1, -2)) / self.head_width**0.5
        past = np.tril(np.ones((1, 1, 1, time, time), bool))
        weights = _softmax(jnp.where(past, scores, jnp.finfo(scores.dtype).min))
        mixed = jnp.matmul(weights, value)
        return self.output(mixed.transpose(0, 3, 1, 2, 4).reshape(batch, time, width))

    def _heads(self, x: Array, group_size: int) -> Array:
        x = x.reshape(*x.shape[:2], self.num_kv_heads, group_size, self.head_width)
        return x.transpose(0, 2, 3, 1, 4)

    def _rotated(self, x: Array) -> Array:
        """Turns the pair of coordinates `(2i, 2i + 1)` at time t by the angle `t * base^(-2i / head_width)`."""
        frequencies = self.rotary_base ** (-np.arange(0, self.head_width, 2) / self.head_width)
        angles = np.outer(np.arange(x.shape[-2]), frequencies)[None, None, None]
        cos, sin = (jnp.asarray(f(angles), x.dtype) for f in (np.cos, np.sin))
        even, odd = (jax.lax.slice_in_dim(x, first, None, stride=2, axis=-1) for first in range(2))
        turned = (even * cos - odd * sin, even * sin + odd * cos)
        return jnp.concatenate([part[..., None] for part in turned], axis=-1).reshape(x.shape)


class GatedMLP(nnx.Module):
    """Two layers with a gate: `down(silu(gate(x)) * up(x))`, known as SwiGLU (Shazeer 2020)."""

    def __init__(self, width: int, *, hidden: int, rngs: nnx.Rngs) -> None:
        self.gate = nnx.Linear(width, hidden, use_bias=False, rngs=rngs)
        self.up = nnx.Linear(width, hidden, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(hidden, width, use_bias=False, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.down(nnx.silu(self.gate(x)) * self.up(x))


class LlamaBlock(nnx.Module):
    """Attention and a gated MLP, each normalised before and added to what came in."""

    def __init__(self, width: int, *, hidden: int, epsilon: float, attention: Attention, rngs: nnx.Rngs) -> None:
        self.attention_norm = RMSNorm(width, epsilon=epsilon)
        self.attention = attention
        self.mlp_norm = RMSNorm(width, epsilon=epsilon)
        self.mlp = GatedMLP(width, hidden=hidden, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class Embedding(nnx.Module):
    """One vector for each token; NaN for a token that is not in the vocabulary."""

    def __init__(self, vocab_size: int, width: int, *, rngs: nnx.Rngs) -> None:
        self.vocab_size = vocab_size
        normal = jax.random.normal(rngs.params(), (vocab_size, width), jnp.float32)
        self.table = nnx.Param(normal / width**0.5)

    def __call__(self, tokens: Array) -> Array:
        valid = (tokens >= 0) & (tokens < self.vocab_size)
        return jnp.where(valid[..., None], self.table[...][tokens], jnp.nan)


class Llama(nnx.Module):
    r"""A causal transformer: the scores of the next token after each prefix of a sequence.

    .. math::
        h_0 &= E[\text{tokens}] \\
        u_l &= h_l + \mathrm{Attention}_l(\mathrm{RMSNorm}(h_l)) \\
        h_{l+1} &= u_l + \mathrm{MLP}_l(\mathrm{RMSNorm}(u_l)) \\
        \text{logits} &= \mathrm{RMSNorm}(h_L) E^\top

    The call takes a batch of sequences, either of tokens (integers [batch, time]) or of embeddings (floating-point
    numbers [batch, time, width]), and returns logits [batch, time, vocab_size]; which of the two is decided by the
    dtype. The positions are 0, 1, ...; logits at a time do not depend on what comes later.

    Tokens can be neither differentiated nor perturbed, so attributions explain the embeddings. As a pure function:

        net = models.as_function(llama)
        embeddings = net.params["embedding"]["table"][tokens]                           # what `llama.embed` gives
        next_token = lambda embeddings: net.apply(net.params, net.state, embeddings)[-1]   # [time, width] -> [vocab]
        ji.attribution.gradient(ji.heads.logit(next_token))(embeddings, label)          # [time, width]

    Zeros are a poor baseline for embeddings: RMSNorm goes from length 0 to length 1 within `sqrt(epsilon)` of them, so
    that integrals from there do not converge. The mean of the table is a smooth place.

    Modules are named as in `embedding`, `blocks_0/attention/query`, `blocks_0/mlp/down`, `norm`.

    Args:
      vocab_size: number of tokens.
      width: length of the embedding of a token.
      num_blocks: L, blocks of attention and MLP.
      num_heads: heads of the queries; each has `width / num_heads` coordinates, an even number.
      num_kv_heads: heads of the keys and values, a divisor of `num_heads`: grouped-query attention (Ainslie et al.
        2023).
      hidden: units between the layers of an MLP.
      rotary_base: the longest wavelength of the rotary positions (Su et al. 2021), over 2π; the turned pairs are
        neighbouring coordinates.
      epsilon: added to the mean square in RMSNorm (Zhang & Sennrich 2019), so that zeros can be normalised.
      rngs: where the initial parameters are drawn from.

    Raises:
      TypeError: if a size is not an integer; at the call, for inputs of another kind.
      ValueError: if a size is not positive or does not divide as it must.

    Source: Touvron et al. (2023), "LLaMA: Open and Efficient Foundation Language Models".

    >>> from jaxinterp import models
    >>> llama = models.Llama(10, width=8, num_blocks=1, num_heads=2, num_kv_heads=1, hidden=16, rngs=nnx.Rngs(0))
    >>> tokens = jnp.array([[1, 4, 2]])
    >>> llama(tokens).shape, jnp.array_equal(llama(llama.embed(tokens)), llama(tokens)).item()
    ((1, 3, 10), True)
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        width: int,
        num_blocks: int,
        num_heads: int,
        num_kv_heads: int,
        hidden: int,
        rotary_base: float = 10_000.0,
        epsilon: float = 1e-5,
        rngs: nnx.Rngs,
    ) -> None:
        sizes = {"vocab_size": vocab_size, "width": width, "num_blocks": num_blocks, "num_heads": num_heads}
        for name, size in (sizes | {"num_kv_heads": num_kv_heads, "hidden": hidden}).items():
            checks.positive_integer(name, size)
        if width % (2 * num_heads) or num_heads % num_kv_heads:
            raise ValueError(
                "`Llama` needs a `width` that is an even multiple of `num_heads`, and `num_heads` a multiple of "
                f"`num_kv_heads`; got width={width}, num_heads={num_heads}, num_kv_heads={num_kv_heads}."
            )
        self.width = width
        self.num_blocks = num_blocks
        self.embedding = Embedding(vocab_size, width, rngs=rngs)
        for i in range(num_blocks):
            attention = Attention(
                width, num_heads=num_heads, num_kv_heads=num_kv_heads, rotary_base=rotary_base, rngs=rngs
            )
            block = LlamaBlock(width, hidden=hidden, epsilon=epsilon, attention=attention, rngs=rngs)
            setattr(self, f"blocks_{i}", block)
        self.norm = RMSNorm(width, epsilon=epsilon)

    def embed(self, tokens: Array) -> Array:
        """Returns the embeddings of tokens: integers of any shape to one vector of length `width` each."""
        return self.embedding(tokens)

    def __call__(self, x: Array) -> Array:
        """Maps tokens [batch, time] or embeddings [batch, time, width] to logits [batch, time, vocab_size]."""
        x = jnp.asarray(x)
        if jnp.issubdtype(x.dtype, jnp.integer) and x.ndim == 2:
            x = self.embed(x)
        elif not jnp.issubdtype(x.dtype, jnp.floating) or x.ndim != 3 or x.shape[-1] != self.width:
            raise TypeError(
                "`Llama` needs tokens, integers of shape [batch, time], or their embeddings, floating-point numbers "
                f"of shape [batch, time, {self.width}]; got {x.dtype} of shape {x.shape}. A function made by "
                "`as_function` takes one sequence, without the batch axis."
            )
        for i in range(self.num_blocks):
            x = getattr(self, f"blocks_{i}")(x)
        return jnp.matmul(self.norm(x), self.embedding.table[...].T)


def _softmax(scores: Array) -> Array:
    # In the dtype of its input: the attention of Flax and of jax.nn computes in float32 even where all is float64.
    weights = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
    return weights / jnp.sum(weights, axis=-1, keepdims=True)
