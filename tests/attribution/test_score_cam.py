"""Score-CAM and Ablation-CAM against loops over the channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.attribution import ablation_cam, align_corners, nearest, score_cam
from tests.attribution.networks import IMAGE, X64, assert_close, conv, conv_net, dense, double, max_pool, random

pytestmark = pytest.mark.numerics

TOLERANCE = 1e-10 if X64 else 1e-4
BOTH = pytest.mark.parametrize("method", [score_cam, ablation_cam])


def front(x):
    with jax.named_scope("stem"):
        return max_pool(jax.nn.relu(conv(x, random((3, 3, 2, 7), 1, 0.5))))


def back(h, output=1):
    h = jnp.tanh(h + conv(h, random((3, 3, 7, 7), 2, 0.3)))
    return dense(jnp.mean(h, (0, 1)), random((7, 3), 3, 4.0))[output]


def f(x, output=1):
    return back(front(x), output)


def same(heat):
    return heat


@pytest.mark.parametrize("baseline", [0.0, 0.7, "image"])
@pytest.mark.parametrize("resize", [align_corners, nearest])
def test_score_cam_is_the_loop_over_channels(baseline, resize):
    """Each channel, scaled to 0..1 at the size of the image, shows its part of the image before the baseline."""
    b = np.asarray(random(IMAGE.shape, 5)) if baseline == "image" else np.full(IMAGE.shape, baseline)
    x, features, run = double(IMAGE), double(front(IMAGE)), jax.jit(f)
    gains = []
    for k in range(7):
        mask = double(resize(jnp.asarray(features[:, :, k], float), (8, 8)))
        mask = (mask - mask.min()) / (mask.max() - mask.min())
        shown = b + mask[:, :, None] * (x - b)
        gains.append(float(run(jnp.asarray(shown, float))) - float(run(jnp.asarray(b, float))))
    weights = np.exp(gains) / np.sum(np.exp(gains))
    heat = features @ weights
    assert weights.max() > 2 * weights.min()
    explain = jax.jit(score_cam(f, site="stem", resize=resize, chunk_size=3))
    got = explain(IMAGE, baseline=jnp.asarray(b, float) if baseline == "image" else baseline)
    wanted = resize(jnp.asarray(np.maximum(heat, 0), float), (8, 8))
    assert_close(got, jnp.broadcast_to(wanted[..., None], IMAGE.shape), TOLERANCE)


@pytest.mark.parametrize("output", [0, 1, 2])
def test_ablation_cam_is_the_loop_over_channels(output):
    """The drop relative to the magnitude of f, for outputs of both signs."""
    features = double(front(IMAGE))
    value = float(f(IMAGE, output))
    drops = [
        value - float(back(jnp.asarray(np.where(np.arange(7) == k, 0, features), float), output)) for k in range(7)
    ]
    heat = features @ (np.array(drops) / abs(value))
    got = jax.jit(ablation_cam(f, site="stem", activation=same, resize=nearest), static_argnums=1)(IMAGE, output)
    assert_close(got[::2, ::2, 0], heat, TOLERANCE)


def test_the_outputs_of_the_ablations_have_both_signs():
    values = [float(f(IMAGE, output)) for output in range(3)]
    assert min(values) < 0 < max(values)


@BOTH
@pytest.mark.parametrize("chunk_size", [1, 2, 7, 100])
def test_chunks_do_not_change_the_map(method, chunk_size):
    got, whole = (jax.jit(method(f, site="stem", chunk_size=c))(IMAGE) for c in (chunk_size, 16))
    assert_close(got, whole, 1e-12 if X64 else 1e-5)


@BOTH
def test_by_itself_the_last_features_are_taken(method):
    explain, at_site = method(conv_net(), activation=same), method(conv_net(), site="residual", activation=same)
    by_itself, named = jax.jit(lambda x: (explain(x), at_site(x)))(IMAGE)
    np.testing.assert_array_equal(by_itself, named)
    assert float(jnp.max(jnp.abs(by_itself))) > 0


def test_a_constant_channel_shows_nothing():
    """Its mask is zero: no gain, and no NaN."""

    def g(x):
        with jax.named_scope("features"):
            h = jnp.stack([jnp.tanh(x[..., 0]), 0.0 * x[..., 0] + 2.0], -1)
        return 3.0 * jnp.mean(h[..., 0]) + jnp.sum(h[..., 1]) * 0.01

    x = jnp.abs(random((4, 4, 1), 6))
    got = jax.jit(score_cam(g, site="features"))(x)
    h = np.tanh(double(x[..., 0]))
    mask = (h - h.min()) / (h.max() - h.min())
    gain = 3 * np.mean(np.tanh(mask * double(x[..., 0])))
    weights = np.exp([gain, 0]) / np.sum(np.exp([gain, 0]))
    assert_close(got[..., 0], weights[0] * h + weights[1] * 2, TOLERANCE)


def test_where_f_is_zero_the_ablation_map_is_zero():
    def g(x):
        h = jax.nn.relu(x)
        return jnp.sum(h[..., 0]) - jnp.sum(h[..., 1])

    x = jnp.ones((2, 2, 2))
    np.testing.assert_array_equal(ablation_cam(g)(x), jnp.zeros_like(x))


@BOTH
def test_a_mapped_and_compiled_call_is_a_loop(method):
    explain, images = method(f, site="stem", chunk_size=3), random((3, 8, 8, 2), 7)
    alone = jnp.stack(list(map(jax.jit(explain), images)))
    assert_close(explain(images[0]), alone[0], TOLERANCE)
    assert_close(jax.jit(jax.vmap(explain))(images), alone, TOLERANCE)


@BOTH
def test_an_image_in_a_tree_of_one_spatial_axis(method):
    def g(tree):
        return jnp.mean(jnp.tanh(conv(tree["signal"], random((3, 2, 5), 8)))) * 3.0

    x = {"signal": random((9, 2), 9)}
    got = jax.jit(method(g))(x)
    assert got["signal"].shape == (9, 2)
    np.testing.assert_array_equal(got["signal"][:, 0], got["signal"][:, 1])


@BOTH
def test_bad_calls_are_refused(method):
    name = method.__name__
    with pytest.raises(ValueError, match=r"`chunk_size` must be at least 1; got 0"):
        method(f, chunk_size=0)
    with pytest.raises(ValueError, match=r"^No intermediate of the function has 3 axes"):
        method(lambda x: jnp.sum(jnp.tanh(x.reshape(-1))))(IMAGE)
    with pytest.raises(ValueError, match=r"^There is no site 'stam'"):
        method(f, site="stam")(IMAGE)
    with pytest.raises(TypeError, match=rf"^`{name}` explains one image"):
        method(jnp.sum)(jnp.ones(3))
    with pytest.raises(TypeError, match=rf"^`{name}` needs floating-point arrays"):
        method(jnp.sum)(jnp.ones((3, 3, 1), int))
    with pytest.raises(TypeError, match=rf"^`{name}` needs a function that returns a scalar"):
        method(jnp.sin)(IMAGE)


def test_a_baseline_is_like_the_image():
    with pytest.raises(ValueError, match=r"`baseline` of shape \(3,\) does not broadcast to the input of shape"):
        score_cam(f, site="stem")(IMAGE, baseline=jnp.ones(3))
