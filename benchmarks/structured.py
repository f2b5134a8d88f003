"""Claim: up to half of the channels, those chosen for what the next layer reads keep most accuracy, or nearly.

Test accuracy, without training on, with 10, 20 and 30 % of the channels of all hidden layers, from 64 to 512 examples
without labels: on digits (64-100-10, embedded data) and, where the data are, on MNIST (LeNet) and on CIFAR-10 (the
inner channels of a trained ResNet-20, which needs half of them or more). Compared are the greedy choice, magnitude (sum
of |w|) and chance, each with new weights (ridge 0.1), and the first two without. Then merging of neurons without data,
as far as its own cut-off goes.

    python benchmarks/structured.py [--only digits mnist cifar10] [--seeds 3] [--results structured.json]
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from pruning import PROBLEMS, SEEDS
from trials import tabulate

from jaxinterp import data, models, sparsity, training

SAMPLES = (64, 128, 512)
KEPT = {"digits": (0.1, 0.2, 0.3), "mnist": (0.1, 0.2, 0.3), "cifar10": (0.3, 0.5, 0.75)}
CHANCE = 0.005  # the standard error of an accuracy
RIDGE = 0.1  # of the new weights
METHODS = {
    "greedy": {"ridge": RIDGE},
    "magnitude": {"scores": "magnitude", "ridge": RIDGE},
    "chance": {"scores": "chance", "ridge": RIDGE},
    "greedy, no ridge": {},
    "greedy, old weights": {"reweight": False},
    "magnitude, old weights": {"scores": "magnitude", "reweight": False},
}
ORDERS = ("sequential", "independent")


@dataclasses.dataclass(frozen=True)
class Network:
    """A trained network with its data."""

    dataset: data.Dataset
    apply: object
    arguments: tuple

    def accuracy(self, arguments):
        """On the test data."""
        split = self.dataset.test
        return training.make_evaluation(self.apply)(*arguments, split.x, split.y)["accuracy"]


def trained(name, seed):
    problem = PROBLEMS[name]
    dataset, model = problem.dataset(seed), problem.network(seed)
    net, training_function = models.as_function(model), models.as_training_function(model)
    if name == "cifar10":
        return Network(dataset, net.apply, (net.params, net.state))
    optimizers = training.Optimizers(
        training.adamw(problem.learning_rate, num_steps=problem.num_steps), training.adam(1)
    )
    step = training.make_step(training.make_objective(training_function.apply, net.apply), optimizers)
    state = training.initial_state(optimizers, jax.random.key(seed), net.params, net.state)
    batches = data.batches(dataset.train, jax.random.key(100 + seed), problem.batch_size)
    state = training.fit(step, state, batches, problem.num_steps)
    return Network(dataset, net.apply, (state.params, state.state))


def scores(kind, network, seed):
    params, state = network.arguments
    rng = np.random.default_rng(seed)
    chance = lambda p: jnp.broadcast_to(jnp.asarray(rng.uniform(size=p.shape[-1:])), p.shape)  # noqa: E731
    drawn = jax.tree.map({"magnitude": jnp.abs, "chance": chance}[kind], params)
    return drawn, jax.tree.map(lambda _: None, state)


def pruned(network, seed, kept, samples, **options):
    """Test accuracy of the smaller network."""
    kind, x = options.pop("scores", None), network.dataset.train.x[:samples]
    found = sparsity.select_channels(network.apply, (0, 1), kept=kept, **options)(
        *network.arguments, x, scores=scores(kind, network, seed) if kind else None
    )
    return network.accuracy(found.arguments)


def merged(network, name):
    """Accuracy and share of units that go where merging without data stops by itself."""
    params, state = network.arguments
    first, second = {"digits": ("dense_0", "head"), "mnist": ("dense", "head")}[name]
    found = sparsity.merge_units(params[first]["kernel"], params[first]["bias"], params[second]["kernel"])
    smaller = {
        **params,
        first: {"kernel": found.incoming, "bias": found.bias},
        second: {**params[second], "kernel": found.outgoing},
    }
    return {"accuracy": network.accuracy((smaller, state)), "removed": len(found.removed) / params[first]["bias"].size}


def runs(name, seed):
    """All that is measured with one trained network."""
    network = functools.cache(functools.partial(trained, name, seed))
    found = {"dense": lambda: network().accuracy(network().arguments)}

    def accuracy(kept, samples, options):
        return pruned(network(), seed, kept, samples, **options)

    for kept in KEPT[name]:
        for samples in SAMPLES:
            for method, options in METHODS.items():
                found[f"{kept} {samples} {method}"] = functools.partial(accuracy, kept, samples, options)
        for order in ORDERS if name != "digits" else ():
            options = {"order": order, "ridge": RIDGE}
            found[f"{kept} 512 greedy, {order}"] = functools.partial(accuracy, kept, 512, options)
    if name != "cifar10":
        found["merged"] = lambda: merged(network(), name)
    return found.items()


def table(results, name):
    """Prints the means over seeds; says whether up to half of the channels the greedy choice is the best, or nearly."""
    seeds = sorted({key.split("/")[1] for key in results if key.startswith(f"{name}/")})
    mean = lambda run: np.mean([results[f"{name}/{seed}/{run}"] for seed in seeds])  # noqa: E731
    print(f"\n{name}, {len(seeds)} seeds: dense {100 * mean('dense'):.1f} %")
    print(f"{'kept, examples':<26}" + "".join(f"{kept:>6} {n:>4}" for kept in KEPT[name] for n in SAMPLES))
    for method in METHODS:
        cells = [f"{100 * mean(f'{kept} {n} {method}'):11.1f}" for kept in KEPT[name] for n in SAMPLES]
        print(f"{method:<26}" + "".join(cells))
    if name != "digits":
        for order in ORDERS:
            cells = [f"{100 * mean(f'{kept} 512 greedy, {order}'):.1f} with {kept}" for kept in KEPT[name]]
            print(f"greedy, 512 examples, {order} order: {', '.join(cells)}")
    holds = True
    for kept in (fraction for fraction in KEPT[name] if fraction <= 0.5):
        for n in SAMPLES:
            others = [mean(f"{kept} {n} {method}") for method in METHODS if not method.startswith("greedy, no")]
            holds &= mean(f"{kept} {n} greedy") >= max(others) - CHANCE
    if name != "cifar10":
        found = [results[f"{name}/{seed}/merged"] for seed in seeds]
        removed, kept = (np.mean([row[part] for row in found]) for part in ("removed", "accuracy"))
        print(
            f"merged without data up to its own cut-off: without {100 * removed:.0f} % of the units {100 * kept:.1f} %"
        )
        holds &= kept >= mean("dense") - 0.01
    return holds


if __name__ == "__main__":
    tabulate(__doc__.splitlines()[0], SEEDS, runs, table)
