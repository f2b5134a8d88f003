"""Superpixels: a picture of two halves is divided along them."""

import sys

import numpy as np
import pytest

from jaxinterp import attribution, data

IMAGE = np.zeros((16, 16, 3), np.float32)
IMAGE[:, 8:] = 1.0


def test_segments_follow_the_picture():
    pytest.importorskip("skimage")
    groups, count = data.superpixels(IMAGE, 8)
    assert groups.shape == IMAGE.shape
    assert groups.dtype == np.int32
    assert set(np.unique(groups)) == set(range(count))
    assert 2 <= count <= 16
    assert not set(np.unique(groups[:, :8])) & set(np.unique(groups[:, 8:]))
    assert np.all(groups == groups[..., :1])
    values = attribution.feature_ablation(lambda x: x.sum(), num_groups=count)(IMAGE, groups=groups)
    assert float(np.asarray(values)[:, :8].max()) == 0


def test_what_cannot_be_divided(monkeypatch):
    with pytest.raises(ValueError, match=r"one image \[height, width, channels\]; got shape \(4, 4\)"):
        data.superpixels(np.zeros((4, 4)))
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(ImportError, match=r'needs scikit-image: pip install "jaxinterp\[images\]"'):
        data.superpixels(IMAGE)
