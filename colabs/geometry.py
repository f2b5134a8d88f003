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
# # The shape of a network around an image
#
# How much does the gradient turn near an image, how steep can the network get there for certain, and where does it stay
# as sure as it is? Curvature, certified bounds and level sets, on scikit-learn's digits.

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
from jaxinterp import geometry, heads

dataset = ji.data.digits(jax.random.key(0))
model = ji.models.MLP(dataset.shape, widths=(32,), num_classes=10, activation=nnx.gelu, rngs=nnx.Rngs(0))
net, train_net = ji.models.as_function(model), ji.models.as_training_function(model)
optimizers = ji.training.Optimizers(ji.training.adamw(3e-3, num_steps=300), ji.training.adam(1e-2))
step = ji.training.make_step(ji.training.make_objective(train_net.apply, net.apply), optimizers)
state = ji.training.initial_state(optimizers, jax.random.key(1), net.params, net.state)
state = ji.training.fit(step, state, ji.data.batches(dataset.train, jax.random.key(2), 64), 300)
f = functools.partial(net.apply, state.params, state.state)
images, labels = dataset.test.x, dataset.test.y
print(f"test accuracy {np.mean(jnp.argmax(jax.vmap(f)(images), 1) == labels):.3f}")

# %% [markdown]
# ## Curvature
#
# The normalised curvature $\|\nabla^2 f\| / \|\nabla f\|$ tells over what distance the gradient loses its meaning.
# Below are its values on test images, and the spectrum of the loss as a function of the parameters, by stochastic
# Lanczos quadrature: thousands of parameters, forty products with the Hessian for each sample.

# %%
curvature = geometry.curvature(heads.log_prob(f), num_iterations=64)
found = jax.jit(jax.vmap(curvature))(jax.random.split(jax.random.key(3), 100), images[:100], labels[:100])
print(f"largest relative residual {np.max(found.residual):.1e}")


def loss(params):
    logits = jax.vmap(lambda x: net.apply(params, state.state, x))(dataset.train.x[:256])
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), dataset.train.y[:256, None], 1))


density = jax.jit(geometry.hessian_density(loss, num_samples=4, num_iterations=40))(jax.random.key(4), state.params)
nodes, weights = np.ravel(density.nodes), np.ravel(density.weights) * density.dimension / 4

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
left.hist(np.asarray(found.normalised), bins=25)
left.set(xlabel="normalised curvature", ylabel="test images")
right.hist(nodes, bins=60, weights=weights, log=True)
right.set(xlabel="eigenvalues of the Hessian of the loss", ylabel="how many")
plt.show()

# %% [markdown]
# ## For certain
#
# `geometry.bounds` reads the program and encloses it around an image: within the radius no gradient is longer and no
# Hessian larger than the upper line. The lower one is attained at the image. Near it they meet.

# %%
score = heads.logit(f)
bounds = jax.jit(lambda x, label, radius: geometry.bounds(score)(x, label, radius=radius))
radii = np.logspace(-4, 1, 21)
around = [bounds(images[0], labels[0], radius) for radius in radii]
figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
for axis, name in zip(axes, ("lipschitz", "curvature"), strict=True):
    axis.semilogx(radii, [float(getattr(b, name).upper) for b in around], label="nowhere more")
    axis.axhline(float(getattr(around[0], name).lower), color="grey", linestyle=":", label="at the image")
    axis.set(xlabel="radius", title={"lipschitz": "norm of the gradient", "curvature": "norm of the Hessian"}[name])
    axis.legend()
plt.show()
print(f"bound over value at radius 0.01: {float(around[8].lipschitz.upper / around[8].lipschitz.lower):.3f}")

# %% [markdown]
# ## Where it stays as sure
#
# From an image we walk towards images of other classes, along the level set of the log-probability of its own class
# (Balasubramanian et al., 2023). Nearly half of the way can be gone so: the ends are mixtures in which the other digit
# shows, and the network is as sure as ever that it sees the first one. These are its blind spots.

# %%
log_prob = heads.log_prob(f)
source, label = images[0], labels[0]
targets = jnp.stack([images[np.flatnonzero(labels == c)[0]] for c in range(10) if c != label])
walk = jax.jit(jax.vmap(lambda target: geometry.level_set_traversal(log_prob)(source, label, target=target)))
ends = walk(targets)
first = jnp.linalg.norm((targets - source).reshape(9, -1), axis=1)

figure, rows = plt.subplots(2, 10, figsize=(11, 2.8), layout="constrained")
for axis in rows.flat:
    axis.axis("off")
rows[0, 0].imshow(source[..., 0], cmap="gray_r")
rows[0, 0].set_title(f"source: {label}", fontsize=8)
for i in range(9):
    rows[0, i + 1].imshow(targets[i, ..., 0], cmap="gray_r")
    rows[0, i + 1].set_title("target", fontsize=8)
    rows[1, i + 1].imshow(ends.point[i, ..., 0], cmap="gray_r")
    rows[1, i + 1].set_title(f"P({label}) = {np.exp(ends.value[i]):.2f}", fontsize=8)
plt.show()
print(f"of the way to the target remains {np.mean(ends.distance / first):.2f} on average")

# %% [markdown]
# Between the source and two such ends: is the network sure in the whole triangle? And how far along each ray before its
# probability has fallen below 0.5, towards the ends and towards the true images of the other classes?

# %%
triangle = geometry.simplex(log_prob, num_points=33, chunk_size=64)
inside = jax.jit(lambda others: triangle(source, label, others=others))(ends.point[:2])
chances = np.exp(np.asarray(inside.values))
print(f"mean probability in the triangle {chances.mean():.3f}, lowest {chances.min():.3f}")


@jax.jit
@functools.partial(jax.vmap, in_axes=(0, None))
def reach(direction, level):
    length = jnp.linalg.norm(direction)
    stays = geometry.level_distance(log_prob)(source, label, direction=direction, reach=1.5 * length, level=level)
    return jnp.minimum(stays / length, 1.5)


figure = plt.figure(figsize=(9, 3.4), layout="constrained")
axis = figure.add_subplot(1, 2, 1)
corners = np.array([[0.5, 0.87], [0.0, 0.0], [1.0, 0.0]])
places = np.asarray(inside.weights) @ corners
shown = axis.tripcolor(places[:, 0], places[:, 1], chances, shading="gouraud", vmin=0, vmax=1)
axis.set_aspect("equal")
axis.axis("off")
for name, (x, y) in zip(("source", "end 1", "end 2"), corners, strict=True):
    axis.annotate(name, (x, y))
figure.colorbar(shown, label=f"P({label})")
star = figure.add_subplot(1, 2, 2, projection="polar")
angles = np.linspace(0, 2 * np.pi, 10)
for name, points in (("ends of the walks", ends.point), ("true images", targets)):
    lengths = np.asarray(reach(points - source, jnp.log(0.5)))
    star.plot(angles, np.append(lengths, lengths[0]), marker=".", label=name)
star.set_yticks([0.5, 1.0, 1.5])
star.set_xticks(angles[:-1], [str(c) for c in range(10) if c != label])
star.set_title("part of the way with P > 0.5", fontsize=9)
star.legend(loc="lower right", fontsize=7, bbox_to_anchor=(1.35, -0.1))
plt.show()
