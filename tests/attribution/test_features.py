"""Which intermediates are features, where class-activation maps look by themselves, and the rest of the network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import interpreters
from jaxinterp.attribution._features import FeatureShape, features_at
from jaxinterp.interpreters import Site
from tests.attribution.networks import IMAGE, assert_close, conv, conv_net, dense, random

pytestmark = [pytest.mark.core, pytest.mark.numerics]


@pytest.mark.parametrize(
    ("shape", "rank", "is_met"),
    [
        ((8, 8, 3), 3, True),
        ((1, 8, 8, 3), 3, True),
        ((1, 1, 8, 1, 3), 3, True),
        ((8, 3), 2, True),
        ((4, 5, 6, 2), 4, True),
        ((8, 8), 3, False),  # too few axes
        ((2, 8, 8, 3), 3, False),  # a batch
        ((1, 1, 3), 3, False),  # one position
        ((1, 1, 1, 3), 3, False),
        ((1, 10), 2, False),
        ((10,), 2, False),
        ((), 2, False),
    ],
)
def test_features_have_positions_and_channels(shape, rank, is_met):
    assert FeatureShape(rank).is_met(jax.ShapeDtypeStruct(shape, float)) == is_met
    first = (*shape[:-rank], shape[-1], *shape[-rank:-1]) if is_met else shape
    for axis in (0, -rank) if is_met else ():
        values = jnp.arange(float(np.prod(shape))).reshape(shape)
        kind = FeatureShape(rank, axis)
        moved = jnp.moveaxis(values, -1, len(shape) - rank)
        assert moved.shape == first
        assert kind.is_met(moved)
        np.testing.assert_array_equal(kind.of(moved), values.reshape(shape[-rank:]))
        np.testing.assert_array_equal(kind.back(kind.of(moved), moved.shape), moved)


def test_by_itself_the_last_features_are_taken():
    """What the mean over positions reads: the output of the residual block."""
    values, rest = features_at(conv_net(), IMAGE, None, -1)
    expected = interpreters.intermediates(conv_net(), select=["residual"])(IMAGE)
    np.testing.assert_array_equal(values, next(iter(expected.values())))
    assert float(rest(values)) == pytest.approx(float(conv_net()(IMAGE)), rel=1e-6)


@pytest.mark.parametrize("site", ["first", "first:conv_general_dilated#0", Site("first", "conv_general_dilated")])
def test_a_site_is_named_by_path_string_or_itself(site):
    values, rest = features_at(conv_net(), IMAGE, site, -1)
    everything = interpreters.intermediates(conv_net())(IMAGE)
    wanted = everything[interpreters.resolve(site, interpreters.sites(conv_net())(IMAGE))]
    np.testing.assert_array_equal(values, wanted.reshape(values.shape))
    assert values.shape == (8, 8, 10)
    assert float(rest(values)) == pytest.approx(float(conv_net()(IMAGE)), rel=1e-5)


def test_the_rest_is_the_network_behind_the_site():
    """For other features than those of x; the axis of the batch is put back."""
    kernel, head = random((3, 3, 2, 4), 1), random((4,), 2)

    def rest_by_hand(features):
        return jnp.mean(jnp.tanh(features), (0, 1)) @ head

    def f(x):
        with jax.named_scope("conv"):
            x = conv(x, kernel)[None]
        return jnp.mean(jnp.tanh(x), (0, 1, 2)) @ head

    values, rest = features_at(f, IMAGE, "conv", -1)
    assert values.shape == (8, 8, 4)
    other = random((8, 8, 4), 3)
    assert_close(rest(other), rest_by_hand(other))
    assert_close(jax.grad(rest)(other), jax.grad(rest_by_hand)(other))


def test_integers_are_no_features():
    def f(x):
        with jax.named_scope("counted"):
            counts = jnp.round(x).astype(jnp.int32)
        return jnp.sum(jnp.tanh(x)) + jnp.sum(counts).astype(x.dtype)

    values, _ = features_at(f, IMAGE, None, -1)
    assert values.dtype == IMAGE.dtype
    with pytest.raises(ValueError, match=r"^The site counted has shape \(8, 8, 2\) and dtype int32; .* floating-point"):
        features_at(f, IMAGE, "counted", -1)


def test_a_network_without_features_is_refused():
    """A copy of the input, such as with the axis of a batch, is no feature."""

    def f(x):
        x = x[None].astype(x.dtype)
        return jnp.sum(jnp.tanh(dense(x.reshape(-1), random((128, 4), 1))))

    with pytest.raises(ValueError, match=r"^No intermediate of the function has 3 axes and more than one position"):
        features_at(f, IMAGE, None, -1)


def test_sites_that_are_not_there_or_have_no_positions_are_refused():
    with pytest.raises(ValueError, match=r"^There is no site 'frist'.*Near: .*'first"):
        features_at(conv_net(), IMAGE, "frist", -1)
    with pytest.raises(ValueError, match=r"^The site head has shape \(3,\) and dtype float.*; a class-activation map"):
        features_at(conv_net(), IMAGE, "head", -1)
