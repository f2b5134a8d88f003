"""The readers of the CIFAR batches against files written here, as Python 2 wrote the real ones."""

import os
import pathlib
import pickle
import struct
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxinterp import data

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
READERS = {
    "cifar10": (data.cifar10, [f"data_batch_{i}" for i in range(1, 6)], "test_batch", b"labels", 10),
    "cifar100": (data.cifar100, ["train"], "test", b"fine_labels", 100),
}


def python2_string(value):
    """SHORT_BINSTRING or BINSTRING: a byte string of Python 2."""
    return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value


def python2_batch(label_name, pixels, labels):
    """A batch as Python 2 and NumPy 1 pickled it, opcode by opcode (protocol 2): byte strings, `numpy.core`, `u1`."""
    shape = b"".join(b"M" + struct.pack("<H", n) for n in pixels.shape)
    array = b"".join(
        [
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01(" + shape + b"t",
            b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
            b"\x89" + python2_string(pixels.tobytes()) + b"tb",
        ]
    )
    items = {
        b"batch_label": python2_string(b"training batch 1 of 5"),
        label_name: b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e",
        b"data": array,
        b"filenames": b"]("
        + b"".join(python2_string(b"leptodactylus_pentadactylus_s_000004.png") for _ in labels)
        + b"e",
    }
    return b"\x80\x02}(" + b"".join(python2_string(name) + value for name, value in items.items()) + b"u."


def binary_batch(pixels, labels, coarse):
    """Rows of the binary version: (the coarse label,) the label, 3072 pixels."""
    rows = zip(labels, pixels, strict=True)
    return b"".join((b"\x07" if coarse else b"") + bytes([label]) + row.tobytes() for label, row in rows)


def make(num_examples, num_classes, seed):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(num_examples) % num_classes)
    return rng.integers(0, 256, (num_examples, 3072)).astype(np.uint8), labels.astype(np.uint8)


def images(pixels):
    """The images [n, 32, 32, 3] of rows that hold the red plane, then the green, then the blue one, row by row."""
    planes = [[row[1024 * c : 1024 * (c + 1)] for c in range(3)] for row in pixels]
    shown = [[[[p[c][32 * i + j] for c in range(3)] for j in range(32)] for i in range(32)] for p in planes]
    return np.array(shown, np.uint8)


@pytest.fixture(params=READERS)
def written(request, tmp_path):
    """A folder with a batch of 8 examples in each file, written as Python 2 did."""
    reader, train, test, label_name, num_classes = READERS[request.param]
    batches = [make(8, num_classes, seed) for seed in range(len(train) + 1)]
    for file, (pixels, labels) in zip((*train, test), batches, strict=True):
        (tmp_path / file).write_bytes(python2_batch(label_name, pixels, labels))
    return request.param, reader, tmp_path, batches


@pytest.fixture
def folder(tmp_path):
    """CIFAR-10 with 4 examples in each file; tests replace one of them."""
    for seed in range(6):
        name = "test_batch" if seed == 5 else f"data_batch_{seed + 1}"
        (tmp_path / name).write_bytes(python2_batch(b"labels", *make(4, 10, seed)))
    return tmp_path


@pytest.mark.core
def test_the_emulated_file_is_what_python_reads(folder):
    pixels, labels = make(4, 10, 5)
    batch = pickle.loads((folder / "test_batch").read_bytes(), encoding="bytes")
    assert set(batch) == {b"batch_label", b"labels", b"data", b"filenames"}
    np.testing.assert_array_equal(batch[b"data"], pixels)
    assert batch[b"labels"] == labels.tolist()
    assert isinstance(batch[b"filenames"][0], bytes)


@pytest.mark.core
def test_images_and_labels_are_what_was_written(written, key):
    name, reader, folder, batches = written
    dataset = reader(key, folder)
    num_train = 8 * (len(batches) - 1)
    assert dataset.name == name
    assert dataset.shape == (32, 32, 3)
    assert dataset.num_classes == (10 if name == "cifar10" else 100)
    assert len(dataset.train) + len(dataset.validation) == num_train
    undo = dataset.normalisation.undo
    np.testing.assert_array_equal(np.round(undo(dataset.test.x)), images(batches[-1][0]))
    np.testing.assert_array_equal(dataset.test.y, batches[-1][1])
    wanted = {x.tobytes(): y for pixels, labels in batches[:-1] for x, y in zip(images(pixels), labels, strict=True)}
    assert len(wanted) == num_train
    for part in (dataset.train, dataset.validation):
        assert (part.x.dtype, part.y.dtype) == (np.float32, np.int32)
        for x, y in zip(np.round(undo(part.x)).astype(np.uint8), part.y, strict=True):
            assert wanted.pop(x.tobytes()) == y
    assert not wanted


@pytest.mark.core
def test_the_classes_of_cifar10_have_their_names(folder, key):
    dataset = data.cifar10(key, str(folder))
    assert dataset.class_names == NAMES
    assert dataset.is_image


def test_the_binary_version_holds_the_same(written):
    name, reader, folder, batches = written
    wanted = reader(jax.random.key(0), folder).digest()
    _, train, test, _, _ = READERS[name]
    for file, (pixels, labels) in zip((*train, test), batches, strict=True):
        (folder / file).unlink()
        (folder / f"{file}.bin").write_bytes(binary_batch(pixels, labels, coarse=name == "cifar100"))
    assert reader(jax.random.key(0), folder).digest() == wanted


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_files_written_anew_by_python_3(folder, protocol):
    wanted = data.cifar10(jax.random.key(0), folder).digest()
    pixels, labels = make(4, 10, 5)
    by_column = np.asfortranarray(pixels)
    for data_as, labels_as in ((pixels, labels.tolist()), (pixels, labels), (by_column, list(labels))):
        (folder / "test_batch").write_bytes(pickle.dumps({b"data": data_as, b"labels": labels_as}, protocol=protocol))
        assert data.cifar10(jax.random.key(0), folder).digest() == wanted


@pytest.mark.core
def test_the_training_part_alone_is_standardised(written, key):
    _, reader, folder, _ = written
    train = reader(key, folder).train.x.astype(np.float64)
    np.testing.assert_allclose(train.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(train.std((0, 1, 2)), 1, atol=1e-5)


@pytest.mark.core
def test_the_key_chooses_the_validation_part(folder):
    digests = {data.cifar10(jax.random.key(seed), folder).digest() for seed in (0, 0, 1)}
    assert len(digests) == 2


class Evil:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.core
@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("call", ["os.mkdir", "eval", "exec", "np.save", "pathlib", "getattr"])
def test_a_malicious_pickle_runs_nothing(folder, tmp_path, key, protocol, call):
    victim = tmp_path / "victim"
    code = f"__import__('os').mkdir({str(victim)!r})"
    evil = {
        "os.mkdir": Evil(os.mkdir, str(victim)),
        "eval": Evil(eval, code),
        "exec": Evil(exec, code),
        "np.save": Evil(np.save, str(victim), np.zeros(1)),
        "pathlib": Evil(pathlib.Path.touch, victim),
        "getattr": Evil(getattr, Evil(os.mkdir, str(victim)), "real", None),
    }[call]
    content = pickle.dumps({b"data": make(4, 10, 5)[0], b"labels": [0, 1, 2, 3], b"x": evil}, protocol=protocol)
    pickle.loads(content)
    done = list(tmp_path.glob("victim*"))
    assert done, "the payload must work, or this test shows nothing"
    for path in done:
        path.rmdir() if path.is_dir() else path.unlink()
    (folder / "test_batch").write_bytes(content)
    with pytest.raises(
        data.DataError, match=r"test_batch: not a CIFAR batch .*it wants to load .*, which no CIFAR batch"
    ):
        data.cifar10(key, folder)
    assert not list(tmp_path.glob("victim*"))


def test_a_malicious_pickle_cannot_crash_the_process(folder):
    """NumPy makes arrays of object pointers from any bytes; reading one that points nowhere ends the process."""
    pointers = Evil(np.ndarray, (1,), "O", b"A" * 8)
    evil = Evil(np.ndarray, pointers)
    content = pickle.dumps({b"data": make(4, 10, 5)[0], b"labels": [0, 1, 2, 3], b"x": evil}, protocol=2)
    (folder / "test_batch").write_bytes(content)
    program = f"""
import jax
from jaxinterp import data
try:
    data.cifar10(jax.random.key(0), {str(folder)!r})
except data.DataError:
    print("refused")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "refused\n"), done.stderr[-500:]


PIXELS = make(4, 10, 5)[0]


@pytest.mark.core
@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (PIXELS, "not a CIFAR batch of the Python version"),
        ([PIXELS], "not a CIFAR batch of the Python version .*TypeError"),
        ({b"labels": [0] * 4}, "not a CIFAR batch of the Python version .*KeyError.*data"),
        ({b"data": PIXELS}, "not a CIFAR batch of the Python version .*KeyError.*labels"),
        ({"data": PIXELS, "labels": [0] * 4}, "not a CIFAR batch of the Python version .*KeyError.*data"),
        ({b"data": PIXELS, b"labels": [0, [1, 2], 3, 4]}, "not a CIFAR batch of the Python version .*ValueError"),
        ({b"data": PIXELS[:, :3000], b"labels": [0] * 4}, r"`data` must be uint8 \[n, 3072\]; got uint8 \(4, 3000\)"),
        ({b"data": PIXELS.astype(int), b"labels": [0] * 4}, r"`data` must be uint8 \[n, 3072\]; got int64 \(4, 3072\)"),
        ({b"data": PIXELS.ravel(), b"labels": [0] * 4}, r"`data` must be uint8 \[n, 3072\]; got uint8 \(12288,\)"),
        (
            {b"data": PIXELS, b"labels": [0] * 3},
            r"4 inputs need as many labels in one axis; got labels of shape \(3,\)",
        ),
        ({b"data": PIXELS, b"labels": [[0]] * 4}, r"4 inputs need .* labels of shape \(4, 1\)"),
        ({b"data": PIXELS, b"labels": [0.5] * 4}, r"labels must be integers from 0; got dtype float64"),
        ({b"data": PIXELS, b"labels": [0, 10, 0, -1]}, r"labels must be from 0 to 9, .*; got -1, 10 in the rows 1, 3"),
        ({b"data": PIXELS[:0], b"labels": np.zeros(0, int)}, "there are no examples"),
    ],
)
def test_another_content_is_refused(folder, key, batch, message):
    (folder / "test_batch").write_bytes(pickle.dumps(batch))
    with pytest.raises(data.DataError, match=f"test_batch.*: {message}"):
        data.cifar10(key, folder)


@pytest.mark.core
def test_labels_of_one_batch_do_not_pass_to_the_next(folder, key):
    """One label too few in the first file and one too many in the second would shift all between them."""
    for name, num_labels in (("data_batch_1", 3), ("data_batch_2", 5)):
        (folder / name).write_bytes(python2_batch(b"labels", PIXELS, [0] * num_labels))
    with pytest.raises(data.DataError, match=r"4 .*labels.*\(3,\)"):
        data.cifar10(key, folder)


@pytest.mark.core
def test_one_batch_with_labels_of_another_rank_is_refused(folder, key):
    (folder / "data_batch_2").write_bytes(pickle.dumps({b"data": PIXELS, b"labels": [[0]] * 4}))
    with pytest.raises(data.DataError, match=r"labels.*\(4, 1\)"):
        data.cifar10(key, folder)


@pytest.mark.core
@pytest.mark.parametrize("length", [0, 1, 2, 3, 40, 90, 120, 150, 200, 5000, 12400, -1])
def test_a_file_cut_off_is_refused(folder, key, length):
    path = folder / "data_batch_3"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(data.DataError, match=r"data_batch_3: not a CIFAR batch of the Python version .*fetch it again"):
        data.cifar10(key, folder)


def test_damaged_bytes_give_an_answer_or_a_data_error(folder):
    """The opcodes before the pixels, each with one bit flipped: unpickling raises more than its own errors."""
    path = folder / "test_batch"
    content = path.read_bytes()
    refused = 0
    for position in range(content.index(b"data"), content.index(b"T", content.index(b"u1"))):
        for bit in (0, 3, 7):
            damaged = bytearray(content)
            damaged[position] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                assert len(data.cifar10(jax.random.key(0), folder).test) == 4
            except data.DataError:
                refused += 1
    assert refused > 100


@pytest.mark.core
@pytest.mark.parametrize(("length", "row"), [(0, 3073), (3072, 3073), (3073 * 2 + 1, 3073)])
def test_a_binary_file_has_whole_rows(folder, key, length, row):
    (folder / "test_batch").unlink()
    (folder / "test_batch.bin").write_bytes(bytes(length))
    with pytest.raises(data.DataError, match=rf"test_batch.bin: {length} bytes are no whole number of rows of {row}"):
        data.cifar10(key, folder)


@pytest.mark.core
def test_a_binary_label_is_in_range(folder, key):
    (folder / "test_batch").unlink()
    (folder / "test_batch.bin").write_bytes(binary_batch(PIXELS, [1, 2, 10, 3], coarse=False))
    with pytest.raises(data.DataError, match=r"labels must be from 0 to 9, .*; got 10 in the rows 2"):
        data.cifar10(key, folder)


@pytest.mark.core
def test_a_missing_file_is_named(written, key):
    name, reader, folder, _ = written
    missing = READERS[name][1][-1]
    (folder / missing).unlink()
    with pytest.raises(data.DataError, match=rf"neither {missing} nor {missing}\.bin is there"):
        reader(key, folder)


@pytest.mark.core
@pytest.mark.parametrize("name", READERS)
def test_there_must_be_a_directory(tmp_path, key, name):
    with pytest.raises(data.DataError, match="nowhere: there is no such directory"):
        READERS[name][0](key, tmp_path / "nowhere")
