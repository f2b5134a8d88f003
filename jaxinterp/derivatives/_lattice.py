"""Rank-1 lattices: points that fill the unit cube more evenly than random ones."""

import functools

import numpy as np

MOST_POINTS = 46_337  # a prime whose square is an int32


def lattice_size(at_most: int) -> int:
    """The largest prime that is no larger, between 3 and `MOST_POINTS`."""
    n = max(3, min(at_most, MOST_POINTS))
    while any(n % q == 0 for q in range(2, int(n**0.5) + 1)):
        n -= 1
    return n


@functools.cache
def generating_vector(dimension: int, n: int) -> np.ndarray:
    r"""Returns z of the lattice :math:`\{i z / n\}` of a prime number n of points, [dimension], int32.

    Component by component, each minimises the worst-case error :math:`-1 + \frac1n\sum_i\prod_j(1 + \gamma_j
    \omega(\{i z_j/n\}))`, :math:`\omega(x) = 2\pi^2(x^2 - x + 1/6)`, over functions with square-integrable mixed
    derivatives, with weights :math:`\gamma_j = 1/(10 j)`: the first variables matter most. All n candidates
    together are a circular convolution in the order of the powers of a primitive root.

    Source: Nuyens & Cools (2006).

    >>> generating_vector(2, 13).tolist()
    [1, 5]
    """
    half = (n - 1) // 2  # i and n - i give the same
    powers = np.ones(half, np.int64)
    root = _primitive_root(n)
    for i in range(1, half):
        powers[i] = root * powers[i - 1] % n
    powers = np.minimum(powers, n - powers)
    kernel = 2 * np.pi**2 * ((powers / n) ** 2 - powers / n + 1 / 6)
    spectrum, product = np.fft.rfft(kernel), np.ones(half)
    vector = np.ones(dimension, np.int32)
    for j in range(dimension):
        error = np.fft.irfft(spectrum * np.fft.rfft(product), half)
        chosen = int(np.argmin(error)) if j else 0
        vector[j] = powers[chosen]
        product = product * (1 + kernel[(chosen - np.arange(half)) % half] / (10 * (j + 1)))
        product = product / product.mean()
    return vector


def _primitive_root(prime: int) -> int:
    """The smallest number whose powers are all residues but 0."""
    order, factors, q = prime - 1, set[int](), 2
    while order > 1:
        while order % q == 0:
            factors.add(q)
            order //= q
        q += 1
    return next(g for g in range(2, prime) if all(pow(g, (prime - 1) // q, prime) != 1 for q in factors))
