"""Datasets that come with scikit-learn: nothing is downloaded."""

from collections.abc import Callable

import numpy as np

from jaxinterp.data._dataset import Dataset, Normalisation, Split, check_examples, divide, rescale, standardise
from jaxinterp.typing import Key


def digits(key: Key) -> Dataset:
    """Handwritten digits (Alpaydin & Kaynak, 1998): 1797 images of 8x8 pixels in 10 classes, values in [0, 1].

    Split at random by `key` into 60 % for training, 20 % for validation and 20 % for test.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    names = tuple(str(name) for name in bunch.target_names)
    return _in_three("digits", key, bunch.images[..., None], bunch.target, names, (), lambda raw: rescale(16))


def breast_cancer(key: Key) -> Dataset:
    """Wisconsin diagnostic breast cancer (Street, Wolberg & Mangasarian, 1993): 569 rows of 30 features, 2 classes.

    Standardised by the training part. Split at random by `key` into 60 % for training, 20 % for validation and 20 %
    for test.
    """
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    names, features = (tuple(str(name) for name in part) for part in (bunch.target_names, bunch.feature_names))
    return _in_three("breast_cancer", key, bunch.data, bunch.target, names, features, standardise)


def _in_three(
    name: str,
    key: Key,
    raw: np.ndarray,
    labels: np.ndarray,
    class_names: tuple[str, ...],
    feature_names: tuple[str, ...],
    normalise: Callable[[np.ndarray], Normalisation],
) -> Dataset:
    raw, labels = check_examples(name, raw, labels, len(class_names))
    parts = divide(name, key, len(raw), (0.6, 0.2, 0.2))
    normalisation = normalise(raw[parts[0]])
    train, validation, test = (Split(normalisation(raw[i]), labels[i]) for i in parts)
    return Dataset(name, train, validation, test, class_names, feature_names, normalisation)
