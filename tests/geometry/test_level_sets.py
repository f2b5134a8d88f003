"""Walks on level sets whose ends are known, grids in convex hulls, and distances along rays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import geometry

SLOPE = jnp.array([1.0, 2.0, -2.0])
TARGET = jnp.array([2.0, -1.0, 3.0])


@pytest.mark.core
def test_of_a_linear_function_the_walk_ends_at_the_projection():
    found = geometry.level_set_traversal(lambda x: jnp.vdot(SLOPE, x))(jnp.ones(3), target=TARGET)
    gap = float(jnp.vdot(SLOPE, TARGET - jnp.ones(3))) / 3
    np.testing.assert_allclose(found.point, TARGET - gap * SLOPE / 3, atol=1e-2)
    assert float(found.value) == pytest.approx(1.0, abs=1e-5)
    assert float(found.distance) == pytest.approx(abs(gap), rel=1e-4)


def test_on_a_sphere_it_ends_where_the_sphere_is_nearest():
    """The level set of -|x|² through x is a sphere; the nearest point to the target t is |x| t / |t|."""
    x = jnp.array([0.0, 2.0, 0.0])
    walk = geometry.level_set_traversal(lambda x: -jnp.sum(x**2), num_steps=600)
    found = walk(x, target=TARGET, drop=0.02)
    np.testing.assert_allclose(found.point, 2 * TARGET / jnp.linalg.norm(TARGET), atol=0.02)
    assert float(found.value) >= -4.02


def test_a_constant_function_lets_it_reach_the_target():
    found = geometry.level_set_traversal(lambda x: 0 * jnp.sum(x))(jnp.zeros(3), target=TARGET)
    assert float(found.distance) <= 1.1e-3 * float(jnp.linalg.norm(TARGET))
    at_once = geometry.level_set_traversal(lambda x: 0 * jnp.sum(x))(TARGET, target=TARGET)
    assert int(at_once.num_steps) == 0


def test_it_is_never_below_the_drop():
    """Where the function falls off a cliff the walk stops before it."""
    cliff = lambda x: jnp.where(x[1] > 0.5, -1.0, 0.0) + 0.0 * x[0]  # noqa: E731
    found = geometry.level_set_traversal(cliff)(jnp.zeros(2), target=jnp.array([0.0, 1.0]), drop=0.5)
    assert float(found.value) == 0
    assert 0.49 <= float(found.point[1]) <= 0.5
    edge = lambda x: jnp.log(x[0]) + x[1]  # noqa: E731
    found = geometry.level_set_traversal(edge)(jnp.ones(2), target=jnp.array([-1.0, 1.0]))
    assert np.isfinite(found.value)
    assert np.all(np.isfinite(found.point))
    assert int(found.num_steps) > 0


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_small_steps_add_up_in_low_precision(dtype):
    x, target = jnp.zeros(3, dtype), TARGET.astype(dtype)
    found = geometry.level_set_traversal(lambda x: 0 * jnp.sum(x))(x, target=target)
    assert found.point.dtype == dtype
    assert float(found.distance) <= 2e-3 * float(jnp.linalg.norm(TARGET))


def test_rejected_steps_do_not_alternate_with_taken_ones():
    walk = geometry.level_set_traversal(lambda x: -jnp.sum(x**2), num_steps=100)
    assert int(walk(jnp.array([0.0, 2.0, 0.0]), target=TARGET, drop=1e-3).num_steps) >= 75


def test_limits():
    walk = geometry.level_set_traversal(lambda x: x[0])
    found = walk(jnp.zeros(2), target=jnp.array([1.0, 3.0]), low=0.0, high=2.0)
    np.testing.assert_allclose(found.point, [0.0, 2.0], atol=1e-6)


@pytest.mark.parametrize("transform", [jax.grad, jax.jacfwd])
def test_searches_have_no_derivative(transform):
    f = lambda x: -jnp.sum(x**2)  # noqa: E731
    with pytest.raises(TypeError, match="`level_set_traversal` searches, so it has no derivative"):
        transform(lambda x: geometry.level_set_traversal(f)(x, target=TARGET).value)(jnp.ones(3))
    with pytest.raises(TypeError, match="`level_distance` searches"):
        transform(lambda x: geometry.level_distance(f)(x, direction=TARGET, reach=1.0, level=-9.0))(jnp.ones(3))


def test_pytrees_arguments_and_transformations():
    f = lambda w, x: w * jnp.sum(x["a"]) - x["b"]  # noqa: E731
    walk = geometry.level_set_traversal(f, 1)
    x, target = {"a": jnp.zeros(2), "b": jnp.zeros(())}, {"a": jnp.ones(2), "b": jnp.zeros(())}
    run = jax.jit(jax.vmap(lambda w: walk(w, x, target=target)))
    found = run(jnp.array([0.5, 0.0]))
    np.testing.assert_allclose(found.value, 0, atol=1e-5)
    one = walk(0.5, x, target=target)
    np.testing.assert_allclose(found.point["a"][0], one.point["a"], rtol=1e-5)
    np.testing.assert_allclose(found.point["a"][1], jnp.ones(2), atol=2e-3)


@pytest.mark.core
@pytest.mark.parametrize(("corners", "count"), [(1, 5), (2, 15), (3, 35)])
def test_the_grid_of_a_simplex(corners, count):
    points = jnp.eye(4)[1 : corners + 1]
    found = geometry.simplex(lambda x: x, num_points=5, chunk_size=4)(jnp.eye(4)[0], others=points)
    assert found.weights.shape == (count, corners + 1)
    assert len(np.unique(np.asarray(found.weights), axis=0)) == count
    np.testing.assert_allclose(found.weights.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(found.values[:, : corners + 1], found.weights, atol=1e-6)
    np.testing.assert_allclose(found.values[0], jnp.eye(4)[0])  # it starts at x


def test_a_linear_path_of_a_pytree():
    f = lambda w, x: {"sum": w * jnp.sum(x["a"]), "b": x["b"]}  # noqa: E731
    run = jax.jit(geometry.simplex(f, 1, num_points=3))
    x, other = {"a": jnp.zeros(2), "b": jnp.zeros(())}, {"a": jnp.ones((1, 2)), "b": jnp.full((1,), 4.0)}
    found = run(2.0, x, others=other)
    np.testing.assert_allclose(found.values["sum"], [0, 2, 4])
    np.testing.assert_allclose(found.values["b"], [0, 2, 4])


def test_distance_along_rays_of_an_ellipse():
    f = lambda x: -(x[0] ** 2) - 4 * x[1] ** 2  # noqa: E731
    distance = geometry.level_distance(f)
    angles = jnp.linspace(0, 6, 7)
    rays = jnp.stack([jnp.cos(angles), jnp.sin(angles)], 1)
    run = jax.jit(jax.vmap(lambda v: distance(jnp.zeros(2), direction=v, reach=3.0, level=-1.0)))
    expected = 1 / jnp.sqrt(jnp.cos(angles) ** 2 + 4 * jnp.sin(angles) ** 2)
    np.testing.assert_allclose(run(rays), expected, rtol=1e-4)
    assert float(distance(jnp.zeros(2), direction=rays[0], reach=0.5, level=-1.0)) == np.inf
    assert float(distance(jnp.full(2, 9.0), direction=rays[0], reach=0.5, level=-1.0)) == 0  # below from the start
    assert np.isnan(distance(jnp.zeros(2), direction=rays[0], reach=0.5, level=jnp.nan))
    assert np.isnan(geometry.level_distance(jnp.sum)(jnp.array([jnp.nan]), direction=jnp.ones(1), reach=1.0, level=0.0))
    undefined = geometry.level_distance(lambda x: jnp.log(1 - x[0]))
    assert float(undefined(jnp.zeros(1), direction=jnp.ones(1), reach=2.0, level=-20.0)) == pytest.approx(1, abs=1e-4)


def test_bad_arguments():
    f = lambda x: jnp.sum(x)  # noqa: E731
    with pytest.raises(ValueError, match=r"`step_size` must be positive"):
        geometry.level_set_traversal(f, step_size=0.0)
    with pytest.raises(ValueError, match=r"`target` of `level_set_traversal` must have shape \(2,\); got \(3,\)"):
        geometry.level_set_traversal(f)(jnp.ones(2), target=jnp.ones(3))
    with pytest.raises(ValueError, match=r"`drop` must be finite and >= 0"):
        geometry.level_set_traversal(f)(jnp.ones(2), target=jnp.ones(2), drop=-1.0)
    with pytest.raises(ValueError, match=r"`num_points` of `simplex` must be 2 or more"):
        geometry.simplex(f, num_points=1)
    with pytest.raises(ValueError, match=r"`others` of `simplex` must have one leading axis"):
        geometry.simplex(f)(jnp.ones(2), others=jnp.ones(()))
    with pytest.raises(ValueError, match=r"`others` of `simplex` must have shape \(2,\); got \(3,\)"):
        geometry.simplex(f)(jnp.ones(2), others=jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"`direction` of `level_distance` must not be zero"):
        geometry.level_distance(f)(jnp.ones(2), direction=jnp.zeros(2), reach=1.0, level=0.0)
    with pytest.raises(ValueError, match=r"`level` of `level_distance` must be one number"):
        geometry.level_distance(f)(jnp.ones(2), direction=jnp.ones(2), reach=1.0, level=jnp.zeros(2))
