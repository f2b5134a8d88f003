"""Any classification data in a NumPy archive."""

import pathlib
import zipfile

import numpy as np

from jaxinterp.data._dataset import DataError, Dataset, check_examples, divide, standardise, with_test_part
from jaxinterp.typing import Key


def npz(key: Key, path: str | pathlib.Path) -> Dataset:
    """Any classification data in a NumPy archive.

    The archive holds `x_train`, `y_train`, `x_test` and `y_test`, or only `x` and `y` (a fifth then becomes the
    test part); and, if wanted, `class_names` and `feature_names`, arrays of strings. Inputs are images [n, height,
    width, channels] (uint8 images without the last axis get one) or rows [n, features]; they are standardised by
    the training part, images per channel. Labels are integers from 0.

    Args:
      key: chooses the validation part, a tenth of the training examples, and the test part if there is none.
      path: the file.

    Raises:
      DataError: if the file cannot be read, an array is missing or has the wrong shape, dtype, labels or NaN.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such file.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a readable .npz archive of plain arrays ({error}).") from error
    split = {"x_train", "y_train", "x_test", "y_test"} <= arrays.keys()
    if not split and not {"x", "y"} <= arrays.keys():
        raise DataError(
            f"{path}: needs x_train, y_train, x_test, y_test or x and y; it holds {', '.join(sorted(arrays))}."
        )
    pairs = [("x_train", "y_train"), ("x_test", "y_test")] if split else [("x", "y")]
    largest = max(int(arrays[y].max()) if arrays[y].size and arrays[y].dtype.kind in "iu" else 0 for _, y in pairs)
    class_names = _names(path, arrays, "class_names", [str(i) for i in range(max(largest + 1, 2))])
    parts = []
    for x, y in pairs:
        inputs = arrays[x][..., None] if arrays[x].dtype == np.uint8 and arrays[x].ndim == 3 else arrays[x]
        parts.append(check_examples(f"{path} ({x}, {y})", inputs, arrays[y], len(class_names)))
    if not split:
        rest, test = divide(key, len(parts[0][0]), (0.8, 0.2))
        parts = [(parts[0][0][i], parts[0][1][i]) for i in (rest, test)]
    if parts[0][0].shape[1:] != parts[1][0].shape[1:]:
        raise DataError(
            f"{path}: training and test inputs differ in shape: {parts[0][0].shape} and {parts[1][0].shape}."
        )
    is_image = parts[0][0].ndim == 4
    features = [] if is_image else [f"x{i}" for i in range(int(np.prod(parts[0][0].shape[1:])))]
    normalisation = standardise(parts[0][0], axes=(0, 1) if is_image else None)
    return with_test_part(
        path.stem, key, parts, class_names, normalisation, _names(path, arrays, "feature_names", features)
    )


def _names(path: pathlib.Path, arrays: dict[str, np.ndarray], name: str, default: list[str]) -> tuple[str, ...]:
    names = [str(v) for v in arrays[name].ravel()] if name in arrays else default
    if len(names) < len(default):
        raise DataError(f"{path}: {len(default)} {name} are needed; it holds {len(names)}.")
    return tuple(names)
