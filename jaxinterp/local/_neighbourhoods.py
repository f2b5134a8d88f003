"""Neighbourhoods: distributions of inputs around a point, and the coordinates in which a local model is fitted.

A neighbourhood is a function `(key, x, **arrays) -> Perturbation` that draws one sample; arrays such as `stddev` or
`baseline` come at the call. With a loss and a class of models it makes a local explanation (Han, Srinivas &
Lakkaraju, 2022).
"""

import dataclasses
from collections.abc import Callable
from typing import NoReturn

import jax
import jax.numpy as jnp

from jaxinterp import checks, tree
from jaxinterp.local._backgrounds import checked_background
from jaxinterp.local._masks import Masks, masks
from jaxinterp.typing import Array, Key, PyTree, ScalarFn


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class Perturbation:
    """One sample of a neighbourhood.

    It is a pytree of its arrays: on the way through `jax.vmap` or `jax.jit` the two functions are lost.

    Attributes:
      point: the perturbed input, like x.
      coordinates: what the local model sees of it, a pytree of floating-point arrays.
      anchor: the coordinates of x itself.
      function: takes f and returns f as a function of the coordinates; `None` if these are the input itself.
      locate: takes an input and returns its coordinates; `None` if these are the input itself.
      weight: what the sample counts by itself, such as the share of a stratum.
    """

    point: PyTree
    coordinates: PyTree
    anchor: PyTree
    function: Callable[[ScalarFn], ScalarFn] | None = None
    locate: Callable[[PyTree], PyTree] | None = None
    weight: Array = dataclasses.field(default_factory=lambda: jnp.ones((), jnp.float32))

    def tree_flatten_with_keys(self) -> tuple:
        """The arrays by name, and whether the coordinates are the input itself."""
        names = ("point", "coordinates", "anchor", "weight")
        children = [(jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in names]
        return children, (self.function is None, self.locate is None)

    @classmethod
    def tree_unflatten(cls, are_inputs: tuple[bool, bool], children: tuple) -> "Perturbation":
        """The perturbation without its functions."""
        point, coordinates, anchor, weight = children
        function, locate = (None if is_input else _lost for is_input in are_inputs)
        return cls(point, coordinates, anchor, function, locate, weight)

    def in_coordinates(self, f: ScalarFn) -> ScalarFn:
        """F as a function of the coordinates."""
        return f if self.function is None else self.function(f)

    def coordinates_of(self, point: PyTree) -> PyTree:
        """The coordinates of an input."""
        return point if self.locate is None else self.locate(point)


def checked_point(method: str, drawn: Perturbation, x: PyTree) -> PyTree:
    """The point of a sample of a user's neighbourhood, if it is like x; `TypeError` or `ValueError` otherwise."""
    if not isinstance(drawn, Perturbation):
        raise TypeError(
            f"`neighbourhood` of `{method}` must return a `local.Perturbation`, such as "
            f"`local.Perturbation(point, point, x)`; it returned {type(drawn).__name__}."
        )
    return checks.floating(method, checks.same_structure(method, "neighbourhood", drawn.point, x))


def _lost(argument: object) -> NoReturn:
    raise ValueError("This perturbation went through a transformation of JAX, which takes its arrays alone.")


Neighbourhood = Callable[..., Perturbation]
"""`(key, x, **arrays) -> Perturbation`."""


def gaussian(key: Key, x: PyTree, *, stddev: PyTree) -> Perturbation:
    r"""Additive Gaussian noise: :math:`x' = x + \sigma\varepsilon`, coordinates x'.

    Args:
      key: random key.
      x: the point.
      stddev: σ >= 0 in the units of x; a scalar, or a pytree prefix of x whose leaves broadcast.

    >>> gaussian(jax.random.key(0), jnp.ones(2), stddev=0.0).point.tolist()
    [1.0, 1.0]
    """
    sigma = tree.broadcast_prefix("stddev", checks.non_negative("stddev", stddev), x)
    point = tree.add(x, tree.mul(sigma, tree.normal_like(key, x)))
    return Perturbation(point, point, x)


def correlated_gaussian(key: Key, x: PyTree, *, factor: Array) -> Perturbation:
    r"""Gaussian noise of any covariance: :math:`x' = x + A\varepsilon`, coordinates x', covariance :math:`AA^\top`.

    Args:
      key: random key.
      x: the point.
      factor: A, [inputs, any], of the flattened input, for instance a Cholesky factor of the covariance.

    Raises:
      ValueError: if the factor does not have a row for each entry of x.

    >>> correlated_gaussian(jax.random.key(0), jnp.ones(2), factor=jnp.zeros((2, 1))).point.tolist()
    [1.0, 1.0]
    """
    flat, unravel = tree.ravel(x)
    factor = check_factor("correlated_gaussian", factor, x)
    noise = jax.random.normal(key, factor.shape[1:], jnp.float32)
    change = jnp.dot(factor, noise.astype(factor.dtype), precision="highest")
    point = unravel(flat + change.astype(flat.dtype))
    return Perturbation(point, point, x)


def check_factor(method: str, factor: Array, x: PyTree) -> Array:
    """Returns the factor of a covariance if it is floating-point and has a row for each entry of x."""
    factor = jnp.asarray(factor)
    if not jnp.issubdtype(factor.dtype, jnp.floating):
        raise TypeError(f"`factor` of `{method}` must be floating-point; got dtype {factor.dtype}.")
    if jnp.ndim(factor) != 2 or jnp.shape(factor)[0] != tree.size(x):
        raise ValueError(
            f"`factor` of `{method}` must have a row for each of the {tree.size(x)} entries of the input, [entries, "
            f"any]; got shape {jnp.shape(factor)}."
        )
    return factor


def ball(key: Key, x: PyTree, *, radius: Array | float) -> Perturbation:
    r"""Uniform in a ball: :math:`x' = x + r u^{1/n} \varepsilon/\|\varepsilon\|_2`, u ~ U(0, 1), coordinates x'.

    In n dimensions nearly all of it is near the surface, and each entry of the noise has the variance r²/(n + 2).

    Args:
      key: random key.
      x: the point, of n entries.
      radius: r >= 0 in the units of x, one number; kept up to the rounding of x'.

    >>> x = ball(jax.random.key(0), jnp.zeros(3), radius=2.0).point
    >>> bool(jnp.linalg.norm(x) <= 2)
    True
    """
    reach = checks.distance("radius", radius)
    direction = tree.normal_like(key, x)
    share = jax.random.uniform(jax.random.fold_in(key, len(jax.tree.leaves(x))), (), jnp.float32)
    length = reach.astype(jnp.float32) * share ** (1 / tree.size(x)) / tree.norm(direction).astype(jnp.float32)
    point = tree.axpy(length, direction, x)
    return Perturbation(point, point, x)


def box(key: Key, x: PyTree, *, radius: PyTree) -> Perturbation:
    r"""Uniform in a box: :math:`x'_i = x_i + r_i u_i,\ u_i \sim U(-1, 1)`, coordinates x'.

    Args:
      key: random key.
      x: the point.
      radius: r >= 0 in the units of x; a scalar, or a pytree prefix of x whose leaves broadcast.

    >>> bool(jnp.all(jnp.abs(box(jax.random.key(0), jnp.ones(4), radius=0.5).point - 1) <= 0.5))
    True
    """
    reach = tree.broadcast_prefix("radius", checks.non_negative("radius", radius), x)
    point = tree.add(x, tree.mul(reach, tree.uniform_like(key, x)))
    return Perturbation(point, point, x)


def segment(key: Key, x: PyTree, *, baseline: PyTree = 0.0) -> Perturbation:
    r"""Uniform on the segment from the baseline to x: :math:`x' = b + t(x - b),\ t \sim U(0, 1)`, coordinates x'.

    Args:
      key: random key.
      x: the point.
      baseline: b, a pytree prefix of x.

    >>> bool(0 <= segment(jax.random.key(0), jnp.ones(())).point <= 1)
    True
    """
    point = along_segment(jax.random.uniform(key, (), jnp.float32), x, tree.broadcast_prefix("baseline", baseline, x))
    return Perturbation(point, point, x)


def along_segment(t: Array, x: PyTree, baseline: PyTree) -> PyTree:
    """Returns `baseline + t·(x - baseline)`, computed in at least float32, in the dtypes of `x`."""

    def leaf(a: Array, b: Array) -> Array:
        wide = tree.accumulator(a.dtype)
        a_wide, b_wide = a.astype(wide), b.astype(wide)
        return (b_wide + jnp.asarray(t).astype(wide) * (a_wide - b_wide)).astype(a.dtype)

    return jax.tree.map(leaf, x, baseline)


def scaling(key: Key, x: PyTree, *, baseline: PyTree = 0.0, low: Array | float = 0.0) -> Perturbation:
    r"""As `segment`, but with one coordinate per entry: :math:`x' = b + z \odot (x - b)`, z = α·1, α ~ U(low, 1).

    Along the samples all coordinates are equal, so only the loss "gradient_matching" tells them apart: with it a linear
    model has the slope of integrated gradients (low = 0) or of gradient × input (low → 1).

    Args:
      key: random key.
      x: the point.
      baseline: b, a pytree prefix of x.
      low: the smallest α, from 0 to 1.

    Raises:
      ValueError: if `low` is not from 0 to 1.

    >>> scaling(jax.random.key(0), jnp.ones(3), low=1.0).coordinates.tolist()
    [1.0, 1.0, 1.0]
    """
    known = checks.concrete(low)
    if known is not None and not 0 <= known <= 1:
        raise ValueError(f"`low` of `scaling` must be from 0 to 1; got {low}.")
    along = 1 - (1 - jnp.asarray(low, jnp.float32)) * jax.random.uniform(key, (), jnp.float32)
    removing = masks("scaling", x, baseline=baseline)
    return masked_perturbation(removing, jax.tree.map(lambda a: jnp.full_like(a, along.astype(a.dtype)), x))


def binary_mask(
    key: Key,
    x: PyTree,
    *,
    baseline: PyTree = 0.0,
    background: PyTree | None = None,
    groups: PyTree | None = None,
    num_groups: int | None = None,
) -> Perturbation:
    r"""Keeps each feature with probability 1/2: :math:`x' = z \odot x + (1 - z) \odot b`, coordinates z.

    The mask z is uniform on :math:`\{0, 1\}^d`.

    Args:
      key: random key.
      x: the point.
      baseline: b, what a removed feature is replaced by; a pytree prefix of x.
      background: rows like x; in place of the value at one baseline, the mean over these is taken (interventional).
      groups: integer arrays in the structure and shapes of x that name the feature each entry belongs to; `None`
        makes every entry a feature of its own.
      num_groups: the number of features, static; needed with `groups`, whose entries must lie in 0..num_groups-1 (while
        traced, an entry outside gives NaN).

    >>> mask = binary_mask(jax.random.key(0), jnp.ones(4), groups=jnp.array([0, 0, 1, 1]), num_groups=2)
    >>> mask.coordinates.shape, bool(mask.point[0] == mask.point[1])
    ((2,), True)
    """
    removing = masks("binary_mask", x, baseline=baseline, background=background, groups=groups, num_groups=num_groups)
    place = jnp.arange(removing.num_features, dtype=jnp.uint32)
    words = jax.random.bits(key, (-(-removing.num_features // 32),), jnp.uint32)
    return masked_perturbation(removing, removing.shaped(words[place // 32] >> place % 32 & 1))


def masked_perturbation(removing: Masks, mask: PyTree, weight: Array | None = None) -> Perturbation:
    """The perturbation by one mask."""
    found = Perturbation(removing.point(mask), mask, removing.all_kept, removing.function, removing.mask_of)
    return found if weight is None else dataclasses.replace(found, weight=weight)


def tangent_span(key: Key, x: PyTree, *, tangents: PyTree, stddev: Array | float) -> Perturbation:
    r"""Gaussian noise in a subspace: :math:`x' = x + \sum_j z_j t_j,\ z_j \sim \mathcal N(0, \sigma^2)`, coordinates z.

    For directions that keep an input plausible, such as the derivatives of a generator or the first principal
    components of its neighbours.

    Args:
      key: random key.
      x: the point.
      tangents: t, a pytree like x, each array with a leading axis of directions.
      stddev: σ >= 0, in the units of the coordinates.

    >>> sample = tangent_span(jax.random.key(0), jnp.zeros(3), tangents=jnp.eye(3)[:1], stddev=1.0)
    >>> sample.coordinates.shape, sample.point[1:].tolist()
    ((1,), [0.0, 0.0])
    """
    directions, count = checked_background("tangent_span", tangents, x, "tangents")
    dtype = tree.accumulator(jnp.result_type(*jax.tree.leaves(x)))
    sigma = jnp.asarray(checks.non_negative("stddev", stddev), dtype)

    def point(z: Array) -> PyTree:
        return jax.tree.map(lambda a, t: a + jnp.tensordot(z.astype(t.dtype), t, 1, precision="highest"), x, directions)

    def locate(p: PyTree) -> Array:
        rows, shift = (
            jnp.concatenate([leaf.reshape(lead, -1).astype(dtype) for leaf in jax.tree.leaves(t)], 1)
            for t, lead in ((directions, count), (tree.sub(p, x), 1))
        )
        return jnp.linalg.lstsq(rows.T, shift[0])[0]

    z = sigma * jax.random.normal(key, (count,), dtype)
    return Perturbation(point(z), z, jnp.zeros_like(z), lambda f: lambda z: f(point(z)), locate)
