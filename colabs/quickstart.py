# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # jaxinterp in ten minutes
#
# What does a network attend to at a point, how linear is it there, how curved can it be, how likely does its answer
# survive noise? Each question is a function transformation: a function goes in, a function of the same arguments comes
# out.

# %% [markdown]
# On Colab, clone the repository first and run `%pip install --quiet -e .` in its folder: its requirements are met by
# what Colab ships, so `jax` stays as it is and no restart is needed.

# %%
import functools

import jax
import jax.numpy as jnp
import numpy as np

import jaxinterp as ji

# %% [markdown]
# ## The grammar: `jax.grad`, and what stands beside it


# %%
def f(x):
    return jnp.tanh(x[0] * x[1]) + x[2] ** 2


x = jnp.array([1.0, 0.5, 2.0])
print(jax.grad(f)(x))
print(ji.attribution.gradient(f)(x))
print(ji.attribution.integrated_gradients(f)(x))

# %% [markdown]
# The last one is *complete*: it sums to the change of f from the baseline (zero) to x. The library measures that
# rather than promising it.

# %%
attribution = ji.attribution.integrated_gradients(f)(x)
print(attribution.sum(), f(x) - f(jnp.zeros(3)))
print(ji.evaluation.completeness_gap(f)(attribution, x))

# %% [markdown]
# ## A network
#
# A small convolutional network on scikit-learn's digits, trained for a few seconds. Any Flax NNX or Linen module
# becomes a pure function of one example by `as_function`; Equinox and
# plain functions need no conversion.

# %%
from flax import nnx

dataset = ji.data.digits(jax.random.key(0))
model = ji.models.ConvNet(dataset.shape, widths=(8, 16), num_classes=10, activation=nnx.gelu, rngs=nnx.Rngs(0))
net, train_net = ji.models.as_function(model), ji.models.as_training_function(model)

num_steps = 400
optimizers = ji.training.Optimizers(ji.training.adamw(3e-3, num_steps=num_steps), ji.training.adam(1e-2))
step = ji.training.make_step(ji.training.make_objective(train_net.apply, net.apply), optimizers)
state = ji.training.initial_state(optimizers, jax.random.key(1), net.params, net.state)
state = ji.training.fit(step, state, ji.data.batches(dataset.train, jax.random.key(2), 64), num_steps)

evaluate = ji.training.make_evaluation(net.apply)
scores = evaluate(state.params, state.state, dataset.test.x, dataset.test.y)
print(f"test accuracy {scores['accuracy']:.3f}")

# %% [markdown]
# ## What does it attend to?
#
# The class is chosen by a *head*; the label is an ordinary argument. Methods see one example; `jax.vmap` makes
# the batch. Parameters are arguments too (`argnums=2` explains the image), so that nothing is
# compiled again when they change.

# %%
score = ji.heads.logit(net.apply)  # (params, state, image, label) -> scalar
images, labels = dataset.test.x[:6], dataset.test.y[:6]
keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(3)))(jnp.arange(6))

over_images = functools.partial(jax.vmap, in_axes=(None, None, 0, 0))
over_keys = functools.partial(jax.vmap, in_axes=(0, None, None, 0, 0))
smooth = functools.partial(ji.attribution.smooth_grad(score, argnums=2), stddev=0.2)

arguments = (state.params, state.state, images, labels)
maps = {
    "gradient": jax.jit(over_images(ji.attribution.gradient(score, argnums=2)))(*arguments),
    "integrated gradients": jax.jit(over_images(ji.attribution.integrated_gradients(score, argnums=2)))(*arguments),
    "occlusion": jax.jit(over_images(ji.attribution.occlusion(score, argnums=2, window=(2, 2, 1))))(*arguments),
    "SmoothGrad": jax.jit(over_keys(smooth))(keys, *arguments),
    "LIME": jax.jit(over_keys(ji.attribution.lime(score, argnums=2, num_samples=300)))(keys, *arguments),
}

# %%
import matplotlib.pyplot as plt


def show(axis, values, cmap="RdBu_r", limit=None):
    limit = limit or float(np.abs(values).max())
    axis.imshow(values, cmap=cmap, vmin=-limit if cmap == "RdBu_r" else 0, vmax=limit)
    axis.set_axis_off()


figure, axes = plt.subplots(len(images), 1 + len(maps), figsize=(8, 8))
for row, image in enumerate(images):
    show(axes[row, 0], image[..., 0], "gray")
    for column, (name, values) in enumerate(maps.items(), start=1):
        show(axes[row, column], np.asarray(values[row, ..., 0]))
        axes[0, column].set_title(name, fontsize=9)
plt.show()

# %% [markdown]
# Sampled maps come with their standard error.

# %%
estimate = jax.jit(
    functools.partial(ji.attribution.with_stderr(ji.attribution.smooth_grad(score, argnums=2)), stddev=0.2)
)(jax.random.key(4), state.params, state.state, images[0], labels[0])
print(f"largest entry {jnp.abs(estimate.mean).max():.2f}, largest standard error {estimate.stderr.max():.2f}")

# %% [markdown]
# ## How linear is it there?
#
# The tangent is the gradient at the point; the secant is the best linear fit to the values around it. R² on fresh
# noise tells which of them describes the neighbourhood, and how far.

# %%
single = (state.params, state.state, images[0], labels[0])
tangent = ji.local.tangent(score, argnums=2)(*single)
fit = jax.jit(functools.partial(ji.local.secant(score, argnums=2, neighbourhood=ji.local.gaussian, num_samples=500)))
fidelity = jax.jit(ji.evaluation.local_r_squared(score, argnums=2))
for stddev in (0.01, 0.1, 0.3):
    secant = fit(jax.random.key(5), *single, stddev=stddev)
    found = [fidelity(jax.random.key(6), model, *single, stddev=stddev) for model in (tangent, secant)]
    told = [f"{r.mean:6.3f} ± {r.stderr:.3f}" for r in found]
    print(f"noise {stddev:<5} R² of the tangent {told[0]}, of the secant {told[1]}")

# %% [markdown]
# ## How curved?
#
# The spectral norm of the Hessian over the norm of the gradient: one over it is the distance within which a
# gradient means what it says. The residual tells how far the eigenvalue can be off.

# %%
curvature = jax.jit(over_keys(ji.geometry.curvature(ji.heads.log_prob(net.apply), argnums=2)))(keys, *arguments)
for normalised, residual, norm in zip(curvature.normalised, curvature.residual, curvature.hessian_norm, strict=True):
    print(f"normalised curvature {normalised:6.2f}   Hessian norm {norm:.2e} ± {residual:.0e}")

# %% [markdown]
# ## How sure?
#
# The probability that the prediction survives Gaussian noise: by counting, and by the linearised margins in a
# multivariate sigmoid, which needs no samples and has a gradient.

# %%
count = jax.jit(functools.partial(ji.robustness.monte_carlo(net.apply, argnums=2, num_samples=500), stddev=0.3))
proxy = jax.jit(functools.partial(ji.robustness.taylor(net.apply, argnums=2), stddev=0.3))
for key, image in zip(keys, images, strict=True):
    counted, estimated = count(key, state.params, state.state, image), proxy(state.params, state.state, image)
    print(f"Monte Carlo {counted.probability:.3f} ± {counted.stderr:.3f}   Taylor {estimated.probability:.3f}")

# %% [markdown]
# ## Next
#
# `jaxinterp run configs/digits.py` does all of this with gated weights and a gradient-norm penalty, and writes a
# report. The guide (`docs/guide.md`) says the rest of the grammar.
