"""The bivariate normal distribution function."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr, ndtr

from jaxinterp.typing import Array

NODES, WEIGHTS = np.polynomial.legendre.leggauss(20)
NEARLY_SINGULAR = 0.925  # the correlation from which the expansion around 1 is used


@jax.custom_jvp
def bivariate_normal(h: Array, k: Array, correlation: Array) -> Array:
    r""":math:`P[X \le h, Y \le k]` for standard normal X and Y with a correlation ρ, up to rounding.

    :math:`\Phi(h)\Phi(k) + \frac1{2\pi}\int_0^{\arcsin\rho}\exp\bigl(-\tfrac{h^2 + k^2 - 2hk\sin\theta}{2\cos^2\theta}
    \bigr)\,d\theta`, and for ρ near ±1 an expansion of that around 1, each with 20 nodes.

    Source: Drezner & Wesolowsky (1990), Genz (2004).

    >>> p = bivariate_normal(jnp.zeros(()), jnp.zeros(()), jnp.asarray(0.5))
    >>> bool(abs(p - 1 / 3) < 1e-6)
    True
    """
    finite = jnp.isfinite(h) & jnp.isfinite(k)
    x, y = (jnp.clip(jnp.where(finite, -limit, jnp.zeros_like(limit)), -40, 40) for limit in (h, k))
    rho = jnp.clip(correlation, -1, 1)
    is_near = jnp.abs(rho) >= NEARLY_SINGULAR
    inside = jnp.where(is_near, _near_one(x, y, rho), _moderate(x, y, rho))
    edge = jnp.where((h == -jnp.inf) | (k == -jnp.inf), jnp.zeros_like(h), jnp.minimum(ndtr(h), ndtr(k)))
    known = ~(jnp.isnan(h) | jnp.isnan(k) | jnp.isnan(correlation))
    p = jnp.clip(jnp.where(finite, inside, edge), 0, 1)
    return jnp.where(known, p, jnp.full_like(p, jnp.nan))


@bivariate_normal.defjvp
def _(primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]) -> tuple[Array, Array]:
    h, k, rho = primals
    p = bivariate_normal(h, k, rho)
    rho = jnp.clip(rho, -1, 1)
    square = (1 - rho) * (1 + rho)
    is_single = square <= float(jnp.finfo(p.dtype).eps)  # one variable in two names: no derivative by the correlation
    root = jnp.sqrt(jnp.where(is_single, jnp.full_like(square, jnp.finfo(p.dtype).tiny), square))

    def slope(one: Array, other: Array) -> Array:
        known = jnp.isfinite(one)
        one = jnp.where(known, one, jnp.zeros_like(one))
        density = jnp.exp(-0.5 * one**2) / (2 * jnp.pi) ** 0.5
        return jnp.where(known, density * ndtr((other - rho * one) / root), jnp.zeros_like(one))

    known = jnp.isfinite(h) & jnp.isfinite(k)
    x, y = (jnp.where(known, limit, jnp.zeros_like(limit)) for limit in (h, k))
    sign = jnp.where(rho < 0, -1, 1).astype(rho.dtype)  # the gap is that of the nearly equal or opposite variables
    square = jnp.where(is_single, jnp.ones_like(square), square)
    exponent = -0.5 * ((x - sign * y) ** 2 / square + 2 * sign * x * y / (1 + jnp.abs(rho)))
    density = jnp.exp(jnp.minimum(exponent, 0)) / (2 * jnp.pi * jnp.sqrt(square))
    tilt = jnp.where(known & ~is_single, density, jnp.zeros_like(x))
    return p, slope(h, k) * tangents[0] + slope(k, h) * tangents[1] + tilt * tangents[2]


def _moderate(h: Array, k: Array, rho: Array) -> Array:
    """P[X > h, Y > k]; h and k finite."""
    nodes, weights = jnp.asarray(NODES, h.dtype), jnp.asarray(WEIGHTS, h.dtype)
    angle = jnp.arcsin(jnp.clip(rho, -NEARLY_SINGULAR, NEARLY_SINGULAR))
    sine = jnp.sin(angle * (nodes + 1) / 2)
    exponent = (sine * h * k - (h**2 + k**2) / 2) / (1 - sine**2)
    return jnp.sum(weights * jnp.exp(exponent)) * angle / (4 * jnp.pi) + ndtr(-h) * ndtr(-k)


def _near_one(h: Array, k: Array, rho: Array) -> Array:
    """P[X > h, Y > k] for |ρ| near 1; h and k finite."""
    nodes, weights = jnp.asarray(NODES, h.dtype), jnp.asarray(WEIGHTS, h.dtype)
    k = jnp.where(rho < 0, -k, k)
    hk, gap = h * k, jnp.abs(h - k)
    squared = jnp.maximum((1 - rho) * (1 + rho), float(jnp.finfo(h.dtype).tiny))
    width, bs = jnp.sqrt(squared), gap**2
    c, d = (4 - hk) / 8, (12 - hk) / 16
    lead = jnp.exp(-(bs / squared + hk) / 2) * width
    lead = lead * (1 - c * (bs - squared) * (1 - d * bs / 5) / 3 + c * d * squared**2 / 5)
    beyond = jnp.exp(log_ndtr(-gap / width) - hk / 2)  # together, as one may be 0 where the other overflows
    tail = beyond * (2 * jnp.pi) ** 0.5 * gap * (1 - c * bs * (1 - d * bs / 5) / 3)
    xs = jnp.square(width / 2 * (nodes + 1))
    rs = jnp.sqrt(1 - jnp.minimum(xs, 0.5))
    exact = jnp.exp(-hk * xs / (2 * jnp.square(1 + rs))) / rs
    rest = jnp.sum(width / 2 * weights * jnp.exp(-(bs / xs + hk) / 2) * (exact - (1 + c * xs * (1 + d * xs))))
    inner = -(lead - tail + rest) / (2 * jnp.pi)
    inner = jnp.where(rho * rho >= 1, jnp.zeros_like(inner), inner)
    return jnp.where(rho > 0, inner + ndtr(-jnp.maximum(h, k)), jnp.maximum(ndtr(k) - ndtr(h), 0) - inner)
