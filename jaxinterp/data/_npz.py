"""Any classification data in a NumPy archive."""

import functools
import math
import pathlib

import jax
import numpy as np

from jaxinterp.data._dataset import UNREADABLE, DataError, Dataset, check_examples, divide, standardise, with_test_part
from jaxinterp.typing import Key


def npz(key: Key, path: str | pathlib.Path) -> Dataset:
    """Any classification data in a NumPy archive.

    The archive holds `x_train`, `y_train`, `x_test` and `y_test`, or only `x` and `y` (a fifth then becomes the
    test part); and, if wanted, `class_names` and `feature_names`, arrays of strings. Inputs are images [n, height,
    width, channels] (images [n, height, width] get a last axis) or rows [n, features]; they are standardised by
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
        with path.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            arrays = {} if isinstance(archive, np.ndarray) else {name: archive[name] for name in archive.files}
    except UNREADABLE as error:
        raise DataError(
            f"{path}: not a readable .npz archive of plain arrays ({type(error).__name__}); make it with "
            "`np.savez(path, x=x, y=y)` from numbers and strings."
        ) from error
    split = {"x_train", "y_train", "x_test", "y_test"} <= arrays.keys()
    if not split and not {"x", "y"} <= arrays.keys():
        raise DataError(
            f"{path}: needs x_train, y_train, x_test, y_test or x and y; it holds "
            f"{', '.join(sorted(arrays)) or 'no named arrays: save them with `np.savez(path, x=x, y=y)`'}."
        )
    pairs = [("x_train", "y_train"), ("x_test", "y_test")] if split else [("x", "y")]
    class_names = _names(path, arrays, "class_names", [str(i) for i in range(_num_classes(path, arrays, pairs))])
    parts = []
    for x, y in pairs:
        inputs = arrays[x][..., None] if arrays[x].ndim == 3 else arrays[x]
        parts.append(check_examples(f"{path} ({x}, {y})", inputs, arrays[y], len(class_names)))
    if not split:
        ((inputs, labels),) = parts
        divided = divide(str(path), jax.random.fold_in(key, 1), len(labels), (0.8, 0.2))
        parts = [(inputs[part], labels[part]) for part in divided]
    shape = parts[0][0].shape[1:]
    is_image = len(shape) == 3
    features = [] if is_image else [f"x{i}" for i in range(math.prod(shape))]
    return with_test_part(
        str(path),
        key,
        parts,
        functools.partial(standardise, axes=(0, 1) if is_image else ()),
        name=path.stem,
        class_names=class_names,
        feature_names=_names(path, arrays, "feature_names", features),
    )


def _num_classes(path: pathlib.Path, arrays: dict[str, np.ndarray], pairs: list[tuple[str, str]]) -> int:
    """One more than the largest label, if the labels are integers; at least two."""
    labels = [arrays[y] for _, y in pairs if arrays[y].dtype.kind in "iu" and arrays[y].size]
    largest = max((int(y.max()) for y in labels), default=1)
    if "class_names" not in arrays and largest >= max(sum(y.size for y in labels), 2):
        raise DataError(
            f"{path}: the label {largest} would mean more classes than there are examples; number them from 0."
        )
    return max(largest + 1, 2)


def _names(path: pathlib.Path, arrays: dict[str, np.ndarray], name: str, default: list[str]) -> tuple[str, ...]:
    if name not in arrays:
        return tuple(default)
    names = [v.decode() if isinstance(v, bytes) else str(v) for v in arrays[name].ravel()]
    if len(names) < len(default) or (name == "feature_names" and len(names) > len(default)):
        raise DataError(f"{path}: {len(default)} {name} are needed; it holds {len(names)}.")
    return tuple(names)
