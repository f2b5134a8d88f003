"""The two datasets of scikit-learn against scikit-learn."""

import jax
import numpy as np
import pytest
from scipy import spatial
from sklearn import datasets

from jaxinterp import data


def originals(name):
    bunch = datasets.load_digits() if name == "digits" else datasets.load_breast_cancer()
    raw = bunch.images[..., None] if name == "digits" else bunch.data
    return raw, bunch.target, bunch


def parts(dataset):
    return dataset.train, dataset.validation, dataset.test


@pytest.mark.core
@pytest.mark.parametrize(
    ("name", "sizes", "shape", "classes"),
    [("digits", (1078, 360, 359), (8, 8, 1), 10), ("breast_cancer", (341, 114, 114), (30,), 2)],
)
def test_three_parts_of_sixty_twenty_twenty_percent(name, sizes, shape, classes, key):
    dataset = getattr(data, name)(key)
    total = sum(sizes)
    assert tuple(len(part) for part in parts(dataset)) == sizes
    assert np.allclose(np.array(sizes) / total, (0.6, 0.2, 0.2), atol=1 / total)
    assert (dataset.name, dataset.shape, dataset.num_classes) == (name, shape, classes)
    assert dataset.is_image == (name == "digits")
    for part in parts(dataset):
        assert part.x.dtype == np.float32
        assert part.y.dtype == np.int32
        assert set(part.y.tolist()) == set(range(classes))


@pytest.mark.core
@pytest.mark.parametrize("name", ["digits", "breast_cancer"])
def test_the_parts_are_disjoint_and_together_the_whole_set(name, key):
    raw, labels, _ = originals(name)
    dataset = getattr(data, name)(key)
    undone = [dataset.normalisation.undo(part.x) for part in parts(dataset)]
    got = np.concatenate(undone).reshape(len(raw), -1)
    scale = np.abs(raw).max()
    distance = spatial.distance.cdist(got, raw.reshape(len(raw), -1))
    origin = distance.argmin(1)
    assert distance.min(1).max() < 1e-6 * scale
    assert sorted(origin.tolist()) == list(range(len(raw)))  # the originals are all different
    np.testing.assert_array_equal(np.concatenate([part.y for part in parts(dataset)]), labels[origin])


@pytest.mark.core
def test_digits_are_divided_by_sixteen(key):
    dataset = data.digits(key)
    assert {float(v) for part in parts(dataset) for v in part.x.ravel()} == {i / 16 for i in range(17)}
    assert dataset.normalisation.undo(np.float32(0.5)) == 8
    assert dataset.class_names == tuple("0123456789")
    assert dataset.feature_names == ()


@pytest.mark.core
def test_a_table_is_standardised_by_its_training_part_only(key):
    dataset = data.breast_cancer(key)
    _, _, bunch = originals("breast_cancer")
    np.testing.assert_allclose(dataset.train.x.mean(0, dtype=np.float64), 0, atol=1e-5)
    np.testing.assert_allclose(dataset.train.x.std(0, dtype=np.float64), 1, atol=1e-5)
    assert np.abs(dataset.test.x.mean(0)).max() > 1e-3
    undone = dataset.normalisation.undo(dataset.train.x).astype(np.float64)
    np.testing.assert_allclose(dataset.normalisation.mean, undone.mean(0), rtol=1e-5)
    np.testing.assert_allclose(dataset.normalisation.std, undone.std(0), rtol=1e-4)
    assert dataset.feature_names == tuple(bunch.feature_names)
    assert dataset.class_names == ("malignant", "benign")


@pytest.mark.core
@pytest.mark.parametrize("name", ["digits", "breast_cancer"])
def test_the_key_decides_the_split(name):
    load = getattr(data, name)
    assert load(jax.random.key(7)).digest() == load(jax.random.key(7)).digest()
    assert load(jax.random.key(7)).digest() != load(jax.random.key(8)).digest()
