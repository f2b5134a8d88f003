"""The reader of NumPy archives: what it makes of good ones, and what it says of bad ones."""

import zipfile

import jax
import numpy as np
import pytest

from jaxinterp import data

RNG = np.random.default_rng(0)
X = RNG.normal([10, -3, 0], [1, 20, 0.1], (40, 3))
Y = np.arange(40) % 2
FOUR = {"x_train": X, "y_train": Y, "x_test": X[:7], "y_test": Y[:7]}


@pytest.fixture
def load(tmp_path, key):
    """Writes an archive and reads it."""

    def written(**arrays):
        np.savez(tmp_path / "some.npz", **arrays)
        return data.npz(jax.random.clone(key), tmp_path / "some.npz")

    return written


def undone(dataset):
    """The raw inputs of training and validation part, with their labels."""
    both = [getattr(dataset, part) for part in ("train", "validation")]
    return dataset.normalisation.undo(np.concatenate([s.x for s in both])), np.concatenate([s.y for s in both])


def origin(rows, originals):
    """Positions of the rows in the originals; each must be there."""
    distance = np.abs(rows[:, None].astype(float) - originals).reshape(len(rows), len(originals), -1).max(-1)
    assert distance.min(1).max() < 1e-4
    return distance.argmin(1)


@pytest.mark.core
def test_a_table_with_its_own_test_part(load):
    dataset = load(**FOUR)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (36, 4, 7)
    assert (dataset.name, dataset.shape, dataset.is_image) == ("some", (3,), False)
    assert dataset.class_names == ("0", "1")
    assert dataset.feature_names == ("x0", "x1", "x2")
    x, y = undone(dataset)
    where = origin(x, X)
    assert sorted(where.tolist()) == list(range(40))
    np.testing.assert_array_equal(y, Y[where])
    np.testing.assert_allclose(dataset.normalisation.undo(dataset.test.x), X[:7], atol=1e-5)
    np.testing.assert_array_equal(dataset.test.y, Y[:7])
    assert (dataset.test.x.dtype, dataset.test.y.dtype) == (np.float32, np.int32)


@pytest.mark.core
def test_without_a_test_part_a_fifth_becomes_it(load):
    dataset = load(x=X, y=Y)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (29, 3, 8)
    x, y = undone(dataset)
    where = origin(np.concatenate([x, dataset.normalisation.undo(dataset.test.x)]), X)
    assert sorted(where.tolist()) == list(range(40))
    np.testing.assert_array_equal(np.concatenate([y, dataset.test.y]), Y[where])


@pytest.mark.core
@pytest.mark.parametrize("arrays", [{"x": X, "y": Y}, FOUR], ids=["one", "two"])
def test_the_training_part_alone_is_standardised(load, arrays):
    train = load(**arrays).train.x.astype(np.float64)
    np.testing.assert_allclose(train.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(train.std(0), 1, atol=1e-5)


@pytest.mark.core
@pytest.mark.parametrize("arrays", [{"x": X, "y": Y}, FOUR], ids=["one", "two"])
def test_the_key_decides_the_split(tmp_path, arrays):
    np.savez(tmp_path / "some.npz", **arrays)
    digests = {data.npz(jax.random.key(seed), str(tmp_path / "some.npz")).digest() for seed in (0, 0, 1)}
    assert len(digests) == 2


@pytest.mark.core
@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_images_of_bytes(load, channels):
    raw = RNG.integers(0, 256, (40, 5, 4, *channels)).astype(np.uint8)
    dataset = load(x_train=raw, y_train=Y, x_test=raw[:7], y_test=Y[:7])
    assert dataset.is_image
    assert dataset.shape == (5, 4, *(channels or (1,)))
    assert dataset.feature_names == ()
    assert dataset.normalisation.mean.shape == (1, 1, *(channels or (1,)))
    np.testing.assert_array_equal(np.round(dataset.normalisation.undo(dataset.test.x)).reshape(raw[:7].shape), raw[:7])
    np.testing.assert_allclose(dataset.train.x.astype(np.float64).mean((0, 1, 2)), 0, atol=1e-5)


@pytest.mark.core
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.int64, np.uint8, np.uint16])
def test_inputs_of_any_numbers(load, dtype):
    raw = RNG.integers(0, 100, (40, 3)).astype(dtype)
    dataset = load(x_train=raw, y_train=Y, x_test=raw[:7], y_test=Y[:7])
    assert dataset.test.x.dtype == np.float32
    np.testing.assert_allclose(dataset.normalisation.undo(dataset.test.x), raw[:7].astype(float), atol=1e-4)


@pytest.mark.core
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.uint64])
def test_labels_of_any_integers(load, dtype):
    dataset = load(**FOUR | {"y_train": (np.arange(40) % 3).astype(dtype), "y_test": Y[:7].astype(dtype)})
    assert dataset.num_classes == 3
    assert dataset.train.y.dtype == np.int32
    assert set(undone(dataset)[1].tolist()) == {0, 1, 2}


@pytest.mark.core
def test_labels_keep_their_meaning_when_there_are_gaps(load):
    dataset = load(**FOUR | {"y_train": 4 * Y, "y_test": np.full(7, 6)})
    assert dataset.class_names == tuple("0123456")
    assert set(undone(dataset)[1].tolist()) == {0, 4}
    assert set(dataset.test.y.tolist()) == {6}


@pytest.mark.core
def test_one_class_alone_still_makes_two(load):
    assert load(**FOUR | {"y_train": 0 * Y, "y_test": 0 * Y[:7]}).num_classes == 2


@pytest.mark.core
def test_names_are_taken_from_the_archive(load):
    dataset = load(**FOUR, class_names=np.array(["no", "yes", "perhaps"]), feature_names=np.array(["a", "b", "c"]))
    assert dataset.class_names == ("no", "yes", "perhaps")
    assert dataset.feature_names == ("a", "b", "c")


@pytest.mark.core
def test_names_of_bytes_are_read_as_text(load):
    assert load(**FOUR, class_names=np.array([b"no", b"yes"])).class_names == ("no", "yes")


@pytest.mark.core
@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, r"needs x_train, y_train, x_test, y_test or x and y; it holds"),
        ({"x": X}, "or x and y; it holds x.$"),
        ({"x_train": X, "y_train": Y, "x_test": X}, "or x and y; it holds x_test, x_train, y_train.$"),
        ({**FOUR, "class_names": np.array(["only"])}, "2 class_names are needed; it holds 1"),
        ({**FOUR, "feature_names": np.array(["a", "b"])}, "3 feature_names are needed; it holds 2"),
        ({**FOUR, "feature_names": np.array(list("abcd"))}, "3 feature_names are needed; it holds 4"),
        ({**FOUR, "x_test": X[:7, :2]}, r"inputs differ in shape: \(40, 3\) and \(7, 2\)"),
        ({**FOUR, "y_train": Y[:39]}, r"\(x_train, y_train\): 40 inputs need as many labels"),
        ({**FOUR, "y_test": Y[:7, None]}, r"\(x_test, y_test\): 7 inputs .* labels of shape \(7, 1\)"),
        ({**FOUR, "y_train": np.array(1)}, r"\(x_train, y_train\): 40 inputs .* labels of shape \(\)"),
        ({**FOUR, "x_train": np.array(1.0)}, r"\(x_train, y_train\): the inputs must be numbers .*float64 \(\)"),
        ({**FOUR, "x_train": X[:, 0]}, r"the inputs must be numbers of shape \[examples, ...\]; got float64 \(40,\)"),
        ({**FOUR, "x_train": X.astype(str)}, "the inputs must be numbers"),
        ({**FOUR, "y_train": Y.astype(float)}, r"integers from 0; got dtype float64 \(convert them with `y.astype"),
        ({**FOUR, "y_train": Y + 0.5}, r"integers from 0; got dtype float64\.$"),
        ({**FOUR, "y_train": Y.astype(str)}, r"labels must be integers .* got dtype <U"),
        (
            {**FOUR, "y_test": np.array([0, 1, -1, 0, -3, 0, 0])},
            r"\(x_test, y_test\).*from 0 to 1, .*; got -3, -1 in the rows 2, 4",
        ),
        ({**FOUR, "x_train": X[:0], "y_train": Y[:0]}, r"\(x_train, y_train\): there are no examples"),
        ({**FOUR, "x_train": X[:4], "y_train": Y[:4]}, "4 examples are too few for parts of"),
        ({"x": X[:1], "y": Y[:1]}, "1 examples are too few for parts of"),
        ({**FOUR, "x_train": X[:, :0], "x_test": X[:7, :0]}, r"the inputs must be numbers .*\(40, 0\)"),
    ],
)
def test_what_makes_no_dataset_is_refused(load, arrays, message):
    with pytest.raises(data.DataError, match=f"some.npz.*{message}"):
        load(**arrays)


@pytest.mark.core
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_named(load, bad):
    x = X.copy()
    x[[3, 17, 39], [0, 2, 1]] = bad
    with pytest.raises(data.DataError, match=r"\(x, y\): NaN or infinite values in the rows 3, 17, 39; remove or fill"):
        load(x=x, y=Y)


@pytest.mark.core
def test_a_label_larger_than_the_named_classes_is_refused(load):
    with pytest.raises(data.DataError, match=r"3 class_names are needed; it holds 2"):
        load(**FOUR | {"y_test": np.full(7, 2)}, class_names=np.array(["no", "yes"]))


@pytest.mark.core
@pytest.mark.parametrize("name", ["x", "y", "class_names"])
def test_objects_are_not_unpickled(load, name):
    arrays = {"x": X, "y": Y, "class_names": np.array(["a", "b"])}
    with pytest.raises(
        data.DataError, match=r"not a readable .npz archive of plain arrays \(ValueError\); make it with"
    ):
        load(**arrays | {name: arrays[name].astype(object)})


@pytest.mark.core
@pytest.mark.parametrize("content", [b"", b"x,y\n1,0\n", b"PK\x03\x04" + bytes(50)], ids=["empty", "text", "zip"])
def test_a_file_that_is_no_archive_is_refused(tmp_path, key, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(data.DataError, match=r"a.npz: not a readable .npz archive"):
        data.npz(key, tmp_path / "a.npz")


@pytest.mark.core
def test_a_single_array_is_no_archive(tmp_path, key):
    with (tmp_path / "a.npz").open("wb") as file:
        np.save(file, X)
    with pytest.raises(data.DataError, match=r"a.npz: needs .*; it holds no named arrays: save them with `np.savez"):
        data.npz(key, tmp_path / "a.npz")


@pytest.mark.core
def test_an_archive_of_other_things_is_refused(tmp_path, key):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.txt", "1 2 3")
    with pytest.raises(data.DataError, match=r"needs x_train, .*; it holds x.txt"):
        data.npz(key, tmp_path / "a.npz")


def test_a_damaged_archive_is_refused(tmp_path, key):
    """Every byte of the compressed inputs is covered by the checksum, and zlib has errors of its own."""
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=X, y=Y)
    content = path.read_bytes()
    start = content.index(b"x.npy") + len(b"x.npy") + 20  # after the extra field of the header
    for position in (*range(start, start + 60), *range(60, len(content) // 2, 50)):
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        with pytest.raises(data.DataError, match=r"a.npz: not a readable .npz archive"):
            data.npz(jax.random.clone(key), path)


@pytest.mark.core
@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_an_archive_cut_off_is_refused(tmp_path, key, kept):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=X, y=Y)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(data.DataError, match=r"a.npz: not a readable .npz archive"):
        data.npz(key, path)


@pytest.mark.core
@pytest.mark.parametrize("name", ["nothing.npz", "."])
def test_there_must_be_a_file(tmp_path, key, name):
    with pytest.raises(data.DataError, match="there is no such file"):
        data.npz(key, tmp_path / name)


def test_ten_thousand_mnist_digits(shared, key):
    path = shared / "data" / "mnist_10k.npz"
    dataset = data.npz(key, path)
    assert (dataset.name, dataset.shape, dataset.class_names) == ("mnist_10k", (28, 28, 1), tuple("0123456789"))
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (7200, 800, 2000)
    with np.load(path) as archive:
        wanted = sorted(zip((image.tobytes() for image in archive["x"]), archive["y"].tolist(), strict=True))
    got = []
    for part in (dataset.train, dataset.validation, dataset.test):
        raw = np.round(dataset.normalisation.undo(part.x)).astype(np.uint8)
        got += zip((image.tobytes() for image in raw), part.y.tolist(), strict=True)
    assert sorted(got) == wanted
    assert dataset.train.x.mean(dtype=np.float64) == pytest.approx(0, abs=1e-5)
    assert dataset.train.x.std(dtype=np.float64) == pytest.approx(1, abs=1e-5)


def test_cifar10_as_an_archive(shared, key):
    path = shared / "data" / "cifar10_jpeg.npz"
    dataset = data.npz(key, path)
    assert (dataset.shape, dataset.num_classes) == ((32, 32, 3), 10)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (9000, 1000, 2000)
    np.testing.assert_array_equal(np.bincount(dataset.test.y), 200)
    with np.load(path) as archive:
        np.testing.assert_array_equal(np.round(dataset.normalisation.undo(dataset.test.x)), archive["x_test"])
        np.testing.assert_array_equal(dataset.test.y, archive["y_test"])
        count = np.bincount(np.concatenate([dataset.train.y, dataset.validation.y]))
        np.testing.assert_array_equal(count, np.bincount(archive["y_train"]))
    np.testing.assert_allclose(dataset.train.x.mean((0, 1, 2), dtype=np.float64), 0, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_images_without_channels_get_one(tmp_path, dtype):
    x = RNG.integers(0, 256, (40, 5, 4)).astype(dtype)
    np.savez(tmp_path / "grey.npz", x=x, y=np.arange(40) % 2)
    assert data.npz(jax.random.key(0), tmp_path / "grey.npz").shape == (5, 4, 1)
