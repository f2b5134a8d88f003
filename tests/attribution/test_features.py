"""Which intermediates are features, where class-activation maps look by themselves, and the rest of the network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import interpreters
from jaxinterp.attribution._features import as_features, features_at
from jaxinterp.interpreters import Site
from tests.attribution.networks import IMAGE, assert_close, conv, conv_net, dense, random

pytestmark = [pytest.mark.core, pytest.mark.numerics]


@pytest.mark.parametrize(
    ("shape", "rank", "features"),
    [
        ((8, 8, 3), 3, (8, 8, 3)),
        ((1, 8, 8, 3), 3, (8, 8, 3)),
        ((1, 1, 8, 1, 3), 3, (8, 1, 3)),
        ((8, 3), 2, (8, 3)),
        ((4, 5, 6, 2), 4, (4, 5, 6, 2)),
        ((8, 8), 3, None),  # too few axes
        ((2, 8, 8, 3), 3, None),  # a batch
        ((1, 1, 3), 3, None),  # one position
        ((1, 1, 1, 3), 3, None),
        ((1, 10), 2, None),
        ((10,), 2, None),
        ((), 2, None),
    ],
)
def test_features_have_positions_and_channels(shape, rank, features):
    assert as_features(shape, rank) == features


def test_by_itself_the_last_features_are_taken():
    """What the mean over positions reads: the output of the residual block."""
    values, rest = features_at(conv_net(), IMAGE, None)
    expected = interpreters.intermediates(conv_net(), select=["residual"])(IMAGE)
    np.testing.assert_array_equal(values, next(iter(expected.values())))
    assert float(rest(values)) == pytest.approx(float(conv_net()(IMAGE)), rel=1e-6)


@pytest.mark.parametrize("site", ["first", "first:conv_general_dilated#0", Site("first", "conv_general_dilated")])
def test_a_site_is_named_by_path_string_or_itself(site):
    values, rest = features_at(conv_net(), IMAGE, site)
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

    values, rest = features_at(f, IMAGE, "conv")
    assert values.shape == (8, 8, 4)
    other = random((8, 8, 4), 3)
    assert_close(rest(other), rest_by_hand(other))
    assert_close(jax.grad(rest)(other), jax.grad(rest_by_hand)(other))


def test_integers_are_no_features():
    def f(x):
        with jax.named_scope("counted"):
            counts = jnp.round(x).astype(jnp.int32)
        return jnp.sum(jnp.tanh(x)) + jnp.sum(counts).astype(x.dtype)

    values, _ = features_at(f, IMAGE, None)
    assert values.dtype == IMAGE.dtype
    with pytest.raises(ValueError, match=r"^The site counted has shape \(8, 8, 2\) and dtype int32; .* floating-point"):
        features_at(f, IMAGE, "counted")


def test_a_network_without_features_is_refused():
    def f(x):
        return jnp.sum(jnp.tanh(dense(x.reshape(-1), random((128, 4), 1))))

    with pytest.raises(ValueError, match=r"^No intermediate of the function has 3 axes and more than one position"):
        features_at(f, IMAGE, None)


def test_sites_that_are_not_there_or_have_no_positions_are_refused():
    with pytest.raises(ValueError, match=r"^There is no site 'frist'.*Near: .*'first"):
        features_at(conv_net(), IMAGE, "frist")
    with pytest.raises(ValueError, match=r"^The site head has shape \(3,\) and dtype float.*; a class-activation map"):
        features_at(conv_net(), IMAGE, "head")
