"""Sparse arrays and files: equal to the masked network, read back bit for bit, and hard to damage."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import sparse

from jaxinterp import sparsity
from jaxinterp.sparsity import _export

X64 = jax.config.jax_enable_x64
DTYPE = jnp.float64 if X64 else jnp.float32
SUFFIXES = [".npz", ".safetensors"]


def network(dtype=DTYPE):
    """A dense and a convolutional layer; one weight that is 0 has the highest score."""
    keys = jax.random.split(jax.random.key(3), 3)
    return {
        "conv": {"kernel": jax.random.normal(keys[0], (3, 3, 2, 4), dtype), "bias": jnp.arange(4, dtype=dtype)},
        "dense": {"kernel": jax.random.normal(keys[1], (8, 6), dtype).at[0, 0].set(0), "bias": None},
        "layers": [{"scale": jnp.asarray(2.5, dtype)}],
    }


def masks_of(params, how):
    if how == "per unit":
        gates = sparsity.attach(params, granularity=sparsity.per_output_unit, initial=0.0)
        return jax.tree.map(lambda g: g.at[..., ::2].set(1), gates)
    scores = jax.tree.map(jnp.abs, params)
    scores["dense"]["kernel"] = scores["dense"]["kernel"].at[0, 0].set(100)
    chosen = {"conv": {"kernel": scores["conv"]["kernel"]}, "dense": {"kernel": scores["dense"]["kernel"]}}
    budget = sparsity.over_all() if how == "unstructured" else sparsity.n_of_m(2, 4, axis=-2)
    if how == "2:4":
        chosen["conv"] = {"kernel": None}  # two input channels
    masks = budget(chosen, 0.5)
    return {**masks, "conv": {"bias": None} | masks["conv"], "dense": {"bias": None} | masks["dense"], "layers": None}


MASKS = ["unstructured", "2:4", "per unit"]


def assert_same(got, wanted):
    """In structure, dtype and every bit, but for the sign of zeros."""
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


# Sparse arrays


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("how", MASKS)
def test_sparse_arrays_are_the_masked_ones(how):
    params = network()
    masks = masks_of(params, how)
    stored = sparsity.to_bcoo(params, masks)
    is_sparse = lambda leaf: isinstance(leaf, sparse.BCOO)  # noqa: E731
    dense = jax.tree.map(lambda leaf: leaf.todense() if is_sparse(leaf) else leaf, stored, is_leaf=is_sparse)
    assert_same(dense, sparsity.apply(params, masks))
    kernel, mask = stored["dense"]["kernel"], masks["dense"]["kernel"]
    assert kernel.nse == int(jnp.sum(jnp.broadcast_to(mask, (8, 6))))
    assert 0 in kernel.data
    np.testing.assert_array_equal(kernel.indices, np.argwhere(np.broadcast_to(mask, (8, 6))))
    assert isinstance(stored["conv"]["kernel"], sparse.BCOO) == (how != "2:4")
    assert stored["conv"]["bias"] is params["conv"]["bias"]


@pytest.mark.core
@pytest.mark.numerics
def test_products_and_gradients_with_sparse_arrays():
    """Only what is kept has a gradient; the parameters may be traced."""
    params, x = network(), jax.random.normal(jax.random.key(5), (3, 8), DTYPE)
    masks = masks_of(params, "2:4")
    tolerance = {"rtol": 1e-12, "atol": 1e-12} if X64 else {"rtol": 1e-5, "atol": 1e-6}
    product = jax.jit(lambda p: x @ sparsity.to_bcoo(p, masks)["dense"]["kernel"])
    np.testing.assert_allclose(product(params), x @ sparsity.apply(params, masks)["dense"]["kernel"], **tolerance)
    slopes = jax.grad(lambda p: jnp.sum(product(p) ** 2))(params)["dense"]["kernel"]
    wanted = jax.grad(lambda p: jnp.sum((x @ sparsity.apply(p, masks)["dense"]["kernel"]) ** 2))(params)
    np.testing.assert_allclose(slopes, wanted["dense"]["kernel"], **tolerance)


@pytest.mark.core
@pytest.mark.parametrize(
    ("params", "masks", "message"),
    [
        ({"a": jnp.ones(3)}, {"b": jnp.ones(3)}, "`masks` of `to_bcoo` must have the structure of the parameters"),
        ({"a": {"b": jnp.ones(3)}}, {"a": jnp.ones(3)}, "has an array at `a`, where the parameters have none"),
        ({"a": None}, {"a": jnp.ones(3)}, "has an array at `a`, where the parameters have none"),
        (
            {"a": {"b": jnp.ones((3, 2))}},
            {"a": {"b": jnp.ones(3)}},
            r"mask of `a/b` of shape \(3,\) does not broadcast",
        ),
        ({"a": jnp.ones(3)}, {"a": jnp.array([1.0, 0.5, 0.0])}, "mask of `a` of `to_bcoo` must hold 0 and 1 only"),
        ({"a": jnp.ones(2)}, {"a": jnp.array([1.0, jnp.nan])}, "mask of `a` of `to_bcoo` must hold 0 and 1 only"),
    ],
)
def test_masks_that_do_not_fit(params, masks, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        sparsity.to_bcoo(params, masks)
    with pytest.raises(ValueError, match=message.replace("to_bcoo", "save")):
        sparsity.save(tmp_path / "net.npz", params, masks)
    assert not list(tmp_path.iterdir())


@pytest.mark.core
def test_a_traced_mask():
    with pytest.raises(TypeError, match="mask of `` of `to_bcoo` is traced"):
        jax.jit(lambda mask: sparsity.to_bcoo(jnp.ones(2), mask))(jnp.ones(2))


# Files


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("how", MASKS)
@pytest.mark.parametrize("dtype", ["default", "bfloat16"])
def test_round_trips(suffix, how, dtype, tmp_path):
    params = network(DTYPE if dtype == "default" else jnp.bfloat16)
    masks = masks_of(params, how)
    path = tmp_path / "new" / f"net{suffix}"
    sparsity.save(path, params, masks)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    like = jax.eval_shape(lambda: params)
    got, got_masks = sparsity.load(path, like)
    assert_same(got, sparsity.apply(params, masks))
    assert_same(got_masks, masks | {"layers": [{"scale": None}]})
    flat, flat_masks = sparsity.load(str(path))
    assert sorted(flat) == ["conv/bias", "conv/kernel", "dense/kernel", "layers/0/scale"]
    assert flat_masks["conv/bias"] is None
    assert_same(sparsity.apply(flat, flat_masks)["conv/kernel"], got["conv"]["kernel"])


@pytest.mark.core
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_dtypes_names_and_empty_arrays(suffix, tmp_path):
    """Names that `numpy.savez` cannot take, one parameter that is the whole tree, masks that keep nothing or all."""
    params = {
        "file": jnp.array([1, -2], jnp.int8),
        "allow_pickle": jnp.array([True, False]),
        "ü/ä": jnp.zeros((0, 3)),
        "half": jnp.array([1.0, jnp.nan, -jnp.inf, -0.0], jnp.float16),
        "slope": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "number": 2.0,
        "scalar": jnp.asarray(3.0),
    }
    masks = dict.fromkeys(params) | {"half": jnp.ones(4), "slope": jnp.zeros((3, 2), bool), "scalar": jnp.ones(())}
    sparsity.save(tmp_path / f"a{suffix}", params, masks)
    got, got_masks = sparsity.load(tmp_path / f"a{suffix}", params)
    wanted = params | {"slope": jnp.zeros((3, 2), jnp.float32), "number": jnp.asarray(2.0)}
    assert_same(got, wanted)
    assert_same(got_masks, masks)
    assert np.signbit(got["half"][3])
    sparsity.save(tmp_path / f"b{suffix}", jnp.arange(4.0), jnp.array([0.0, 1, 1, 0]))
    assert sparsity.load(tmp_path / f"b{suffix}", jnp.arange(4.0))[0].tolist() == [0, 1, 2, 0]


@pytest.mark.core
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_layout_is_the_one_described_and_small(suffix, tmp_path):
    """Read without jaxinterp, as another program would."""
    params = {"dense": {"kernel": jax.random.normal(jax.random.key(0), (100, 100)), "bias": jnp.ones(100)}}
    masks = sparsity.over_all()({"dense": {"kernel": jnp.abs(params["dense"]["kernel"]), "bias": None}}, 0.9)
    path = tmp_path / f"net{suffix}"
    sparsity.save(path, params, masks)
    if suffix == ".npz":
        with np.load(path) as file:
            arrays = dict(file)
        record = json.loads(arrays["jaxinterp"].tobytes())
    else:
        safetensors = pytest.importorskip("safetensors")
        with safetensors.safe_open(path, "np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            record = json.loads(file.metadata()["jaxinterp"])
    about = record["parameters"]["dense/kernel"]
    assert about == {"dtype": "float32", "shape": [100, 100], "mask": {"dtype": "float32", "shape": [100, 100]}}
    kept = np.unpackbits(arrays["dense/kernel.mask"], count=100 * 100).reshape(100, 100).astype(bool)
    kernel = np.zeros((100, 100), np.float32)
    kernel[kept] = arrays["dense/kernel.values"]
    np.testing.assert_array_equal(kernel, sparsity.apply(params, masks)["dense"]["kernel"])
    np.testing.assert_array_equal(arrays["dense/bias"], params["dense"]["bias"])
    assert path.stat().st_size < 0.2 * 4 * 100 * 100


@pytest.mark.core
def test_bfloat16_is_bfloat16_to_other_programs(tmp_path):
    safetensors = pytest.importorskip("safetensors")
    sparsity.save(tmp_path / "net.safetensors", {"a": jnp.array([1.5], jnp.bfloat16)})
    with safetensors.safe_open(tmp_path / "net.safetensors", "np") as file:
        assert file.get_slice("a").get_dtype() == "BF16"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damage_is_noticed(suffix, tmp_path):
    """One bit flipped, at 150 places, or the end cut off: refused, or read as it was."""
    path = tmp_path / f"net{suffix}"
    params = {"a": {"kernel": jnp.arange(12.0).reshape(4, 3), "bias": jnp.ones(3)}}
    masks = {"a": {"kernel": jnp.eye(4, 3), "bias": None}}
    sparsity.save(path, params, masks)
    whole, wanted = path.read_bytes(), sparsity.load(path)
    rng, refused = np.random.default_rng(0), 0
    for place in rng.choice(len(whole), 150, replace=False):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            assert_same(sparsity.load(path), wanted)
        except ValueError as error:
            refused += f"{path} is damaged" in str(error)
    assert refused > 75
    for end in (0, 7, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match="is damaged or was not written by `save`"):
            sparsity.load(path)


@pytest.mark.core
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_of_others_and_of_other_networks(suffix, tmp_path):
    path = tmp_path / f"net{suffix}"
    if suffix == ".npz":
        np.savez(path, a=np.ones(2))
    else:
        pytest.importorskip("safetensors.numpy").save_file({"a": np.ones(2)}, path)
    with pytest.raises(ValueError, match="was not written by `save`"):
        sparsity.load(path)
    sparsity.save(path, {"a": jnp.ones(2, jnp.float32)})
    for like, message in [
        ({"a": jnp.ones(3, jnp.float32)}, r"`a` is float32\[2\] there and float32\[3\] in `like`"),
        ({"a": jnp.ones(2, jnp.int32)}, r"`a` is float32\[2\] there and int32\[2\] in `like`"),
        ({"b": jnp.ones(2, jnp.float32)}, r"`a` is float32\[2\] there and absent in `like`"),
    ]:
        with pytest.raises(ValueError, match=f"does not fit `like`: {message}"):
            sparsity.load(path, like)


@pytest.mark.core
def test_what_is_refused(tmp_path):
    params = {"a": jnp.ones(2)}
    for name in ("net", "net.pt", "net.NPZ"):
        for refused in (lambda p: sparsity.save(p, params), sparsity.load):
            with pytest.raises(ValueError, match=r"must end in \.npz or \.safetensors.*net"):
                refused(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"missing\.npz"):
        sparsity.load(tmp_path / "missing.npz")
    one = jnp.ones(1)
    for tree, masks, name in [
        ({"a/b": one, "a": {"b": one}}, None, "a/b"),
        ({"a": one, "a.mask": one}, {"a": one, "a.mask": None}, "a.mask"),
        ({"jaxinterp": one}, None, "jaxinterp"),
    ]:
        with pytest.raises(ValueError, match=f"cannot write two arrays named `{name}`"):
            sparsity.save(tmp_path / "net.npz", tree, masks)
    for value in (jax.random.key(0), "text", np.array(["text"]), np.ones(1, ">f4"), len):
        with pytest.raises(TypeError, match="`save` cannot write `a`, which is no array of numbers"):
            sparsity.save(tmp_path / "net.npz", {"a": value})
    assert not list(tmp_path.iterdir())


@pytest.mark.core
def test_an_old_file_survives_a_failure(tmp_path, monkeypatch):
    path = tmp_path / "net.npz"
    sparsity.save(path, {"a": jnp.ones(2)})
    monkeypatch.setattr(_export.pathlib.Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        sparsity.save(path, {"a": jnp.zeros(2)})
    assert [p.name for p in tmp_path.iterdir()] == ["net.npz"]
    assert sparsity.load(path)[0]["a"].tolist() == [1, 1]


@pytest.mark.core
def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    for call in (
        lambda: sparsity.save(tmp_path / "a.safetensors", jnp.ones(1)),
        lambda: sparsity.load("a.safetensors"),
    ):
        with pytest.raises(ImportError, match=r"needs the package safetensors: `pip install jaxinterp\[export\]`"):
            call()


@pytest.mark.skipif(X64, reason="JAX has 64 bits")
def test_numbers_that_would_be_narrowed(tmp_path):
    sparsity.save(tmp_path / "net.npz", {"a": np.ones(2)})
    with pytest.raises(ValueError, match=r"`a` in .*net\.npz is float64.*set `jax_enable_x64`"):
        sparsity.load(tmp_path / "net.npz")
