"""Files of llama2.c: what is in them arrives, and what is no such file is refused."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinterp import models

pytestmark = pytest.mark.core

HEADER = {"width": 8, "hidden": 6, "num_blocks": 2, "num_heads": 2, "num_kv_heads": 1, "vocab_size": 5, "context": 7}
BLOCK = ("attention_norm", "query", "key", "value", "output", "mlp_norm", "gate", "down", "up")


def arrays(seed=0):
    """The arrays of a file in their order, matrices as [block, out, in], as llama2.c documents them."""
    rng = np.random.default_rng(seed)
    shapes = {
        "embedding": (5, 8),
        "attention_norm": (2, 8),
        "query": (2, 8, 8),
        "key": (2, 4, 8),
        "value": (2, 4, 8),
        "output": (2, 8, 8),
        "mlp_norm": (2, 8),
        "gate": (2, 6, 8),
        "down": (2, 8, 6),
        "up": (2, 6, 8),
        "norm": (8,),
        "cosines": (7, 2),
        "sines": (7, 2),
    }
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def contents(weights=None, **header):
    numbers = np.array(list((HEADER | header).values()), "<i4").tobytes()
    return numbers + b"".join(a.astype("<f4").tobytes() for a in (weights or arrays()).values())


@pytest.fixture
def write(tmp_path):
    def write(data):
        (tmp_path / "model.bin").write_bytes(data)
        return tmp_path / "model.bin"

    return write


def test_every_array_has_its_place(write):
    weights = arrays()
    net = models.as_function(models.llama_from_llama2c(write(contents(weights))))
    wanted = {"embedding": {"table": weights["embedding"]}, "norm": {"scale": weights["norm"]}}
    for i in range(2):
        w = {name: weights[name][i] for name in BLOCK}
        wanted[f"blocks_{i}"] = {name: {"scale": w[name]} for name in ("attention_norm", "mlp_norm")} | {
            "attention": {name: {"kernel": w[name].T} for name in ("query", "key", "value", "output")},
            "mlp": {name: {"kernel": w[name].T} for name in ("gate", "down", "up")},
        }
    assert jax.tree.structure(net.params) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, net.params, wanted)
    assert all(a.dtype == jnp.float32 for a in jax.tree.leaves(net.params))
    assert net.state == {}


def test_the_name_of_the_file_may_be_a_string(write):
    logits = models.llama_from_llama2c(str(write(contents())))(jnp.array([[1, 2, 3]]))
    assert logits.shape == (1, 3, 5)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.bin"):
        models.llama_from_llama2c(tmp_path / "absent.bin")


@pytest.mark.parametrize("length", [0, 1, 27])
def test_a_file_without_a_header_is_refused(write, length):
    with pytest.raises(ValueError, match=rf"model\.bin is cut short.*28 bytes; it has {length}\."):
        models.llama_from_llama2c(write(contents()[:length]))


@pytest.mark.parametrize("change", [-1, -4, 4, 1, -1000])
def test_a_file_of_another_length_is_refused(write, change):
    data = contents()
    other = data[:change] if change < 0 else data + bytes(change)
    what = "cut short" if change < 0 else "too long"
    with pytest.raises(
        ValueError, match=rf"{what}, or no file.*width=8.*needs {len(data)} bytes; it has {len(other)}\."
    ):
        models.llama_from_llama2c(write(other))


@pytest.mark.parametrize(
    "header", [{"hidden": 7}, {"num_blocks": 1}, {"context": 2**31 - 1}, {"num_blocks": 2**31 - 1}]
)
def test_a_header_of_another_network_is_refused(write, header):
    with pytest.raises(ValueError, match=r"model\.bin is (cut short|too long), or no file of llama2\.c"):
        models.llama_from_llama2c(write(contents(**header)))


@pytest.mark.parametrize(
    "header",
    [{name: 0} for name in HEADER]
    + [{"num_blocks": -2}, {"num_heads": 3}, {"num_heads": 8}, {"num_kv_heads": 4}, {"num_kv_heads": -1}],
    ids=str,
)
def test_an_impossible_header_is_refused(write, header):
    with pytest.raises(ValueError, match=r"no file of llama2\.c: it begins with Header\(width="):
        models.llama_from_llama2c(write(contents(**header)))


def test_another_kind_of_file_is_refused(write):
    for data in (b"PK\x03\x04" + bytes(100), b'{"layers": 5, "heads": 8, "vocabulary": 512}'):
        with pytest.raises(ValueError, match=r"model\.bin .*no file of llama2\.c"):
            models.llama_from_llama2c(write(data))


def test_an_output_of_its_own_is_refused(write):
    with pytest.raises(ValueError, match=r"an output matrix of its own \(its vocabulary is -5\)"):
        models.llama_from_llama2c(write(contents(vocab_size=-5)))


def test_a_later_version_is_named(write):
    with pytest.raises(ValueError, match="of version 2; version 0 is needed"):
        models.llama_from_llama2c(write(b"24ka" + contents(hidden=2)[4:]))


@pytest.mark.parametrize("name", ["embedding", "value", "norm"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_named(write, name, value):
    weights = arrays()
    weights[name].flat[-1] = value
    with pytest.raises(ValueError, match=f"must hold finite numbers; 1 of `{name}` are not"):
        models.llama_from_llama2c(write(contents(weights)))


@pytest.mark.numerics
def test_the_trained_network_knows_a_story(shared):
    path = shared / "data" / "stories260K.bin"
    assert hashlib.sha256(path.read_bytes()).hexdigest().startswith("b0a507e7")
    model = models.llama_from_llama2c(path)
    tokenizer = models.Tokenizer.read(shared / "data" / "tok512.bin", 512)
    assert sum(a.size for a in jax.tree.leaves(nnx.state(model, nnx.Param))) == 260_032
    tokens = models.generate(model, tokenizer.encode(""), 85)
    assert tokenizer.decode(tokens).startswith(
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw "
        "a big, red ball. She wanted to play with it, but it was too high."
    )


def test_the_positions_are_those_of_the_file(shared):
    """The file's own tables of cosines and sines say how positions turn the coordinates; they are not read."""
    numbers = np.fromfile(shared / "data" / "stories260K.bin", "<f4", offset=28)
    cosines, sines = numbers[-2 * 512 * 4 :].reshape(2, 512, 4)
    angles = np.arange(512)[:, None] / 10_000.0 ** (np.arange(0, 8, 2) / 8)
    np.testing.assert_allclose(cosines, np.cos(angles), atol=1e-4)
    np.testing.assert_allclose(sines, np.sin(angles), atol=1e-4)
