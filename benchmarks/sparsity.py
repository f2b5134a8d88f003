"""Claim: pruning costs at most 5 % of a training step, and shrinking saves at least half of what FLOPs promise.

Twenty training steps of a small convolutional network with Adam, and with `prune(adam)` whose masks are renewed once
in them (a renewal each 20 steps is far more often than usual); then the same network with half of its channels cut out,
and with half of them masked.

    python benchmarks/sparsity.py
"""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from timing import best_seconds, heading, keep_freed_memory

from jaxinterp import models, sparsity

IMAGE, BATCH, STEPS = (28, 28, 1), 128, 20


def network():
    model = models.ConvNet(IMAGE, widths=(32, 64, 64), num_classes=10, batch_norm=True, rngs=nnx.Rngs(0))
    return models.as_function(model)


def steps(net, optimizer, x, y):
    """Twenty steps from the same start, one compiled call each."""

    @jax.jit
    def step(params, opt_state):
        def loss(params):
            logits = jax.vmap(net.apply, (None, None, 0))(params, net.state, x)
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))

        updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    def run():
        params, opt_state = net.params, optimizer.init(net.params)
        for _ in range(STEPS):
            params, opt_state = step(params, opt_state)
        return params

    return run


def overhead(net, x, y):
    schedule = sparsity.gradual(0.9, end=10 * STEPS)
    budgets = {"over_all": sparsity.over_all(), "per_parameter": sparsity.per_parameter()}
    alternatives = {"adam": steps(net, optax.adam(1e-3), x, y)}
    for name, budget in budgets.items():
        optimizer = sparsity.prune(optax.adam(1e-3), schedule, every=STEPS, budget=budget)
        alternatives[f"prune, {name}"] = steps(net, optimizer, x, y)
    best = best_seconds(alternatives, rounds=5)
    print(f"{'optimizer':<24}{'ms per step':>12}{'ratio':>8}")
    for name, seconds in best.items():
        print(f"{name:<24}{1e3 * seconds / STEPS:12.2f}{seconds / best['adam']:8.3f}")
    return max(best.values()) / best["adam"]


def shrunk(title, net, x):
    arguments = (net.params, net.state)
    coupling = sparsity.couple(net.apply, (0, 1))(*arguments, x[0])
    keep = np.arange(len(coupling)) % 2 == 0
    variants = {
        "dense": arguments,
        "half masked": sparsity.apply(arguments, coupling.masks(keep)),
        "half cut out": coupling.shrink(arguments, keep),
    }
    runs, flops = {}, {}
    for name, values in variants.items():
        forward = jax.jit(jax.vmap(net.apply, (None, None, 0))).lower(*values, x).compile()
        flops[name] = forward.cost_analysis()["flops"]
        runs[name] = functools.partial(forward, *values, x)
    gap = float(jnp.max(jnp.abs(runs["half masked"]() - runs["half cut out"]())))
    best = best_seconds(runs, rounds=9)
    print(f"\n{title:<24}{'ms per batch':>12}{'speed':>8}{'FLOPs':>8}")
    for name, seconds in best.items():
        print(f"{name:<24}{1e3 * seconds:12.2f}{best['dense'] / seconds:8.2f}{flops['dense'] / flops[name]:8.2f}")
    print(f"largest difference between masked and cut out: {gap:.1e}")
    return best["dense"] / best["half cut out"], flops["dense"] / flops["half cut out"]


def main():
    keep_freed_memory()
    heading(__doc__.splitlines()[0])
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(BATCH, *IMAGE)), jnp.float32)
    y = jnp.asarray(rng.integers(0, 10, BATCH))
    net = network()
    ratio = overhead(net, x, y)
    wide = models.VGG(IMAGE, widths=(128, 256), depths=(1, 2), num_classes=10, activation=nnx.relu, rngs=nnx.Rngs(0))
    saved = [shrunk("ConvNet 32-64-64", net, x), shrunk("VGG 128-256-256", models.as_function(wide), x[:32])]
    if ratio > 1.05 or any(speed < 0.5 * flops for speed, flops in saved):
        sys.exit("the claim does not hold")


if __name__ == "__main__":
    main()
