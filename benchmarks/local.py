"""Claim: KernelSHAP and LIME of a tabular network are at least 10 times as fast as in shap, lime and captum.

At equal samples (1000) for 100 points of an MLP of 23 inputs, batched over the points; and the error of KernelSHAP to
the exact Shapley values, from all 2^23 subsets, is no larger than that of shap and captum. On images (the ResNet-20, 64
segments, 8 images, 1000 samples) it is faster. What is not installed is left out.

    python benchmarks/local.py [--quick]
"""

import argparse
import functools
import importlib.util
import math
import sys
import warnings

import jax
import numpy as np
from attribution import DATA, problem, torch_network
from timing import best_seconds, heading

import jaxinterp as ji

SAMPLES, POINTS, FEATURES = 1000, 100, 23
IMAGES, SEGMENTS = 8, 64
ALLOWED_SPEED, ALLOWED_ERROR = 10.0, 1.0
RUNS = 30  # over which errors are averaged


def tabular():
    """Weights (in, out) of an MLP with a sigmoid at the end, and points."""
    goldens = DATA.parent / "goldens" / "lfa_tabular.npz"
    if goldens.is_file():
        with np.load(goldens) as file:
            layers = [
                (file[f"heloc_ffnnA__w__linear{i}.weight"].T, file[f"heloc_ffnnA__w__linear{i}.bias"])
                for i in (1, 2, 3)
            ]
            return [(w.astype(np.float32), b.astype(np.float32)) for w, b in layers], file["heloc_x"][:POINTS]
    print(f"{goldens} is absent: weights and points are random")
    rng = np.random.default_rng(0)
    sizes = [(FEATURES, 8), (8, 8), (8, 1)]
    layers = [(rng.normal(size=s).astype(np.float32), rng.normal(size=s[1]).astype(np.float32)) for s in sizes]
    return layers, rng.uniform(size=(POINTS, FEATURES)).astype(np.float32)


def in_jax(layers, x):
    for i, (weight, bias) in enumerate(layers):
        x = x @ weight + bias
        x = jax.nn.relu(x) if i < 2 else jax.nn.sigmoid(x)
    return x[0]


def in_numpy(layers, x):
    for i, (weight, bias) in enumerate(layers):
        x = x @ weight + bias
        x = np.maximum(x, 0) if i < 2 else 1 / (1 + np.exp(-x))
    return x[:, 0]


def in_torch(layers):
    import torch

    modules = []
    for i, (weight, bias) in enumerate(layers):
        linear = torch.nn.Linear(*weight.shape)
        linear.load_state_dict({"weight": torch.from_numpy(weight.T.copy()), "bias": torch.from_numpy(bias)})
        modules += [linear, torch.nn.ReLU() if i < 2 else torch.nn.Sigmoid()]
    return torch.nn.Sequential(*modules).requires_grad_(False)


def exact(layers, points):
    """Shapley values in float64 sums, from all subsets, a block at a time."""
    d, block = FEATURES, 2**18
    size_weights = np.array([1 / (d * math.comb(d - 1, k)) for k in range(d)])
    values = jax.jit(jax.vmap(lambda z, x: in_jax(layers, z * x), (0, None)))
    phi = np.zeros((len(points), d))
    for start in range(0, 2**d, block):
        bits = (np.arange(start, start + block)[:, None] >> np.arange(d)) & 1
        kept = bits.sum(1)
        inside = np.where(kept > 0, size_weights[kept - 1], 0)[:, None]
        outside = np.where(kept < d, size_weights[np.minimum(kept, d - 1)], 0)[:, None]
        coefficients = np.where(bits == 1, inside, -outside)
        for row, x in enumerate(points):
            phi[row] += np.asarray(values(bits.astype(np.float32), x), np.float64) @ coefficients
    return phi


def installed(name):
    return importlib.util.find_spec(name) is not None


def seconds_of(run, rounds):
    """The least of a few rounds after a first one, as for ours."""
    return best_seconds({"": run}, rounds)[""]


def compare_tables(layers, points, keys, quick):
    f = functools.partial(in_jax, layers)
    ours = {
        "kernel_shap": ji.attribution.kernel_shap(f, num_samples=SAMPLES, chunk_size=None),
        "lime": ji.attribution.lime(f, num_samples=SAMPLES, chunk_size=None),
    }
    compiled = {name: jax.jit(jax.vmap(method)) for name, method in ours.items()}
    seconds = best_seconds(
        {name: functools.partial(g, keys, points) for name, g in compiled.items()}, 3 if quick else 10
    )
    checked = points[: 2 if quick else 10]
    wanted = exact(layers, checked)

    def error(run):
        """The root mean square over points and runs, which take other samples each, and its standard error."""
        squares = [np.mean((np.asarray(run(seed)) - wanted) ** 2) for seed in range(RUNS)]
        rms = float(np.sqrt(np.mean(squares)))
        return rms, rms * float(np.std(squares) / np.mean(squares)) / 2 / (RUNS - 1) ** 0.5

    def ours_again(seed):
        return compiled["kernel_shap"](jax.random.split(jax.random.key(seed), len(points)), points)[: len(checked)]

    rows = [("jaxinterp", "kernel_shap", seconds["kernel_shap"], error(ours_again))]
    rows.append(("jaxinterp", "lime", seconds["lime"], None))
    few, rounds = points[:5] if quick else points, 1 if quick else 3
    scale = len(points) / len(few)
    if installed("shap"):
        import shap

        explainer = shap.KernelExplainer(functools.partial(in_numpy, layers), np.zeros((1, FEATURES), np.float32))
        run = functools.partial(explainer.shap_values, nsamples=SAMPLES, l1_reg=False, silent=True)
        took = seconds_of(lambda: run(few), rounds)

        def shap_again(seed):
            np.random.seed(seed)  # noqa: NPY002 (what shap draws from)
            return run(checked)

        rows.append(("shap", "kernel_shap", took * scale, error(shap_again)))
    if installed("lime"):
        from lime.lime_tabular import LimeTabularExplainer

        explainer = LimeTabularExplainer(points, mode="regression", discretize_continuous=False, random_state=0)
        explain = functools.partial(
            explainer.explain_instance,
            predict_fn=functools.partial(in_numpy, layers),
            num_features=FEATURES,
            num_samples=SAMPLES,
        )
        took = seconds_of(lambda: [explain(row) for row in few], rounds)
        rows.append(("lime", "lime", took * scale, None))
    if installed("captum"):
        import captum.attr
        import torch
        from captum._utils.models.linear_model import SkLearnLinearRegression

        model = in_torch(layers)
        net = lambda x: model(x)[:, 0]  # noqa: E731
        linear = captum.attr.Lime(net, interpretable_model=SkLearnLinearRegression())  # not the lasso, its default
        for name, method in (("kernel_shap", captum.attr.KernelShap(net)), ("lime", linear)):
            explain = functools.partial(method.attribute, n_samples=SAMPLES, perturbations_per_eval=SAMPLES)
            run = lambda xs, explain=explain: [explain(torch.from_numpy(x[None])).numpy()[0] for x in xs]  # noqa: E731
            took = seconds_of(lambda run=run: run(few), rounds)

            def captum_again(seed, run=run):
                torch.manual_seed(seed)
                return run(checked)

            rows.append(("captum", name, took * scale, error(captum_again) if name == "kernel_shap" else None))
    return rows


def compare_images(quick):
    given = problem()
    images, labels = given.images[:IMAGES], given.labels[:IMAGES]
    f = ji.heads.logit(given.net.apply)
    groups = ji.local.grid_groups((32, 32, 3), (8, 8, 1))
    rows, best, keys = [], {}, jax.random.split(jax.random.key(1), IMAGES)
    for chunk in (4, 32) if quick else (4, 8, 32):
        method = ji.attribution.kernel_shap(f, 2, num_samples=SAMPLES, num_groups=SEGMENTS, chunk_size=chunk)
        explain = jax.jit(jax.vmap(functools.partial(method, groups=groups), (0, None, None, 0, 0)))
        best[chunk] = best_seconds(
            {"": lambda e=explain: e(keys, given.net.params, given.net.state, images, labels)}, 1 if quick else 3
        )[""]
    chunk = min(best, key=best.get)
    rows.append((f"jaxinterp, chunk_size={chunk}", "kernel_shap", best[chunk], None))
    few = 1 if quick else IMAGES
    if installed("captum"):
        import captum.attr
        import torch

        net = torch_network(given.weights).to(memory_format=torch.channels_last)
        x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        mask = torch.from_numpy(np.ascontiguousarray(groups.transpose(2, 0, 1))[None].astype(np.int64))
        method = captum.attr.KernelShap(net)
        times = {}
        for batch in (32,) if quick else (16, 32, 64):
            explain = functools.partial(
                method.attribute, n_samples=SAMPLES, perturbations_per_eval=batch, feature_mask=mask
            )
            run = lambda e=explain: [e(x[i : i + 1], target=int(labels[i])) for i in range(few)]  # noqa: E731
            times[batch] = seconds_of(run, 1 if quick else 3)
        batch = min(times, key=times.get)
        rows.append((f"captum, {batch} per evaluation", "kernel_shap", times[batch] * IMAGES / few, None))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer points and rounds")
    quick = parser.parse_args().quick
    warnings.simplefilter("ignore")
    heading(__doc__.splitlines()[0])
    layers, points = tabular()
    claims = []
    parts = {
        "100 points of the tabular network": compare_tables(
            layers, points, jax.random.split(jax.random.key(0), POINTS), quick
        ),
        f"{IMAGES} images, ResNet-20, {SEGMENTS} segments": compare_images(quick),
    }
    for title, rows in parts.items():
        own = {method: (took, error) for who, method, took, error in rows if who.startswith("jaxinterp")}
        print(f"{title:<42}{'method':<14}{'seconds':>9}{'times ours':>12}{'error':>12}")
        for who, method, took, error in rows:
            ratio = took / own[method][0]
            accuracy = "" if error is None else f"{error[0]:12.2e} ± {error[1]:.0e}"
            print(f"{who:<42}{method:<14}{took:9.3f}{ratio:12.1f}{accuracy}")
            if not who.startswith("jaxinterp"):
                least = ALLOWED_SPEED if title.startswith("100") else 1.0
                claims.append((f"{who}, {method}: times as slow", ratio, ratio >= least, f"at least {least}"))
                if error is not None:
                    (mean, stderr), (other, uncertain) = own[method][1], error
                    part, slack = mean / other, 2 * math.hypot(stderr / mean, uncertain / other)
                    claims.append(
                        (
                            f"{who}, {method}: our error / theirs",
                            part,
                            part <= ALLOWED_ERROR + slack,
                            f"1 ± {slack:.2f}",
                        )
                    )
        print()
    for name, value, _, wanted in claims:
        print(f"{name:<55}{value:10.2f}  {wanted}")
    if not all(holds for _, _, holds, _ in claims):
        sys.exit("a claim does not hold")


if __name__ == "__main__":
    main()
