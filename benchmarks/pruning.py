"""Claim: gradual and cyclical pruning keep more accuracy than one-shot pruning with the same number of steps.

Accuracy on test data at 80, 90, 95 and 98 % sparsity of all kernels, on digits (a 64-100-10 network, embedded data)
and, where the data are, on 10 000 digits of MNIST (LeNet 20-50-500-10, 431 000 parameters) and on 10 000 images of
CIFAR-10 (a trained ResNet-20, trained further). Each method has as many steps as the dense network it is compared
with. The learning rate falls along a cosine; cycles are two (on digits four were worse, and so was a cosine in each
cycle). Gates reach a sparsity, not a target: of those trained with several weights of their penalty, the least sparse
network that is at least as sparse is reported.

    python benchmarks/pruning.py [--only digits mnist cifar10] [--seeds 3] [--results pruning.json]

Finished runs are read from the results file, which makes the table resumable. All three take an hour on two cores.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
from flax import nnx
from trials import DATA, tabulate

from jaxinterp import data, models, sparsity, training

TARGETS = (0.8, 0.9, 0.95, 0.98)
CHANCE = 0.01  # what so few test examples do to an accuracy
CYCLES = 2
EVERY = 10  # steps from one renewal of the masks to the next
OPENING = 0.4  # weight of a gate's count over that of its variance: gates fall from below 0.7


class LeNet(nnx.Module):
    """20 and 50 feature maps of 5x5 windows with pooling, 500 units, 10 logits."""

    def __init__(self, *, rngs):
        self.conv_0 = nnx.Conv(1, 20, (5, 5), padding="VALID", rngs=rngs)
        self.conv_1 = nnx.Conv(20, 50, (5, 5), padding="VALID", rngs=rngs)
        self.dense = nnx.Linear(800, 500, rngs=rngs)
        self.head = nnx.Linear(500, 10, rngs=rngs)

    def __call__(self, x):
        """Maps a batch of images to a batch of logits."""
        for layer in (self.conv_0, self.conv_1):
            x = nnx.max_pool(layer(x), (2, 2), strides=(2, 2))
        return self.head(nnx.relu(self.dense(x.reshape(len(x), -1))))


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is trained on what, and how."""

    dataset: Callable[[int], data.Dataset]
    network: Callable[[int], nnx.Module]
    num_steps: int
    batch_size: int
    learning_rate: float
    penalties: tuple[float, ...]


def cifar10(seed):
    """Normalised as the weights want it."""
    found = data.npz(jax.random.key(seed), DATA / "cifar10_jpeg.npz")

    def again(split):
        raw = found.normalisation.undo(split.x) / 255
        return data.Split(((raw - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).astype(np.float32), split.y)

    splits = {name: again(getattr(found, name)) for name in ("train", "validation", "test")}
    return dataclasses.replace(found, **splits)


def trained_resnet(seed):
    del seed  # the weights are given
    with np.load(DATA / "cifar10_resnet20_torch_state.npz") as weights:
        return models.resnet_from_torch(weights)


PROBLEMS = {
    "digits": Problem(
        lambda seed: data.digits(jax.random.key(seed)),
        lambda seed: models.MLP((8, 8, 1), widths=(100,), num_classes=10, activation=nnx.relu, rngs=nnx.Rngs(seed)),
        2000,
        128,
        3e-3,
        (1e-4, 4e-4, 8e-4, 1.2e-3, 1.6e-3, 1.8e-3, 2e-3, 2.4e-3, 3e-3, 3.6e-3, 5e-3),
    ),
    "mnist": Problem(
        lambda seed: data.npz(jax.random.key(seed), DATA / "mnist_10k.npz"),
        lambda seed: LeNet(rngs=nnx.Rngs(seed)),
        1000,
        64,
        1e-3,
        (3e-6, 1e-5, 3e-5, 1e-4, 3e-4),
    ),
    "cifar10": Problem(cifar10, trained_resnet, 240, 64, 1e-3, (1e-5, 1e-4, 3e-4, 1e-3)),
}


def optimizers(problem, target):
    """By the name of the method."""
    steps, rate = problem.num_steps, problem.learning_rate
    adam = training.adamw(rate, num_steps=steps)
    cycles = sparsity.cyclical(target, num_cycles=CYCLES, cycle_length=steps // CYCLES)
    return {
        "one-shot": sparsity.prune(adam, sparsity.one_shot(target, step=steps // 2), every=EVERY),
        "gradual": sparsity.prune(adam, sparsity.gradual(target, end=3 * steps // 4), every=EVERY),
        "cyclical": sparsity.prune(adam, cycles, every=EVERY, regrow=True),
    }


def trained(problem, seed, *, optimizer=None, penalty=None):
    """Test accuracy and sparsity of one network."""
    dataset, model = problem.dataset(seed), problem.network(seed)
    evaluated, training_function = models.as_function(model), models.as_training_function(model)
    optimizer = optimizer or training.adamw(problem.learning_rate, num_steps=problem.num_steps)
    gates, rules = (), ()
    if penalty is not None:
        gates = (sparsity.attach(evaluated.params, initial=0.6),)
        rules = (training.GateRegulariser(penalty / OPENING, penalty, sampled=False),)
    objective = training.make_objective(training_function.apply, evaluated.apply, (), rules)
    pair = training.Optimizers(optimizer, training.adam(1e-2))
    state = training.initial_state(pair, jax.random.key(seed), evaluated.params, evaluated.state, gates)
    batches = data.batches(dataset.train, jax.random.key(100 + seed), problem.batch_size)
    state = training.fit(training.make_step(objective, pair), state, batches, problem.num_steps)
    params = training.final_params(state.params, state.gates)
    masks = (*training.final_masks(state.gates), *sparsity.optimizer_masks(state.opt_state))
    scores = training.make_evaluation(evaluated.apply)(params, state.state, dataset.test.x, dataset.test.y)
    return {"accuracy": scores["accuracy"], "sparsity": sparsity.count(params, *masks).sparsity}


def runs(name, seed):
    """All that is trained for one seed."""
    problem = PROBLEMS[name]
    found = {"dense": functools.partial(trained, problem, seed)}
    for target in TARGETS:
        for name, optimizer in optimizers(problem, target).items():
            found[f"{name} {target}"] = functools.partial(trained, problem, seed, optimizer=optimizer)
    for penalty in problem.penalties:
        found[f"gates {penalty}"] = functools.partial(trained, problem, seed, penalty=penalty)
    return found.items()


def accuracies(results, name, method):
    """Over the seeds, at each target; NaN where gates did not get there."""
    rows = []
    for seed in sorted({key.split("/")[1] for key in results if key.startswith(f"{name}/")}):
        done = {key.split("/")[2]: value for key, value in results.items() if key.startswith(f"{name}/{seed}/")}
        if method == "dense":
            rows.append([done["dense"]["accuracy"]] * len(TARGETS))
        elif method == "gates":
            gated = sorted((v["sparsity"], v["accuracy"]) for key, v in done.items() if key.startswith("gates"))
            rows.append([next((a for s, a in gated if s >= t - 5e-3), np.nan) for t in TARGETS])
        else:
            rows.append([done[f"{method} {target}"]["accuracy"] for target in TARGETS])
    return np.asarray(rows)


def table(results, name):
    methods = ("dense", "one-shot", "gradual", "cyclical", "gates")
    found = {method: accuracies(results, name, method) for method in methods}
    print(f"\n{name}, {len(found['dense'])} seeds, test accuracy in % (mean ± standard deviation)")
    print(f"{'sparsity':<10}" + "".join(f"{100 * target:14.0f} %" for target in TARGETS))
    for method, rows in found.items():
        spread = rows.std(0, ddof=1) if len(rows) > 1 else np.full(len(TARGETS), np.nan)
        cells = [f"{100 * m:8.2f} ± {100 * s:4.2f}" for m, s in zip(rows.mean(0), spread, strict=True)]
        print(f"{method:<10}" + " ".join(cells))
    mean = {method: rows.mean(0) for method, rows in found.items()}
    return all(np.all(mean[method] >= mean["one-shot"] - CHANCE) for method in ("gradual", "cyclical"))


SEEDS = {"digits": None, "mnist": None, "cifar10": 1}  # the ResNet's weights are given


if __name__ == "__main__":
    tabulate(__doc__.splitlines()[0], SEEDS, runs, table)
