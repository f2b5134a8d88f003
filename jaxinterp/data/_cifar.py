"""The files of CIFAR-10 and CIFAR-100, in the Python and the binary version."""

import pathlib
import pickle
from collections.abc import Sequence

import numpy as np

from jaxinterp.data._dataset import (
    DataError,
    Dataset,
    check_examples,
    existing_directory,
    first_existing,
    standardise,
    with_test_part,
)
from jaxinterp.typing import Key


def cifar10(key: Key, directory: str | pathlib.Path) -> Dataset:
    """CIFAR-10 (Krizhevsky, 2009): images [32, 32, 3], standardised per channel.

    Args:
      key: chooses the tenth of the training images that becomes the validation part.
      directory: holds `data_batch_1` ... `data_batch_5` and `test_batch`, in the Python version or in the binary
        version (`.bin`).

    Raises:
      DataError: if a file is missing, cut off or malformed.
    """
    folder = existing_directory(directory)
    train = [f"data_batch_{i}" for i in range(1, 6)]
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    return _cifar("cifar10", key, folder, train, ["test_batch"], names, b"labels", label_bytes=1)


def cifar100(key: Key, directory: str | pathlib.Path) -> Dataset:
    """CIFAR-100 (Krizhevsky, 2009) with its 100 fine labels: images [32, 32, 3], standardised per channel.

    Args:
      key: chooses the tenth of the training images that becomes the validation part.
      directory: holds `train` and `test`, in the Python version or in the binary version (`.bin`).

    Raises:
      DataError: if a file is missing, cut off or malformed.
    """
    folder = existing_directory(directory)
    names = tuple(f"class {i}" for i in range(100))
    return _cifar("cifar100", key, folder, ["train"], ["test"], names, b"fine_labels", label_bytes=2)


def _cifar(
    name: str,
    key: Key,
    folder: pathlib.Path,
    train: Sequence[str],
    test: Sequence[str],
    class_names: tuple[str, ...],
    label_name: bytes,
    *,
    label_bytes: int,
) -> Dataset:
    parts = []
    for files in (train, test):
        read = [_read_cifar(first_existing(folder, (f, f"{f}.bin")), label_name, label_bytes) for f in files]
        pixels, labels = (np.concatenate(arrays) for arrays in zip(*read, strict=True))
        images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        parts.append(check_examples(f"{folder}/{files[0]}...", images, labels, len(class_names)))
    return with_test_part(name, key, parts, class_names, standardise(parts[0][0], axes=(0, 1)))


def _read_cifar(path: pathlib.Path, label_name: bytes, label_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    if path.suffix == ".bin":
        row = label_bytes + 3072
        content = np.frombuffer(path.read_bytes(), np.uint8)
        if not len(content) or len(content) % row:
            raise DataError(f"{path}: {len(content)} bytes are no whole number of rows of {row}; fetch it again.")
        content = content.reshape(-1, row)
        return content[:, label_bytes:], content[:, label_bytes - 1].astype(int)
    try:
        with path.open("rb") as file:
            batch = _ArraysOnly(file, encoding="bytes").load()
        pixels, labels = np.asarray(batch[b"data"]), np.asarray(batch[label_name])
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError, AttributeError, ImportError) as error:
        raise DataError(f"{path}: not a CIFAR batch of the Python version ({error!r}); fetch it again.") from error
    if pixels.ndim != 2 or pixels.shape[1] != 3072 or pixels.dtype != np.uint8:
        raise DataError(f"{path}: `data` must be uint8 [n, 3072]; got {pixels.dtype} {pixels.shape}.")
    return pixels, labels


class _ArraysOnly(pickle.Unpickler):
    """A pickle can run any code when it is loaded; this one makes NumPy arrays and nothing else."""

    _ALLOWED = frozenset(
        {("_codecs", "encode"), ("numpy", "ndarray"), ("numpy", "dtype"), ("numpy._core.numeric", "_frombuffer")}
        | {("numpy._core.multiarray", name) for name in ("_reconstruct", "scalar")}
    )

    def find_class(self, module: str, name: str) -> object:
        module = module.replace("numpy.core", "numpy._core")  # where NumPy 1 had it
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it wants to load {module}.{name}, which no CIFAR batch needs")
        return super().find_class(module, name)
