"""The files of MNIST and of the datasets that took over its format."""

import gzip
import math
import pathlib
import zlib

import numpy as np

from jaxinterp.data._dataset import (
    DataError,
    Dataset,
    check_examples,
    existing_directory,
    first_existing,
    rescale,
    with_test_part,
)
from jaxinterp.typing import Key


def mnist(key: Key, directory: str | pathlib.Path) -> Dataset:
    """MNIST, or any dataset in its format (Fashion-MNIST, KMNIST): images [28, 28, 1] in [0, 1].

    Args:
      key: chooses the tenth of the training images that becomes the validation part.
      directory: holds `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte` and
        `t10k-labels-idx1-ubyte`, each as it is or with `.gz`.

    Raises:
      DataError: if a file is missing, cut off, or not what its header says.
    """
    folder = existing_directory(directory)
    parts = []
    for prefix in ("train", "t10k"):
        images = _read_idx(folder, f"{prefix}-images-idx3-ubyte", 3)
        labels = _read_idx(folder, f"{prefix}-labels-idx1-ubyte", 1)
        parts.append(check_examples(f"{folder}/{prefix}-*", images[..., None], labels, 10))
    class_names = tuple(map(str, range(10)))
    return with_test_part(str(folder), key, parts, lambda raw: rescale(255), name="mnist", class_names=class_names)


def _read_idx(folder: pathlib.Path, name: str, rank: int) -> np.ndarray:
    path = first_existing(folder, (name, f"{name}.gz"))
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a complete gzip file ({error}); fetch it again.") from error
    header = 4 + 4 * rank
    if len(content) < header or content[:4] != bytes((0, 0, 8, rank)):
        raise DataError(f"{path}: not an IDX file of unsigned bytes with {rank} axes; it starts with {content[:4]!r}.")
    shape = tuple(np.frombuffer(content[4:header], ">u4").tolist())
    if len(content) - header != math.prod(shape):
        raise DataError(
            f"{path}: its header promises {shape}, {math.prod(shape)} bytes, but {len(content) - header} follow. "
            "Fetch it again."
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
