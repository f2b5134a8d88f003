"""FullGrad maps against terms taken by hand: probes added to a network that is written out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxinterp import interpreters
from jaxinterp.attribution import full_grad, nearest, simple_full_grad, smooth_full_grad
from jaxinterp.attribution._full_grad import to_unit_range
from tests.attribution.networks import IMAGE, X64, along, assert_close, conv, conv_net, dense, double, max_pool, random

pytestmark = [pytest.mark.core, pytest.mark.numerics]

TOLERANCE = 1e-10 if X64 else 1e-4
KERNELS = [random((3, 3, 2, 5), 1, 0.5), random((3, 3, 5, 4), 2, 0.5)]
BIASES = [random((n,), 3 + i) for i, n in enumerate((5, 4, 3))]
HEAD = random((4, 3), 6)


def network(x, probes=(0.0, 0.0, 0.0, 0.0, 0.0), activation=jax.nn.relu):
    """Two convolutions and a dense layer with biases; probes are added behind biases and activations."""
    h = conv(x, KERNELS[0]) + along(BIASES[0], x) + probes[0]
    h = max_pool(activation(h) + probes[1])
    h = conv(h, KERNELS[1]) + along(BIASES[1], x) + probes[2]
    h = jnp.mean(activation(h) + probes[3], (0, 1))
    return (dense(h, HEAD) + BIASES[2] + probes[4])[1]


def zeros():
    return [jnp.zeros(shape) for shape in ((8, 8, 5), (8, 8, 5), (4, 4, 4), (4, 4, 4), (3,))]


@functools.cache
def by_hand(activation=jax.nn.relu):
    """The terms of the input and of each probe, in float64; and the cotangents."""
    f = functools.partial(network, activation=activation)
    slope, cotangents = jax.jit(jax.grad(f, (0, 1)))(IMAGE, zeros())
    first = conv(IMAGE, KERNELS[0]) + along(BIASES[0], IMAGE)
    second = conv(max_pool(activation(first)), KERNELS[1]) + along(BIASES[1], IMAGE)
    implicit = [activation(z) - jax.jvp(activation, (z,), (z,))[1] for z in (first, second)]
    offsets = [along(BIASES[0], IMAGE), implicit[0], along(BIASES[1], IMAGE), implicit[1], BIASES[2]]
    terms = [double(c) * double(b) for c, b in zip(cotangents, offsets, strict=True)]
    return double(slope * IMAGE), terms, list(map(double, cotangents))


def psi(term):
    """Rescaling and interpolation in SciPy, summed over channels."""
    size = np.abs(term)
    size = (size - size.min()) / (size.max() - size.min() + 1e-6)
    grid = np.stack(np.meshgrid(*(np.linspace(0, n - 1, 8) for n in term.shape[:2]), indexing="ij"))
    return sum(ndimage.map_coordinates(size[..., c], grid, order=1) for c in range(term.shape[-1]))


def test_the_terms_by_hand_sum_to_the_value():
    for activation in (jax.nn.relu, jax.nn.softplus):
        of_input, terms, _ = by_hand(activation)
        total = of_input.sum() + sum(term.sum() for term in terms)
        assert total == pytest.approx(float(network(IMAGE, activation=activation)), rel=1e-10 if X64 else 1e-4)


def test_the_map_sums_rescaled_terms():
    """Of a ReLU network: the input's and those of the two convolutions; that of the dense layer has no positions."""
    of_input, terms, _ = by_hand()
    wanted = psi(of_input) + psi(terms[0]) + psi(terms[2])
    got = jax.jit(full_grad(network))(IMAGE)
    assert_close(got, np.broadcast_to(wanted[..., None], IMAGE.shape), TOLERANCE)
    assert got.dtype == IMAGE.dtype


def test_a_smooth_activation_has_terms_of_its_own():
    of_input, terms, _ = by_hand(jax.nn.softplus)
    wanted = psi(of_input) + sum(map(psi, terms[:4]))
    got = jax.jit(full_grad(functools.partial(network, activation=jax.nn.softplus)))(IMAGE)
    assert_close(got[..., 0], wanted, TOLERANCE)


def test_the_simple_map_takes_cotangents_where_there_are_offsets():
    of_input, _, cotangents = by_hand()
    wanted = psi(of_input) + psi(cotangents[0]) + psi(cotangents[2])
    assert_close(jax.jit(simple_full_grad(network))(IMAGE)[..., 0], wanted, TOLERANCE)


@pytest.mark.parametrize("method", [full_grad, simple_full_grad])
def test_without_biases_only_the_input_counts(method):
    f = conv_net(bias=0.0)

    @jax.jit
    def both(x):
        return method(f)(x), jnp.sum(to_unit_range(jax.grad(f)(x) * x), -1)

    got, wanted = both(IMAGE)
    assert_close(got[..., 0], wanted, TOLERANCE)


def test_rescaling_resizing_and_grouping_may_be_others():
    """With squares and repeated pixels; the single equations of softplus have other terms than the whole."""
    of_input, terms, cotangents = by_hand()
    for method, parts in [(full_grad, terms), (simple_full_grad, cotangents)]:
        got = jax.jit(method(network, rescale=jnp.square, resize=nearest))(IMAGE)
        wide = [np.repeat(np.repeat(part**2, 8 // len(part), 0), 8 // len(part), 1) for part in (parts[0], parts[2])]
        assert_close(got[..., 0], (of_input**2).sum(-1) + sum(part.sum(-1) for part in wide), TOLERANCE)
    f = functools.partial(network, activation=lambda z: jnp.log1p(jnp.exp(z)))
    whole, single = (jax.jit(full_grad(f, grouping=g))(IMAGE) for g in (interpreters.regions, interpreters.equations))
    assert float(jnp.max(jnp.abs(whole - single))) > 0.1


@pytest.mark.parametrize("seed", range(3))
def test_psi_is_in_the_unit_interval(seed):
    term = random((4, 5, 3), seed, 10.0**-seed)
    scaled = double(to_unit_range(term))
    size = np.abs(double(term))
    assert scaled.min() == 0
    assert scaled.max() < 1
    assert scaled.max() == pytest.approx(np.ptp(size) / (np.ptp(size) + 1e-6), rel=1e-6)
    np.testing.assert_allclose(scaled, (size - size.min()) / (np.ptp(size) + 1e-6), rtol=1e-4)


def test_psi_of_a_constant_is_zero():
    np.testing.assert_array_equal(to_unit_range(jnp.full((2, 2, 1), -3.0)), jnp.zeros((2, 2, 1)))


# --------------------------------------------------------------------------------------------------------- smooth


def test_without_noise_the_smooth_map_is_full_grad(key):
    f = functools.partial(network, activation=jax.nn.softplus)
    smooth = jax.jit(smooth_full_grad(f, num_samples=3))(key, IMAGE, stddev=0.0)
    assert_close(smooth, jax.jit(full_grad(f))(IMAGE), 1e-9 if X64 else 1e-3)


def test_the_smooth_map_averages_terms_before_they_are_rescaled():
    """Over the samples that the documentation of the noise defines: leaf 0 of sample i is drawn from key/i/0."""
    keys = [jax.random.fold_in(jax.random.fold_in(jax.random.key(3), i), 0) for i in range(4)]
    noise = [jax.random.normal(k, IMAGE.shape, jnp.float32).astype(IMAGE.dtype) for k in keys]
    slopes = jax.jit(jax.grad(network, (0, 1)))
    parts = []
    for e in noise:
        x = IMAGE + jnp.asarray(0.3, IMAGE.dtype) * e
        slope, cotangents = slopes(x, zeros())
        biases = along(BIASES[0], x), along(BIASES[1], x)
        parts.append([double(slope * x), double(cotangents[0] * biases[0]), double(cotangents[2] * biases[1])])
    wanted = sum(psi(np.mean(samples, 0)) for samples in zip(*parts, strict=True))
    explain = jax.jit(smooth_full_grad(network, num_samples=4, chunk_size=3))
    assert_close(explain(jax.random.key(3), IMAGE, stddev=0.3)[..., 0], wanted, 1e-6 if X64 else 1e-3)


def test_what_the_smooth_map_refuses(key):
    for options, message in [
        ({"num_samples": 0}, "`num_samples` must be at least 1; got 0"),
        ({"chunk_size": 0}, "`chunk_size` must be at least 1; got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            smooth_full_grad(network, **options)
    with pytest.raises(ValueError, match=r"`stddev`"):
        smooth_full_grad(network)(key, IMAGE, stddev=-1.0)
    with pytest.raises(TypeError, match=r"jax\.random\.key"):
        smooth_full_grad(network)(0, IMAGE, stddev=1.0)
    with pytest.raises(TypeError, match=r"^`smooth_full_grad` explains one image"):
        smooth_full_grad(jnp.sum)(key, jnp.ones(3), stddev=1.0)


# ------------------------------------------------------------------------------------------------ as a JAX function


@pytest.mark.parametrize("spatial", [(9,), (4, 6, 4)])
def test_images_of_other_spatial_ranks(spatial):
    """One convolution with a bias, its term taken by hand."""
    kernel, bias = random((*(3,) * len(spatial), 2, 4), 7), random((4,), 8)

    def f(x):
        return jnp.mean(jnp.square(jax.nn.relu(conv(x, kernel) + along(bias, x))))

    x = random((*spatial, 2), 9)
    got = jax.jit(full_grad(f, rescale=jnp.abs))(x)

    @jax.jit
    def terms(x):
        z = conv(x, kernel) + along(bias, x)
        slope = 2 * jax.nn.relu(z) / z.size
        return jnp.abs(jax.grad(f)(x) * x), jnp.abs(slope * along(bias, x)), jnp.abs(jax.nn.relu(z) ** 2 / z.size)

    # The square of the ReLU is an activation h² with the offset h² - 2h·h.
    wanted = sum(jnp.sum(term, -1) for term in terms(x))
    assert_close(got[..., 0], wanted, TOLERANCE)


@pytest.mark.parametrize("method", [full_grad, simple_full_grad])
def test_a_mapped_and_compiled_call_is_a_loop(method):
    explain, images = method(network), random((3, 8, 8, 2), 50)
    alone = jnp.stack(list(map(jax.jit(explain), images)))
    assert_close(explain(images[0]), alone[0], TOLERANCE)
    assert_close(jax.jit(jax.vmap(explain))(images), alone, TOLERANCE)


def test_an_image_in_a_tree_among_other_arguments():
    explain = full_grad(lambda scale, tree: scale * network(tree["image"]), 1)
    assert_close(explain(jnp.asarray(2.0), {"image": IMAGE}), {"image": full_grad(network)(IMAGE)}, 1e-4)


@pytest.mark.parametrize("method", [full_grad, simple_full_grad])
def test_bad_calls_are_refused(method):
    name = method.__name__
    with pytest.raises(TypeError, match=rf"^`{name}` explains one image of shape"):
        method(lambda x: jnp.sum(x**2))(jnp.ones(3))
    with pytest.raises(TypeError, match=rf"^`{name}` needs floating-point arrays"):
        method(jnp.sum)(jnp.ones((3, 3, 1), int))
    with pytest.raises(TypeError, match=rf"^`{name}` needs a function that returns a scalar"):
        method(jnp.sin)(IMAGE)
