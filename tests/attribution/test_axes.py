"""Sizes along axes: one for all, or one for each."""

import pytest

from jaxinterp.attribution._axes import checked_sizes, one_per_axis

pytestmark = pytest.mark.core


def test_an_integer_is_taken_for_every_axis():
    assert one_per_axis("method", "window", 3, (4, 5)) == (3, 3)
    assert one_per_axis("method", "window", 3, ()) == ()
    assert one_per_axis("method", "window", (1, 2), (4, 5)) == (1, 2)


@pytest.mark.parametrize("value", [(2,), (2, 2, 2), ()])
def test_a_tuple_has_one_size_per_axis(value):
    with pytest.raises(ValueError, match=r"^`window` of `method` must have one size per axis of the input of shape"):
        one_per_axis("method", "window", value, (4, 5))


def test_what_the_axes_are_of_is_named():
    with pytest.raises(
        ValueError, match=r"per axis of an image of spatial shape \(4, 5\), or be one integer; got \(2,\)"
    ):
        one_per_axis("method", "cells", (2,), (4, 5), "an image of spatial shape")


def test_sizes_are_positive_integers():
    assert checked_sizes("window", 3) == 3
    assert checked_sizes("window", (1, 2)) == (1, 2)
    for value, error in [(0, ValueError), ((1, 0), ValueError), (2.0, TypeError), ((1, True), TypeError)]:
        with pytest.raises(error, match=r"^`window` must be"):
            checked_sizes("window", value)
