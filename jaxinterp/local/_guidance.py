"""Which explanation to choose: whether it recovers a known function, and where its model holds beside its own place."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxinterp import batching, checks, interpreters, tree
from jaxinterp.interpreters import restrict_scalar
from jaxinterp.local._classes import Linear, ModelClass
from jaxinterp.local._designs import Design
from jaxinterp.local._fit import fit
from jaxinterp.local._neighbourhoods import Neighbourhood
from jaxinterp.local._samples import Loss, checked_number, drawing, weighed
from jaxinterp.local._surrogates import LinearModel, LogisticModel
from jaxinterp.local._weights import Weight, uniform_weight
from jaxinterp.typing import Array, Key, PyTree, ScalarFn


@dataclasses.dataclass(frozen=True)
class Instance:
    """One explanation as an instance of `fit`: its options, and the arrays of its neighbourhood.

    Attributes:
      neighbourhood: as for `fit`.
      arrays: the keyword arguments of the neighbourhood, such as `{"stddev": 0.1}`.
      loss: as for `fit`.
      model: as for `fit`.
      weight: as for `fit`.
      num_samples: as for `fit`; `None` for a design.
    """

    neighbourhood: Neighbourhood | Design
    arrays: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    loss: Loss = "squared_error"
    model: ModelClass = dataclasses.field(default_factory=Linear)
    weight: Weight = uniform_weight
    num_samples: int | None = None

    def fit(self, f: ScalarFn, argnums: int | tuple[int, ...] = 0, chunk_size: int | None = None) -> Callable[..., Any]:
        """Returns `(key, *args) -> LocalModel`."""
        fitted = fit(
            f,
            argnums,
            neighbourhood=self.neighbourhood,
            loss=self.loss,
            model=self.model,
            num_samples=self.num_samples,
            weight=self.weight,
            chunk_size=chunk_size,
        )
        return lambda key, *args: fitted(key, *args, **self.arrays)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Recovery:
    """Whether an explanation of a function of its own class finds it again.

    Attributes:
      of_parameters: ‖slope - slope of the truth‖₁ over ‖slope of the truth‖₁. NaN if the coordinates are not the
        entries of the input.
      of_coordinates: the same with the derivative of the truth in the coordinates of the explanation: for masks
        slope ⊙ (x - b).
      r_squared: of the fit.
    """

    of_parameters: Array
    of_coordinates: Array
    r_squared: Array


def recovery(truth: LinearModel, instance: Instance, chunk_size: int | None = None) -> Callable[..., Recovery]:
    r"""Explains a known function: returns `(key, x) -> Recovery`.

    An explanation is effective for a class of functions if, for every f of it, :math:`g^* = f` (Han et al., 2022). One
    with additive noise finds the slope w of a linear f; one with masks or scaling finds :math:`w \odot (x - b)`, which
    is w for binary x only.

    Args:
      truth: f, a `LinearModel` or `LogisticModel` in the input.
      instance: the explanation.
      chunk_size: samples evaluated together; `None` takes all.

    Raises:
      TypeError: if the truth is another kind of model.

    Source: Han, Srinivas & Lakkaraju (2022).

    >>> from jaxinterp import local
    >>> truth = local.tangent(lambda x: 3.0 * x[0] - x[1])(jnp.zeros(2))
    >>> x = jnp.array([2.0, 1.0])
    >>> for instance in (Instance(local.gaussian, {"stddev": 0.1}, num_samples=50), Instance(local.all_masks())):
    ...     found = recovery(truth, instance)(jax.random.key(0), x)
    ...     print(bool(found.of_parameters < 1e-3), bool(found.of_coordinates < 1e-3))
    True True
    False True
    """
    if type(truth) not in (LinearModel, LogisticModel):
        remedy = "compares slopes: the truth is a `LinearModel` or a `LogisticModel`"
        raise TypeError(f"`recovery` {remedy}; got {type(truth).__name__}.")
    fitted = instance.fit(truth, 0, chunk_size)

    def at(key: Key, x: PyTree) -> Recovery:
        model = fitted(key, x)
        _, draw = drawing(instance.neighbourhood, instance.num_samples, x, dict(instance.arrays))
        chart = draw(key, jnp.zeros((), jnp.int32))
        inner = chart.in_coordinates(truth.linear)
        known = jax.grad(inner)(chart.anchor)
        shapes = [jax.tree.map(jnp.shape, slope) for slope in (model.slope, truth.slope)]
        distance = _relative(model.slope, known)
        return Recovery(
            _relative(model.slope, truth.slope) if shapes[0] == shapes[1] else jnp.full_like(distance, jnp.nan),
            distance,
            model.r_squared,
        )

    return at


def _relative(a: PyTree, b: PyTree) -> Array:
    found, wanted = (ravel_pytree(t)[0] for t in (a, b))
    return jnp.sum(jnp.abs(found - wanted)) / jnp.sum(jnp.abs(wanted))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Transfer:
    r"""How well the model of each explanation holds in the neighbourhood of every other.

    Attributes:
      error: the weighted mean of (f - g)², [explanations, neighbourhoods].
      variance: that of (f - its mean)², [neighbourhoods].
    """

    error: Array
    variance: Array

    @property
    def relative(self) -> Array:
        """The error in units of the variance of f there: 1 - R²."""
        return self.error / jnp.expand_dims(self.variance, -2)


def no_free_lunch(
    f: ScalarFn,
    argnums: int | tuple[int, ...] = 0,
    *,
    instances: Mapping[str, Instance],
    chunk_size: int | None = None,
) -> Callable[..., Transfer]:
    r"""The no-free-lunch table: returns `(key, *args) -> Transfer`, each model under each neighbourhood.

    :math:`E_{ij} = \mathbb E_{x' \sim Z_j}\,(f(x') - g_i(x'))^2` with :math:`g_i` the model fitted over :math:`Z_i`. No
    explanation is faithful in all neighbourhoods unless f is in its class (Han et al., 2022): the rows of the table are
    small on the diagonal, and not everywhere. A model in masks is taken as a function of the input by the mask that
    would make it, (x' - b)/(x - b), entry by entry or as the mean over a group.

    Args:
      f: a scalar function.
      argnums: the explained argument, or several.
      instances: the explanations by name; fresh samples are drawn in the neighbourhood of each.
      chunk_size: samples evaluated together; `None` takes all.

    Source: Han, Srinivas & Lakkaraju (2022).

    >>> from jaxinterp import local
    >>> near, far = (local.Instance(local.gaussian, {"stddev": s}, num_samples=500) for s in (0.1, 3.0))
    >>> table = no_free_lunch(lambda x: jnp.sin(x[0]), instances={"near": near, "far": far})
    >>> found = table(jax.random.key(0), jnp.zeros(1))
    >>> bool(found.relative[0, 0] < 0.01), bool(found.relative[0, 1] > 1)
    (True, True)
    """
    if not instances:
        raise ValueError("`no_free_lunch` needs at least one instance.")
    checks.optional_chunk_size(chunk_size)
    fits = [instance.fit(f, argnums, chunk_size) for instance in instances.values()]
    numbers = [checked_number("no_free_lunch", i.neighbourhood, i.num_samples) for i in instances.values()]

    def at(key: Key, *args: PyTree) -> Transfer:
        checks.key("no_free_lunch", key)
        g, x = restrict_scalar("no_free_lunch", f, argnums, args)
        models = [fitted(jax.random.fold_in(key, 2 * i), *args) for i, fitted in enumerate(fits)]
        places = [
            drawing(instance.neighbourhood, number, x, dict(instance.arrays))
            for instance, number in zip(instances.values(), numbers, strict=True)
        ]
        charts = [draw(jax.random.fold_in(key, 2 * i), jnp.zeros((), jnp.int32)) for i, (_, draw) in enumerate(places)]
        columns = []
        for j, (instance, (count, draw)) in enumerate(zip(instances.values(), places, strict=True)):
            fresh = jax.random.fold_in(key, 2 * j + 1)

            def one(index: Array, draw: Any = draw, fresh: Key = fresh, weight: Weight = instance.weight) -> Any:
                sample = draw(fresh, index)
                value = sample.in_coordinates(g)(sample.coordinates)
                guesses = [m(c.coordinates_of(sample.point)) for m, c in zip(models, charts, strict=True)]
                return (
                    value,
                    jnp.stack([value - guess.astype(value.dtype) for guess in guesses]),
                    weighed(weight, sample, x),
                )

            mapped = batching.map_examples(interpreters.loop_safe(one), batch_size=chunk_size or count)
            columns.append(_moments(*mapped(jnp.arange(count, dtype=jnp.int32))))
        errors, variances = zip(*columns, strict=True)
        return Transfer(jnp.stack(errors, 1), jnp.stack(variances))

    return at


def _moments(values: Array, errors: Array, weights: Array) -> tuple[Array, Array]:
    """The weighted mean squared errors and the variance of the values."""
    wide = tree.accumulator(values.dtype)
    values, errors = values.astype(wide), errors.astype(wide)
    share = (weights / jnp.sum(weights)).astype(wide)
    mean = jnp.sum(share * values)
    return jnp.sum(share[:, None] * errors**2, 0), jnp.sum(share * (values - mean) ** 2)
