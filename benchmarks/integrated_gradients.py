"""Claim: integrated gradients with 64 steps cost at most 1.15 times 64 gradients of the same batch.

And: memory grows with the chunk, not with the number of steps. Beside it stands the same sum in a plain `lax.scan`,
which on a CPU puts the gradients of convolutions where XLA is slow (docs/notes/convolutions-in-loops.md).

    python benchmarks/integrated_gradients.py
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from timing import best_seconds, heading, peak_bytes

import jaxinterp as ji
from jaxinterp import models

STEPS = 64
ALLOWED = 1.15

CASES = {
    "ConvNet 8x8": (lambda: models.ConvNet((8, 8, 1), num_classes=10, rngs=nnx.Rngs(0)), (8, 8, 1)),
    "ConvNet 32x32": (
        lambda: models.ConvNet((32, 32, 3), widths=(32, 64), num_classes=10, rngs=nnx.Rngs(0)),
        (32, 32, 3),
    ),
    "ResNet-20": (lambda: models.ResNet((32, 32, 3), rngs=nnx.Rngs(0)), (32, 32, 3)),
}


def plain_scan(f, params, state, x, label):
    """The same integral by an ordinary loop over an ordinary gradient."""
    rule = ji.derivatives.gauss_legendre(STEPS)

    def add(total, node):
        t, w = node
        return total + w * jax.grad(f, 2)(params, state, t * x, label), None

    nodes = (jnp.asarray(rule.nodes, x.dtype), jnp.asarray(rule.weights, x.dtype))
    return x * jax.lax.scan(add, jnp.zeros_like(x), nodes)[0]


def measure(name, batch):
    make, shape = CASES[name]
    net = models.as_function(make())
    f = ji.heads.logit(net.apply)
    x, labels = jax.random.normal(jax.random.key(0), (batch, *shape)), jnp.zeros(batch, jnp.int32)
    mapped = lambda g: jax.jit(jax.vmap(g, (None, None, 0, 0)))  # noqa: E731
    gradient, scan = mapped(jax.grad(f, 2)), mapped(functools.partial(plain_scan, f))
    methods = {c: mapped(ji.attribution.integrated_gradients(f, 2, num_steps=STEPS, chunk_size=c)) for c in (1, 4, 16)}
    arguments = (net.params, net.state, x, labels)

    def gradients():
        for _ in range(STEPS):
            out = gradient(*arguments)
        return out

    alternatives = {"gradients": gradients, "plain scan": lambda: scan(*arguments)}
    alternatives |= {f"chunk {c}": functools.partial(method, *arguments) for c, method in methods.items()}
    best = best_seconds(alternatives, rounds=5)
    ratios = {key: value / best["gradients"] for key, value in best.items()}
    listed = "  ".join(f"{key} {ratios[key]:5.2f}" for key in ("chunk 1", "chunk 4", "chunk 16", "plain scan"))
    print(
        f"{name:<14} batch {batch:<3} {STEPS} gradients {best['gradients'] * 1e3:7.1f} ms   ratio: {listed}", flush=True
    )
    return ratios["chunk 1"]


def memory():
    make, shape = CASES["ResNet-20"]
    net = models.as_function(make())
    f = ji.heads.logit(net.apply)
    x = jnp.ones(shape)
    sizes = {}
    for steps in (16, 64, 256):
        method = ji.attribution.integrated_gradients(f, 2, num_steps=steps, chunk_size=16)
        sizes[steps] = peak_bytes(jax.jit(method).lower(net.params, net.state, x, 0).compile())
    print(
        "\nResNet-20, chunk_size=16, temporary memory: "
        + ", ".join(f"{s} steps {b / 1e6:.1f} MB" for s, b in sizes.items())
    )
    return sizes[256] / sizes[16]


def main():
    heading(__doc__.splitlines()[0])
    ratios = [measure(name, batch) for name in CASES for batch in (1, 4, 16)]
    growth = memory()
    print(f"\nlargest ratio at the default chunk_size=1: {max(ratios):.2f} (claim: at most {ALLOWED})")
    print(f"memory of 256 steps over 16 steps: {growth:.2f}")
    if max(ratios) > ALLOWED or growth > 1.3 or not np.isfinite(max(ratios)):
        raise SystemExit("the claim does not hold here")


if __name__ == "__main__":
    main()
