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
# # Programs as data
#
# Attribution methods that look inside a network usually hook its modules, so they work for one library. Here the
# function is traced to a program, and the program is read: full gradients, relevance propagation and class-activation
# maps work on any JAX function, and the model is not touched.

# %%
import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from flax import nnx

import jaxinterp as ji

# %% [markdown]
# ## Every intermediate has an address
#
# The path of the module or of `jax.named_scope`, the primitive, and a number.


# %%
def f(x):
    with jax.named_scope("hidden"):
        h = jax.nn.gelu(jnp.array([[1.0, -2.0], [0.5, 1.0]]) @ x + jnp.array([0.1, -0.3]))
    with jax.named_scope("out"):
        return jnp.array([1.0, 2.0]) @ jax.nn.softmax(h)


x = jnp.array([1.0, 0.5])
for site, shape in ji.interpreters.sites(f)(x).items():
    print(site, shape.shape)

# %% [markdown]
# They can be read, replaced (an intervention), or taken as the input of the rest of the program.

# %%
print(ji.interpreters.intermediates(f, select=["hidden"])(x))
print(f(x), ji.interpreters.patched(f, {"hidden": lambda h: h.at[0].set(0.0)})(x))
hidden, rest = ji.interpreters.resume_from(f, "hidden")(x)
print(jax.grad(rest)(hidden))

# %% [markdown]
# ## The full gradient
#
# What a function computes is what its input contributes to first order, plus what the offsets inside contribute:
# biases, and the implicit ones of GELU and softmax. The sum is exact for any program (Srinivas & Fleuret, 2019).

# %%
full = ji.interpreters.full_gradient(f)(x)
print("input", full.input_gradient @ x)
for site, term in full.terms().items():
    print(site, term.sum())
print("total", full.total(x), "f", f(x))

# %% [markdown]
# ## A network
#
# A small convolutional network on scikit-learn's digits, trained for a few seconds.

# %%
dataset = ji.data.digits(jax.random.key(0))
model = ji.models.ConvNet(
    dataset.shape, widths=(8, 16), num_classes=10, batch_norm=True, activation=nnx.relu, rngs=nnx.Rngs(0)
)
net, train_net = ji.models.as_function(model), ji.models.as_training_function(model)

num_steps = 300
optimizers = ji.training.Optimizers(ji.training.adamw(3e-3, num_steps=num_steps), ji.training.adam(1e-2))
step = ji.training.make_step(ji.training.make_objective(train_net.apply, net.apply), optimizers)
state = ji.training.initial_state(optimizers, jax.random.key(1), net.params, net.state)
state = ji.training.fit(step, state, ji.data.batches(dataset.train, jax.random.key(2), 64), num_steps)

scores = ji.training.make_evaluation(net.apply)(state.params, state.state, dataset.test.x, dataset.test.y)
print(f"test accuracy {scores['accuracy']:.3f}")

# %%
score = ji.heads.logit(net.apply)  # (params, state, image, label) -> scalar
images, labels = dataset.test.x[:6], dataset.test.y[:6]
arguments = (state.params, state.state, images, labels)
single = (state.params, state.state, images[0], labels[0])
over_images = functools.partial(jax.vmap, in_axes=(None, None, 0, 0))

for site, term in ji.interpreters.full_gradient(score, argnums=2)(*single).terms().items():
    print(f"{site!s:32} {tuple(term.shape)!s:16} contributes {term.sum():7.3f}")

# %% [markdown]
# The network has batch normalisation; each shows up as one site, with its effective bias. ReLU has none.
#
# ## One table of maps
#
# LRP finds layers, merges batch normalisation into them and gives each a rule; class-activation maps take a site.

# %%
rules = ji.attribution.lrp_rules
methods = {
    "gradient x input": ji.attribution.gradient_times_input(score, argnums=2),
    "FullGrad": ji.attribution.full_grad(score, argnums=2),
    "LRP eps+": ji.attribution.lrp(score, argnums=2),
    "LRP by depth": ji.attribution.lrp(
        score, argnums=2, composite=rules.by_depth((0.0, rules.gamma(0.25)), (0.6, rules.epsilon(0.01)))
    ),
    "DeepLIFT": ji.attribution.deep_lift(score, argnums=2),
    "guided": ji.attribution.guided_backprop(score, argnums=2),
    "Grad-CAM": ji.attribution.grad_cam(score, argnums=2, site="blocks_0"),
    "LayerCAM": ji.attribution.layer_cam(score, argnums=2, site="blocks_0"),
}
maps = {name: jax.jit(over_images(method))(*arguments) for name, method in methods.items()}

# %%
figure, axes = plt.subplots(len(images), 1 + len(maps), figsize=(11, 8))
for row, image in enumerate(images):
    axes[row, 0].imshow(image[..., 0], cmap="gray")
    for column, (name, values) in enumerate(maps.items(), start=1):
        values = np.asarray(values[row, ..., 0])
        limit = float(np.abs(values).max()) or 1.0
        axes[row, column].imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit)
        axes[0, column].set_title(name, fontsize=8)
for axis in axes.flat:
    axis.set_axis_off()
plt.show()

# %% [markdown]
# DeepLIFT accounts for the whole change of the output from its baseline; LRP loses what biases absorb.

# %%
change = score(*single) - score(state.params, state.state, jnp.zeros_like(images[0]), labels[0])
print(f"f(x) - f(0) = {change:.4f}, DeepLIFT sums to {maps['DeepLIFT'][0].sum():.4f}")
print(f"f(x) = {score(*single):.4f}, LRP sums to {maps['LRP eps+'][0].sum():.4f}")

# %% [markdown]
# ## Any function, and rules of your own
#
# A method that has no rule for a primitive says where it met it. A rule is a function.


# %%
def g(x):
    return jnp.sum(jax.lax.cumprod(x))


try:
    ji.attribution.lrp(g)(x)
except NotImplementedError as error:
    print(error)

table = ji.attribution.rules.lrp.copy()


@table.define(ji.interpreters.primitives.cumprod)
def as_gradient(call):
    return call.pull(call.cotangents)


print(ji.attribution.lrp(g, rules=table)(x))
