"""Interpolation against SciPy's, and what counts as an image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import interpolate, ndimage

from jaxinterp.attribution import align_corners, nearest
from jaxinterp.attribution._images import over_channels, single_image
from tests.attribution.networks import X64, assert_close, random

pytestmark = [pytest.mark.core, pytest.mark.numerics]

SHAPES = [((3,), (7,)), ((4, 4), (9, 9)), ((3, 5), (8, 2)), ((2, 3, 4), (5, 3, 6)), ((5,), (2,)), ((1, 3), (4, 4))]


@pytest.mark.parametrize(("given", "wanted"), SHAPES)
@pytest.mark.parametrize("channels", [(), (3,)])
def test_align_corners_is_linear_interpolation_between_the_corners(given, wanted, channels):
    """Entry i of n reads position i (m - 1) / (n - 1) of m, linearly along each axis; other axes are left alone."""
    values = random((*given, *channels), 1)
    positions = [np.linspace(0, m - 1, n) for m, n in zip(given, wanted, strict=True)]
    grid = np.stack(np.meshgrid(*positions, indexing="ij"))

    def in_scipy(array):
        return ndimage.map_coordinates(np.asarray(array, np.float64), grid, order=1, mode="nearest")

    expected = in_scipy(values) if not channels else np.stack([in_scipy(values[..., c]) for c in range(3)], -1)
    got = jax.jit(align_corners, static_argnums=1)(values, wanted)
    assert got.dtype == values.dtype
    assert_close(got, expected, 1e-14 if X64 else 1e-6)


def test_align_corners_keeps_the_corners_and_what_is_linear():
    values = random((4, 6), 2)
    got = align_corners(values, (7, 11))
    np.testing.assert_allclose(got[::2, ::2], values, rtol=1e-6)
    ramp = jnp.linspace(0, 1, 5)
    np.testing.assert_allclose(align_corners(ramp, (33,)), jnp.linspace(0, 1, 33), atol=1e-6)
    spline = interpolate.RegularGridInterpolator((np.arange(4), np.arange(6)), np.asarray(values))
    assert float(got[1, 1]) == pytest.approx(float(spline([0.5, 0.5])[0]), rel=1e-5)


@pytest.mark.parametrize("resize", [align_corners, nearest])
def test_to_the_same_shape_nothing_changes(resize):
    values = random((3, 4, 2), 3)
    np.testing.assert_array_equal(resize(values, (3, 4)), values)


@pytest.mark.parametrize("resize", [align_corners, nearest])
def test_a_constant_map_stays_constant(resize):
    np.testing.assert_allclose(resize(jnp.full((1, 3), 2.5), (4, 7)), jnp.full((4, 7), 2.5), rtol=1e-6)


def test_one_output_reads_the_first_position():
    """As in PyTorch, where the corner of an axis of one is its beginning."""
    np.testing.assert_array_equal(align_corners(jnp.array([3.0, 1.0, 2.0]), (1,)), [3.0])


def test_nearest_repeats_where_the_factor_is_whole():
    values = random((2, 3, 2), 4)
    repeated = jnp.repeat(jnp.repeat(values, 4, 0), 2, 1)
    np.testing.assert_array_equal(nearest(values, (8, 6)), repeated)


def test_half_precision_stays():
    assert align_corners(jnp.ones((2, 2), jnp.bfloat16), (3, 3)).dtype == jnp.bfloat16


def test_an_image_is_one_array_with_channels():
    image, restored = single_image("method", {"image": jnp.ones((3, 4))}, channel_axis=0)
    assert image.shape == (4, 3)
    assert restored(image)["image"].shape == (3, 4)
    with pytest.raises(ValueError, match=r"`channel_axis` of `method` is 2, but the image has shape \(3, 4\)"):
        single_image("method", jnp.ones((3, 4)), channel_axis=2)
    with pytest.raises(TypeError, match="`channel_axis` of `method` must be an integer"):
        single_image("method", jnp.ones((3, 4)), channel_axis=None)
    for x, message in [
        (jnp.ones(3), r"^`method` explains one image of shape \[\*spatial, channels\]; got an array of shape \(3,\)"),
        ((jnp.ones((2, 2)), jnp.ones((3, 3))), r"got arrays of shape \(2, 2\), \(3, 3\)"),
    ]:
        with pytest.raises(TypeError, match=message):
            single_image("method", x)


def test_every_channel_gets_the_number_of_the_pixel():
    image = jnp.ones((2, 2, 3), jnp.bfloat16)
    got = over_channels(jnp.arange(4.0).reshape(2, 2), image)
    assert got.dtype == jnp.bfloat16
    assert np.all(np.asarray(got, float) == np.arange(4).reshape(2, 2, 1))
