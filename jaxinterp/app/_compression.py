"""How far the trained network can be pruned: its accuracy at rising sparsity, without training on."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp import sparsity, training
from jaxinterp.app._examples import Examples, Trained
from jaxinterp.app._sparsity import BUDGETS

COMPARED = ("over_all", "per_parameter")
"""How the removed weights are divided over the kernels."""


def compression(
    network: Trained, examples: Examples, levels: tuple[float, ...], advance: Callable[[int], None]
) -> dict[str, np.ndarray]:
    """Prunes by magnitude to each level, for each budget.

    Returns:
      Arrays [budgets, levels]: the accuracy, and what is not zero of the parameters and multiplications of an example.
    """
    measure, evaluate = sparsity.cost(network.apply), training.make_evaluation(network.apply)
    gates = sparsity.attach(network.params)
    scores = jax.tree.map(lambda g, p: None if g is None else jnp.abs(p), gates, network.params, is_leaf=_is_none)
    found: dict[str, list] = {"accuracy": [], "kept": [], "multiply_adds": []}
    for budget in COMPARED:
        for level in levels:
            mask = BUDGETS[budget](scores, level)
            pruned = sparsity.apply(network.params, mask)
            cost = measure(pruned, network.state, examples.x[0], masks=[jax.tree.map(lambda p: p != 0, pruned)])
            found["accuracy"].append(evaluate(pruned, network.state, examples.x, examples.labels)["accuracy"])
            found["kept"].append(cost.kept)
            found["multiply_adds"].append(cost.multiply_adds_kept)
            advance(len(found["kept"]))
    shape = (len(COMPARED), len(levels))
    return {name: np.asarray(values).reshape(shape) for name, values in found.items()}


def _is_none(leaf: Any) -> bool:
    return leaf is None


def curves(arrays: Mapping[str, np.ndarray], levels: tuple[float, ...]) -> dict[str, Any]:
    """The same as plain numbers: budget, level, what was found."""
    return {
        budget: {
            f"{level:g}": {name: values[i, j].item() for name, values in arrays.items()}
            for j, level in enumerate(levels)
        }
        for i, budget in enumerate(COMPARED)
    }


def pareto(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The networks, trained and pruned, than which no other is as accurate with fewer multiplications."""
    rows = []
    for budget, levels in results["compression"].items():
        for level, row in levels.items():
            name = budget.replace("_", " ") if float(level) else "as trained"
            rows.append({"name": name, "level": float(level), **row})
    rows.sort(key=lambda row: (row["multiply_adds"], -row["accuracy"]))
    best, front = -1.0, []
    for row in rows:
        if row["accuracy"] > best:
            best = row["accuracy"]
            front.append(row)
    return front[::-1]
