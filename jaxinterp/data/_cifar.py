"""The files of CIFAR-10 and CIFAR-100, in the Python and the binary version."""

import functools
import pathlib
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
from jaxinterp.data._pickle import load_arrays
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
        paths = [first_existing(folder, (file, f"{file}.bin")) for file in files]
        read = [check_examples(str(p), *_read_cifar(p, label_name, label_bytes), len(class_names)) for p in paths]
        pixels, labels = (np.concatenate(arrays) for arrays in zip(*read, strict=True))
        parts.append((pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels))
    normalise = functools.partial(standardise, axes=(0, 1))
    return with_test_part(str(folder), key, parts, normalise, name=name, class_names=class_names)


def _read_cifar(path: pathlib.Path, label_name: bytes, label_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    if path.suffix == ".bin":
        row = label_bytes + 3072
        content = np.frombuffer(path.read_bytes(), np.uint8)
        if not len(content) or len(content) % row:
            raise DataError(f"{path}: {len(content)} bytes are no whole number of rows of {row}; fetch it again.")
        content = content.reshape(-1, row)
        return content[:, label_bytes:], content[:, label_bytes - 1].astype(int)
    batch = load_arrays(path)
    try:
        pixels, labels = np.asarray(batch[b"data"]), np.asarray(batch[label_name])
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise DataError(f"{path}: not a CIFAR batch of the Python version ({error!r}); fetch it again.") from error
    if pixels.ndim != 2 or pixels.shape[1] != 3072 or pixels.dtype != np.uint8:
        raise DataError(f"{path}: `data` must be uint8 [n, 3072]; got {pixels.dtype} {pixels.shape}.")
    return pixels, labels
