"""Attacks on functions whose worst input is known, and DeepFool against its published steps in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import heads, robustness
from tests.robustness.scores import DTYPE, POINTS, B, W, curved, curved_in_numpy, curved_tree, linear

SLOPE = np.array([3.0, -4.0, 0.0])


def sloped(x):
    return jnp.vdot(jnp.asarray(SLOPE, x.dtype), x)


@pytest.mark.core
def test_the_sign_of_the_gradient():
    found = jax.jit(robustness.fgsm(lambda x: jnp.sum(jnp.sin(x)), 0))(jnp.array([0.1, 3.0, 1.0]), radius=0.2)
    np.testing.assert_allclose(found.point, [0.3, 2.8, 1.2], rtol=1e-6)
    assert float(found.value) == pytest.approx(np.sin([0.3, 2.8, 1.2]).sum(), rel=1e-6)
    assert float(found.distance) == pytest.approx(0.2 * 3**0.5, rel=1e-6)


@pytest.mark.core
@pytest.mark.parametrize("restarts", [1, 3])
def test_the_worst_of_a_linear_function(restarts):
    """On a ball it is r‖a‖, on a cube r‖a‖₁."""
    x = jnp.array([1.0, 2.0, 3.0])
    for norm, most in [("l2", 5.0), ("linf", 7.0)]:
        attack = jax.jit(robustness.pgd(sloped, norm=norm, num_restarts=restarts, num_steps=40))
        found = attack(jax.random.key(0), x, radius=0.5)
        assert float(found.value) == pytest.approx(float(sloped(x)) + 0.5 * most, rel=1e-3)
        assert float(sloped(found.point)) == pytest.approx(float(found.value), rel=1e-6)
        change = np.asarray(found.point - x)
        assert (np.linalg.norm(change) if norm == "l2" else np.abs(change).max()) <= 0.5 * (1 + 1e-5)


@pytest.mark.core
def test_limits_of_the_box():
    found = robustness.pgd(sloped, norm="linf")(jax.random.key(0), jnp.zeros(3), radius=1.0, low=-0.25, high=0.5)
    np.testing.assert_allclose(found.point[:2], [0.5, -0.25], atol=1e-6)
    inside = robustness.pgd(sloped, num_restarts=4)(jax.random.key(0), jnp.zeros(3), radius=1.0, low=0.0, high=1.0)
    assert np.all((np.asarray(inside.point) >= 0) & (np.asarray(inside.point) <= 1))


def test_more_steps_and_restarts_find_no_less():
    """Of a loss with many maxima, on pytrees, with keys that are the same for the first runs."""
    f = lambda x: jnp.sum(jnp.sin(5 * x["u"])) + jnp.cos(7 * x["v"][0])  # noqa: E731
    x = {"u": jnp.array([0.3, -1.0]), "v": jnp.array([0.2])}
    values = [float(robustness.pgd(f, num_restarts=n)(jax.random.key(0), x, radius=2.0).value) for n in (1, 4, 16)]
    assert values == sorted(values)
    assert values[-1] > 2.9


@pytest.mark.core
def test_an_attack_on_a_classifier():
    loss = heads.cross_entropy(linear)
    x = jnp.asarray(POINTS[0], DTYPE)
    label = jnp.argmax(linear(x))
    found = jax.jit(robustness.pgd(loss))(jax.random.key(0), x, label, radius=3.0)
    assert float(found.value) > float(loss(x, label))
    assert int(jnp.argmax(linear(found.point))) != int(label)


@pytest.mark.core
def test_deepfool_finds_the_nearest_boundary_of_a_linear_function():
    for x in POINTS[:3]:
        scores = W @ x + B
        t = scores.argmax()
        distances = [(scores[t] - scores[i]) / np.linalg.norm(W[t] - W[i]) for i in range(len(scores)) if i != t]
        found = jax.jit(robustness.deepfool(linear))(jnp.asarray(x, DTYPE))
        assert float(found.distance) == pytest.approx(1.02 * min(distances), rel=1e-3)
        assert float(found.value) < 0
        assert int(jnp.argmax(linear(found.point))) != t


def test_deepfool_of_a_curved_function():
    x = np.array([0.3, -0.8, 0.5])
    found = robustness.deepfool(curved)(curved_tree(x))
    flat = np.concatenate([np.ravel(found.point["u"]), np.ravel(found.point["v"])]).astype(float)
    assert curved_in_numpy(flat)[0].argmax() != curved_in_numpy(x)[0].argmax()
    assert float(found.distance) == pytest.approx(np.linalg.norm(flat - x), rel=1e-4)


def test_deepfool_gives_up():
    constant = lambda x: jnp.stack([1 + 0 * x[0], 0 * x[0]])  # noqa: E731
    found = robustness.deepfool(constant, num_steps=3)(jnp.ones(2))
    assert float(found.value) == 1
    assert float(found.distance) == 0


@pytest.mark.core
def test_the_distance_along_a_direction():
    run = jax.jit(robustness.boundary_distance(lambda x: jnp.stack([x[0], jnp.zeros_like(x[0])])))
    x = jnp.array([2.0, 1.0])
    for direction, wanted in [([-1.0, 0.0], 2.0), ([-1.0, 1.0], 2 * 2**0.5), ([1.0, 0.0], np.inf)]:
        got = float(run(x, direction=7 * jnp.asarray(direction), reach=5.0))
        assert got == pytest.approx(wanted, rel=1e-5)
    assert np.isinf(run(x, direction=jnp.array([-1.0, 0.0]), reach=1.5))


def test_what_is_refused():
    with pytest.raises(ValueError, match="`norm` must be"):
        robustness.pgd(sloped, norm="l1")
    with pytest.raises(ValueError, match="`step_size` must be positive"):
        robustness.pgd(sloped, step_size=0.0)
    with pytest.raises(ValueError, match="`radius` must be finite and >= 0"):
        robustness.fgsm(sloped)(jnp.zeros(3), radius=-1.0)
    with pytest.raises(TypeError, match="scalar"):
        robustness.pgd(linear)(jax.random.key(0), jnp.zeros(20), radius=1.0)
    with pytest.raises(ValueError, match="`overshoot` must be finite and >= 0"):
        robustness.deepfool(linear, overshoot=-0.1)


def test_deepfool_does_not_depend_on_the_units_of_the_scores():
    for scale in (1e-6, 1.0, 1e6):
        found = robustness.deepfool(lambda x, s=scale: s * jnp.stack([x[0], jnp.zeros_like(x[0])]))(jnp.array([2.0]))
        assert float(found.distance) == pytest.approx(2.04, rel=1e-3)


def test_fooling_inputs_from_noise():
    """Ascent on the log-probability of any class makes nonsense that the classifier is sure of."""
    score = heads.log_prob(linear)
    noise = jax.random.normal(jax.random.key(1), (W.shape[1],), DTYPE)
    for label in range(3):
        found = robustness.pgd(score, num_steps=100)(jax.random.key(0), noise, label, radius=20.0)
        assert float(score(found.point, label)) == pytest.approx(float(found.value), rel=1e-5)
        assert np.exp(float(found.value)) > 0.99
        assert float(found.distance) <= 20 * (1 + 1e-5)


def test_a_loss_that_is_nowhere_a_number_is_not_minus_infinity():
    found = robustness.pgd(lambda x: jnp.sum(x) * jnp.nan)(jax.random.key(0), jnp.ones(2), radius=1.0)
    assert np.isnan(found.value)
    certain = robustness.pgd(lambda x: jnp.sum(0 * x) - jnp.inf)(jax.random.key(0), jnp.ones(2), radius=1.0)
    assert np.isneginf(certain.value)


def test_inputs_of_several_dtypes():
    x = {"u": jnp.ones(2, jnp.bfloat16), "v": jnp.ones(3, jnp.float32)}
    f = lambda x: jnp.sum(x["u"].astype(jnp.float32)) - jnp.sum(x["v"])  # noqa: E731
    for radius in (1, jnp.asarray(1.0, jnp.bfloat16), np.float64(1.0)):
        found = robustness.pgd(f)(jax.random.key(0), x, radius=radius)
        assert float(found.value) == pytest.approx(5**0.5 - 1, abs=0.02)


def test_a_direction_has_a_length():
    distance = robustness.boundary_distance(linear)
    x = jnp.asarray(POINTS[0], DTYPE)
    with pytest.raises(ValueError, match=r"`direction` of `boundary_distance` must not be zero"):
        distance(x, direction=jnp.zeros_like(x), reach=1.0)
    assert np.isnan(jax.jit(lambda v: distance(x, direction=v, reach=1.0))(jnp.zeros_like(x)))


def test_a_radius_is_one_number():
    with pytest.raises(ValueError, match=r"`radius` must be one number; got an array of shape \(3,\)"):
        robustness.pgd(sloped)(jax.random.key(0), jnp.zeros(3), radius=jnp.ones(3))


def test_nan_is_no_boundary_far_away():
    distance = robustness.boundary_distance(linear)
    x = jnp.asarray(POINTS[0], DTYPE)
    assert np.isnan(distance(x * jnp.nan, direction=x, reach=1.0))
    beyond = robustness.boundary_distance(lambda x: jnp.where(x[0] > 1.5, jnp.nan, jnp.stack([x[0], 0 * x[0]])))
    assert float(beyond(jnp.ones(1), direction=jnp.ones(1), reach=2.0)) == pytest.approx(0.5, abs=1e-4)
    for reach in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="`reach`"):
            distance(x, direction=x, reach=reach)


def test_a_box_that_is_empty():
    with pytest.raises(ValueError, match=r"`low` must not be above `high`; got 1\.0 and 0\.0"):
        robustness.pgd(sloped)(jax.random.key(0), jnp.zeros(3), radius=1.0, low=1.0, high=0.0)


def test_a_class_that_is_masked():
    masked = lambda x: jnp.append(linear(x), -jnp.inf)  # noqa: E731
    x = jnp.asarray(POINTS[0], DTYPE)
    np.testing.assert_allclose(robustness.deepfool(masked)(x).point, robustness.deepfool(linear)(x).point, rtol=1e-6)
