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
# # How likely does a prediction survive?
#
# A certificate tells what no change within a radius can do, an attack what one change can. Between them lies the
# question of this notebook: with what probability does noise leave the prediction as it is? It is
# $p(x, \sigma) = P[\arg\max f(x + \sigma\varepsilon) = \arg\max f(x)]$ (Han, Srinivas & Lakkaraju, 2024).

# %% [markdown]
# On Colab, clone the repository first and run `%pip install --quiet -e .` in its folder.

# %%
import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from flax import nnx

import jaxinterp as ji
from jaxinterp import derivatives, robustness

SIGMA = 0.5
dataset = ji.data.digits(jax.random.key(0))


def trained(penalties=(), num_steps=300):
    """A small network on scikit-learn's digits, as a function of one image."""
    model = ji.models.MLP(dataset.shape, widths=(32,), num_classes=10, activation=nnx.gelu, rngs=nnx.Rngs(0))
    net, train_net = ji.models.as_function(model), ji.models.as_training_function(model)
    optimizers = ji.training.Optimizers(ji.training.adamw(3e-3, num_steps=num_steps), ji.training.adam(1e-2))
    step = ji.training.make_step(ji.training.make_objective(train_net.apply, net.apply, penalties), optimizers)
    state = ji.training.initial_state(optimizers, jax.random.key(1), net.params, net.state)
    state = ji.training.fit(step, state, ji.data.batches(dataset.train, jax.random.key(2), 64), num_steps)
    return functools.partial(net.apply, state.params, state.state)


f = trained()
images, labels = dataset.test.x, dataset.test.y
keys = jax.random.split(jax.random.key(3), len(images))
print(f"test accuracy {np.mean(jnp.argmax(jax.vmap(f)(images), 1) == labels):.3f}")

# %% [markdown]
# ## Estimate and compare
#
# Counting is unbiased and slow. The others linearise the margins $f_t - f_i$, at the point (Taylor) or after smoothing
# them over a few noisy copies (MMSE), and ask for the probability that a normal vector stays positive. That is a normal
# distribution function in nine dimensions, `derivatives.orthant`; the multivariate sigmoid is a cheap stand-in.


# %%
def normal(key):
    return functools.partial(derivatives.orthant(num_points=1000), key)


estimators = {
    "Taylor, sigmoid": lambda k, x: robustness.taylor(f)(x, stddev=SIGMA),
    "Taylor, normal": lambda k, x: robustness.taylor(f, cdf=normal(k))(x, stddev=SIGMA),
    "MMSE, sigmoid": lambda k, x: robustness.mmse(f)(k, x, stddev=SIGMA),
    "MMSE, normal": lambda k, x: robustness.mmse(f, cdf=normal(jax.random.fold_in(k, 99)))(k, x, stddev=SIGMA),
    "softmax": lambda k, x: robustness.softmax(f)(x, temperature=1.0),
}
counted = jax.jit(jax.vmap(functools.partial(robustness.monte_carlo(f, num_samples=2000), stddev=SIGMA)))(keys, images)
found = {name: jax.jit(jax.vmap(one))(keys, images).probability for name, one in estimators.items()}
print(f"Monte Carlo, mean over {len(images)} digits: {counted.probability.mean():.3f}")
for name, p in found.items():
    gap = np.abs(np.asarray(p) - np.asarray(counted.probability))
    print(f"{name:<16} mean {np.mean(p):.3f}   mean |error| {gap.mean():.3f}   largest {gap.max():.3f}")

# %%
figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), sharey=True, layout="constrained")
for axis, name in zip(axes, ("Taylor, sigmoid", "MMSE, normal", "softmax"), strict=True):
    axis.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    axis.scatter(counted.probability, found[name], s=8, alpha=0.6)
    axis.set(title=name, xlabel="Monte Carlo")
axes[0].set_ylabel("estimate")
plt.show()

# %% [markdown]
# ## The vulnerable and the sure
#
# Counting 2000 samples cannot tell the sure ones apart. Importance sampling can: it shifts the noise towards the
# nearest boundary of the smoothed margins and weighs what it finds.

# %%
order = np.argsort(np.asarray(counted.probability))
rare = jax.jit(jax.vmap(functools.partial(robustness.importance(f, num_samples=500), stddev=SIGMA)))(keys, images)
figure, axes = plt.subplots(2, 8, figsize=(9, 2.9), layout="constrained")
surest = np.argsort(np.asarray(rare.failure))[:8]
for axis, i in zip(axes.ravel(), [*order[:8], *surest], strict=True):
    axis.imshow(images[i, ..., 0], cmap="gray")
    shown = f"p = {counted.probability[i]:.2f}" if i in order[:8] else f"1 - p = {rare.failure[i]:.0e}"
    axis.set_title(f"{labels[i]}: {shown}", fontsize=7)
    axis.set_axis_off()
plt.show()

# %% [markdown]
# ## Are all classes equally robust?

# %%
bias = robustness.by_class(counted.probability, jnp.asarray(labels), 10)
for digit, (mean, stderr, count) in enumerate(zip(bias.mean, bias.stderr, bias.count, strict=True)):
    print(f"{digit}: {mean:.3f} ± {stderr:.3f} over {count}")

# %% [markdown]
# ## Beside the worst case
#
# The nearest adversarial example (DeepFool) is several times closer than noise of the same length would need to be.

# %%
attacks = jax.jit(jax.vmap(robustness.deepfool(f)))(images[:100])
noise = SIGMA * images[0].size ** 0.5
print(
    f"typical length of the noise {noise:.2f}, of the smallest change that is enough {np.median(attacks.distance):.2f}"
)
print(f"correlation of distance and probability {np.corrcoef(attacks.distance, counted.probability[:100])[0, 1]:.2f}")

# %% [markdown]
# ## Nonsense that convinces
#
# The prediction of pure noise is unsure, as it should be. Not far from it each class has inputs that the network is
# surer of than of any real digit, that nobody would call digits, and that survive noise better than real digits do: a
# robust prediction is not a plausible one (fooling inputs; Nguyen, Yosinski & Clune, 2015).

# %%
grey = jax.random.uniform(jax.random.key(4), images[0].shape)
log_prob = ji.heads.log_prob(f)
fool = jax.jit(
    jax.vmap(functools.partial(robustness.pgd(log_prob, num_steps=50), radius=4.0, low=0.0, high=1.0), (0, None, 0))
)
fooling = fool(keys[:10], grey, jnp.arange(10))
survives = jax.jit(jax.vmap(functools.partial(robustness.monte_carlo(f), stddev=SIGMA)))(keys[:10], fooling.point)
figure, axes = plt.subplots(1, 10, figsize=(9, 1.4), layout="constrained")
for digit, axis in enumerate(axes):
    axis.imshow(fooling.point[digit, ..., 0], cmap="gray", vmin=0, vmax=1)
    axis.set_title(
        f"{digit}: {np.exp(fooling.value[digit]):.3f}\nsurvives {survives.probability[digit]:.2f}", fontsize=7
    )
    axis.set_axis_off()
plt.show()

# %% [markdown]
# ## Train on it
#
# The Taylor estimate with the sigmoid has a gradient: its negative logarithm is a penalty.

# %%
penalty = ji.training.WeightedPenalty("fragility", robustness.fragility(SIGMA), 0.3)
g = trained((penalty,))
again = jax.jit(jax.vmap(functools.partial(robustness.monte_carlo(g, num_samples=1000), stddev=SIGMA)))(keys, images)
for name, net, p in (("plain", f, counted), ("trained on it", g, again)):
    accuracy = np.mean(jnp.argmax(jax.vmap(net)(images), 1) == labels)
    print(f"{name:<14} accuracy {accuracy:.3f}   mean probability to survive {np.mean(p.probability):.3f}")
