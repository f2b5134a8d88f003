# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Local function approximation
#
# Eight popular explanations are one: fit an interpretable model g to f over a neighbourhood, by a loss (Han, Srinivas &
# Lakkaraju, 2022). They differ in the neighbourhood, the weight and the loss, and nothing else. This notebook writes
# each as one line, checks the lines against the methods, asks which of them finds a function that it could find, and
# shows that none is right everywhere.

# %%
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

import jaxinterp as ji
from jaxinterp import app, attribution, local
from jaxinterp.app import figures

# %% [markdown]
# ## Functions to explain
#
# The published models for credit risk (HELOC, classification) and life expectancy (WHO, regression) where their file is
# at hand; otherwise two models of scikit-learn's breast cancer data, trained here.

# %%
PUBLISHED = pathlib.Path(ji.__file__).parents[2] / "shared" / "goldens" / "lfa_tabular.npz"


def network(layers, hidden, last, x):
    for weight, bias in layers[:-1]:
        x = hidden(weight @ x + bias)
    weight, bias = layers[-1]
    return last((weight @ x + bias)[0])


def identity(value):
    return value


def published(name, data, count, hidden, last):
    with np.load(PUBLISHED) as file:
        names = [f"{name}__w__linear{i + 1 if count > 1 else ''}" for i in range(count)]
        layers = [(jnp.asarray(file[f"{n}.weight"]), jnp.asarray(file[f"{n}.bias"])) for n in names]
        return functools.partial(network, layers, hidden, last), layers, jnp.asarray(file[f"{data}_x"])


def trained():
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier

    table = ji.data.breast_cancer(0).train
    simple = LogisticRegression().fit(table.x, table.y)
    mlp = MLPClassifier((8, 8), max_iter=400, random_state=0, alpha=1e-2).fit(table.x, table.y)
    flat = [(jnp.asarray(simple.coef_, jnp.float32), jnp.asarray(simple.intercept_, jnp.float32))]
    deep = [
        (jnp.asarray(w.T, jnp.float32), jnp.asarray(b, jnp.float32))
        for w, b in zip(mlp.coefs_, mlp.intercepts_, strict=True)
    ]
    x, last = jnp.asarray(table.x[:100]), jax.nn.sigmoid
    return {
        "logistic": (functools.partial(network, flat, jax.nn.relu, last), flat, x),
        "MLP": (functools.partial(network, deep, jax.nn.relu, last), deep, x),
    }


if PUBLISHED.is_file():
    models = {
        "WHO linear": published("who_linear", "who", 1, jnp.tanh, identity),
        "WHO MLP": published("who_ffnnA", "who", 3, jnp.tanh, identity),
        "HELOC logistic": published("heloc_logistic", "heloc", 1, jax.nn.relu, jax.nn.sigmoid),
        "HELOC MLP": published("heloc_ffnnA", "heloc", 3, jax.nn.relu, jax.nn.sigmoid),
    }
else:
    models = trained()
for name, (_, _, rows) in models.items():
    print(f"{name}: {rows.shape[1]} features")

# %% [markdown]
# ## Eight explanations, one line each

# %%
COMPLETE = local.Linear("anchored", complete=True)
SAMPLES = 1000
instances = {
    "gradient": local.Instance(local.gaussian, {"stddev": 1e-4}, "gradient_matching", num_samples=20),
    "SmoothGrad": local.Instance(local.gaussian, {"stddev": 0.1}, "gradient_matching", num_samples=SAMPLES),
    "C-LIME": local.Instance(local.gaussian, {"stddev": 0.1}, num_samples=SAMPLES),
    "gradient x input": local.Instance(local.scaling, {"low": 0.999}, "gradient_matching", num_samples=20),
    "integrated gradients": local.Instance(local.scaling, {}, "gradient_matching", num_samples=SAMPLES),
    "LIME": local.Instance(local.binary_mask, weight=local.exponential_weight(3.0), num_samples=SAMPLES),
    "KernelSHAP": local.Instance(local.coalitions(SAMPLES), model=COMPLETE),
    "occlusion": local.Instance(local.one_hot(), model=local.Linear("anchored")),
}

# %% [markdown]
# They are the methods: the mean L1 distance over 10 points between each line and the direct implementation. What is
# left is sampling error where both sample, and that of the line where the method has a closed form.


# %%
def direct(f):
    smooth = functools.partial(attribution.smooth_grad(f, num_samples=SAMPLES, chunk_size=None), stddev=0.1)
    c_lime = functools.partial(attribution.c_lime(f, num_samples=SAMPLES, chunk_size=None), stddev=0.1)

    def keyless(method):
        return lambda key, x: method(x)

    return {
        "gradient": keyless(attribution.gradient(f)),
        "SmoothGrad": smooth,
        "C-LIME": c_lime,
        "gradient x input": keyless(attribution.gradient_times_input(f)),
        "integrated gradients": keyless(attribution.integrated_gradients(f, num_steps=256, chunk_size=None)),
        "LIME": attribution.lime(f, num_samples=SAMPLES, kernel_width=3.0, chunk_size=None),
        "KernelSHAP": attribution.kernel_shap(f, num_samples=SAMPLES, chunk_size=None),
        "occlusion": keyless(attribution.occlusion(f, chunk_size=None)),
    }


def over_points(method, seed, rows):
    return jax.jit(jax.vmap(method))(jax.random.split(jax.random.key(seed), len(rows)), rows)


curved = {name: model for name, model in models.items() if "MLP" in name}
print(f"{'mean L1 distance':<22}" + "".join(f"{name:>16}" for name in curved))
for name, instance in instances.items():
    distances = []
    for f, _, rows in curved.values():
        slope = over_points(instance.fit(f), 0, rows[:10]).slope
        distances.append(jnp.mean(jnp.sum(jnp.abs(slope - over_points(direct(f)[name], 1, rows[:10])), 1)))
    print(f"{name:<22}" + "".join(f"{float(d):16.1e}" for d in distances))

# %% [markdown]
# ## Which explanation finds the function?
#
# If f is itself linear, or logistic, an effective explanation returns it. Additive noise finds the weights w; masks and
# scaling find w ⊙ x, which is another thing unless x is binary. A logistic f needs a logistic g: the slopes of linear
# models are those of the probability, and no weights. The distance is relative, in L1.

# %%
truths = {name: (layers[0], rows) for name, (_, layers, rows) in models.items() if len(layers) == 1}
for name, ((weight, bias), rows) in truths.items():
    is_logistic = "logistic" in name
    kind = local.LogisticModel if is_logistic else local.LinearModel
    origin = jnp.zeros_like(rows[0])
    truth = kind(weight[0], bias[0], origin, origin)
    own = {
        "C-LIME, logistic": local.Instance(
            local.gaussian, {"stddev": 0.5}, "cross_entropy", local.Logistic(), num_samples=SAMPLES
        )
    }
    print(f"{name:<22}{'to w':>12}{'to w x':>12}{'R²':>10}")
    for method, instance in (instances | (own if is_logistic else {})).items():
        found = jax.tree.map(jnp.mean, over_points(local.recovery(truth, instance), 2, rows[:10]))
        print(f"{method:<22}{found.of_parameters:12.1e}{found.of_coordinates:12.1e}{found.r_squared:10.4f}")

# %% [markdown]
# ## No free lunch
#
# The model of each explanation (rows), judged in the neighbourhood of every other (columns): squared error over the
# variance of f there, the median over 10 points. Small on the diagonal, large elsewhere: the neighbourhood is the
# question, and the explanation an answer to that question only.

# %%
name = next(name for name in models if "MLP" in name)
f, _, rows = models[name]
judged = {name: instances[name] for name in ("SmoothGrad", "C-LIME", "integrated gradients", "LIME", "KernelSHAP")}
judged["gradient"] = local.Instance(local.gaussian, {"stddev": 0.02}, "gradient_matching", num_samples=200)
table = over_points(local.no_free_lunch(f, instances=judged), 3, rows[:10])
relative = np.median(np.asarray(table.relative), axis=0)
figures.transfer_table(list(judged), relative)

# %% [markdown]
# ## Beyond linear
#
# How much of f does a richer model explain in the same neighbourhood? And how far can the fit be trusted: effective
# sample size and condition number come with it.

# %%
classes = {
    "linear": local.Linear(),
    "linear, 5 features": local.Linear(num_features=5),
    "lasso": local.SparseLinear(penalty=1e-3),
    "additive": local.Additive(num_knots=3),
    "quadratic, diagonal": local.Quadratic("diagonal"),
    "quadratic, rank 2": local.Quadratic(2),
}
print(f"{'':<22}{'R²':>8}{'slopes not 0':>14}{'condition':>12}")
for label, model in classes.items():
    fit = local.fit(f, neighbourhood=local.gaussian, model=model, num_samples=2000)
    found = jax.jit(functools.partial(fit, stddev=0.3))(jax.random.key(4), rows[0])
    count = int(jnp.sum(found.slope != 0))
    print(f"{label:<22}{float(found.r_squared):8.4f}{count:14d}{float(found.condition):12.1f}")

# %% [markdown]
# For reports, a shallow tree of scikit-learn on the same samples:

# %%
sampled = local.samples(f, neighbourhood=local.gaussian, num_samples=2000)(jax.random.key(5), rows[0], stddev=0.3)
tree = app.surrogate_tree(sampled, max_depth=2)
print(f"R² = {tree.r_squared:.2f}\n{tree.rules}")
