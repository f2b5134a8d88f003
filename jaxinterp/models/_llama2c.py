"""The weights of a `Llama` from a file of llama2.c."""

import math
import pathlib
from typing import NamedTuple

import numpy as np
from flax import nnx

from jaxinterp.models._function import of_zeros
from jaxinterp.models._llama import Llama

LATER_VERSIONS = 0x616B3432  # "ak42", with which files of version 1 and 2 begin
NUMBER_SIZE = 4  # int32 and float32


class Header(NamedTuple):
    """The seven int32 numbers that the file begins with."""

    width: int
    hidden: int
    num_blocks: int
    num_heads: int
    num_kv_heads: int
    vocab_size: int
    context: int


def llama_from_llama2c(path: str | pathlib.Path) -> Llama:
    """Returns a `Llama` with the weights of a file of llama2.c, of version 0, its output tied to the embedding.

    First come seven int32 numbers (width, hidden, blocks, heads, key-value heads, vocabulary, longest sequence), then
    arrays of float32, each kind for all blocks together, as matrices [out, in]: embedding, attention norms, query,
    key, value, output, MLP norms, gate, down, up, last norm; and cosines and sines of the positions, which are
    computed here instead. The longest sequence is not enforced: beyond it the network was not trained.

    Args:
      path: the file.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it does not begin as such a file does, has another length than it should, or holds a weight that
        is not finite.

    Source: Karpathy (2023), llama2.c.
    """
    data = pathlib.Path(path).read_bytes()
    header = _header(path, data)
    shapes = _shapes(header)
    sizes = [math.prod(shape) for shape in shapes.values()]
    needed = NUMBER_SIZE * (len(header) + sum(sizes))
    if len(data) != needed:
        raise ValueError(
            f"{path} is {'cut short' if len(data) < needed else 'too long'}, or no file of llama2.c: it begins with "
            f"{header}, for which it needs {needed} bytes; it has {len(data)}."
        )
    numbers = np.frombuffer(data, "<f4", offset=NUMBER_SIZE * len(header))
    parts = np.split(numbers, np.cumsum(sizes)[:-1])
    weights = {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
    for name, array in weights.items():
        if not np.all(np.isfinite(array)):
            raise ValueError(f"{path} must hold finite numbers; {np.sum(~np.isfinite(array))} of `{name}` are not.")
    return _llama(header, weights)


def _header(path: str | pathlib.Path, data: bytes) -> Header:
    start = NUMBER_SIZE * len(Header._fields)
    if len(data) < start:
        raise ValueError(f"{path} is cut short: a file of llama2.c begins with {start} bytes; it has {len(data)}.")
    header = Header(*np.frombuffer(data[:start], "<i4").tolist())
    if header.width == LATER_VERSIONS:
        raise ValueError(f"{path} is a file of llama2.c of version {header.hidden}; version 0 is needed.")
    if header.vocab_size < 0:
        raise ValueError(
            f"{path} has an output matrix of its own (its vocabulary is {header.vocab_size}); `Llama` needs one that "
            "is tied to the embedding."
        )
    if min(header) < 1 or header.width % (2 * header.num_heads) or header.num_heads % header.num_kv_heads:
        raise ValueError(
            f"{path} is no file of llama2.c: it begins with {header}, where positive numbers are needed, the width an "
            "even multiple of the heads, the heads a multiple of the key-value heads."
        )
    return header


def _shapes(header: Header) -> dict[str, tuple[int, ...]]:
    """The arrays in the order of the file; those of the blocks have the block as their first axis."""
    width, hidden, blocks = header.width, header.hidden, header.num_blocks
    kv_width = width // header.num_heads * header.num_kv_heads
    positions = (header.context, width // header.num_heads // 2)
    return {
        "embedding": (header.vocab_size, width),
        "attention_norm": (blocks, width),
        "query": (blocks, width, width),
        "key": (blocks, kv_width, width),
        "value": (blocks, kv_width, width),
        "output": (blocks, width, width),
        "mlp_norm": (blocks, width),
        "gate": (blocks, hidden, width),
        "down": (blocks, width, hidden),
        "up": (blocks, hidden, width),
        "norm": (width,),
        "cosines": positions,
        "sines": positions,
    }


def _llama(header: Header, weights: dict[str, np.ndarray]) -> Llama:
    options = {name: getattr(header, name) for name in ("width", "num_blocks", "num_heads", "num_kv_heads", "hidden")}
    model = of_zeros(lambda: Llama(header.vocab_size, **options, rngs=nnx.Rngs(0)))
    model.embedding.table[...] = weights["embedding"]
    model.norm.scale[...] = weights["norm"]
    for i in range(model.num_blocks):
        block = getattr(model, f"blocks_{i}")
        for name in ("attention_norm", "mlp_norm"):
            getattr(block, name).scale[...] = weights[name][i]
        for module, names in (
            (block.attention, ("query", "key", "value", "output")),
            (block.mlp, ("gate", "down", "up")),
        ):
            for name in names:
                getattr(module, name).kernel[...] = weights[name][i].T
    return model
