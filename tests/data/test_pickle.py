"""Pickles are read without running what they ask for (see also test_cifar.py, where whole batches are attacked)."""

import pickle

import numpy as np
import pytest

from jaxinterp import data
from jaxinterp.data import _pickle

pytestmark = pytest.mark.core


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, ">i4"])
def test_arrays_come_back_in_every_protocol(tmp_path, protocol, order, dtype):
    array = np.asarray(np.arange(6).reshape(2, 3), dtype, order=order)
    content = {b"a": array, b"labels": [1, 2], b"name": b"x", b"one": np.int64(7)}
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps(content, protocol))
    got = _pickle.load_arrays(path)
    np.testing.assert_array_equal(got[b"a"], array)
    assert got[b"labels"] == [1, 2]
    assert got[b"one"] == 7


@pytest.mark.parametrize(
    "value", [np.array([1.5]), np.array(["text"]), np.array([None])], ids=["float", "text", "object"]
)
def test_other_arrays_are_refused(tmp_path, value):
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps(value, 2))
    with pytest.raises(data.DataError, match="batch: not a CIFAR batch"):
        _pickle.load_arrays(path)


def test_a_class_of_the_user_is_refused(tmp_path):
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps(np.random.default_rng(0), 2))
    with pytest.raises(data.DataError, match="wants to load numpy"):
        _pickle.load_arrays(path)
