"""Text to tokens and back, against the algorithm written another way."""

import itertools
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxinterp import models

pytestmark = pytest.mark.core

SPECIAL = (b"<unk>", b"\n<s>\n", b"\n</s>\n", *(f"<0x{i:02X}>".encode() for i in range(256)))
WORDS = {" ": -1, "a": -2, "b": -3, "c": -4, "é": -5, "ab": 1, "bc": 2, " a": 0, "abc": 7, "aa": 3, "aaa": 3, "éa": 4}


def tokenizer(words=None):
    words = WORDS if words is None else words
    pieces = SPECIAL + tuple(word.encode() for word in words)
    return models.Tokenizer(pieces, (0.0,) * len(SPECIAL) + tuple(map(float, words.values())))


def token(word):
    return len(SPECIAL) + list(WORDS).index(word)


def data(t, max_length=7):
    pieces = zip(t.scores, t.pieces, strict=True)
    return struct.pack("<i", max_length) + b"".join(struct.pack("<fi", s, len(p)) + p for s, p in pieces)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("a", [" a"]),
        ("b", [" ", "b"]),
        ("ab", [" ", "ab"]),  # "ab" before " a"
        ("abc", [" ", "abc"]),  # "bc" first, and with "a" it is "abc"
        ("éa", [" ", "éa"]),
        ("aaa", [" ", "aaa"]),  # of two pairs "aa" the first, and with the next it is "aaa"
        ("aaaaa", [" ", "aaa", "aa"]),
        ("  a", [" ", " ", " a"]),
    ],
)
def test_pairs_are_joined_by_their_score(text, words):
    encoded = tokenizer().encode(text)
    assert encoded.dtype == np.int32
    assert encoded.tolist() == [1] + [token(word) for word in words]
    assert tokenizer().encode(text, bos=False).tolist() == [token(word) for word in words]


def test_an_unknown_character_becomes_its_bytes():
    encoded = tokenizer().encode("a你b")
    assert encoded.tolist() == [1, token(" a"), *(3 + byte for byte in "你".encode()), token("b")]
    assert tokenizer().decode(encoded) == "a你b"


def test_a_low_score_still_joins():
    low = tokenizer({" ": 0, "a": 0, "b": 0, "ab": -1e30})
    assert low.encode("ab").tolist() == [1, 259, 262]


def test_of_equal_pieces_the_first_counts():
    doubled = models.Tokenizer((*SPECIAL, b" ", b"a", b"a"), (0.0,) * 262)
    assert doubled.encode("a").tolist() == [1, 259, 260]


def by_table(t, text):
    """Byte pair encoding with the pieces as strings: of all joins the best, until there is none."""
    pieces = [c.encode() for c in " " + text] if text else []
    known = {piece: i for i, piece in reversed(list(enumerate(t.pieces)))}
    split = []
    for piece in pieces:
        split += [piece] if piece in known else [t.pieces[3 + byte] for byte in piece]
    while True:
        joins = [(t.scores[known[a + b]], -i) for i, (a, b) in enumerate(itertools.pairwise(split)) if a + b in known]
        if not joins:
            return [1] + [known[piece] for piece in split]
        i = -max(joins)[1]
        split[i : i + 2] = [split[i] + split[i + 1]]


@settings(deadline=None)
@given(st.text(alphabet="abcé ñ你\n\0", max_size=30), st.data())
def test_any_text_comes_back(text, drawn):
    scores = drawn.draw(st.lists(st.integers(-3, 3), min_size=len(WORDS), max_size=len(WORDS)))
    t = tokenizer(dict(zip(WORDS, scores, strict=True)))
    encoded = t.encode(text)
    assert t.decode(encoded) == text
    assert encoded.tolist() == by_table(t, text)


@settings(deadline=None)
@given(st.text(max_size=20))
def test_any_character_comes_back(text):
    if text.isprintable() or text.isascii():
        assert tokenizer().decode(tokenizer().encode(text)) == text


def test_text_in_the_middle_keeps_its_space():
    t = tokenizer()
    assert t.decode([token(" a"), token("b")]) == " ab"
    assert t.decode([1, token(" a"), token(" a")]) == "a a"
    assert t.decode([1, token("a"), 2, 1, token(" a")]) == "aa"
    assert t.decode([]) == ""


def test_bytes_that_are_no_text_are_replaced():
    assert tokenizer().decode([3 + 0xC3, token("a")]) == "\N{REPLACEMENT CHARACTER}a"


@pytest.mark.parametrize("wrong", [-1, 271, 10**6])
def test_a_token_outside_of_the_vocabulary_is_named(wrong):
    with pytest.raises(ValueError, match=f"Tokens must be from 0 to 270; got {wrong}"):
        tokenizer().decode([1, wrong])


@pytest.mark.parametrize("wrong", [[1.5], [[1, 2]], 3])
def test_what_are_no_tokens_is_refused(wrong):
    with pytest.raises(TypeError, match=r"`decode` needs integers \[time\]; got"):
        tokenizer().decode(wrong)


@pytest.mark.parametrize(("pieces", "scores"), [(259, 258), (258, 258), (0, 0)])
def test_a_tokenizer_needs_the_bytes_and_a_score_for_each(pieces, scores):
    with pytest.raises(ValueError, match=f"got {pieces} pieces and {scores} scores"):
        models.Tokenizer((b"a",) * pieces, (0.0,) * scores)


def test_it_is_read_from_a_file(tmp_path):
    (tmp_path / "tok.bin").write_bytes(data(tokenizer()))
    assert models.Tokenizer.read(tmp_path / "tok.bin", 271) == tokenizer()
    assert models.Tokenizer.read(str(tmp_path / "tok.bin"), 271).encode("a").tolist() == [1, token(" a")]


@pytest.mark.parametrize("vocab_size", [270, 272])
def test_a_file_of_another_vocabulary_is_refused(tmp_path, vocab_size):
    (tmp_path / "tok.bin").write_bytes(data(tokenizer()))
    with pytest.raises(ValueError, match=rf"tok\.bin must hold the {vocab_size} tokens.*it holds 271"):
        models.Tokenizer.read(tmp_path / "tok.bin", vocab_size)


@pytest.mark.parametrize("length", range(4, 200, 7))
def test_a_truncated_file_is_refused(tmp_path, length):
    (tmp_path / "tok.bin").write_bytes(data(tokenizer())[:-length])
    with pytest.raises(ValueError, match=r"tok\.bin (is cut short|must hold the 271 tokens)"):
        models.Tokenizer.read(tmp_path / "tok.bin", 271)


@pytest.mark.parametrize("contents", [b"", b"\1\0\0\0", b"\x7fELF" + bytes(range(200)), b"hello, world! " * 20])
def test_another_file_is_refused(tmp_path, contents):
    (tmp_path / "tok.bin").write_bytes(contents)
    with pytest.raises(ValueError, match=r"tok\.bin"):
        models.Tokenizer.read(tmp_path / "tok.bin", 271)


def test_a_negative_length_is_refused(tmp_path):
    (tmp_path / "tok.bin").write_bytes(struct.pack("<ifi", 1, 0.0, -8))
    with pytest.raises(ValueError, match="token 0 has -8 bytes"):
        models.Tokenizer.read(tmp_path / "tok.bin", 271)


def test_the_tokenizer_of_the_stories(shared):
    t = models.Tokenizer.read(shared / "data" / "tok512.bin", 512)
    # As llama2.c encodes it.
    assert t.encode("Once upon a time").tolist() == [1, 403, 407, 261, 378]
    assert t.pieces[403] == b" Once"
    for text in ('Lily\'s mom said, "Hi!"', "naïve 你好\n", " two  spaces "):
        assert t.decode(t.encode(text)) == text
        assert t.encode(text).tolist() == by_table(t, text)
