"""Claim: a training step with the gradient-norm penalty takes at most half as long in the layouts of `loop_safe`.

The gradient by the parameters of the norm of the gradient by the input, for a batch of images 32×32 and convolutional
networks with strides: the program as JAX differentiates it, and rewritten, as `training.make_step` compiles it.

    python benchmarks/gradient_penalty.py
"""

import sys

import jax
import jax.numpy as jnp
from flax import nnx
from timing import best_seconds, heading, keep_freed_memory

from jaxinterp import interpreters, models, penalties, training

IMAGE, BATCH = (32, 32, 3), 128
NETWORKS = {
    "ConvNet": lambda rngs: models.ConvNet(IMAGE, widths=(32, 64, 64), num_classes=10, batch_norm=True, rngs=rngs),
    "LowCurvatureConvNet": lambda rngs: models.LowCurvatureConvNet(
        IMAGE, widths=(32, 64, 64), num_classes=10, rngs=rngs
    ),
}


def alternatives(network):
    """The gradient of the objective, compiled as it is and rewritten."""
    train, evaluation = models.as_training_function(network), models.as_function(network)
    penalty = training.WeightedPenalty("gradient_norm", penalties.input_gradient_norm(), 0.1)
    objective = training.make_objective(train.apply, evaluation.apply, [penalty])
    gradient = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)
    x = jax.random.normal(jax.random.key(0), (BATCH, *IMAGE))
    args = evaluation.params, (), evaluation.state, jax.random.key(1), (x, jnp.arange(BATCH) % 10)
    runs = {"jax.jit": jax.jit(gradient), "loop_safe": jax.jit(interpreters.loop_safe(gradient))}
    return {name: lambda run=run: run(*args) for name, run in runs.items()}


def main():
    heading(f"A step with the gradient-norm penalty, {BATCH} images")
    print(f"{'network':<24}{'jax.jit, ms':>14}{'loop_safe, ms':>16}{'ratio':>8}")
    ratios = []
    for name, make in NETWORKS.items():
        best = best_seconds(alternatives(make(nnx.Rngs(0))), rounds=5)
        ratios.append(best["jax.jit"] / best["loop_safe"])
        print(f"{name:<24}{1e3 * best['jax.jit']:>14.0f}{1e3 * best['loop_safe']:>16.0f}{ratios[-1]:>8.2f}")
    holds = jax.default_backend() != "cpu" or min(ratios) >= 2
    return 0 if holds else 1


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
