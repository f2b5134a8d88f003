"""A shallow decision tree as a local model, for reports: rules that people can read."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxinterp import local


@dataclasses.dataclass(frozen=True)
class SurrogateTree:
    """A regression tree that was fitted to a neighbourhood.

    Attributes:
      rules: the tree as text.
      r_squared: the weighted share of the variance over the samples that it explains; NaN where there is none.
      regressor: the tree of scikit-learn, a function of the flat coordinates.
    """

    rules: str
    r_squared: float
    regressor: Any


def surrogate_tree(
    samples: local.Samples, *, max_depth: int = 3, feature_names: Sequence[str] | None = None, seed: int = 0
) -> SurrogateTree:
    """Fits a shallow tree to a function at the samples of a neighbourhood.

    Args:
      samples: what `local.samples` returns.
      max_depth: how many questions it asks at most.
      feature_names: names of the coordinates.
      seed: breaks ties between equally good questions.

    Raises:
      ValueError: if there are not as many names as coordinates.

    >>> import jax
    >>> f = lambda x: (x[0] > 0).astype(x.dtype)
    >>> sampled = local.samples(f, neighbourhood=local.box, num_samples=200)
    >>> found = sampled(jax.random.key(0), jax.numpy.zeros(2), radius=1.0)
    >>> tree = surrogate_tree(found, max_depth=1, feature_names=["a", "b"])
    >>> tree.rules.splitlines()[0].startswith("|--- a <="), tree.r_squared
    (True, 1.0)
    """
    coordinates, values, weights = (np.asarray(a) for a in (samples.coordinates, samples.values, samples.weights))
    return fitted_tree(coordinates, values, weights, max_depth=max_depth, feature_names=feature_names, seed=seed)


def fitted_tree(
    coordinates: np.ndarray,
    values: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    max_depth: int,
    feature_names: Sequence[str] | None,
    seed: int = 0,
) -> SurrogateTree:
    """`surrogate_tree` of coordinates, [samples, features], and values, [samples]."""
    from sklearn.tree import DecisionTreeRegressor, export_text  # scikit-learn takes a second to import

    if feature_names is not None and len(feature_names) != coordinates.shape[1]:
        raise ValueError(f"There are {coordinates.shape[1]} coordinates, but {len(feature_names)} names.")
    regressor = DecisionTreeRegressor(max_depth=max_depth, random_state=seed)
    regressor.fit(coordinates, values, sample_weight=weights)
    rules = export_text(regressor, feature_names=None if feature_names is None else list(feature_names), decimals=3)
    known = weights is None or weights > 0
    explained = np.nan if np.ptp(values[known]) == 0 else regressor.score(coordinates, values, sample_weight=weights)
    return SurrogateTree(rules, float(explained), regressor)
