"""Claim: the schedules, masks and distributions of jaxpruner are ours, and `prune` costs no more than its updater.

google-research/jaxpruner (f133ee5, April 2024) is the anchor, not a dependency: it is on no package index, and since
`jax.tree_map` is gone it runs only with the alias below. Both prune the same network in the same short training, and
the masks are compared after each update. Each difference is shown to have the one cause given, by removing it:

  * **When the scores are read.** jaxpruner scores the parameters before the update that it makes the mask for, `prune`
    those after it. Neither is wrong; with a `score` that takes back the update of SGD the masks are equal.
  * **The end.** jaxpruner misses the target unless its period divides the last step or the one before; `prune` renews
    the masks where the schedule comes to rest. jaxpruner is wrong: less is removed than was asked for.
  * **Global magnitude.** jaxpruner divides the scores of a layer by their norm by default, which is another method than
    the usual one; with `use_normalization=False`, or the same division in our `score`, the masks are equal.
  * **ERK on the way.** jaxpruner distributes the target once and scales the sparsity of each layer by the schedule,
    `erdos_renyi` distributes the sparsity of each step. Ours is Erdos-Renyi at every step; the ends differ by as much
    as the ways there differed, and by the rounding: jaxpruner rounds down what is removed before it distributes it.
  * **Halves and ends.** jaxpruner keeps round(n (1 - s)) of n entries, ours removes round(n s): at halves one more or
    less. jaxpruner keeps at least one entry of a layer. Of equal scores its N:M keeps the last, ours the first.

    git clone https://github.com/google-research/jaxpruner
    python benchmarks/jaxpruner_masks.py --jaxpruner jaxpruner   # needs ml_collections
"""

import argparse
import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import sklearn.datasets
from flax import nnx
from timing import best_seconds, heading, keep_freed_memory

from jaxinterp import models, sparsity

TARGET, END, STEPS, RATE = 0.9, 30, 40, 0.05
TIMED_STEPS, IMAGE, BATCH = 20, (28, 28, 1), 128


def imported(path):
    """The package, from a clone."""
    jax.tree_map = jax.tree.map
    sys.path.insert(0, str(path))
    import jaxpruner
    from jaxpruner import sparsity_distributions, sparsity_types

    return jaxpruner, sparsity_distributions, sparsity_types


def digits():
    images, labels = sklearn.datasets.load_digits(return_X_y=True)
    return jnp.asarray(images[:256] / 16, jnp.float32), jnp.asarray(labels[:256])


def network():
    return models.as_function(models.MLP((64,), widths=(128, 64), num_classes=10, rngs=nnx.Rngs(0)))


def slopes_of(net, x, y):
    def loss(params):
        logits = jax.vmap(net.apply, (None, None, 0))(params, net.state, x)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))

    return jax.grad(loss)


def step_of(slopes, optimizer, after=None):
    """One update; jaxpruner wants to be called once more after it."""

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(slopes(params), state, params)
        params = optax.apply_updates(params, updates)
        return (params if after is None else after(params, state)), state

    return step


def history(slopes, optimizer, params, after=None, num_steps=STEPS):
    """Parameters and masks after each update."""
    step, state, seen = step_of(slopes, optimizer, after), optimizer.init(params), []
    for _ in range(num_steps):
        params, state = step(params, state)
        seen.append((params, [np.asarray(mask) for mask in jax.tree.leaves(state.masks)]))
    return seen


def differing(ours, theirs):
    """How many mask entries differ at most in one step, and at the end."""
    counts = [
        sum(int(np.sum(a != b)) for a, b in zip(m, n, strict=True)) for (_, m), (_, n) in zip(ours, theirs, strict=True)
    ]
    return max(counts), counts[-1]


def removed(seen):
    masks = seen[-1][1]
    return 1 - sum(int(m.sum()) for m in masks) / sum(m.size for m in masks)


def before_update(params, slopes):
    """|p| before the update of SGD that led to `params`."""
    return jax.tree.map(lambda p, g: jnp.where(p == 0, 0, jnp.abs(p + RATE * g)), params, slopes)


def over_norm(params, slopes):
    return jax.tree.map(lambda s: s / (jnp.linalg.norm(s) + 1e-8), before_update(params, slopes))


def scaled(levels):
    """Of each parameter the same part of its sparsity at the end."""
    alone = sparsity.per_parameter()
    return lambda scores, level: jax.tree.map(lambda s, end: alone(s, level * end / TARGET), scores, levels)


def row(name, wanted, *values):
    print(f"{name:<58}{'  '.join(f'{value:>12}' for value in values)}")
    return wanted


def schedules(theirs):
    jaxpruner, _, _ = theirs
    gaps = []
    for start, end in ((0, 30), (5, 30), (7, 100)):
        ours = sparsity.gradual(TARGET, start=start, end=end)
        other = jaxpruner.PolynomialSchedule(update_freq=1, update_start_step=start, update_end_step=end)
        gaps += [abs(float(ours(t)) - float(other.get_sparsity_at_step(TARGET, t - 1))) for t in range(1, 120)]
    return row("schedule: largest difference in 3 x 120 steps", max(gaps) < 1e-6, f"{max(gaps):.0e}")


def trainings(theirs, net, slopes):
    jaxpruner, distributions, types = theirs
    holds = []

    def other(kind=jaxpruner.MagnitudePruning, every=1, end=END, **options):
        schedule = jaxpruner.PolynomialSchedule(update_freq=every, update_start_step=0, update_end_step=end)
        pruner = kind(scheduler=schedule, **options)
        return history(slopes, pruner.wrap_optax(optax.sgd(RATE)), net.params, pruner.post_gradient_update)

    def ours(budget, end=END, **options):
        schedule = sparsity.gradual(TARGET, end=end)
        return history(slopes, sparsity.prune(optax.sgd(RATE), schedule, budget=budget, **options), net.params)

    uniform, erk = (functools.partial(f, sparsity=TARGET) for f in (distributions.uniform, distributions.erk))
    per_parameter, over_all = sparsity.per_parameter(), sparsity.over_all()
    globally = {"kind": jaxpruner.GlobalMagnitudePruning, "sparsity": TARGET}
    plain = globally | {"use_normalization": False}
    groups = {"sparsity_distribution_fn": uniform, "sparsity_type": types.NByM(2, 4, axis=0)}
    old, spread = {"score": before_update}, {"sparsity_distribution_fn": erk}
    cases = [
        ("uniform", {"sparsity_distribution_fn": uniform}, per_parameter, {}, False),
        ("uniform: scores before the update", {"sparsity_distribution_fn": uniform}, per_parameter, old, True),
        ("2:4", groups, sparsity.n_of_m(2, 4), {}, False),
        ("2:4: scores before the update", groups, sparsity.n_of_m(2, 4), old, True),
        ("global", globally, over_all, {}, False),
        ("global: and scores before the update", globally, over_all, old, False),
        ("global: and not normalised there", plain, over_all, old, True),
        ("global: or normalised here", globally, over_all, {"score": over_norm}, True),
        ("ERK", spread, sparsity.erdos_renyi(), {}, False),
        ("ERK: and scores before the update", spread, sparsity.erdos_renyi(), old, False),
        ("ERK: and distributed once", spread, scaled(erk(net.params)), old, True),
    ]
    size = sum(leaf.size for leaf in jax.tree.leaves(net.params) if leaf.ndim > 1)
    print(f"\n{f'differing of {size} mask entries, {STEPS} updates':<58}{'most':>12}  {'at the end':>12}")
    for name, there, budget, here, is_same in cases:
        found = differing(ours(budget, **here), other(**there))
        holds += [row(name, not is_same or found[0] == 0, *found)]
    late = {"every": 10, "end": 25}
    missed, reached = (
        removed(run) for run in (other(sparsity_distribution_fn=uniform, **late), ours(per_parameter, **late))
    )
    print(f"\n{'the end at 25, masks each 10':<58}{'jaxpruner':>12}  {'prune':>12}")
    holds += [
        row(f"removed, of {TARGET}", abs(reached - TARGET) < 1e-3 < TARGET - missed, f"{missed:.4f}", f"{reached:.4f}")
    ]
    return all(holds)


def counts(theirs):
    """How many are kept, on the shapes of a network with convolutions."""
    jaxpruner, distributions, _ = theirs
    net = models.as_function(models.ConvNet((32, 32, 3), widths=(16, 32, 64), num_classes=10, rngs=nnx.Rngs(0)))
    kernels = {name: {"kernel": layer["kernel"]} for name, layer in flat_layers(net.params)}
    worst = 0
    print(f"\n{'kept of each parameter by ERK':<58}{'jaxpruner':>12}  {'erdos_renyi':>12}")
    for level in (0.5, 0.8, 0.95):
        pruner = jaxpruner.MagnitudePruning(
            sparsity_distribution_fn=functools.partial(distributions.erk, sparsity=level)
        )
        found = [int(m.sum()) for m in jax.tree.leaves(pruner.instant_sparsify(kernels)[1])]
        wanted = [int(m.sum()) for m in jax.tree.leaves(sparsity.erdos_renyi()(jax.tree.map(jnp.abs, kernels), level))]
        row(f"sparsity {level}", True, *(" ".join(map(str, number)) for number in (found, wanted)))
        worst = max(worst, *(abs(a - b) for a, b in zip(found, wanted, strict=True)))
    return worst <= 3


def flat_layers(params):
    for name, layer in params.items():
        if "kernel" in layer:
            yield name, layer
        elif isinstance(layer, dict):
            yield from ((f"{name}_{inner}", found) for inner, found in flat_layers(layer))


def step_times(theirs):
    jaxpruner, distributions, _ = theirs
    net = models.as_function(models.ConvNet(IMAGE, widths=(32, 64, 64), num_classes=10, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(BATCH, *IMAGE)), jnp.float32), jnp.asarray(rng.integers(0, 10, BATCH))
    slopes, alternatives = slopes_of(net, x, y), {}

    def run(step, optimizer):
        params, state = net.params, optimizer.init(net.params)
        for _ in range(TIMED_STEPS):
            params, state = step(params, state)
        return params

    def add(name, optimizer, after=None):
        alternatives[name] = functools.partial(run, step_of(slopes, optimizer, after), optimizer)

    add("adam", optax.adam(1e-3))
    for every in (1, TIMED_STEPS):
        schedule = sparsity.gradual(TARGET, end=10 * TIMED_STEPS)
        budget = sparsity.per_parameter()
        add(f"prune, masks each {every}", sparsity.prune(optax.adam(1e-3), schedule, every=every, budget=budget))
        pruner = jaxpruner.MagnitudePruning(
            scheduler=jaxpruner.PolynomialSchedule(every, 0, 10 * TIMED_STEPS),
            sparsity_distribution_fn=functools.partial(distributions.uniform, sparsity=TARGET),
        )
        add(f"jaxpruner, masks each {every}", pruner.wrap_optax(optax.adam(1e-3)), pruner.post_gradient_update)
    best = best_seconds(alternatives, rounds=5)
    print(f"\n{f'ConvNet 32-64-64 on {IMAGE[0]}x{IMAGE[1]}, batch {BATCH}':<58}{'ms per step':>12}  {'to adam':>12}")
    for name, seconds in best.items():
        row(name, True, f"{1e3 * seconds / TIMED_STEPS:.2f}", f"{seconds / best['adam']:.3f}")
    ratios = [best[f"prune, masks each {e}"] / best[f"jaxpruner, masks each {e}"] for e in (1, TIMED_STEPS)]
    return row("prune over jaxpruner, masks each 1 and each 20", max(ratios) < 1.05, *(f"{r:.3f}" for r in ratios))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jaxpruner", type=pathlib.Path, help="a clone of google-research/jaxpruner")
    path = parser.parse_args().jaxpruner
    keep_freed_memory()
    heading(__doc__.splitlines()[0])
    if path is None or not (path / "jaxpruner" / "__init__.py").is_file():
        print(f"Skipped: there is no jaxpruner at {path}. Clone it and give its folder as --jaxpruner.")
        return
    theirs, net = imported(path), network()
    holds = [schedules(theirs), trainings(theirs, net, slopes_of(net, *digits())), counts(theirs), step_times(theirs)]
    if not all(holds):
        sys.exit("the claim does not hold")


if __name__ == "__main__":
    main()
