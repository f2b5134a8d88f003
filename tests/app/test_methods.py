"""One set of properties for every method of the table: a newly enrolled method is tested without a new test."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import evaluation
from jaxinterp.app import METHODS
from tests.conftest import X64

pytestmark = [pytest.mark.core, pytest.mark.numerics]

DTYPE = jnp.float64 if X64 else jnp.float32
EXACT = 1e-12 if X64 else 1e-5
"""Agreement between two ways to run the same computation, relative to the largest magnitude."""

METHOD = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def smooth(x):
    """A curved function of six inputs with known, moderate derivatives."""
    weights = jnp.asarray(np.linspace(-1.0, 1.5, 18).reshape(3, 6), x.dtype)
    return jnp.sum(jnp.tanh(weights @ x) * jnp.asarray([1.0, -2.0, 0.5], x.dtype)) + jnp.prod(x[:2])


def network(x):
    """A small convolutional network on an image: two convolutions with softplus, the mean, and a dense layer."""
    rng = np.random.default_rng(4)
    hidden = x[None]
    for shape in [(3, 3, 2, 4), (3, 3, 4, 4)]:
        kernel = jnp.asarray(rng.normal(size=shape) / 3, x.dtype)
        numbers = ("NHWC", "HWIO", "NHWC")
        hidden = jax.nn.softplus(
            jax.lax.conv_general_dilated(hidden, kernel, (1, 1), "SAME", dimension_numbers=numbers)
        )
    return jnp.sum(jnp.mean(hidden[0], (0, 1)) * jnp.asarray([1.0, -2.0, 0.5, 1.5], x.dtype))


IMAGE = ("image", "site")
"""The domains that are tested by the network; the others by `smooth`."""


def function_of(method):
    return network if method.domain in IMAGE else smooth


def points(method, count, dtype=DTYPE):
    shape = (8, 8, 2) if method.domain in IMAGE else (6,)
    return jnp.asarray(np.random.default_rng(0).normal(size=(count, *shape)), dtype)


def keywords(method, rows=None):
    """What the method needs at the call besides the input."""
    if method.domain != "background":
        return {}
    return {"background": np.random.default_rng(6).normal(size=(3, 6)) if rows is None else rows}


def built(method, f=None, **options):
    """The method for a function, `(key, x) -> map`."""
    return functools.partial(method.build(f or function_of(method), **options), **keywords(method))


def keys(count):
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(3), jnp.arange(count))


def assert_agree(got, wanted, tolerance=EXACT):
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    assert np.max(np.abs(got - wanted)) <= tolerance * max(np.max(np.abs(wanted)), 1e-30)


@functools.cache
def compiled(name):
    return jax.jit(jax.vmap(built(METHODS[name])))


@METHOD
def test_a_linear_function_is_explained_exactly(method, key):
    """A background has its mean at the baseline; where rows are drawn from it at random, all are the same."""
    if method.on_linear is None:
        pytest.skip("the method has no closed form")
    rng = np.random.default_rng(1)
    a, x, noise = rng.normal(size=(3, 8, 8, 2) if method.domain in IMAGE else (3, 5)).astype(DTYPE)
    explain = jax.jit(method.build(lambda z: jnp.sum(jnp.asarray(a) * z)))
    for baseline in (0.0, 0.5) if method.takes_baseline or method.domain == "background" else (0.0,):
        origin = np.full(x.shape, baseline)
        arrays = {"baseline": baseline} if method.takes_baseline else {}
        if method.domain == "background":
            shifts = [0 * noise, noise, -2 * noise] if not method.stochastic else [noise] * 3
            rows = origin + np.stack(shifts)
            arrays, origin = {"background": jnp.asarray(rows, DTYPE)}, rows.mean(0)
        wanted = method.on_linear(a.astype(np.float64), x.astype(np.float64), origin)
        got = np.asarray(explain(jax.random.clone(key), jnp.asarray(x), **arrays), np.float64)
        assert np.max(np.abs(got - wanted)) <= (1e-11 if X64 else 2e-5) * np.max(np.abs(a)), baseline


@METHOD
def test_the_map_is_like_the_input(method, key):
    f, x = lambda z: jnp.sum(z["u"] ** 2) + jnp.sum(z["v"]), {"u": jnp.ones((2, 3), DTYPE), "v": jnp.ones((), DTYPE)}
    arrays = keywords(method, jax.tree.map(lambda a: jnp.stack([0 * a, a / 2]), x))
    if method.domain in IMAGE:
        f, x = network, points(method, 1)[0]
    attribution = jax.jit(functools.partial(method.build(f), **arrays))(key, x)
    assert jax.tree.structure(attribution) == jax.tree.structure(x)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), attribution) == jax.tree.map(lambda a: (a.shape, a.dtype), x)


@METHOD
@pytest.mark.slow  # each operation on its own is compiled too
def test_jit_changes_nothing(method, key):
    explain, x = built(method), points(method, 1)[0]
    assert_agree(explain(jax.random.clone(key), x), jax.jit(explain)(key, x))


@METHOD
def test_a_mapped_call_is_a_loop(method):
    x, single = points(method, 3), jax.jit(built(method))
    loop = [single(k, row) for k, row in zip(keys(3), x, strict=True)]
    assert_agree(compiled(method.name)(keys(3), x), jnp.stack(loop))


@METHOD
@pytest.mark.parametrize("size", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_chunks_change_nothing(method, size):
    """Of 5 evaluations, with a remainder, or of 1, or all at once."""
    if not method.takes_chunk_size:
        pytest.skip("the method evaluates once")
    x, key = points(method, 1)[0], keys(1)[0]
    at_once, chunked = (jax.jit(built(method, chunk_size=size))(key, x) for size in (None, size))
    assert_agree(chunked, at_once)


@METHOD
def test_eight_devices_are_one_device(method):
    assert jax.device_count() >= 8, "the test configuration makes eight devices"
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    x = points(method, 8)
    spread = jax.device_put((keys(8), x), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
    try:
        got = compiled(method.name)(*spread)
    except NotImplementedError:
        if jax.__version_info__ < (0, 8):
            pytest.skip("this JAX has no transpose of a convolution under vmap over devices")
        raise
    assert len(got.sharding.device_set) == 8
    assert_agree(got, compiled(method.name)(keys(8), x))


@METHOD
def test_the_key_decides_and_nothing_else(method):
    x = points(method, 2)
    again = [np.asarray(compiled(method.name)(keys(2), x)) for _ in range(2)]
    np.testing.assert_array_equal(*again)
    other = compiled(method.name)(jax.vmap(lambda k: jax.random.fold_in(k, 9))(keys(2)), x)
    exhausts = method.name == "kernel_shap"  # which takes all masks of so few features
    assert bool(jnp.any(other != again[0])) == (method.stochastic and not exhausts)


@METHOD
def test_the_body_of_the_function_runs_in_the_first_call_only(method):
    calls, f, x = [], function_of(method), points(method, 5)

    def counted(z):
        calls.append(None)
        return f(z)

    explain = jax.jit(built(method, counted))
    explain(keys(5)[0], x[0])
    assert 1 <= len(calls) <= 4
    first = len(calls)
    for k, row in zip(keys(5), x, strict=True):
        explain(k, row)
    assert len(calls) == first


@METHOD
def test_a_bad_value_in_the_parameters_is_seen_in_the_map(method, key):
    if method.name == "eigen_cam":
        pytest.skip("the map depends on the features alone")
    f = function_of(method)
    explain = jax.jit(lambda bad, key, x: built(method, lambda x: f(x) * bad)(key, x))
    for bad in (jnp.nan, jnp.inf):
        found = explain(jnp.asarray(bad, DTYPE), jax.random.clone(key), points(method, 1)[0])
        assert not bool(jnp.all(jnp.isfinite(found))), bad


@METHOD
def test_an_integer_input_is_refused(method, key):
    with pytest.raises(TypeError, match=r"floating-point arrays.*int32"):
        built(method)(key, points(method, 1)[0].astype(jnp.int32))


@METHOD
def test_a_vector_valued_function_is_refused(method, key):
    with pytest.raises(TypeError, match=r"scalar.*shape \(3,\).*heads\.logit"):
        built(method, lambda x: jnp.ravel(x)[:3])(key, points(method, 1)[0])


@METHOD
def test_an_integer_seed_is_no_key(method):
    if not method.stochastic:
        pytest.skip("the method takes no key")
    with pytest.raises(TypeError, match=r"jax\.random\.key.*Got 0 of type int"):
        built(method)(0, points(method, 1)[0])


@METHOD
def test_the_table_says_who_and_what(method):
    assert method.summary
    assert method.source[-4:].isdigit()
    assert METHODS[method.name] is method


@pytest.mark.skipif(not X64, reason="compares with double precision; run with JAXINTERP_X64=1")
@METHOD
def test_single_precision_is_close_to_double(method):
    narrow = compiled(method.name)(keys(4), points(method, 4, jnp.float32))
    assert narrow.dtype == jnp.float32
    assert_agree(narrow, compiled(method.name)(keys(4), points(method, 4, jnp.float32).astype(jnp.float64)), 2e-4)


@METHOD
def test_half_precision_goes_in_and_comes_out(method, key):
    attribution = jax.jit(built(method))(key, points(method, 1, jnp.bfloat16)[0])
    assert attribution.dtype == jnp.bfloat16
    assert bool(jnp.all(jnp.isfinite(attribution)))


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.complete])
def test_complete_methods_account_for_the_output(name, key):
    method, x = METHODS[name], points(METHODS[name], 1)[0]
    attribution = compiled(name)(key[None], x[None])[0]
    gap = evaluation.completeness_gap(function_of(method))(attribution, x, **keywords(method))
    assert float(gap.relative) < 1e-4


@pytest.mark.parametrize("name", ["occlusion", "lime", "feature_ablation", "permutation"])
def test_a_large_image_is_explained_by_regions(name, key):
    """A linear function of a 32x32 image: every cell of the map tells the sum of its own contributions."""
    rng = np.random.default_rng(2)
    a = np.kron(rng.normal(size=(8, 8)), np.ones((4, 4)))[..., None] * np.ones(3)
    x = jnp.ones((32, 32, 3), DTYPE)
    explain = METHODS[name].build(lambda z: jnp.sum(jnp.asarray(a, z.dtype) * z))
    attribution = jax.jit(functools.partial(explain, **keywords(METHODS[name], jnp.zeros((2, *x.shape)))))(key, x)
    cells = np.asarray(attribution).reshape(8, 4, 8, 4, 3)
    assert np.ptp(cells[..., :1] - cells) < 1e-5 * np.abs(cells).max(), "channels differ"
    wanted = 48 * a[::4, ::4, 0]
    if name != "occlusion":
        np.testing.assert_allclose(cells[:, 0, :, 0, 0], wanted, atol=1e-3)
    else:  # windows overlap by half: cells mix with their neighbours, most with themselves
        assert np.corrcoef(cells.mean((1, 3, 4)).ravel(), wanted.ravel())[0, 1] > 0.8
