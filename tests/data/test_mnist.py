"""The reader of IDX files against files written here byte by byte."""

import gzip
import struct

import jax
import numpy as np
import pytest

from jaxinterp import data

FILES = {
    (part, kind): f"{part}-{kind}-idx{rank}-ubyte"
    for part in ("train", "t10k")
    for kind, rank in (("images", 3), ("labels", 1))
}


def idx(array):
    """The bytes of an IDX file: two zeros, 8 for unsigned bytes, the rank, big-endian sizes, the values."""
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def raw():
    rng = np.random.default_rng(0)
    arrays = {}
    for part, n in (("train", 30), ("t10k", 5)):
        labels = rng.integers(0, 10, n).astype(np.uint8)
        images = rng.integers(0, 256, (n, 28, 28)).astype(np.uint8)
        images[:, 0, 0], images[:, 0, 1] = labels, np.arange(n)  # each image tells its label and its position
        arrays[part, "images"], arrays[part, "labels"] = images, labels
    return arrays


@pytest.fixture
def folder(tmp_path, raw):
    for name, array in raw.items():
        (tmp_path / FILES[name]).write_bytes(idx(array))
    return tmp_path


def compress(folder, *names):
    for name in names:
        path = folder / FILES[name]
        (folder / f"{FILES[name]}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()


def check(dataset, raw):
    assert (dataset.name, dataset.shape, dataset.class_names) == ("mnist", (28, 28, 1), tuple("0123456789"))
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (27, 3, 5)
    np.testing.assert_array_equal(np.round(dataset.test.x[..., 0] * 255), raw["t10k", "images"])
    np.testing.assert_array_equal(dataset.test.y, raw["t10k", "labels"])
    x = np.concatenate([dataset.train.x, dataset.validation.x])
    assert x.dtype == np.float32
    assert x.min() >= 0
    assert x.max() <= 1
    pixels = np.round(x * 255).astype(int)[..., 0]
    positions = pixels[:, 0, 1]
    assert sorted(positions.tolist()) == list(range(30))
    np.testing.assert_array_equal(pixels, raw["train", "images"][positions])
    np.testing.assert_array_equal(
        np.concatenate([dataset.train.y, dataset.validation.y]), raw["train", "labels"][positions]
    )
    np.testing.assert_array_equal(
        np.round(dataset.normalisation.undo(x)).astype(int)[..., 0], raw["train", "images"][positions]
    )


@pytest.mark.core
def test_plain_files(folder, raw, key):
    check(data.mnist(key, folder), raw)


@pytest.mark.core
def test_compressed_files_and_a_mixture(folder, raw):
    plain = data.mnist(jax.random.key(0), folder).digest()
    compress(folder, ("train", "images"), ("t10k", "labels"))
    mixture = data.mnist(jax.random.key(0), str(folder))
    check(mixture, raw)
    compress(folder, ("t10k", "images"), ("train", "labels"))
    assert data.mnist(jax.random.key(0), folder).digest() == mixture.digest() == plain


@pytest.mark.core
def test_the_key_chooses_the_validation_part(folder):
    digests = {data.mnist(jax.random.key(seed), folder).digest() for seed in (0, 0, 1)}
    assert len(digests) == 2


@pytest.mark.core
def test_there_must_be_a_directory(tmp_path, key):
    with pytest.raises(data.DataError, match=r"nowhere: there is no such directory"):
        data.mnist(key, tmp_path / "nowhere")


@pytest.mark.core
@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder, key, name):
    (folder / FILES[name]).unlink()
    with pytest.raises(data.DataError, match=rf"neither {FILES[name]} nor {FILES[name]}\.gz is there"):
        data.mnist(key, folder)


@pytest.mark.core
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_gzip_file_is_refused(folder, key, kept):
    compress(folder, ("train", "images"))
    path = folder / f"{FILES['train', 'images']}.gz"
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(data.DataError, match=r"train-images-idx3-ubyte.gz: not "):
        data.mnist(key, folder)


@pytest.mark.core
@pytest.mark.parametrize("position", [0, 2, 10, 11, 12, 2000, -8, -1])
def test_a_damaged_gzip_file_is_refused(folder, key, position):
    """Byte 0 is the magic number, 2 the method; the compressed blocks begin at 10; the checksum ends the file."""
    compress(folder, ("train", "images"))
    path = folder / f"{FILES['train', 'images']}.gz"
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(data.DataError, match=r"train-images-idx3-ubyte.gz: not a complete gzip file .*fetch it again"):
        data.mnist(key, folder)


@pytest.mark.core
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0\x08\x01" + bytes(100),  # the file of labels in its place
        b"\0\0\x0d\x03" + bytes(100),  # floats
        b"\x01\0\x08\x03" + bytes(100),
        b"\0\0\x08\x03" + bytes(11),  # the header is cut off
        b"<!DOCTYPE html>",
    ],
)
def test_another_magic_number_is_refused(folder, key, content):
    (folder / FILES["t10k", "images"]).write_bytes(content)
    message = "t10k-images-idx3-ubyte: not an IDX file of unsigned bytes with 3 axes; it starts with"
    with pytest.raises(data.DataError, match=message):
        data.mnist(key, folder)


@pytest.mark.core
@pytest.mark.parametrize("promised", [29, 31, 2**31])
def test_the_header_must_say_what_follows(folder, key, promised):
    path = folder / FILES["train", "images"]
    path.write_bytes(path.read_bytes()[:4] + struct.pack(">I", promised) + path.read_bytes()[8:])
    message = rf"promises \({promised}, 28, 28\), {promised * 784} bytes, but {30 * 784} follow. Fetch it again"
    with pytest.raises(data.DataError, match=message):
        data.mnist(key, folder)


@pytest.mark.core
def test_a_file_cut_off_is_refused(folder, key):
    path = folder / FILES["t10k", "labels"]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(data.DataError, match=r"t10k-labels-idx1-ubyte: its header promises .* but 4 follow"):
        data.mnist(key, folder)


@pytest.mark.core
def test_a_label_ten_is_refused_with_its_row(folder, key, raw):
    labels = raw["train", "labels"].copy()
    labels[[3, 17]] = 10
    (folder / FILES["train", "labels"]).write_bytes(idx(labels))
    with pytest.raises(data.DataError, match=r"train-\*: labels must be from 0 to 9, .*; got 10 in the rows 3, 17"):
        data.mnist(key, folder)


@pytest.mark.core
def test_each_image_needs_a_label(folder, key, raw):
    (folder / FILES["train", "labels"]).write_bytes(idx(raw["train", "labels"][:-1]))
    with pytest.raises(data.DataError, match=r"30 inputs need as many labels .* got labels of shape \(29,\)"):
        data.mnist(key, folder)


@pytest.mark.core
def test_files_without_images_are_refused(folder, key):
    (folder / FILES["t10k", "images"]).write_bytes(idx(np.zeros((0, 28, 28), np.uint8)))
    (folder / FILES["t10k", "labels"]).write_bytes(idx(np.zeros(0, np.uint8)))
    with pytest.raises(data.DataError, match="there are no examples"):
        data.mnist(key, folder)


@pytest.mark.core
def test_training_and_test_images_have_one_shape(folder, key):
    (folder / FILES["t10k", "images"]).write_bytes(idx(np.zeros((5, 14, 14), np.uint8)))
    with pytest.raises(data.DataError, match=r"14, 14"):
        data.mnist(key, folder)
