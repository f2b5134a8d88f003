"""What a local model is fitted to: the values of a function at the samples of a neighbourhood."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxinterp import batching, checks, interpreters, tree
from jaxinterp.interpreters import restrict_scalar
from jaxinterp.local._designs import Design, all_masks, coalitions, nearest, one_hot
from jaxinterp.local._neighbourhoods import Neighbourhood, Perturbation
from jaxinterp.local._weights import Weight, uniform_weight
from jaxinterp.typing import Array, Key, PyTree, ScalarFn

Loss = Literal["squared_error", "gradient_matching", "cross_entropy"]
"""What makes a model g of f good: (f - g)², ‖∇f - ∇g‖² in the coordinates, or -f log g - (1 - f) log(1 - g)."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Samples:
    """A function at the samples of a neighbourhood, in the coordinates of a local model.

    Attributes:
      offsets: the coordinates less those of x, flat, [samples, coordinates].
      values: f there, [samples].
      slopes: ∇f there with respect to the coordinates, [samples, coordinates]; `None` if they were not asked for.
      weights: [samples].
      anchor: the coordinates of x.
      anchor_value: f(x); `None` if the ends were not asked for.
      origin_value: f at coordinates of zero, for masks where all features are removed; `None` as before.
      fixed: how many of the first samples are not random.
      cluster: how many of the others, one after the other, depend on each other.
    """

    offsets: Array
    values: Array
    slopes: Array | None
    weights: Array
    anchor: PyTree
    anchor_value: Array | None = None
    origin_value: Array | None = None
    fixed: int = dataclasses.field(default=0, metadata={"static": True})
    cluster: int = dataclasses.field(default=1, metadata={"static": True})

    @property
    def coordinates(self) -> Array:
        """The coordinates, flat, [samples, coordinates]."""
        return self.offsets + ravel_pytree(self.anchor)[0].astype(self.offsets.dtype)[None]

    def ends(self) -> tuple[Array, Array]:
        """The values at the anchor and at zero; `ValueError` if they were not asked for."""
        if self.anchor_value is None or self.origin_value is None:
            raise ValueError("These samples do not have f(x): ask for it with `samples(..., ends=True)`.")
        return self.anchor_value, self.origin_value

    def derivatives(self) -> Array:
        """The slopes; `ValueError` if they were not asked for."""
        if self.slopes is None:
            raise ValueError("These samples have no derivatives: ask for them with `samples(..., slopes=True)`.")
        return self.slopes

    def unravel(self, flat: Array) -> PyTree:
        """A flat vector in the structure and dtypes of the coordinates."""
        like, back = ravel_pytree(self.anchor)
        return back(flat.astype(like.dtype))


def samples(
    f: ScalarFn,
    argnums: int | tuple[int, ...] = 0,
    *,
    neighbourhood: Neighbourhood | Design,
    num_samples: int | None = None,
    weight: Weight = uniform_weight,
    slopes: bool = False,
    ends: bool = False,
    chunk_size: int | None = None,
) -> Callable[..., Samples]:
    """Evaluates a function over a neighbourhood: returns `(key, *args, **arrays) -> Samples`.

    It is what `fit` fits; use it to fit a model of your own, such as a tree of scikit-learn.

    Args:
      f: a scalar function.
      argnums: which arguments are perturbed.
      neighbourhood: `(key, x, **arrays) -> Perturbation`, or a design such as `local.all_masks()`; the keyword
        arguments of the returned function go to it.
      num_samples: how many samples; a design has its own number.
      weight: `(perturbation, x) -> scalar`.
      slopes: whether to take derivatives, too.
      ends: whether to evaluate f at x and at coordinates of zero, too.
      chunk_size: samples evaluated together; `None` evaluates all at once.

    Raises:
      TypeError: if `num_samples` is missing, or given for a design.

    >>> from jaxinterp import local
    >>> sampled = samples(lambda x: x[0] * x[1], neighbourhood=local.all_masks())
    >>> found = sampled(jax.random.key(0), jnp.array([2.0, 3.0]))
    >>> found.coordinates.tolist(), found.values.tolist()
    ([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [0.0, 0.0, 0.0, 6.0])
    """
    return sampling("samples", f, argnums, neighbourhood, num_samples, weight, slopes, ends, chunk_size)


def sampling(
    method: str,
    f: ScalarFn,
    argnums: int | tuple[int, ...],
    neighbourhood: Neighbourhood | Design,
    num_samples: int | None,
    weight: Weight,
    slopes: bool,
    ends: bool,
    chunk_size: int | None,
    require: Callable[[int, int], None] = lambda samples, coordinates: None,
) -> Callable[..., Samples]:
    """`samples`; `require` is told the numbers of samples and coordinates before anything is evaluated."""
    n = checked_number(method, neighbourhood, num_samples)
    checks.functions(method, weight=weight)
    checks.optional_chunk_size(chunk_size)

    def at(key: Key, *args: PyTree, **arrays: PyTree) -> Samples:
        g, x = restrict_scalar(method, f, argnums, args)
        checks.key(method, key)
        count, draw = drawing(neighbourhood, n, x, arrays)
        first = draw(key, jnp.zeros((), jnp.int32))
        require(count, tree.size(first.anchor))

        def sample(index: Array) -> tuple[ScalarFn, PyTree, Perturbation]:
            return g, x, draw(key, index)

        found = collected(sample, count, first.anchor, weight, slopes, chunk_size)
        if ends:
            h = first.in_coordinates(g)
            top, bottom = h(first.anchor), h(tree.zeros_like(first.anchor))
            found = dataclasses.replace(found, anchor_value=top, origin_value=bottom)
        if isinstance(neighbourhood, Design):
            found = dataclasses.replace(found, fixed=neighbourhood.fixed(x), cluster=neighbourhood.cluster)
        return found

    return at


def collected(
    sample: Callable[[Array], tuple[ScalarFn, PyTree, Perturbation]],
    count: int,
    anchor: PyTree,
    weight: Weight,
    slopes: bool,
    chunk_size: int | None,
) -> Samples:
    """Evaluates the function at each sample: `sample` takes its number and returns f, x and the perturbation of x."""

    def one(index: Array) -> tuple[Array, ...]:
        g, x, perturbation = sample(index)
        h = perturbation.in_coordinates(g)
        offset = ravel_pytree(tree.sub(perturbation.coordinates, anchor))[0]
        own = weighed(weight, perturbation, x)
        if not slopes:
            return offset, h(perturbation.coordinates), own
        value, slope = jax.value_and_grad(h)(perturbation.coordinates)
        return offset, value, own, ravel_pytree(slope)[0]

    mapped = batching.map_examples(interpreters.loop_safe(one), batch_size=chunk_size or count)
    offsets, values, weights, *rest = mapped(jnp.arange(count, dtype=jnp.int32))
    return Samples(offsets, values, rest[0] if slopes else None, weights, anchor)


def weighed(weight: Weight, perturbation: Perturbation, x: PyTree) -> Array:
    """What one sample counts, in at least float32."""
    own = jnp.asarray(weight(perturbation, x))
    own = own.astype(tree.accumulator(own.dtype))
    return own * perturbation.weight.astype(own.dtype)


def checked_number(method: str, neighbourhood: Neighbourhood | Design, num_samples: int | None) -> int | None:
    """Returns the number of samples, `None` for a design."""
    for make in (one_hot, all_masks, coalitions, nearest):
        if neighbourhood is make:
            raise TypeError(f"`{make.__name__}` makes a design: write `{make.__name__}(...)`.")
    if isinstance(neighbourhood, Design):
        if num_samples is not None:
            raise TypeError(f"`{method}` got `num_samples`, but the design of its neighbourhood has its own number.")
        return None
    if not callable(neighbourhood):
        raise TypeError(f"`neighbourhood` of `{method}` must be a function or a `local.Design`; got {neighbourhood!r}.")
    if num_samples is None:
        raise TypeError(f"`{method}` needs `num_samples` for a neighbourhood that is sampled.")
    return checks.positive_integer("num_samples", num_samples)


def drawing(
    neighbourhood: Neighbourhood | Design, num_samples: int | None, x: PyTree, arrays: dict[str, Any]
) -> tuple[int, Callable[[Key, Array], Perturbation]]:
    """How many samples there are, and how to draw one by its number."""
    if isinstance(neighbourhood, Design):
        return neighbourhood.size(x), lambda key, index: neighbourhood.draw(key, index, x, **arrays)
    return num_samples or 0, lambda key, index: neighbourhood(jax.random.fold_in(key, index), x, **arrays)
