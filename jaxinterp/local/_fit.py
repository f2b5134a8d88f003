"""The framework: the model of a class that is nearest to a function over a neighbourhood, by a loss."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxinterp import checks, tree
from jaxinterp.interpreters import restrict_scalar
from jaxinterp.local._backgrounds import background_row
from jaxinterp.local._classes import Linear, ModelClass
from jaxinterp.local._designs import Design
from jaxinterp.local._neighbourhoods import Neighbourhood, Perturbation
from jaxinterp.local._samples import Loss, checked_number, collected, sampling
from jaxinterp.local._surrogates import LocalModel
from jaxinterp.local._weights import Weight, uniform_weight
from jaxinterp.typing import Array, Key, PyTree, ScalarFn

LINEAR = Linear()


def fit(
    f: ScalarFn,
    argnums: int | tuple[int, ...] = 0,
    *,
    neighbourhood: Neighbourhood | Design,
    loss: Loss = "squared_error",
    model: ModelClass = LINEAR,
    num_samples: int | None = None,
    weight: Weight = uniform_weight,
    chunk_size: int | None = None,
    name: str = "fit",
) -> Callable[..., LocalModel]:
    r"""Local function approximation: returns `(key, *args, **arrays) -> LocalModel`, the model nearest to f around x.

    :math:`g^* = \arg\min_{g \in \mathcal G} \sum_i w_i\,\ell(f, g, z_i)` over samples with coordinates :math:`z_i`, in
    closed form where there is one. The popular explanations are choices of the neighbourhood, the weight and the loss:

    ===================  =============================  =================  ========================================
    explanation          neighbourhood                  weight, loss       model
    ===================  =============================  =================  ========================================
    C-LIME               `gaussian`                     squared error      `Linear()`
    SmoothGrad           `gaussian`                     gradient matching  `Linear()`
    gradient             `gaussian`, σ → 0              gradient matching  `Linear()`
    integrated gradients `scaling`                      gradient matching  `Linear()`
    gradient × input     `scaling`, low → 1             gradient matching  `Linear()`
    LIME                 `binary_mask`                  exponential        `Linear()`
    Shapley values       `all_masks()`                  Shapley            `Linear("anchored", complete=True)`
    KernelSHAP           `coalitions(n)`                its own            `Linear("anchored", complete=True)`
    occlusion            `one_hot()`                    squared error      `Linear("anchored")`
    ===================  =============================  =================  ========================================

    Args:
      f: a scalar function.
      argnums: which arguments are perturbed.
      neighbourhood: `(key, x, **arrays) -> Perturbation`, for instance `local.gaussian`, or a design; the keyword
        arguments of the returned function go to it.
      loss: "squared_error"; "gradient_matching", ‖∇f - ∇g‖² in the coordinates; or "cross_entropy" for probabilities.
      model: the class of models: `Linear`, `SparseLinear`, `Quadratic`, `Additive` or `Logistic`.
      num_samples: how many samples; a design has its own number. At least as many as coefficients.
      weight: `(perturbation, x) -> scalar`, for instance `local.exponential_weight(1.0)`.
      chunk_size: samples evaluated together; `None` evaluates all at once. All samples are kept, in any case.
      name: what error messages call the method.

    Returns:
      A function of a key, f's arguments and the arrays of the neighbourhood.

    Raises:
      TypeError: if `num_samples` is missing, or given for a design.
      ValueError: if there are too few samples to determine the coefficients, or the class has no fit for the loss.

    Source: Han, Srinivas & Lakkaraju (2022).

    >>> from jaxinterp import local
    >>> curved = fit(lambda x: jnp.sum(x**2), neighbourhood=local.gaussian, model=local.Quadratic(), num_samples=50)
    >>> model = curved(jax.random.key(0), jnp.array([1.0, 2.0]), stddev=0.5)
    >>> [round(float(b), 2) for b in model.slope], round(float(model.r_squared), 3)
    ([2.0, 4.0], 1.0)
    """
    _check_class(name, model)
    slopes = model.needs_slopes(loss)
    require = functools.partial(_require_enough, name, model, loss)
    sampled = sampling(
        name, f, argnums, neighbourhood, num_samples, weight, slopes, model.needs_ends, chunk_size, require
    )
    return lambda key, *args, **arrays: model.fitted(sampled(key, *args, **arrays), loss)


def fit_region(
    f: ScalarFn,
    argnums: int = 0,
    *,
    neighbourhood: Neighbourhood,
    num_samples: int,
    loss: Loss = "squared_error",
    model: ModelClass = LINEAR,
    learners: int | tuple[int, ...] = (),
    weight: Weight = uniform_weight,
    chunk_size: int | None = None,
) -> Callable[..., LocalModel]:
    r"""One model for several points: returns `(key, *args, **arrays) -> LocalModel` over all their neighbourhoods.

    The explained argument has a leading axis of points, such as a cluster of examples or a grid over a region; sample i
    lies in the neighbourhood of point i modulo their number, so take a multiple of that. Then
    :math:`g^* = \arg\min_g \mathbb E_{x}\,\mathbb E_{z \sim Z(x)}\,\ell(f, g, z)`, and its anchor is the mean of the
    points. Arguments in `learners` have a leading axis, too: trained parameters, say, from several seeds. Each sample
    takes a learner at random, the same entry of each, and the model is that of what the learning algorithm puts out,
    not of one of its networks. Its standard errors are about the noise, with the learners that there are.

    Args:
      f: a scalar function of one example.
      argnums: which argument has the points.
      neighbourhood: one whose coordinates are the input itself, such as `local.gaussian`.
      num_samples: how many samples, of all points together.
      loss: as for `fit`.
      model: as for `fit`.
      learners: the position of an argument with a leading axis of learners, or several.
      weight: as for `fit`.
      chunk_size: as for `fit`.

    Raises:
      TypeError: if the neighbourhood is a design.
      ValueError: as for `fit`; or if there are fewer samples than points, learners of several numbers, or coordinates
        that are masks, which mean another thing at each point.

    Source: Han, Srinivas & Lakkaraju (2022) for one point.

    >>> from jaxinterp import local
    >>> region = fit_region(lambda x: jnp.abs(x[0]), neighbourhood=local.gaussian, num_samples=400)
    >>> model = region(jax.random.key(0), jnp.array([[-1.0], [1.0]]), stddev=0.1)
    >>> bool(jnp.abs(model.slope[0]) < 0.1), bool(model.r_squared < 0.1)
    (True, True)
    """
    _check_class("fit_region", model)
    slopes = model.needs_slopes(loss)
    if model.needs_ends:
        raise ValueError("A region has no point at which a model of `fit_region` could be anchored.")
    n = checked_number("fit_region", neighbourhood, num_samples)
    if isinstance(neighbourhood, Design) or n is None:
        raise TypeError("`fit_region` samples each point's neighbourhood: it takes a function, not a design.")
    checks.optional_chunk_size(chunk_size)

    def fitted(key: Key, *args: PyTree, **arrays: PyTree) -> LocalModel:
        checks.key("fit_region", key)
        position = checks.argnums("fit_region", argnums, len(args))[0]
        varied = checks.argnums("fit_region", learners, len(args)) if learners != () else ()
        if position in varied:
            raise ValueError(f"Argument {position} of `fit_region` has the points; it cannot be one of the `learners`.")
        points = checks.floating("fit_region", jax.tree.map(jnp.asarray, args[position]))
        count = _rows("fit_region", points)
        if n < count:
            raise ValueError(f"`fit_region` needs a sample for each of its {count} points; got num_samples={n}.")
        stacks = jax.tree.map(jnp.asarray, {i: args[i] for i in varied})
        num_learners = _rows("fit_region", stacks) if stacks else 0
        anchor = jax.tree.map(lambda rows: jnp.mean(rows, 0), points)
        _require_enough("fit_region", model, loss, n, tree.size(anchor))

        def sample(index: Array) -> tuple[ScalarFn, PyTree, Perturbation]:
            k = jax.random.fold_in(key, index)
            here = list(args)
            if stacks:
                chosen = jax.random.randint(jax.random.fold_in(k, 0), (), 0, num_learners, jnp.int32)
                for i, stack in stacks.items():
                    here[i] = background_row(stack, chosen)
            here[position] = background_row(points, index % count)
            g, x = restrict_scalar("fit_region", f, position, tuple(here))
            perturbation = neighbourhood(jax.random.fold_in(k, len(args)), x, **arrays)
            if perturbation.function is not None:
                raise ValueError("`fit_region` needs a neighbourhood whose coordinates are the input itself.")
            return g, x, perturbation

        return model.fitted(collected(sample, n, anchor, weight, slopes, chunk_size), loss)

    return fitted


def _check_class(method: str, model: ModelClass) -> None:
    if isinstance(model, type) or not hasattr(model, "fitted"):
        raise TypeError(f"`model` of `{method}` must be a class of models such as `local.Linear()`; got {model!r}.")


def _rows(method: str, points: PyTree) -> int:
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(points)}
    if len(lengths) != 1 or () in lengths or (0,) in lengths:
        raise ValueError(f"`{method}` needs arrays with a leading axis of one length > 0; got {sorted(lengths)}.")
    return lengths.pop()[0]


def _require_enough(method: str, model: ModelClass, loss: Loss, count: int, coordinates: int) -> None:
    needed = model.num_coefficients(loss, coordinates)
    if count < needed:
        raise ValueError(
            f"`{method}` cannot determine the {needed} coefficients of {model} in {coordinates} coordinates from "
            f"{count} samples: take more samples, group the features, or set ridge > 0."
        )
