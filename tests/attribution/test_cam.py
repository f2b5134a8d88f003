"""Class-activation maps against their formulas in NumPy, from a network that was cut by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import attribution
from jaxinterp.attribution import (
    align_corners,
    class_activation_map,
    eigen_cam,
    grad_cam,
    guided_backprop,
    guided_grad_cam,
    hires_cam,
    nearest,
)
from jaxinterp.interpreters import Site
from tests.attribution.networks import IMAGE, X64, assert_close, conv, conv_net, dense, double, max_pool, random

pytestmark = [pytest.mark.core, pytest.mark.numerics]

TOLERANCE = 1e-10 if X64 else 1e-4


def same(heat):
    return heat


def parts(rank, activation=jax.nn.relu):
    """A network of one convolution and one residual connection on [*spatial, 2], cut behind its pooling."""
    kernel, second = random((*(3,) * rank, 2, 6), 1, 0.5), random((*(3,) * rank, 6, 6), 2, 0.3)
    head = random((6, 3), 3)

    def front(x):
        with jax.named_scope("stem"):
            return max_pool(activation(conv(x, kernel)))

    def back(h, output=1):
        with jax.named_scope("body"):
            h = jnp.tanh(h + conv(h, second))
        return dense(jnp.mean(h, tuple(range(rank))), head)[output]

    return front, back, lambda x, output=1: back(front(x), output)


def by_formula(name, A, G):
    """The map before its activation, in float64, from features and gradient [*positions, channels]."""
    shape, A, G = A.shape[:-1], A.reshape(-1, A.shape[-1]), G.reshape(-1, A.shape[-1])
    match name:
        case "grad_cam":
            heat = A @ G.mean(0)
        case "grad_cam_plus_plus":
            alpha = G**2 / (2 * G**2 + G**3 * A.sum(0))
            heat = A @ (alpha * np.maximum(G, 0)).sum(0)
        case "hires_cam":
            heat = (A * G).sum(1)
        case "layer_cam":
            heat = (A * np.maximum(G, 0)).sum(1)
        case "xgrad_cam":
            heat = A @ ((A * G).sum(0) / A.sum(0))
        case "eigen_cam":
            values, vectors = np.linalg.eigh(A.T @ A)
            heat = A @ vectors[:, np.argmax(values)]
            heat = heat * (1 if heat.sum() >= 0 else -1)
    return heat.reshape(shape)


METHODS = ["grad_cam", "grad_cam_plus_plus", "hires_cam", "layer_cam", "xgrad_cam", "eigen_cam"]
SPATIAL = {1: (12,), 2: (8, 6), 3: (4, 6, 4)}


@functools.cache
def cut(rank):
    """The image, its features and the gradient there, without this package."""
    front, back, _ = parts(rank)
    x = random((*SPATIAL[rank], 2), 10 + rank)
    features = jax.jit(front)(x)
    return x, double(features), double(jax.jit(jax.grad(back))(features))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("name", METHODS)
def test_a_map_is_its_formula(name, rank):
    """At a site named by its path, with and without the ReLU, brought to the positions of the image."""
    x, features, gradient = cut(rank)
    _, _, f = parts(rank)
    heat = by_formula(name, features, gradient)
    assert name not in ("grad_cam", "hires_cam", "xgrad_cam") or heat.min() < 0 < heat.max()
    method = getattr(attribution, name)

    @jax.jit
    def both(x):
        signed = method(f, site="stem", activation=same, resize=nearest)(x)
        return signed, method(f, site="stem")(x)

    signed, default = both(x)
    for axis in range(rank):
        signed = jnp.take(signed, jnp.arange(0, x.shape[axis], 2), axis)
    assert_close(signed[..., 0], heat, TOLERANCE)
    resized = align_corners(jnp.asarray(np.maximum(heat, 0)), SPATIAL[rank])
    assert_close(default, np.broadcast_to(resized[..., None], x.shape), TOLERANCE)
    assert default.dtype == x.dtype


def test_by_itself_the_last_features_are_taken():
    """What the mean over positions reads, as if its site had been named."""
    _, _, f = parts(2)
    x, _, _ = cut(2)
    by_itself, named = jax.jit(lambda x: (grad_cam(f)(x), grad_cam(f, site="body:tanh#0")(x)))(x)
    np.testing.assert_array_equal(by_itself, named)
    assert float(jnp.max(jnp.abs(by_itself))) > 0


def test_a_site_is_named_by_path_string_or_itself():
    _, _, f = parts(2)
    x, _, _ = cut(2)
    sites = "stem", "stem:reduce_window_max#0", Site("stem", "reduce_window_max")
    first, *others = jax.jit(lambda x: [hires_cam(f, site=site)(x) for site in sites])(x)
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_any_combination_of_features_and_gradient_is_a_map():
    x, features, gradient = cut(2)
    _, _, f = parts(2)

    def combine(a, g):
        return jnp.max(a, -1) - jnp.sum(jnp.abs(g), -1)

    explain = class_activation_map(f, combine=combine, site="stem", activation=jnp.tanh, resize=nearest)
    wanted = np.tanh(features.max(-1) - np.abs(gradient).sum(-1))
    assert_close(explain(x)[::2, ::2, 0], wanted, TOLERANCE)


def test_for_a_mean_and_a_dense_layer_grad_cam_and_hires_cam_are_the_class_activation_map():
    """Where the network ends in them the gradient is constant over positions: both are Σ w_k A_k over their number."""
    kernel, head = random((3, 3, 2, 6), 1), random((6, 3), 2)

    def f(x):
        return dense(jnp.mean(jax.nn.relu(conv(x, kernel)), (0, 1)), head)[1]

    by_mean, by_position = jax.jit(lambda x: (grad_cam(f, activation=same)(x), hires_cam(f, activation=same)(x)))(IMAGE)
    original = np.maximum(double(conv(IMAGE, kernel)), 0) @ double(head)[:, 1] / 64
    assert_close(by_mean[..., 0], original, TOLERANCE)
    assert_close(by_position, by_mean)
    np.testing.assert_allclose(jnp.sum(by_position[..., 0]), f(IMAGE), rtol=1e-9 if X64 else 1e-4)


def test_the_map_of_eigen_cam_has_a_sign_and_no_class():
    """The sum over positions is not negative, for features of either sign; the class does not matter."""
    kernel = random((3, 3, 2, 6), 4)

    def f(x, sign):
        with jax.named_scope("features"):
            h = sign * conv(x, kernel)
        return jnp.sum(jnp.sin(h))

    explain = jax.jit(eigen_cam(f, site="features", activation=same))
    up, down = explain(IMAGE, 1.0), explain(IMAGE, -1.0)
    assert float(jnp.sum(up)) > 0
    assert_close(down, up, TOLERANCE)
    _, _, g = parts(2)
    x, _, _ = cut(2)
    assert_close(*(jax.jit(eigen_cam(g, site="stem"))(x, output) for output in (0, 2)))


def test_a_channel_of_zeros_counts_for_nothing():
    """Where the gradient or the features of a channel are zero, the quotients of the formulas are zero and not NaN."""

    def f(x):
        h = jax.nn.relu(x * jnp.array([[[1.0, -1.0]]]))
        return jnp.sum(h * jnp.array([[[2.0, 0.0]]]))

    x = jnp.abs(random((3, 3, 2), 5))
    for name in METHODS:
        assert bool(jnp.all(jnp.isfinite(getattr(attribution, name)(f)(x)))), name


def test_guided_grad_cam_is_the_product():
    f = conv_net()

    @jax.jit
    def all_three(x):
        options = {"site": "first", "resize": nearest}
        return guided_grad_cam(f, **options)(x), guided_backprop(f)(x), grad_cam(f, **options)(x)

    product, guided, cam = all_three(IMAGE)
    np.testing.assert_allclose(product, guided * cam, rtol=1e-6)
    assert float(jnp.max(jnp.abs(product))) > 0


def test_an_image_in_a_tree_among_other_arguments():
    _, _, f = parts(2)
    x, _, _ = cut(2)
    explain = grad_cam(lambda scale, tree: scale * f(tree["image"]), 1, site="stem")
    got = explain(jnp.asarray(-1.0), {"image": x})
    assert_close(got, {"image": grad_cam(lambda x: -f(x), site="stem")(x)})


def test_a_mapped_and_compiled_call_is_a_loop():
    _, _, f = parts(2)
    images = random((3, *SPATIAL[2], 2), 20)
    for method in (functools.partial(grad_cam, site="stem"), eigen_cam):
        explain = method(f)
        alone = jnp.stack([explain(images[0]), *map(jax.jit(explain), images[1:])])
        assert_close(jax.jit(jax.vmap(explain))(images), alone, TOLERANCE)


@pytest.mark.parametrize("name", [*METHODS, "guided_grad_cam"])
def test_networks_without_features_and_unknown_sites_are_refused(name):
    method = getattr(attribution, name)

    def perceptron(x):
        return jnp.sum(jnp.tanh(dense(x.reshape(-1), random((128, 4), 1))))

    with pytest.raises(ValueError, match=r"^No intermediate of the function has 3 axes.*is it a convolutional network"):
        jax.eval_shape(method(perceptron), IMAGE)
    with pytest.raises(ValueError, match=r"^There is no site 'frist'.*Near: .*'first"):
        jax.eval_shape(method(conv_net(), site="frist"), IMAGE)
    with pytest.raises(ValueError, match=r"^The site head:dot_general#0 has shape \(3,\) .* with 3 axes and more than"):
        jax.eval_shape(method(conv_net(), site="head:dot_general#0"), IMAGE)


@pytest.mark.parametrize("x", [jnp.ones(4), (jnp.ones((3, 3, 2)), jnp.ones((3, 3, 2)))])
def test_what_is_no_image_is_refused(x):
    def f(x):
        return sum(jnp.sum(jnp.tanh(leaf)) for leaf in jax.tree.leaves(x))

    with pytest.raises(TypeError, match=r"^`grad_cam` explains one image of shape \[\*spatial, channels\]"):
        grad_cam(f)(x)


def test_bad_calls_are_refused():
    with pytest.raises(TypeError, match=r"floating-point arrays"):
        grad_cam(jnp.sum)(jnp.ones((3, 3, 1), int))
    with pytest.raises(TypeError, match=r"needs a function that returns a scalar"):
        grad_cam(jnp.sin)(IMAGE)
