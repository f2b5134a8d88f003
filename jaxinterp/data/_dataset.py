"""Datasets for classification, checked when they are made."""

import dataclasses
import hashlib
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Sequence

import jax
import numpy as np

from jaxinterp import checks
from jaxinterp.typing import Key

VALIDATION_FRACTION = 0.1


class DataError(ValueError):
    """The data are not what they should be; the message names the file or array, the rows and the remedy."""


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """The affine map from raw values to what the network sees: x = (raw - mean) / std, computed in float64.

    Attributes:
      mean: float64, broadcasts to one example, in raw units.
      std: likewise, positive.
    """

    mean: np.ndarray
    std: np.ndarray

    def __call__(self, raw: np.ndarray) -> np.ndarray:
        """Returns the normalised values, float32."""
        x = np.empty(raw.shape, np.float32)
        for start in range(0, len(raw), 4096):  # in pieces: a float64 copy of a whole dataset may not fit
            piece = slice(start, start + 4096)
            x[piece] = (raw[piece] - self.mean) / self.std
        return x

    def undo(self, x: np.ndarray) -> np.ndarray:
        """Returns raw values, float64."""
        return x * self.std + self.mean


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples with their labels.

    Attributes:
      x: float32 [examples, *shape], normalised.
      y: int32 [examples].
    """

    x: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return len(self.y)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A classification problem in three parts.

    Attributes:
      name: of the dataset.
      train: what networks are trained on.
      validation: what checkpoints are chosen on.
      test: what is reported.
      class_names: one for each class, in the order of the labels.
      feature_names: one for each entry of a table's rows; empty for images.
      normalisation: the map from raw values to `x`, taken from the training part only.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    feature_names: tuple[str, ...]
    normalisation: Normalisation

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.train.x.shape[1:]

    @property
    def is_image(self) -> bool:
        """Whether an example is an image [height, width, channels]."""
        return len(self.shape) == 3

    def digest(self) -> str:
        """A fingerprint of all examples and labels (SHA-256)."""
        state = hashlib.sha256()
        for split in (self.train, self.validation, self.test):
            for array in (split.x, split.y):
                state.update(repr((array.shape, array.dtype.str)).encode())
                state.update(np.ascontiguousarray(array).tobytes())
        return state.hexdigest()


def standardise(raw: np.ndarray, *, axes: Sequence[int] = ()) -> Normalisation:
    """Mean and standard deviation over the examples and over `axes` of one example.

    A constant feature gets the standard deviation 1.
    """
    over = (0, *(axis + 1 for axis in axes))
    constant = np.max(raw, over, keepdims=True)[0] == np.min(raw, over, keepdims=True)[0]
    mean, std = (np.asarray(f(raw, over, dtype=np.float64, keepdims=True))[0] for f in (np.mean, np.std))
    return Normalisation(mean, np.where(constant, 1.0, std))


def rescale(maximum: float) -> Normalisation:
    """Values from 0..maximum to 0..1."""
    return Normalisation(np.zeros(()), np.full((), float(maximum)))


def check_examples(source: str, x: np.ndarray, y: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns `x` and `y` (as int32) if they make a dataset; `DataError` naming the rows otherwise."""
    if x.ndim < 2 or 0 in x.shape[1:] or not np.issubdtype(x.dtype, np.number) or np.iscomplexobj(x):
        raise DataError(f"{source}: the inputs must be numbers of shape [examples, ...]; got {x.dtype} {x.shape}.")
    if y.ndim != 1 or len(y) != len(x):
        raise DataError(
            f"{source}: {len(x)} inputs need as many labels in one axis; got labels of shape {y.shape} "
            "(a column: `y.ravel()`; one-hot rows: `y.argmax(1)`)."
        )
    if not len(x):
        raise DataError(f"{source}: there are no examples.")
    if not np.issubdtype(y.dtype, np.integer):
        whole = np.issubdtype(y.dtype, np.floating) and np.all(np.isfinite(y)) and np.all(y == np.round(y))
        raise DataError(
            f"{source}: labels must be integers from 0; got dtype {y.dtype}"
            + (" (convert them with `y.astype(int)`)." if whole else ".")
        )
    bad = np.flatnonzero((y < 0) | (y >= num_classes))
    if len(bad):
        raise DataError(
            f"{source}: labels must be from 0 to {num_classes - 1}, one less than the number of classes; "
            f"got {_some(np.unique(y[bad]))} in the rows {_some(bad)}."
        )
    bad = np.flatnonzero(~np.all(np.isfinite(x.reshape(len(x), -1)), axis=1))
    if len(bad):
        raise DataError(f"{source}: NaN or infinite values in the rows {_some(bad)}; remove or fill them.")
    return x, y.astype(np.int32)


def _some(values: np.ndarray, most: int = 10) -> str:
    listed = ", ".join(str(v) for v in values[:most])
    return listed if len(values) <= most else f"{listed}, ... ({len(values)} in all)"


def divide(source: str, key: Key, num_examples: int, fractions: Sequence[float]) -> list[np.ndarray]:
    """Random disjoint index sets of the given fractions; the last one takes the rest.

    Raises:
      DataError: if a part would be empty.
    """
    order = np.asarray(jax.random.permutation(checks.key(source, key), num_examples))
    ends = np.round(np.cumsum(fractions[:-1]) * num_examples).astype(int)
    parts = np.split(order, ends)
    if any(len(part) == 0 for part in parts):
        raise DataError(f"{source}: {num_examples} examples are too few for parts of {tuple(fractions)}.")
    return parts


def with_test_part(
    source: str,
    key: Key,
    parts: Sequence[tuple[np.ndarray, np.ndarray]],
    normalise: Callable[[np.ndarray], Normalisation],
    *,
    name: str,
    class_names: tuple[str, ...],
    feature_names: tuple[str, ...] = (),
) -> Dataset:
    """The dataset whose test part is given: a tenth of the training examples, chosen by `key`, is for validation.

    Args:
      source: what to call the data in errors.
      key: chooses the validation part.
      parts: raw inputs and labels, for training and for test.
      normalise: makes the normalisation from the raw training inputs that remain.
      name: of the dataset.
      class_names: one for each class.
      feature_names: one for each feature of a table.

    Raises:
      DataError: if the parts differ in shape, or there are too few examples.
    """
    (x, y), (x_test, y_test) = parts
    if x.shape[1:] != x_test.shape[1:]:
        raise DataError(f"{source}: training and test inputs differ in shape: {x.shape} and {x_test.shape}.")
    train, validation = divide(source, key, len(x), (1 - VALIDATION_FRACTION, VALIDATION_FRACTION))
    normalisation = normalise(x[train])
    return Dataset(
        name,
        Split(normalisation(x[train]), y[train]),
        Split(normalisation(x[validation]), y[validation]),
        Split(normalisation(x_test), y_test),
        class_names,
        feature_names,
        normalisation,
    )


UNREADABLE = (ValueError, TypeError, NotImplementedError, OSError, EOFError, zipfile.BadZipFile, zlib.error)
"""What NumPy raises when an archive is damaged or is none."""


def existing_directory(directory: str | pathlib.Path) -> pathlib.Path:
    """Returns the path; `DataError` if it is no directory."""
    folder = pathlib.Path(directory)
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such directory.")
    return folder


def first_existing(folder: pathlib.Path, names: Sequence[str]) -> pathlib.Path:
    """Returns the first of the files that exists; `DataError` if none does."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder}: neither {' nor '.join(names)} is there.")
