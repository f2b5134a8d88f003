"""Splits, normalisations and fingerprints, whatever file the data come from."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxinterp import data
from jaxinterp.data import _dataset


@pytest.fixture
def small(key):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 2)).astype(np.float32)
    y = rng.integers(0, 3, 30).astype(np.int32)
    parts = [data.Split(x[i], y[i]) for i in np.split(np.arange(30), [18, 24])]
    return data.Dataset("small", *parts, ("a", "b", "c"), ("u", "v"), _dataset.standardise(x))


@pytest.mark.core
def test_the_properties_of_a_dataset(small):
    assert (len(small.train), len(small.validation), len(small.test)) == (18, 6, 6)
    assert small.num_classes == 3
    assert small.shape == (2,)
    assert not small.is_image
    image = data.Split(np.zeros((1, 4, 5, 1), np.float32), np.zeros(1, np.int32))
    assert dataclasses.replace(small, train=image).is_image


@pytest.mark.core
def test_nothing_can_be_assigned(small):
    with pytest.raises(dataclasses.FrozenInstanceError):
        small.train = small.test


@pytest.mark.core
@pytest.mark.parametrize("part", ["train", "validation", "test"])
@pytest.mark.parametrize("array", ["x", "y"])
def test_the_digest_changes_with_any_bit(small, part, array):
    rng = np.random.default_rng(1)
    split = getattr(small, part)
    original = getattr(split, array)
    seen = {small.digest()}
    for position in rng.choice(original.nbytes * 8, 20, replace=False):
        content = np.unpackbits(np.frombuffer(original.tobytes(), np.uint8))
        content[position] ^= 1
        changed = np.packbits(content).view(original.dtype).reshape(original.shape)
        seen.add(dataclasses.replace(small, **{part: dataclasses.replace(split, **{array: changed})}).digest())
    assert len(seen) == 21


@pytest.mark.core
def test_the_digest_sees_where_a_part_ends_and_what_a_number_is(small):
    whole_x, whole_y = (np.concatenate([getattr(s, a) for s in (small.train, small.validation)]) for a in "xy")
    moved = dataclasses.replace(
        small, train=data.Split(whole_x[:19], whole_y[:19]), validation=data.Split(whole_x[19:], whole_y[19:])
    )
    other_type = dataclasses.replace(small, train=data.Split(small.train.x.view(np.int32), small.train.y))
    other_shape = dataclasses.replace(small, train=data.Split(small.train.x.reshape(18, 1, 2), small.train.y))
    assert len({d.digest() for d in (small, moved, other_type, other_shape)}) == 4


@pytest.mark.core
def test_the_digest_depends_on_the_values_only(small):
    same = dataclasses.replace(
        small, name="other", train=data.Split(np.asfortranarray(small.train.x), small.train.y.copy())
    )
    assert same.digest() == small.digest()
    assert len(small.digest()) == 64


@pytest.mark.core
def test_a_normalisation_is_the_affine_map_and_its_inverse():
    normalisation = data.Normalisation(np.float32([1, -2]), np.float32([2, 0.5]))
    raw = np.array([[3.0, -1.0], [1.0, -2.0]])
    np.testing.assert_array_equal(normalisation(raw), [[1, 2], [0, 0]])
    np.testing.assert_array_equal(normalisation.undo(normalisation(raw)), raw)
    assert normalisation(raw).dtype == np.float32


@pytest.mark.core
def test_images_are_standardised_per_channel():
    raw = np.random.default_rng(0).normal([5, -3], [2, 0.1], size=(40, 6, 7, 2))
    normalisation = _dataset.standardise(raw, axes=(0, 1))
    assert normalisation.mean.shape == normalisation.std.shape == (1, 1, 2)
    for channel in range(2):
        values = [v for image in raw for row in image for v in row[:, channel]]
        mean = sum(values) / len(values)
        std = (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5
        assert normalisation.mean[0, 0, channel] == pytest.approx(mean, rel=1e-5)
        assert normalisation.std[0, 0, channel] == pytest.approx(std, rel=1e-5)


@pytest.mark.core
@pytest.mark.parametrize("constant", [0.0, 3.0, 0.1, -1e6 / 3])
def test_a_constant_feature_gets_the_deviation_one(constant):
    raw = np.stack([np.full(1000, constant), np.linspace(-1, 1, 1000)], axis=1)
    normalisation = _dataset.standardise(raw)
    assert normalisation.std[0] == 1
    assert np.abs(normalisation(raw)).max() <= max(2.0, 1e-6 * abs(constant))


@pytest.mark.core
@pytest.mark.parametrize("scale", [1e-60, 1e60])
def test_features_outside_the_range_of_float32_stay_finite_or_are_refused(tmp_path, key, scale):
    x = np.random.default_rng(0).normal(size=(30, 2)) * [1, scale]
    y = np.arange(30) % 2
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    try:
        loaded = data.npz(key, tmp_path / "a.npz")
    except data.DataError:
        return
    assert np.all(np.isfinite(loaded.train.x))


@pytest.mark.core
def test_division_gives_disjoint_parts_of_everything(key):
    parts = _dataset.divide("the data", key, 101, (0.5, 0.3, 0.2))
    assert [len(p) for p in parts] == [50, 31, 20]
    assert sorted(np.concatenate(parts)) == list(range(101))
    assert not np.array_equal(np.concatenate(parts), np.arange(101))


@pytest.mark.core
def test_too_few_examples_for_a_part_are_refused(key):
    with pytest.raises(data.DataError, match=r"4 examples are too few for parts of \(0.9, 0.1\)"):
        _dataset.divide("the data", key, 4, (0.9, 0.1))


@pytest.mark.core
def test_a_data_error_is_a_value_error():
    assert issubclass(data.DataError, ValueError)


@pytest.mark.core
def test_the_same_split_in_single_and_double_precision():
    before, drawn = jax.config.jax_enable_x64, []
    try:
        for enable in (False, True):
            jax.config.update("jax_enable_x64", enable)
            drawn.append(np.concatenate(_dataset.divide("the data", jax.random.key(3), 1000, (0.6, 0.2, 0.2))))
    finally:
        jax.config.update("jax_enable_x64", before)
    np.testing.assert_array_equal(*drawn)


@pytest.mark.core
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (
            np.zeros(4),
            np.zeros(4, int),
            r"here: the inputs must be numbers of shape \[examples, ...\]; got float64 \(4,\)",
        ),
        (np.zeros((4, 2), complex), np.zeros(4, int), "must be numbers.*complex128"),
        (np.full((4, 2), "a"), np.zeros(4, int), "must be numbers.*<U1"),
        (np.zeros((4, 2)), np.zeros(3, int), r"4 inputs need as many labels in one axis; got labels of shape \(3,\)"),
        (np.zeros((4, 2)), np.zeros((4, 1), int), r"labels of shape \(4, 1\)"),
        (np.zeros((0, 2)), np.zeros(0, int), "there are no examples"),
        (np.zeros((4, 2)), np.zeros(4), r"integers from 0; got dtype float64 \(convert them with `y.astype\(int\)`\)"),
        (np.zeros((4, 2)), np.full(4, 0.5), r"integers from 0; got dtype float64\.$"),
        (np.zeros((4, 2)), np.full(4, np.nan), r"integers from 0; got dtype float64\.$"),
        (np.zeros((4, 2)), np.full(4, "a"), r"integers from 0; got dtype <U1\.$"),
        (np.zeros((4, 2)), np.array([0, -1, 2, -5]), "labels must be from 0 to 2, .*; got -5, -1 in the rows 1, 3"),
        (np.zeros((4, 2)), np.array([0, 3, 2, 1]), "labels must be from 0 to 2, .*; got 3 in the rows 1"),
        (np.array([[0, 0], [np.nan, 0], [0, 0], [0, np.inf]]), np.zeros(4, int), "NaN or infinite.*rows 1, 3; remove"),
        (np.full((30, 1), np.nan), np.zeros(30, int), r"rows 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ... \(30 in all\)"),
    ],
)
def test_what_makes_no_dataset_is_refused(x, y, message):
    with pytest.raises(data.DataError, match=message):
        _dataset.check_examples("here", x, y, 3)
