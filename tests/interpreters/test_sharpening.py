"""Tighter enclosures: matrices with infinite entries, and intervals that are cut."""

import jax.numpy as jnp
import numpy as np

from jaxinterp.interpreters import _enclosures, _sharpening


def test_products_of_matrices_with_infinite_entries():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(size=(3, 4)), rng.uniform(size=(4, 5))
    np.testing.assert_allclose(_sharpening.product_of(jnp.asarray(a), jnp.asarray(b)), a @ b, rtol=1e-5)
    a[0, 1], b[1, 0], b[1, 2], a[2, 3], b[3, 4] = np.inf, 0.0, 0.0, 0.0, np.inf
    found = np.asarray(_sharpening.product_of(jnp.asarray(a), jnp.asarray(b)))
    infinite = np.zeros((3, 5), bool)
    infinite[0] = [False, True, False, True, True]
    infinite[1, 4] = True
    np.testing.assert_array_equal(np.isinf(found), infinite)
    finite_a, finite_b = (np.where(np.isinf(m), 0, m) for m in (a, b))
    np.testing.assert_allclose(found[~infinite], (finite_a @ finite_b)[~infinite], rtol=1e-5)


def simple(spread, bend):
    centre = jnp.asarray([1.0, -2.0])
    tangent = jnp.asarray([[3.0, 0.0], [4.0, 1.0]])
    rows = jnp.stack([jnp.full(2, spread), jnp.full(2, 100.0), jnp.full(2, 50.0), jnp.full(2, bend)])
    norms = jnp.asarray([1000.0, 500.0, bend])
    return _enclosures.Enclosure(centre, centre, tangent, rows, norms, jnp.asarray(True))


def test_what_the_derivative_at_the_centre_says():
    """‖∇z‖ <= ‖∇z(x)‖ + r‖∇²z‖, and |z - z(x)| <= r‖∇z(x)‖ + r²‖∇²z‖/2."""
    found = _sharpening.anchored(simple(10.0, 2.0), jnp.asarray(0.1))
    np.testing.assert_allclose(found.rows[1], [5.2, 1.2], rtol=1e-5)
    np.testing.assert_allclose(found.rows[2], [0.2, 0.2], rtol=1e-5)
    np.testing.assert_allclose(found.rows[0], [0.5 + 0.01, 0.1 + 0.01], rtol=1e-4)
    largest = np.linalg.norm([[3.0, 0.0], [4.0, 1.0]], 2)
    np.testing.assert_allclose(found.norms[0], largest + 0.2, rtol=1e-4)


def test_a_smaller_interval_stays():
    found = _sharpening.anchored(simple(0.01, 2.0), jnp.asarray(0.1))
    np.testing.assert_allclose(found.rows[0], 0.01, rtol=1e-4)


def test_more_may_be_known_of_the_change_of_the_jacobian():
    found = _sharpening.anchored(simple(10.0, jnp.inf), jnp.asarray(0.1), jnp.asarray([0.45, 0.2]), jnp.asarray(0.3))
    np.testing.assert_allclose(found.rows[2], [0.45, 0.2], rtol=1e-5)
    np.testing.assert_allclose(found.norms[1], 0.3, rtol=1e-5)


def test_behind_stop_gradient_the_second_derivative_says_nothing_of_the_first():
    """Of x·stop_gradient(x) it is zero, while the derivative moves."""
    z = simple(10.0, 0.0)
    z = _enclosures.Enclosure(z.centre, z.middle, z.tangent, z.rows, z.norms, jnp.asarray(False))
    found = _sharpening.anchored(z, jnp.asarray(0.1))
    np.testing.assert_allclose(found.rows[2], 50.0)
    np.testing.assert_allclose(found.rows[0], 10.0)
