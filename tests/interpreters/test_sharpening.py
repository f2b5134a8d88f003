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
    return _enclosures.Enclosure(centre, centre, {0: tangent}, rows, norms, True)


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


def test_earlier_equations_add_by_their_derivative_at_the_centre():
    """‖∇z - ∇z(x)‖ <= Σ_j |M_ij| u_j."""
    z = simple(10.0, jnp.inf)
    to = jnp.asarray([[0.5, 0.0], [-2.0, 1.0], [0.0, 0.0]])
    z = _enclosures.Enclosure(z.centre, z.middle, {**z.tangents, 1: to}, z.rows, z.norms, True)
    bends = {1: _enclosures.Bend(jnp.asarray([0.1, 0.2, jnp.inf]))}
    found = _sharpening.sharpened(z, bends, jnp.asarray(0.1))
    np.testing.assert_allclose(found.rows[2], [0.05 + 0.4, 0.2], rtol=1e-5)
