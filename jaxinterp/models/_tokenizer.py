"""Text as tokens, by the byte pair encoding of llama2.c."""

import dataclasses
import functools
import itertools
import pathlib
import struct
from collections.abc import Sequence

import numpy as np

BOS, EOS = 1, 2
FIRST_BYTE = 3  # the tokens 3, ..., 258 stand for the bytes 0, ..., 255


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    r"""Splits text into tokens, and joins them again.

    The characters of the text, with one space before it, are the first tokens; a character that is not in the
    vocabulary becomes the tokens of its bytes. As long as two neighbours together are in the vocabulary, the two with
    the highest score become one, the first two where scores are equal (byte pair encoding, Sennrich et al. 2016).

    Attributes:
      pieces: the text of each token: unknown, begin (BOS, 1), end (EOS, 2), the 256 bytes, and the rest.
      scores: a number for each token; higher ones are joined first.

    Raises:
      ValueError: if there are not as many scores as pieces, or less than 259 of them.

    Source: Karpathy (2023), llama2.c.

    >>> from jaxinterp import models
    >>> specials = (b"<unk>", b"<s>", b"</s>", *(f"<0x{i:02X}>".encode() for i in range(256)))
    >>> tokenizer = models.Tokenizer(specials + (b" ", b"a", b"b", b"ab"), (0.0,) * 259 + (-1.0, -2.0, -3.0, 5.0))
    >>> tokenizer.encode("abaé")
    array([  1, 259, 262, 260, 198, 172], dtype=int32)
    >>> tokenizer.decode(tokenizer.encode("abaé"))
    'abaé'
    """

    pieces: tuple[bytes, ...]
    scores: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.pieces) != len(self.scores) or len(self.pieces) < FIRST_BYTE + 256:
            raise ValueError(
                f"`Tokenizer` needs a score for each piece, and at least {FIRST_BYTE + 256} pieces (three special ones "
                f"and the bytes); got {len(self.pieces)} pieces and {len(self.scores)} scores."
            )

    @classmethod
    def read(cls, path: str | pathlib.Path, vocab_size: int) -> "Tokenizer":
        """Reads the tokenizer of a network from a file of llama2.c.

        The file holds the int32 length of the longest piece, then for each token a float32 score, an int32 length and
        that many bytes. It does not say how many tokens there are.

        Args:
          path: the file.
          vocab_size: number of tokens, as in the network.

        Raises:
          FileNotFoundError: if there is no such file.
          ValueError: if the file does not hold `vocab_size` tokens and nothing else.
        """
        data = pathlib.Path(path).read_bytes()
        pieces: list[bytes] = []
        scores: list[float] = []
        position = 4
        while position < len(data):
            if position + 8 > len(data):
                raise ValueError(f"{path} is cut short, or no tokenizer of llama2.c: it ends in token {len(pieces)}.")
            score, length = struct.unpack_from("<fi", data, position)
            position += 8 + length
            if length < 0 or position > len(data):
                raise ValueError(
                    f"{path} is cut short, or no tokenizer of llama2.c: token {len(pieces)} has {length} bytes there, "
                    f"of a file of {len(data)}."
                )
            pieces.append(data[position - length : position])
            scores.append(score)
        if len(pieces) != vocab_size:
            raise ValueError(f"{path} must hold the {vocab_size} tokens of the network; it holds {len(pieces)}.")
        return cls(tuple(pieces), tuple(scores))

    @functools.cached_property
    def _index(self) -> dict[bytes, int]:
        index: dict[bytes, int] = {}
        for token, piece in enumerate(self.pieces):
            index.setdefault(piece, token)
        return index

    def encode(self, text: str, *, bos: bool = True) -> np.ndarray:
        """Returns the tokens of a text, int32 [time]; `bos` puts BOS before them, with which every text begins."""
        tokens = []
        for character in f" {text}" if text else "":
            encoded = character.encode()
            known = self._index.get(encoded)
            tokens.extend([known] if known is not None else [FIRST_BYTE + byte for byte in encoded])
        while (best := self._best_pair(tokens)) is not None:
            position, token = best
            tokens[position : position + 2] = [token]
        return np.array([BOS] * bos + tokens, np.int32)

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """Returns the text of tokens; BOS and EOS have none, and bytes that are not UTF-8 become U+FFFD.

        The space that `encode` puts before a text is taken away again after BOS.

        Raises:
          TypeError: if the tokens are not a sequence of integers.
          ValueError: if a token is not in the vocabulary.
        """
        known = np.asarray(tokens)
        if known.ndim != 1 or (known.size and not np.issubdtype(known.dtype, np.integer)):
            raise TypeError(f"`decode` needs integers [time]; got {known.dtype} of shape {known.shape}.")
        text, after_bos = bytearray(), False
        for token in known.tolist():
            if not 0 <= token < len(self.pieces):
                raise ValueError(f"Tokens must be from 0 to {len(self.pieces) - 1}; got {token}.")
            text += self._text(token).removeprefix(b" " if after_bos else b"")
            after_bos = token == BOS
        return text.decode(errors="replace")

    def _text(self, token: int) -> bytes:
        if token in (BOS, EOS):
            return b""
        is_byte = FIRST_BYTE <= token < FIRST_BYTE + 256
        return bytes([token - FIRST_BYTE]) if is_byte else self.pieces[token]

    def _best_pair(self, tokens: list[int]) -> tuple[int, int] | None:
        """Where the two neighbours are that become one next, and what they become."""
        best, best_score = None, -np.inf
        for position, (left, right) in enumerate(itertools.pairwise(tokens)):
            token = self._index.get(self.pieces[left] + self.pieces[right])
            if token is not None and self.scores[token] > best_score:
                best, best_score = (position, token), self.scores[token]
        return best
