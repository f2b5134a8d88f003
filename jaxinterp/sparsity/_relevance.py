"""Pruning by explaining: what explanations of some examples find irrelevant is removed first."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxinterp import checks, tree
from jaxinterp.derivatives import weighted_sum
from jaxinterp.typing import PyTree

Relevance = Callable[..., PyTree]
"""`(params, *one_example) -> relevance`, of the structure and shapes of the parameters."""


def mean_relevance(
    relevance: Relevance, *, absolute: bool = False, batch_size: int | None = None
) -> Callable[..., PyTree]:
    r"""Scores of parameters from explanations: returns `(params, *args)` -> their mean relevance over a batch.

    :math:`s_i = \frac1n\sum_{k=1}^n R_i(\theta, x_k)`, or the mean of :math:`|R_i|`. The scores go to
    `Coupling.scores`, where the score of a unit is the sum over the weights that write it, or to a budget such as
    `over_all()`; the lowest are removed first. With sign, what speaks against the explained score goes before what is
    irrelevant; without, what is irrelevant goes first. The authors' code adds up absolute values.

    Any method that shares a score out among its inputs will do. For gradients it is
    `lambda params, *example: jax.tree.map(jnp.multiply, params, jax.grad(f)(params, *example))`. Layer-wise relevance
    propagation, the method of the paper, explains one kernel at a time, the others being held,
    `attribution.lrp(lambda kernel: f({**params, name: kernel}, x))(params[name])`, and the relevances of the weights
    that write a unit add up to its own; kernels explained together would have to share theirs.

    Args:
      relevance: `(params, *one_example)` -> the relevance of each parameter, a tree like the parameters.
      absolute: whether the absolute values are averaged.
      batch_size: how many examples are explained together; memory grows with it. `None` takes all at once.

    Returns:
      A function of the parameters and of arrays with a leading axis for the examples; a tree like the parameters.

    Raises:
      TypeError: if `relevance` is not a function; at the call, if parameters or relevances are not floating-point.
      ValueError: at the call, if there are no examples or not equally many in all arrays, or the relevance of an
        example has another structure or other shapes than the parameters, or is not finite.

    Source: Yeom, Seegerer, Lapuschkin, Binder, Wiedemann, Müller & Samek (2021).

    >>> f = lambda w, x: jnp.vdot(w, x)
    >>> scores = mean_relevance(lambda w, x: w * jax.grad(f)(w, x))
    >>> scores(jnp.array([1.0, -1.0, 5.0]), jnp.array([[1.0, 2.0, 0.0], [3.0, 2.0, 0.0]])).tolist()
    [2.0, -2.0, 0.0]
    """
    checks.functions("mean_relevance", relevance=relevance)
    if batch_size is not None:
        checks.positive_integer("batch_size", batch_size)

    def scores(params: PyTree, *args: PyTree) -> PyTree:
        checks.floating("mean_relevance", params)
        examples = jax.tree.map(jnp.asarray, args)
        count = checks.examples("mean_relevance", examples)

        def one(example: tuple) -> PyTree:
            found = checks.same_structure("mean_relevance", "relevance", relevance(params, *example), params)
            return jax.tree.map(jnp.abs, found) if absolute else found

        return _finite(weighted_sum(one, examples, jnp.full(count, 1 / count), chunk_size=batch_size))

    return scores


def _finite(scores: PyTree) -> PyTree:
    for path, leaf in jax.tree_util.tree_leaves_with_path(scores):
        known = checks.concrete(tree.all_finite(leaf))
        if known is not None and not known:
            where = f" of `{tree.path_name(path)}`" if path else ""
            raise ValueError(f"The relevance{where} that `mean_relevance` averages is not finite for some example.")
    return scores
