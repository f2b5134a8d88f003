"""Claim: Lanczos needs fewer Hessian-vector products than power iteration, and less time than double backward.

Four tables. Products and seconds for the norm of the Hessian of the softplus ResNet-20, image by image, beside the
original algorithm in PyTorch (where that is installed); the error of traces and of spectra against dense Hessians;
how products scale with the dimension; and how loose the certified bounds are.

    python benchmarks/geometry.py [--images 4] [--deep]
"""

import argparse
import functools
import itertools
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from attribution import DATA, problem
from flax import nnx
from timing import heading

from jaxinterp import derivatives, geometry, heads, models

try:
    import torch
    from torch.nn import functional
except ImportError:
    torch = None

BETA, TOLERANCE = 10.0, 1e-3
RADII = (1e-5, 1e-3, 1e-2, 1e-1, 1.0)


def softplus(z):
    return jax.nn.softplus(BETA * z) / BETA


def in_torch(weights):
    """The ResNet-20 with softplus, in PyTorch, as a function of one image [1, 3, 32, 32]."""
    w = {name: torch.tensor(value) for name, value in weights.items() if "num_batches" not in name}

    def norm(x, name):
        return functional.batch_norm(
            x, w[f"{name}.running_mean"], w[f"{name}.running_var"], w[f"{name}.weight"], w[f"{name}.bias"]
        )

    def activation(x):
        return functional.softplus(x, beta=BETA, threshold=50)

    def network(x):
        x = activation(norm(functional.conv2d(x, w["conv1.weight"], padding=1), "bn1"))
        for stage in (1, 2, 3):
            for block in range(3):
                name, stride = f"layer{stage}.{block}", 2 if block == 0 < stage - 1 else 1
                y = activation(
                    norm(functional.conv2d(x, w[f"{name}.conv1.weight"], stride=stride, padding=1), f"{name}.bn1")
                )
                y = norm(functional.conv2d(y, w[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
                shortcut = x[:, :, ::stride, ::stride]
                more = y.shape[1] - x.shape[1]
                x = activation(y + functional.pad(shortcut, (0, 0, 0, 0, more // 2, more - more // 2)))
        return functional.linear(x.mean((2, 3)), w["linear.weight"], w["linear.bias"])

    return network


def power_in_torch(network, image, label, truth, most=400):
    """The original: power iteration by double backward; products until it is within the tolerance, and seconds."""
    x = torch.tensor(np.moveaxis(image, -1, 0)[None]).requires_grad_()
    start = time.perf_counter()
    (slope,) = torch.autograd.grad(network(x)[0, label], x, create_graph=True)
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(x.shape, generator=generator)
    u = u / u.norm()
    for count in range(1, most + 1):
        (product,) = torch.autograd.grad((slope * u).sum(), x, retain_graph=True)
        value = abs(float((product * u).sum()))
        u = (product / (product.norm() + 1e-6)).detach()
        if abs(value - truth) <= TOLERANCE * truth:
            return count, time.perf_counter() - start
    return most, time.perf_counter() - start


def hessian_norms(count):
    data = problem()
    net = models.as_function(models.resnet_from_torch(data.weights, activation=softplus))
    f = heads.logit(lambda params, state, x: net.apply(params, state, x))
    images, labels = data.images[:count], data.labels[:count]

    def one(method, key, x, label):
        return method(key, net.params, net.state, x, label)

    lanczos = jax.jit(functools.partial(one, geometry.hessian_norm(f, 2, num_iterations=80, tolerance=TOLERANCE)))
    fine = jax.jit(functools.partial(one, geometry.hessian_norm(f, 2, num_iterations=160, tolerance=1e-6)))

    @functools.partial(jax.jit, static_argnums=3)
    def power(key, x, label, steps):
        _, product = derivatives.hessian(f, 2)(net.params, net.state, x, label)
        return derivatives.power_iteration(product, num_iterations=steps, tolerance=TOLERANCE)(key, x)

    network = in_torch(data.weights) if torch is not None else None
    print(f"{'image':>6}{'norm':>10}{'Lanczos':>9}{'s':>8}{'power':>7}{'torch':>7}{'s':>8}{'ratio':>7}")
    ratios, products = [], []
    for i, (x, label) in enumerate(zip(images, labels, strict=True)):
        key = jax.random.key(i)
        truth = float(fine(key, x, label).value)
        jax.block_until_ready(lanczos(key, x, label))
        start = time.perf_counter()
        found = jax.block_until_ready(lanczos(key, x, label))
        seconds = time.perf_counter() - start
        by_power = int(power(key, x, label, 400).num_iterations)
        theirs = power_in_torch(network, x, int(label), truth) if network is not None else (0, float("nan"))
        ratios.append(theirs[1] / seconds)
        products.append((int(found.num_iterations), by_power))
        numbers = f"{truth:10.3f}{products[-1][0]:9d}{seconds:8.3f}{by_power:7d}{theirs[0]:7d}{theirs[1]:8.3f}"
        print(f"{i:>6}{numbers}{ratios[-1]:7.1f}", flush=True)
    return ratios, products


def traces():
    """Errors of traces relative to the Frobenius norm, for the loss of a small network over its parameters."""
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(64, 8)), jnp.float32), jnp.asarray(rng.integers(0, 3, 64))
    w, v = rng.normal(size=(8, 16)) / 3, rng.normal(size=(16, 3)) / 4
    params = {"w": jnp.asarray(w, jnp.float32), "v": jnp.asarray(v, jnp.float32)}

    def loss(params):
        logits = jnp.tanh(x @ params["w"]) @ params["v"]
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(64), y])

    flat, unravel = jax.flatten_util.ravel_pytree(params)
    dense = np.asarray(jax.hessian(lambda v: loss(unravel(v)))(flat), np.float64)
    keys = jax.random.split(jax.random.key(0), 50)
    estimators = {
        "Hutchinson": geometry.hessian_trace(loss, num_products=30, sketched=False),
        "Hutch++": geometry.hessian_trace(loss, num_products=30),
    }
    print(f"\n{'trace, 30 products':<24}{'rms error / Frobenius norm':>28}{'mean stated':>13}")
    for name, estimator in estimators.items():
        found = jax.jit(jax.vmap(lambda k, e=estimator: e(k, params)))(keys)
        error = np.asarray(found.mean) - np.trace(dense)
        size = np.linalg.norm(dense)
        print(f"{name:<24}{np.sqrt(np.mean(error**2)) / size:28.4f}{np.mean(found.stderr) / size:13.4f}")
    density = jax.jit(geometry.hessian_density(loss, num_samples=8, num_iterations=24))(keys[0], params)
    for name, function in (("tr H²", jnp.square), ("tr exp(-H)", lambda t: jnp.exp(-t))):
        truth = float(np.sum(function(np.linalg.eigvalsh(dense))))
        estimate = density.trace_of(function)
        error = (float(estimate.mean) - truth) / truth
        print(f"{'quadrature, ' + name:<24}{error:28.4f}{float(estimate.stderr) / truth:13.4f}")


def scaling():
    print(f"\n{'entries':>8}{'Lanczos products to 1e-3':>26}{'seconds':>9}")
    for size in (64, 256, 1024, 4096):
        weights = jax.random.normal(jax.random.key(size), (size, 64)) / size**0.5
        f = lambda x, w=weights: jnp.sum(jax.nn.softplus(4 * (x @ w)))  # noqa: E731
        run = jax.jit(geometry.hessian_norm(f))
        jax.block_until_ready(run(jax.random.key(0), jnp.zeros(size)))
        start = time.perf_counter()
        found = jax.block_until_ready(run(jax.random.key(0), jnp.zeros(size)))
        print(f"{size:>8}{int(found.num_iterations):>26}{time.perf_counter() - start:9.4f}")


def mlp(depth, activation, width=64, inputs=20):
    rng = np.random.default_rng(depth)
    sizes = [inputs] + [width] * depth + [1]
    weights = [jnp.asarray(rng.normal(size=s) * (2 / s[0]) ** 0.5) for s in itertools.pairwise(sizes)]

    def f(x):
        for w in weights[:-1]:
            x = activation(x @ w)
        return (x @ weights[-1])[0]

    return f, jnp.asarray(rng.normal(size=inputs))


def network(model, shape):
    net = models.as_function(model)
    cast = functools.partial(jax.tree.map, lambda a: a.astype(jnp.float64))
    params, state = cast(net.params), cast(net.state)
    x = jnp.asarray(np.random.default_rng(0).uniform(size=shape))
    return (lambda x: net.apply(params, state, x)[0]), x


def looseness(deep):
    """Upper over lower bound: the lower is attained at the centre, so the truth is between."""
    cases = {f"softplus MLP, depth {d}": mlp(d, softplus) for d in range(1, 7)}
    cases |= {f"GELU MLP, depth {d}": mlp(d, jax.nn.gelu) for d in (1, 3, 6)}
    image, rngs = (8, 8, 1), nnx.Rngs(0)
    cases["ConvNet 8x8, softplus"] = network(
        models.ConvNet(image, widths=(8, 16), num_classes=10, batch_norm=True, activation=softplus, rngs=rngs), image
    )
    cases["low-curvature ConvNet 8x8"] = network(
        models.LowCurvatureConvNet(image, widths=(8, 16), num_classes=10, gamma=2.0, rngs=rngs), image
    )
    cases["residual net 8x8, 3 blocks"] = network(
        models.ResNet(image, widths=(8,), blocks_per_stage=3, activation=softplus, rngs=rngs), image
    )
    if deep and DATA.is_dir():
        data = problem()
        cases["trained ResNet-20"] = network(models.resnet_from_torch(data.weights, activation=softplus), (32, 32, 3))
    print(f"\n{'upper over lower bound':<28}" + "".join(f"{f'r = {radius:g}':>18}" for radius in RADII) + f"{'s':>8}")
    for name, (f, x) in cases.items():
        run = jax.jit(lambda x, radius, f=f: geometry.bounds(f)(x, radius=radius))
        jax.block_until_ready(run(x, RADII[0]))
        line = ""
        for radius in RADII:
            start = time.perf_counter()
            found = jax.block_until_ready(run(x, radius))
            seconds = time.perf_counter() - start
            slope, bend = (float(b.upper / b.lower) for b in (found.lipschitz, found.curvature))
            line += f"{f'{slope:.3g} / {bend:.3g}':>18}"
        print(f"{name:<28}{line}{seconds:8.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--deep", action="store_true", help="bounds of the ResNet-20 too: many minutes")
    options = parser.parse_args()
    heading(__doc__.splitlines()[0])
    ratios, products = hessian_norms(options.images)
    traces()
    scaling()
    jax.config.update("jax_enable_x64", True)
    looseness(options.deep)
    if sum(p for p, _ in products) >= sum(q for _, q in products) or any(r < 1 for r in ratios if not np.isnan(r)):
        sys.exit("the claim does not hold")


if __name__ == "__main__":
    main()
