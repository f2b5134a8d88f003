"""Occlusion against a loop over windows in NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.attribution import occlusion

TOLERANCE = 1e-12 if jax.config.jax_enable_x64 else 2e-5


def wave(x, xp):
    """A function of any array in which all entries interact."""
    slope = np.linspace(-1, 1.5, max(x.size, 1)).astype(x.dtype).reshape(x.shape)
    return xp.sin(xp.sum(slope * x)) + xp.sum(x**2 * slope)


def positions(length, window, stride):
    """Where the windows along an axis begin; the last one is the first that reaches the end."""
    start = 0
    while True:
        yield start
        if start + window >= length:
            return
        start += stride


def by_hand(f, x, baseline, windows, strides):
    """The map, and how many windows cover each entry, in float64."""
    total, count = np.zeros(x.shape), np.zeros(x.shape, int)
    axes = [positions(*sizes) for sizes in zip(x.shape, windows, strides, strict=True)]
    for corner in itertools.product(*axes):
        inside = tuple(slice(c, c + w) for c, w in zip(corner, windows, strict=True))
        hidden = x.copy()
        hidden[inside] = np.broadcast_to(baseline, x.shape)[inside]
        total[inside] += f(x) - f(hidden)
        count[inside] += 1
    return total / np.maximum(count, 1), count


CASES = [
    # shape, window, stride
    ((), 1, None),
    ((), 3, 2),
    ((5,), 1, None),
    ((5,), 2, 1),
    ((6,), 2, 2),
    ((7,), 3, 2),
    ((7,), (4,), 2),
    ((7,), 2, 3),  # leaves gaps
    ((7,), 1, (4,)),
    ((3,), 5, 1),  # larger than the axis
    ((3,), 2, 7),
    ((4, 5), 2, 1),
    ((4, 5), (2, 3), (2, 2)),
    ((4, 5), (4, 2), (1, 2)),  # a whole axis
    ((5, 4, 3), (2, 2, 3), (2, 2, 1)),
    ((5, 4, 3), (3, 2, 1), (1, 3, 2)),
    ((3, 4, 2, 2), (2, 3, 1, 2), (1, 2, 1, 1)),
]


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize(("shape", "window", "stride"), CASES)
def test_it_is_the_loop_over_windows(shape, window, stride):
    rng = np.random.default_rng(0)
    x, baseline = rng.normal(size=shape), rng.normal(size=shape)
    windows = window if isinstance(window, tuple) else (window,) * len(shape)
    strides = stride if isinstance(stride, tuple) else (stride or 1,) * len(shape)
    wanted, _ = by_hand(lambda z: wave(z, np), x, baseline, windows, strides)
    explain = jax.jit(occlusion(lambda z: wave(z, jnp), window=window, stride=stride, chunk_size=4))
    got = explain(jnp.asarray(x, float), baseline=jnp.asarray(baseline, float))
    np.testing.assert_allclose(got, wanted, rtol=0, atol=TOLERANCE * max(np.max(np.abs(wanted)), 1))


@pytest.mark.core
@pytest.mark.parametrize(
    ("window", "stride", "wanted"),
    [
        (2, 1, [3, 4, 6, 8, 9]),
        (2, 2, [3, 3, 7, 7, 5]),  # the last window is cut off at the border
        (2, 3, [3, 3, 0, 9, 9]),
        (2, 4, [3, 3, 0, 0, 5]),
        (3, 2, [6, 6, 9, 12, 12]),
        (9, 1, [15] * 5),
    ],
)
def test_an_entry_gets_the_mean_over_its_windows(window, stride, wanted):
    """For Σ i·xᵢ at ones a window takes away the sum of its i; entries without a window get 0."""
    explain = jax.jit(occlusion(lambda x: jnp.vdot(jnp.arange(1.0, 6.0), x), window=window, stride=stride))
    np.testing.assert_allclose(explain(jnp.ones(5)), wanted, rtol=1e-6)


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("chunk_size", [1, 3, 7, 100])
def test_chunks_do_not_change_the_map(chunk_size):
    x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 5)), float)
    got, whole = (
        jax.jit(occlusion(lambda z: wave(z, jnp), window=2, stride=(1, 2), chunk_size=c))(x) for c in (chunk_size, None)
    )
    np.testing.assert_allclose(got, whole, rtol=0, atol=TOLERANCE * np.max(np.abs(whole)))


@pytest.mark.core
@pytest.mark.numerics
def test_each_array_of_a_tree_is_occluded_by_itself():
    rng = np.random.default_rng(2)
    u, v, w, s = rng.normal(size=(3, 4)), rng.normal(size=5), rng.normal(size=(3, 4)), 1.3

    def f(scale, x, xp=jnp):
        return scale * xp.sum(x["u"] * w.astype(x["u"].dtype)) * wave(x["v"], xp) + xp.sin(x["s"])

    def only(name):
        return lambda z: f(2.0, {"u": u, "v": v, "s": s} | {name: z}, np)

    x = {"u": jnp.asarray(u, float), "v": jnp.asarray(v, float), "s": jnp.asarray(s, float)}
    baseline = {"u": jnp.asarray(u[0], float), "v": 0.5, "s": -1}
    got = jax.jit(occlusion(f, (1, 0), window=2))(jnp.asarray(2.0), x, baseline=(baseline, 0.5))
    for name, value, origin in [("u", u, u[0]), ("v", v, 0.5)]:
        wanted, _ = by_hand(only(name), value, origin, (2,) * value.ndim, (1,) * value.ndim)
        np.testing.assert_allclose(got[0][name], wanted, rtol=0, atol=10 * TOLERANCE * np.max(np.abs(wanted)))
    assert float(got[0]["s"]) == pytest.approx(np.sin(1.3) - np.sin(-1), rel=10 * TOLERANCE)
    whole, rest = f(2.0, {"u": u, "v": v, "s": s}, np), f(0.5, {"u": u, "v": v, "s": s}, np)
    assert float(got[1]) == pytest.approx(whole - rest, rel=10 * TOLERANCE)


@pytest.mark.core
def test_the_defaults_are_single_entries_and_zero():
    x = jnp.array([1.0, -2.0, 3.0])
    np.testing.assert_allclose(jax.jit(occlusion(lambda z: jnp.sum(z**2) + 5))(x), [1.0, 4.0, 9.0], rtol=1e-6)


@pytest.mark.core
def test_what_is_hidden_does_not_matter():
    """The hidden entry is replaced, not multiplied by zero: infinity there leaves f(b) finite."""
    explain = jax.jit(occlusion(lambda z: 1 / z[0] + z[1]))
    assert float(explain(jnp.array([2.0, 1.0]), baseline=jnp.array([jnp.inf, 0.0]))[0]) == pytest.approx(0.5)


def test_the_map_is_differentiable():
    """In the parameter of Σ w²x²: the map is w²x² for single entries."""
    x = jnp.array([1.0, 2.0, -1.0])
    explain = occlusion(lambda w, x: jnp.sum(w**2 * x**2), 1, chunk_size=2)
    np.testing.assert_allclose(jax.jit(jax.jacobian(explain))(3.0, x), 6.0 * np.asarray(x) ** 2, rtol=1e-5)


@pytest.mark.core
def test_sizes_are_refused_when_it_is_built():
    for options, error, message in [
        ({"window": 0}, ValueError, "`window` must be at least 1; got 0"),
        ({"window": (2, 0)}, ValueError, "`window` must be at least 1; got 0"),
        ({"window": 2.0}, TypeError, "`window` must be a Python integer"),
        ({"window": (2, True)}, TypeError, "`window` must be a Python integer"),
        ({"stride": -1}, ValueError, "`stride` must be at least 1; got -1"),
        ({"stride": (1, 0.5)}, TypeError, "`stride` must be a Python integer"),
        ({"chunk_size": 0}, ValueError, "`chunk_size` must be at least 1; got 0"),
    ]:
        with pytest.raises(error, match=message):
            occlusion(jnp.sum, **options)


@pytest.mark.core
@pytest.mark.parametrize("name", ["window", "stride"])
def test_sizes_are_one_per_axis(name):
    message = rf"^`{name}` of `occlusion` must have one size per axis of the input of shape \(4, 5\).*; got \(2,\)"
    with pytest.raises(ValueError, match=message):
        occlusion(jnp.sum, **{name: (2,)})(jnp.ones((4, 5)))


@pytest.mark.core
def test_inputs_are_refused_by_name():
    with pytest.raises(ValueError, match=r"`baseline` of shape \(2,\) does not broadcast to the input of shape \(3,\)"):
        occlusion(jnp.sum)(jnp.ones(3), baseline=jnp.ones(2))
    with pytest.raises(TypeError, match=r"^`occlusion` needs floating-point arrays"):
        occlusion(jnp.sum)(jnp.arange(3))
    with pytest.raises(TypeError, match=r"^`occlusion` needs a function that returns a scalar"):
        occlusion(jnp.sin)(jnp.ones(3))
