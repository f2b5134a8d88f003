"""Claim: for failures rarer than 1 in 2000 importance sampling needs a fifth of Monte Carlo's evaluations (median).

And the table of all estimators: their mean absolute error to Monte Carlo, evaluations of the network and seconds, on
the trained ResNet-20 (random weights where ../shared is absent). σ is in units of pixels from 0 to 1.

Monte Carlo stops at `--samples`, or at a standard error of 0.0025 before.

    python benchmarks/robustness.py [--images 20] [--samples 10000]
"""

import argparse
import functools
import sys
import time

import jax
import numpy as np
from attribution import DATA, problem
from timing import heading

from jaxinterp import derivatives, robustness

SIGMAS = (0.01, 0.02, 0.05, 0.1)
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
WANTED, RARE = 5.0, 5e-4
PRECISION = 0.0025
CLASSES, COPIES = 10, 10


def test_images(count):
    file = DATA / "cifar10_jpeg.npz"
    if file.is_file():
        with np.load(file) as data:
            return data["x_test"][:count].astype(np.float32) / 255
    return np.random.default_rng(0).uniform(size=(count, 32, 32, 3)).astype(np.float32)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20, help="of the test part; 200 take an hour")
    parser.add_argument("--samples", type=int, default=10_000)
    options = parser.parse_args()
    heading(__doc__.splitlines()[0])
    net = problem().net

    def logits(params, state, x):
        return net.apply(params, state, (x - MEAN[None, None]) / STD[None, None])

    images = test_images(options.images)
    keys = jax.random.split(jax.random.key(0), len(images))
    normal = functools.partial(derivatives.orthant(num_points=2000), jax.random.key(9))
    gradient = 1 + 2 * CLASSES
    samples = options.samples
    methods = {  # name: (method, batch of images, evaluations of the network, a backward pass counted as two)
        "monte_carlo": (
            robustness.monte_carlo(logits, 2, num_samples=samples, chunk_size=64, precision=PRECISION),
            1,
            samples,
        ),
        "importance(1000)": (robustness.importance(logits, 2, num_samples=1000, chunk_size=64), 1, 1000 + 11 * 16),
        "mmse(10), normal": (robustness.mmse(logits, 2, num_samples=COPIES, cdf=normal), 8, COPIES * gradient),
        "mmse(10), sigmoid": (robustness.mmse(logits, 2, num_samples=COPIES), 8, COPIES * gradient),
        "taylor, normal": (robustness.taylor(logits, 2, cdf=normal), 8, gradient),
        "taylor, sigmoid": (robustness.taylor(logits, 2), 8, gradient),
    }
    runs = {}
    for name, (method, size, _) in methods.items():
        takes_key = not name.startswith("taylor")

        def one(key, x, sigma, method=method, takes_key=takes_key):
            args = (key, net.params, net.state, x) if takes_key else (net.params, net.state, x)
            return method(*args, stddev=sigma)

        batched = functools.partial(jax.lax.map, batch_size=size)
        run = jax.jit(lambda s, k, x, one=one, over=batched: over(lambda kx: one(*kx, s), (k, x)))
        runs[name] = run.lower(SIGMAS[0], keys, images).compile()
    print(f"{'σ':>6} {'estimator':<20}{'mean |error|':>13}{'largest':>9}{'evaluations':>13}{'s/image':>9}")
    gains = []
    for sigma in SIGMAS:
        found = {}
        for name, run in runs.items():
            start = time.perf_counter()
            found[name] = jax.block_until_ready(run(sigma, keys, images))
            took = (time.perf_counter() - start) / len(images)
            gap = np.abs(np.asarray(found[name].probability) - np.asarray(found["monte_carlo"].probability))
            evaluations = methods[name][2]
            if name == "monte_carlo":
                evaluations = int(np.mean(found[name].num_samples))
            numbers = f"{gap.mean():13.4f}{gap.max():9.3f}{evaluations:13d}{took:9.4f}"
            print(f"{sigma:>6} {name:<20}{numbers}", flush=True)
        rare, counted = found["importance(1000)"], found["monte_carlo"]
        failure, stderr = np.asarray(rare.failure, np.float64), np.asarray(rare.stderr, np.float64)
        known = (stderr > 0) & (failure < 1)
        ratio = (failure * (1 - failure))[known] / (stderr[known] ** 2 * methods["importance(1000)"][2])
        gains += list(ratio[failure[known] <= RARE])
        for low, high in ((1e-30, 1e-6), (1e-6, RARE), (RARE, 0.05), (0.05, 1.0)):
            chosen = (failure[known] > low) & (failure[known] <= high)
            if chosen.any():
                middle = float(np.median(ratio[chosen]))
                where = f"failure from {low:g} to {high:g}, {chosen.sum()} images"
                print(f"{'':>6} {where}: {middle:.2g} times our evaluations")
        drawn = np.asarray(counted.num_samples)
        pooled = np.sqrt(stderr**2 + np.asarray(counted.stderr) ** 2 + 1.0 / drawn**2)
        z = (np.asarray(rare.probability) - np.asarray(counted.probability)) / pooled
        print(f"{'':>6} importance less Monte Carlo, in standard errors: {z.mean():.2f} ± {z.std():.2f}")
    gain = float(np.median(gains)) if gains else 0.0
    print(f"median over the {len(gains)} images with failures rarer than {RARE:g}: {gain:.2g} times our evaluations")
    if gain < WANTED:
        sys.exit("the claim does not hold")


if __name__ == "__main__":
    main()
