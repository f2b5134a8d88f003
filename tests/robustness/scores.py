"""Score functions whose robustness is known, and the formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

X64 = jax.config.jax_enable_x64
DTYPE = jnp.float64 if X64 else jnp.float32
TOLERANCE = 1e-12 if X64 else 2e-6

RNG = np.random.default_rng(7)
W = RNG.normal(size=(5, 20)) / 4
B = RNG.normal(size=5) / 4
POINTS = RNG.normal(size=(6, 20))
INNER = RNG.normal(size=(4, 3))
OUTER = RNG.normal(size=(3, 4))


def linear(x):
    return jnp.dot(jnp.asarray(W, x.dtype), x, precision="highest") + jnp.asarray(B, x.dtype)


def two_classes(x):
    return jnp.stack([x[0], -x[0]])


def curved(x):
    """Three classes of a tanh network with 4 units, of a pytree with 3 numbers in two leaves."""
    flat = jnp.concatenate([x["u"], x["v"].reshape(-1)])
    hidden = jnp.tanh(jnp.dot(jnp.asarray(INNER, flat.dtype), flat, precision="highest"))
    return jnp.dot(jnp.asarray(OUTER, flat.dtype), hidden, precision="highest")


def curved_tree(flat):
    return {"u": jnp.asarray(flat[:2], DTYPE), "v": jnp.asarray(flat[2:], DTYPE).reshape(1, 1)}


def curved_in_numpy(flat):
    """Scores and Jacobian of `curved`."""
    hidden = np.tanh(INNER @ flat)
    return OUTER @ hidden, OUTER @ ((1 - hidden**2)[:, None] * INNER)


def margins(scores, jacobian, sigma):
    """z and the cosines by their definition, one class after the other."""
    t = int(np.argmax(scores))
    others = [i for i in range(len(scores)) if i != t]
    gradients = [jacobian[t] - jacobian[i] for i in others]
    z = [(scores[t] - scores[i]) / (sigma * np.linalg.norm(g)) for i, g in zip(others, gradients, strict=True)]
    cosines = [[g @ h / np.linalg.norm(g) / np.linalg.norm(h) for h in gradients] for g in gradients]
    return np.array(z), np.array(cosines)


def survival(scores, jacobian, sigma):
    """The Taylor estimate with the multivariate sigmoid."""
    return 1 / (1 + np.exp(-margins(scores, jacobian, sigma)[0]).sum())


def normal_cdf(z, cosines):
    """Φ_R(z) by SciPy, to 1e-7."""
    zero = np.zeros(len(z))
    return scipy.stats.multivariate_normal.cdf(
        z, zero, cosines, allow_singular=True, abseps=1e-7, releps=1e-7, maxpts=10**6, rng=0
    )


def probability(estimate):
    return float(estimate.probability)


def own_noise(seed, n, shape, leaf=0):
    """The noise as the documentation defines it: leaf j of sample i is drawn from key/i/j, in float32."""
    key = jax.random.key(seed)
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(key, i), leaf))(jnp.arange(n))
    return np.asarray(jax.vmap(lambda k: jax.random.normal(k, shape, jnp.float32))(keys), np.float64)
