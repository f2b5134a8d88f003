"""One set of properties for every method of the table: a newly enrolled method is tested without a new test."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


def points(count, dtype=DTYPE):
    return jnp.asarray(np.random.default_rng(0).normal(size=(count, 6)), dtype)


def keys(count):
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(3), jnp.arange(count))


def assert_agree(got, wanted, tolerance=EXACT):
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    assert np.max(np.abs(got - wanted)) <= tolerance * max(np.max(np.abs(wanted)), 1e-30)


@functools.cache
def compiled(name):
    return jax.jit(jax.vmap(METHODS[name].build(smooth)))


@METHOD
@pytest.mark.parametrize("baseline", [0.0, 0.5])
def test_a_linear_function_is_explained_exactly(method, baseline, key):
    if method.on_linear is None or (baseline and not method.takes_baseline):
        pytest.skip("the method has no closed form with this baseline")
    rng = np.random.default_rng(1)
    a, x = rng.normal(size=(2, 5)).astype(DTYPE)
    keywords = {"baseline": baseline} if method.takes_baseline else {}
    explain = jax.jit(functools.partial(method.build(lambda z: jnp.sum(jnp.asarray(a) * z)), **keywords))
    wanted = method.on_linear(a.astype(np.float64), x.astype(np.float64), np.full(5, baseline))
    got = np.asarray(explain(key, jnp.asarray(x)), np.float64)
    assert np.max(np.abs(got - wanted)) <= (1e-11 if X64 else 2e-5) * np.max(np.abs(a))


@METHOD
def test_the_map_is_like_the_input(method, key):
    explain = jax.jit(method.build(lambda z: jnp.sum(z["u"] ** 2) + jnp.sum(z["v"])))
    x = {"u": jnp.ones((2, 3), DTYPE), "v": jnp.ones((), DTYPE)}
    attribution = explain(key, x)
    assert jax.tree.structure(attribution) == jax.tree.structure(x)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), attribution) == jax.tree.map(lambda a: (a.shape, a.dtype), x)


@METHOD
def test_jit_changes_nothing(method, key):
    explain, x = method.build(smooth), points(1)[0]
    assert_agree(explain(jax.random.clone(key), x), jax.jit(explain)(key, x))


@METHOD
def test_a_mapped_call_is_a_loop(method):
    x, single = points(3), jax.jit(method.build(smooth))
    loop = [single(k, row) for k, row in zip(keys(3), x, strict=True)]
    assert_agree(compiled(method.name)(keys(3), x), jnp.stack(loop))


@METHOD
def test_chunks_change_nothing(method):
    """Of 1 or 5 evaluations, the second with a remainder, or all at once."""
    if not method.takes_chunk_size:
        pytest.skip("the method evaluates once")
    x, key = points(1)[0], keys(1)[0]
    at_once, *chunked = (jax.jit(method.build(smooth, chunk_size=size))(key, x) for size in (None, 1, 5))
    for got in chunked:
        assert_agree(got, at_once)


@METHOD
def test_eight_devices_are_one_device(method):
    assert jax.device_count() >= 8, "the test configuration makes eight devices"
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    x = points(8)
    spread = jax.device_put((keys(8), x), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
    got = compiled(method.name)(*spread)
    assert len(got.sharding.device_set) == 8
    assert_agree(got, compiled(method.name)(keys(8), x))


@METHOD
def test_the_key_decides_and_nothing_else(method):
    x = points(2)
    again = [np.asarray(compiled(method.name)(keys(2), x)) for _ in range(2)]
    np.testing.assert_array_equal(*again)
    other = compiled(method.name)(jax.vmap(lambda k: jax.random.fold_in(k, 9))(keys(2)), x)
    assert bool(jnp.any(other != again[0])) == method.stochastic


@METHOD
def test_the_body_of_the_function_runs_in_the_first_call_only(method):
    calls = []

    def counted(x):
        calls.append(None)
        return smooth(x)

    explain = jax.jit(method.build(counted))
    explain(keys(5)[0], points(5)[0])
    assert 1 <= len(calls) <= 4
    first = len(calls)
    for k, x in zip(keys(5), points(5), strict=True):
        explain(k, x)
    assert len(calls) == first


@METHOD
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_bad_value_in_the_parameters_is_seen_in_the_map(method, bad, key):
    explain = jax.jit(method.build(lambda x: smooth(x) * jnp.asarray(bad, x.dtype)))
    assert not bool(jnp.all(jnp.isfinite(explain(key, points(1)[0]))))


@METHOD
def test_an_integer_input_is_refused(method, key):
    with pytest.raises(TypeError, match=r"floating-point arrays.*int32"):
        method.build(lambda x: jnp.sum(x))(key, jnp.arange(3, dtype=jnp.int32))


@METHOD
def test_a_vector_valued_function_is_refused(method, key):
    with pytest.raises(TypeError, match=r"scalar.*shape \(3,\).*heads\.logit"):
        method.build(lambda x: x)(key, jnp.ones(3, DTYPE))


@METHOD
def test_an_integer_seed_is_no_key(method):
    if not method.stochastic:
        pytest.skip("the method takes no key")
    with pytest.raises(TypeError, match=r"jax\.random\.key.*Got 0 of type int"):
        method.build(smooth)(0, points(1)[0])


@METHOD
def test_the_table_says_who_and_what(method):
    assert method.summary
    assert method.source[-4:].isdigit()
    assert METHODS[method.name] is method


@pytest.mark.skipif(not X64, reason="compares with double precision; run with JAXINTERP_X64=1")
@METHOD
def test_single_precision_is_close_to_double(method):
    narrow = compiled(method.name)(keys(4), points(4, jnp.float32))
    assert narrow.dtype == jnp.float32
    assert_agree(narrow, compiled(method.name)(keys(4), points(4, jnp.float32).astype(jnp.float64)), 2e-4)


@METHOD
def test_half_precision_goes_in_and_comes_out(method, key):
    attribution = jax.jit(method.build(smooth))(key, points(1, jnp.bfloat16)[0])
    assert attribution.dtype == jnp.bfloat16
    assert bool(jnp.all(jnp.isfinite(attribution)))


@pytest.mark.parametrize("name", ["occlusion", "lime"])
def test_a_large_image_is_explained_by_regions(name, key):
    """A linear function of a 32x32 image: every cell of the map tells the sum of its own contributions."""
    rng = np.random.default_rng(2)
    a = np.kron(rng.normal(size=(8, 8)), np.ones((4, 4)))[..., None] * np.ones(3)
    x = jnp.ones((32, 32, 3), DTYPE)
    attribution = jax.jit(METHODS[name].build(lambda z: jnp.sum(jnp.asarray(a, z.dtype) * z)))(key, x)
    cells = np.asarray(attribution).reshape(8, 4, 8, 4, 3)
    assert np.ptp(cells[..., :1] - cells) < 1e-5 * np.abs(cells).max(), "channels differ"
    wanted = 48 * a[::4, ::4, 0]
    if name == "lime":
        np.testing.assert_allclose(cells[:, 0, :, 0, 0], wanted, atol=1e-3)
    else:  # windows overlap by half: cells mix with their neighbours, most with themselves
        assert np.corrcoef(cells.mean((1, 3, 4)).ravel(), wanted.ravel())[0, 1] > 0.8
