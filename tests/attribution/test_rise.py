"""RISE against masks made in NumPy, and against the closed form of its expectation for linear functions."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.attribution import rise, with_stderr

X64 = jax.config.jax_enable_x64
TOLERANCE = 1e-12 if X64 else 3e-6


def along(length, cells, shift):
    """The interpolation along an axis: the whole enlarged axis, then a part of it, [length, cells]."""
    enlarged = (cells + 1) * -(-length // cells)
    centres = (np.arange(enlarged) + 0.5) * cells / enlarged - 0.5
    return np.stack([np.interp(centres, np.arange(cells), unit) for unit in np.eye(cells)], 1)[shift : shift + length]


def mask_of(grid, shape, shifts):
    mask = grid
    for axis, (n, shift) in enumerate(zip(shape, shifts, strict=True)):
        mask = np.apply_along_axis(along(n, grid.shape[axis], shift).__matmul__, axis, mask)
    return mask


def own_masks(seed, count, shape, cells, probability):
    """The masks as documented: of sample k the grid from fold 0 of its key, the shift along axis i from fold 1 + i."""
    for k in range(count):
        key = jax.random.fold_in(jax.random.key(seed), k)
        uniform = jax.random.uniform(jax.random.fold_in(jax.random.fold_in(key, 0), 0), cells, jnp.float32)
        shifts = [
            int(jax.random.randint(jax.random.fold_in(key, 1 + i), (), 0, -(-n // s), jnp.int32))
            for i, (n, s) in enumerate(zip(shape, cells, strict=True))
        ]
        yield mask_of(np.asarray(uniform < np.float32(probability), np.float64), shape, shifts)


def wave(x, xp=jnp):
    """A function of any image in which all entries interact."""
    slope = xp.asarray(np.linspace(-1, 1.5, x.size).reshape(x.shape), x.dtype)
    return xp.sin(xp.sum(slope * x)) + xp.sum(x**2 * slope)


CASES = [
    # shape, cells, probability
    ((7, 2), 3, 0.5),
    ((5, 6, 3), (2, 3), 0.3),
    ((6, 4, 1), 4, 0.5),  # 6 pixels in cells of 2
    ((4, 3, 5, 2), 2, 0.7),
    ((3, 3, 1), 8, 0.5),  # more cells than pixels
    ((4, 4, 2), 1, 0.5),  # all or nothing
]


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize(("shape", "cells", "probability"), CASES)
def test_it_is_the_mean_over_its_own_masks(shape, cells, probability):
    rng = np.random.default_rng(0)
    x, baseline = rng.normal(size=(2, *shape))
    grid = cells if isinstance(cells, tuple) else (cells,) * (len(shape) - 1)
    masks = np.stack(list(own_masks(1, 9, shape[:-1], grid, probability)))[..., None]
    values = np.array([wave(baseline + m * (x - baseline), np) for m in masks])
    samples = values.reshape(-1, *(1,) * len(shape)) * masks / probability * np.ones(shape)
    method = with_stderr(rise(wave, cells=cells, probability=probability, num_samples=9, chunk_size=4))
    got = jax.jit(method)(jax.random.key(1), jnp.asarray(x, float), baseline=jnp.asarray(baseline, float))
    scale = TOLERANCE * max(1, np.max(np.abs(samples)))
    np.testing.assert_allclose(got.mean, samples.mean(0), rtol=0, atol=scale)
    np.testing.assert_allclose(got.stderr, samples.std(0, ddof=1) / 3, rtol=0, atol=scale)
    assert int(got.num_samples) == 9


@pytest.mark.core
@pytest.mark.parametrize("cells", [2, 3])
def test_the_masks_are_those_of_an_image_library(cells):
    """Enlarged by `jax.image.resize`."""
    grid = np.random.default_rng(2).integers(0, 2, (cells, cells)).astype(np.float32)
    pixels = -(-7 // cells)
    enlarged = jax.image.resize(jnp.asarray(grid), ((cells + 1) * pixels,) * 2, "linear")
    for shifts in itertools.product(range(pixels), repeat=2):
        part = enlarged[shifts[0] : shifts[0] + 7, shifts[1] : shifts[1] + 7]
        np.testing.assert_allclose(mask_of(grid, (7, 7), shifts), part, atol=1e-6)


SHAPE, CELLS, P = (5, 4), (2, 2), 0.3


def second_moments():
    """E M_i M_j: given the shifts p² + p(1 - p) Σ_c W_ic W_jc for independent cells c; the mean over all shifts."""
    shifts = itertools.product(*(range(-(-n // s)) for n, s in zip(SHAPE, CELLS, strict=True)))
    given = [np.kron(*(along(n, s, t) for n, s, t in zip(SHAPE, CELLS, shift, strict=True))) for shift in shifts]
    return P**2 + P * (1 - P) * np.mean([w @ w.T for w in given], 0)


def test_the_closed_form_is_that_of_masks_drawn_in_numpy():
    """4.5 standard errors of 210 different moments fail for one seed in 700; the seed is fixed."""
    rng, count = np.random.default_rng(3), 20_000
    pixels = [-(-n // s) for n, s in zip(SHAPE, CELLS, strict=True)]
    table = {t: [along(n, s, u) for n, s, u in zip(SHAPE, CELLS, t, strict=True)] for t in np.ndindex(*pixels)}
    drawn = [table[tuple(rng.integers(0, pixels))] for _ in range(count)]
    grids = (rng.random((count, *CELLS)) < P).astype(float)
    masks = np.stack([(a @ g @ b.T).ravel() for (a, b), g in zip(drawn, grids, strict=True)])
    first = masks.mean(0), masks.std(0)
    assert np.all(np.abs(first[0] - P) < 4.5 * first[1] / count**0.5)
    products = masks[:, :, None] * masks[:, None]
    assert np.all(np.abs(products.mean(0) - second_moments()) < 4.5 * products.std(0) / count**0.5)


@functools.cache
def of_a_linear_function(constant):
    """From 20 000 masks: the estimate, and f(b) + Σ_j a_j (x_j - b_j) E[M_i M_j] / p."""
    rng = np.random.default_rng(4)
    a, x, b = rng.normal(size=(3, *SHAPE, 2))
    linear = lambda z: jnp.sum(jnp.asarray(a, z.dtype) * z) + constant  # noqa: E731
    method = with_stderr(rise(linear, cells=CELLS, probability=P, num_samples=20_000, chunk_size=5000))
    estimate = jax.jit(method)(jax.random.key(5), jnp.asarray(x, float), baseline=jnp.asarray(b, float))
    wanted = np.sum(a * b) + constant + second_moments() @ np.sum(a * (x - b), -1).ravel() / P
    return *(np.asarray(v, np.float64)[..., 0].ravel() for v in (estimate.mean, estimate.stderr)), wanted


@pytest.mark.parametrize("constant", [0.0, 3.0])
def test_it_is_unbiased(constant):
    """4.5 standard errors of 20 entries fail for one key in 7000."""
    mean, stderr, wanted = of_a_linear_function(constant)
    assert np.all(np.abs(mean - wanted) < 4.5 * stderr)
    assert np.max(stderr) < 0.1 * np.ptp(wanted)


@pytest.mark.core
def test_a_constant_is_explained_by_itself():
    """On average: 4.5 standard errors."""
    method = with_stderr(rise(lambda x: 0 * jnp.sum(x) + 2.0, cells=2, num_samples=2000))
    estimate = jax.jit(method)(jax.random.key(6), jnp.ones((4, 4, 1)))
    assert np.all(np.abs(np.asarray(estimate.mean) - 2) < 4.5 * np.asarray(estimate.stderr))


@pytest.mark.core
def test_it_finds_the_part_that_matters():
    image = jnp.ones((16, 16, 3))
    explain = jax.jit(rise(lambda x: jax.nn.sigmoid(jnp.sum(x[:6, 9:]) / 20), cells=4, num_samples=2000))
    attribution = np.asarray(explain(jax.random.key(7), image))
    assert attribution.shape == image.shape
    assert np.ptp(attribution, axis=-1).max() == 0, "channels differ"
    row, column = np.unravel_index(attribution[..., 0].argmax(), (16, 16))
    assert row < 6
    assert column > 9


@pytest.mark.core
@pytest.mark.parametrize("chunk_size", [1, 3, 100])
def test_chunks_do_not_change_the_map(chunk_size):
    x = jnp.asarray(np.random.default_rng(1).normal(size=(5, 4, 2)), float)
    got, whole = (
        jax.jit(rise(wave, cells=3, num_samples=7, chunk_size=c))(jax.random.key(8), x) for c in (chunk_size, None)
    )
    np.testing.assert_allclose(got, whole, rtol=0, atol=TOLERANCE * 10)


@pytest.mark.core
def test_the_only_array_of_a_tree_is_the_image():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(5, 4, 2)), float)
    plain = jax.jit(rise(wave, cells=2, num_samples=20))(jax.random.key(9), x)
    scaled = rise(lambda scale, z: scale * wave(z["x"]), (1,), cells=2, num_samples=20)
    inside = jax.jit(scaled)(jax.random.key(9), 1.0, {"x": x})
    np.testing.assert_allclose(inside[0]["x"], plain, rtol=1e-5, atol=1e-6)


@pytest.mark.core
def test_it_is_differentiable():
    """In the parameter a of a²f: 2/a of the map."""
    explain = rise(lambda a, x: a**2 * wave(x), 1, cells=2, num_samples=20)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 2)), float)
    slope = jax.jit(jax.jacobian(explain, 1))(jax.random.key(0), 2.0, x)
    np.testing.assert_allclose(slope, jax.jit(explain)(jax.random.key(0), 2.0, x), rtol=1e-4)


@pytest.mark.core
def test_what_is_refused_when_it_is_built():
    for options, error, message in [
        ({"cells": 0}, ValueError, "`cells` must be at least 1; got 0"),
        ({"cells": (2, 0)}, ValueError, "`cells` must be at least 1; got 0"),
        ({"cells": 2.0}, TypeError, "`cells` must be a Python integer"),
        ({"probability": 0.0}, ValueError, r"`probability` must lie between 0 and 1; got 0\.0"),
        ({"probability": 1.0}, ValueError, r"`probability` must lie between 0 and 1; got 1\.0"),
        ({"probability": float("nan")}, ValueError, "`probability` must lie between 0 and 1; got nan"),
        ({"num_samples": 0}, ValueError, "`num_samples` must be at least 1; got 0"),
        ({"chunk_size": 0}, ValueError, "`chunk_size` must be at least 1; got 0"),
    ]:
        with pytest.raises(error, match=message):
            rise(wave, **options)


@pytest.mark.core
def test_inputs_are_refused_by_name():
    key = jax.random.key(0)
    with pytest.raises(TypeError, match=r"`rise` explains one image of shape \[\*spatial, channels\]; .* shape \(3,\)"):
        rise(jnp.sum)(key, jnp.ones(3))
    with pytest.raises(TypeError, match=r"got arrays of shape \(4, 1\), \(2, 1\)"):
        rise(lambda x: jnp.sum(x[0]))(key, (jnp.ones((4, 1)), jnp.ones((2, 1))))
    with pytest.raises(ValueError, match=r"`cells` of `rise` .* an image of spatial shape \(4, 5\).*; got \(2,\)"):
        rise(jnp.sum, cells=(2,))(key, jnp.ones((4, 5, 3)))
    with pytest.raises(ValueError, match=r"`baseline` of shape \(2,\) does not broadcast"):
        rise(jnp.sum)(key, jnp.ones((4, 3)), baseline=jnp.ones(2))
    with pytest.raises(TypeError, match=r"^`rise` needs floating-point arrays"):
        rise(jnp.sum)(key, jnp.ones((4, 3), jnp.int32))
    with pytest.raises(TypeError, match=r"^`rise` needs a function that returns a scalar"):
        rise(jnp.sin)(key, jnp.ones((4, 3)))
    with pytest.raises(TypeError, match=r"^`rise` takes a random key .* Got 0 of type int"):
        rise(jnp.sum)(0, jnp.ones((4, 3)))
