"""The completeness gap: quadratic functions, whose path integral is known, and maps that are wrong by a known sum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.evaluation import completeness_gap

X64 = jax.config.jax_enable_x64
DTYPE = jnp.float64 if X64 else jnp.float32
TOLERANCE = 1e-12 if X64 else 5e-6

RNG = np.random.default_rng(3)
HALF = RNG.normal(size=(4, 4))
A = HALF + HALF.T
C = RNG.normal(size=4)
X = RNG.normal(size=4)
BASELINES = {"zero": np.zeros(4), "scalar": np.full(4, 0.7), "array": RNG.normal(size=4)}


def quadratic(x):
    """½xᵀAx + cx, with a constant that no difference may see."""
    matrix, slope = jnp.asarray(A, x.dtype), jnp.asarray(C, x.dtype)
    return jnp.dot(x, jnp.dot(matrix, x, precision="highest")) / 2 + jnp.dot(slope, x) + 3


def change(x, b):
    return (x @ A @ x - b @ A @ b) / 2 + C @ (x - b)


def path_integral(x, b):
    """Integrated gradients on the segment: (x - b)(A(x + b)/2 + c)."""
    return (x - b) * (A @ (x + b) / 2 + C)


def check(got, gap, relative):
    assert (got.gap.shape, got.relative.shape) == ((), ())
    assert float(got.gap) == pytest.approx(gap, abs=TOLERANCE)
    assert float(got.relative) == pytest.approx(relative, abs=TOLERANCE)


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("wrong", [0.0, 0.25, -3.0])
@pytest.mark.parametrize("name", BASELINES)
def test_a_map_that_is_wrong_by_a_known_sum(name, wrong):
    b = BASELINES[name]
    attribution = path_integral(X, b) + wrong * np.array([2.0, 0, -1, 0])
    baseline = {"zero": 0.0, "scalar": 0.7, "array": jnp.asarray(b, DTYPE)}[name]
    measure = jax.jit(completeness_gap(quadratic))
    got = measure(jnp.asarray(attribution, DTYPE), jnp.asarray(X, DTYPE), baseline=baseline)
    check(got, wrong, abs(wrong) / max(abs(change(X, b)), np.abs(attribution).sum()))
    assert got.gap.dtype == DTYPE
    alone = completeness_gap(quadratic)(jnp.asarray(attribution, DTYPE), jnp.asarray(X, DTYPE), baseline=baseline)
    check(alone, float(got.gap), float(got.relative))


@pytest.mark.core
@pytest.mark.numerics
def test_without_a_baseline_it_is_zero():
    attribution = jnp.asarray(path_integral(X, 0 * X), DTYPE)
    check(completeness_gap(quadratic)(attribution, jnp.asarray(X, DTYPE)), 0, 0)
    check(completeness_gap(quadratic)(attribution, jnp.asarray(X, DTYPE), baseline=0.0), 0, 0)


@pytest.mark.core
@pytest.mark.numerics
def test_a_map_may_account_for_the_output_itself():
    f = lambda x: jnp.sum(x) + 5  # noqa: E731
    x = jnp.array([1, 2], DTYPE)
    check(completeness_gap(f)(jnp.array([4, 4], DTYPE), x, baseline=None), 0, 0)
    check(completeness_gap(f)(x, x, baseline=None), -5, 5 / 8)
    check(completeness_gap(f)(x, x), 0, 0)


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize(
    ("attribution", "gap", "relative"),
    [
        ([0, 0, 0, 0], 0, 0),
        ([1, 2, 0, 1], 4, 1),
        ([1000, -1000, 0, 1], 1, 1 / 2001),
        ([3, -3, 0, 0], 0, 0),
    ],
)
def test_a_constant_function(attribution, gap, relative):
    """The change is 0; the scale is then the size of the map, and where it is 0, too, nothing is missing."""
    measure = completeness_gap(lambda x: jnp.sum(x) * 0 + 5)
    check(measure(jnp.asarray(attribution, DTYPE), jnp.asarray(X, DTYPE)), gap, relative)


@pytest.mark.core
@pytest.mark.parametrize(("attribution", "gap", "relative"), [([0, 0], -6, 1), ([-6, 0], -12, 2), ([12, 0], 6, 0.5)])
def test_the_sign_of_the_gap_and_the_largest_relative_gap(attribution, gap, relative):
    """Too little is negative. |gap| is at most the sum of both scales, so 2 is the worst."""
    check(
        completeness_gap(lambda x: 2 * jnp.sum(x))(jnp.array(attribution, DTYPE), jnp.array([1, 2], DTYPE)),
        gap,
        relative,
    )


@pytest.mark.core
@pytest.mark.numerics
def test_several_arguments_with_a_baseline_for_each():
    """f = abΣc with a map over (c, a): the gap counts both, b is not explained."""
    f = lambda a, b, c: a * b * jnp.sum(c["k"])  # noqa: E731
    a, b, c = 2.0, -1.5, np.array([[1.0, 3.0]])
    baseline = ({"k": jnp.asarray([1.0, -1.0], DTYPE)}, 0.5)
    attribution = ({"k": jnp.asarray([[0.5, 1.0]], DTYPE)}, jnp.asarray(-4.0, DTYPE))
    args = (jnp.asarray(a, DTYPE), jnp.asarray(b, DTYPE), {"k": jnp.asarray(c, DTYPE)})
    got = completeness_gap(f, (2, 0))(attribution, *args, baseline=baseline)
    wanted = a * b * c.sum()  # the baseline of c sums to 0
    check(got, -2.5 - wanted, abs(-2.5 - wanted) / max(abs(wanted), 5.5))


@pytest.mark.core
@pytest.mark.numerics
def test_a_compiled_batch_is_a_loop():
    points, maps = np.random.default_rng(1).normal(size=(2, 7, 4))
    batch = jax.jit(jax.vmap(completeness_gap(quadratic)))(jnp.asarray(maps, DTYPE), jnp.asarray(points, DTYPE))
    gaps = [m.sum() - change(x, 0 * x) for m, x in zip(maps, points, strict=True)]
    scales = [max(abs(change(x, 0 * x)), np.abs(m).sum()) for m, x in zip(maps, points, strict=True)]
    np.testing.assert_allclose(batch.gap, gaps, atol=4 * TOLERANCE)
    np.testing.assert_allclose(batch.relative, np.abs(gaps) / scales, atol=TOLERANCE)


@pytest.mark.core
def test_a_map_of_bfloat16_is_summed_in_float32():
    """In bfloat16 a running sum of ones stops at 256."""
    measure = completeness_gap(lambda x: x[0])
    x = jnp.zeros(3000, jnp.bfloat16)
    got = measure(jnp.ones(3000, jnp.bfloat16), x)
    assert got.gap.dtype == jnp.float32
    assert float(got.gap) == 3000


@pytest.mark.core
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_seen(bad):
    """In the map, in the function, and in the baseline; a relative gap of 0 would call it complete."""
    x = jnp.ones(2)
    good, spoilt = jnp.ones(2), jnp.array([bad, 1.0])
    total = completeness_gap(jnp.sum)
    broken = completeness_gap(lambda x: jnp.sum(x) * jnp.asarray(bad, x.dtype))
    for got in (total(spoilt, x), broken(good, x, baseline=0.5), total(good, x, baseline=bad), total(good, spoilt)):
        assert not np.isfinite(got.gap)
        assert np.isnan(got.relative)
    assert np.isnan(total(jnp.array([jnp.inf, -jnp.inf]), x).gap)


@pytest.mark.core
def test_what_is_refused():
    measure = completeness_gap(jnp.sum)
    x = {"u": jnp.ones(2), "v": jnp.ones(3)}
    total = completeness_gap(lambda x: jnp.sum(x["u"]) + jnp.sum(x["v"]))
    with pytest.raises(ValueError, match=r"`attribution` of `completeness_gap` must have shape \(2,\); got \(3,\)"):
        measure(jnp.ones(3), jnp.ones(2))
    with pytest.raises(
        ValueError, match=r"`attribution\['v'\]` of `completeness_gap` must have shape \(3,\); got \(\)"
    ):
        total({"u": jnp.ones(2), "v": jnp.ones(())}, x)
    with pytest.raises(ValueError, match=r"`attribution` of `completeness_gap` must have the structure PyTreeDef"):
        total({"u": jnp.ones(2)}, x)
    with pytest.raises(ValueError, match=r"`baseline` of shape \(3,\) does not broadcast to the input of shape \(2,\)"):
        measure(jnp.ones(2), jnp.ones(2), baseline=jnp.ones(3))
    with pytest.raises(TypeError, match=r"^`completeness_gap` needs floating-point arrays, .* has dtype int32"):
        measure(jnp.ones(2), jnp.ones(2, jnp.int32))
    with pytest.raises(TypeError, match=r"^`completeness_gap` needs a function that returns a scalar.*\(2,\)"):
        completeness_gap(jnp.sin)(jnp.ones(2), jnp.ones(2))
    with pytest.raises(ValueError, match=r"`completeness_gap` was built with argnums=1, but .* called with 1 argument"):
        completeness_gap(jnp.sum, 1)(jnp.ones(2), jnp.ones(2))
