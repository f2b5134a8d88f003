"""What the tests of this folder read as programs: a zoo of functions, networks, and random programs."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from jax import lax
from jax.scipy import linalg

EPS = float(jnp.finfo(jnp.asarray(0.0, float).dtype).eps)
X64 = jax.config.jax_enable_x64


def random(shape, seed=0, scale=1.0):
    """Normal numbers in the precision of the tests."""
    return jnp.asarray(scale * np.random.default_rng(seed).normal(size=shape), float)


def assert_close(got, expected, tolerance=100 * EPS):
    """Trees are equal up to `tolerance` times the largest entry of each leaf."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        if not jnp.issubdtype(b.dtype, jnp.inexact):
            np.testing.assert_array_equal(a, b)
            continue
        finite = np.where(np.isfinite(b), b, 0)
        scale = np.max(np.abs(finite), initial=1e-3)
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=tolerance * scale)


def compiled(f):
    """`jax.jit` that compiles in half the time and takes longer to run."""
    return jax.jit(f, compiler_options={"xla_backend_optimization_level": 0})


def standard(f):
    """Runs f, written with Flax, as users do: ranks and dtypes promote."""

    def run(*args):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return f(*args)

    return run


X = random((3, 4), 1)
W = random((4, 4), 2, 0.6)
B = random((1, 4), 3)
IMAGE_KERNEL = random((2, 2, 1, 3), 4)


@jax.custom_jvp
def steep(x):
    """A value of its own and a derivative of its own, five halves of the true one."""
    return 2 * x


steep.defjvp(lambda primals, tangents: (2 * primals[0], 5 * tangents[0]))


@jax.custom_vjp
def reversal(x):
    """The identity, with the gradient turned round."""
    return x


reversal.defvjp(lambda x: (x, None), lambda _, g: (-g,))


@jax.custom_vjp
def cubed(x):
    return x**3


cubed.defvjp(lambda x: (x**3, x), lambda x, g: (3 * x**2 * g,))


def relu(x):
    return jnp.maximum(x, 0)


def convolved(x, **options):
    """A convolution of a matrix taken for an image of one channel."""
    options = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": ("NHWC", "HWIO", "NHWC")} | options
    return lax.conv_general_dilated(x[None, :, :, None], IMAGE_KERNEL, **options)


def pooled(x, operation, start, window=(2, 2), strides=(1, 2), padding="SAME"):
    return lax.reduce_window(x, np.asarray(start, x.dtype), operation, window, strides, padding)


def solved(x):
    matrix = x @ x.T + 2 * jnp.eye(3, dtype=x.dtype)
    return jnp.linalg.solve(matrix, x), linalg.cho_solve((jnp.linalg.cholesky(matrix), True), x[:, :2])


def spectrum(x):
    return jnp.real(jnp.fft.ifft(jnp.fft.fft(x) ** 2)), jnp.abs(jnp.fft.rfft(x))


def recurrent(x):
    def step(h, row):
        h = jnp.tanh(h @ W + row + B[0])
        return h, (h * row, jnp.sum(h))

    return lax.scan(step, jnp.ones(4, x.dtype), x, reverse=True)


def looped(x):
    return lax.while_loop(lambda c: jnp.sum(c[0] ** 2) < 50.0, lambda c: (c[0] * 1.5 + 1, c[1] + 1), (x, 0))[0]


def branching(x):
    ones = jnp.ones_like(x)
    picked = lax.switch(jnp.argmax(x[0]) % 3, [jnp.sin, lambda x: x**2 + 1, lambda x: ones], x)
    return lax.cond(x[0, 0] > 0, lambda a, b: a * b, lambda a, b: a - b, picked, x)


def attention(x):
    q, k, v = x @ W, x @ W.T, x @ (W + 1)
    scores = jnp.einsum("tc,sc->ts", q, k) / 2.0
    past = np.tril(np.ones((3, 3), bool))
    return jax.nn.softmax(jnp.where(past, scores, -jnp.inf), axis=-1) @ v


def scattered(x):
    rows = jnp.array([2, 0])
    return x.at[rows].add(x[:2] ** 2).at[:, 1].set(x[:, 0] * 3).at[0].multiply(x[1]).at[1].max(x[2])


def gathered(x):
    order = jnp.argsort(x[:, 0])
    return x[order], jnp.take(x, jnp.array([1, 1, 3]), axis=1), jnp.take_along_axis(x, jnp.argsort(x, axis=1), axis=1)


def drawn(x):
    key = jax.random.key(3)
    return jnp.where(jax.random.bernoulli(key, 0.5, x.shape), x, 0.0) + jax.random.normal(
        jax.random.fold_in(key, 1), x.shape, x.dtype
    )


def stepwise(x):
    """Values that depend on x without a derivative."""
    index = jnp.argmax(x, axis=1)
    hot = jax.nn.one_hot(index, 4, dtype=x.dtype)
    return hot * x + jnp.floor(x) + lax.stop_gradient(x) * x + jnp.where(x > 0, x, 0.1 * x), index


def normalised(x):
    mean = jnp.mean(x, axis=-1, keepdims=True)
    centred = x - mean
    return centred * lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-3) * B + 0.5


ZOO = {
    "dense": lambda x: relu(x @ W + B) @ W + x,
    "activations": lambda x: (jax.nn.gelu(x), jax.nn.silu(x), jax.nn.softplus(x), jax.nn.elu(x), jax.nn.relu6(2 * x)),
    "convolutions": lambda x: (
        convolved(x),
        convolved(x, window_strides=(2, 1), padding="VALID"),
        convolved(x, lhs_dilation=(2, 2), rhs_dilation=(1, 2), padding=((1, 1), (0, 2))),
    ),
    "pooling": lambda x: (
        pooled(x, lax.max, -jnp.inf),
        pooled(x, lax.min, jnp.inf),
        pooled(x, lax.add, 0.0),
    ),
    "sorting": lambda x: (jnp.sort(x, axis=1), lax.top_k(x, 2), lax.sort((x, x**2, jnp.argsort(x)), dimension=0)),
    "gather": gathered,
    "scatter": scattered,
    "cumulative": lambda x: (jnp.cumsum(x, 1), jnp.cumprod(x, 1), lax.cummax(x, 0), lax.cumlogsumexp(x, 1)),
    "scan": recurrent,
    "cond": branching,
    "while": looped,
    "fori": lambda x: lax.fori_loop(0, 3, lambda i, h: h * x + jnp.sin(h), x),
    "map": lambda x: lax.map(lambda row: jax.nn.softmax(row) * row, x),
    "associative_scan": lambda x: lax.associative_scan(jnp.multiply, x),
    "custom_jvp": lambda x: steep(jnp.sin(x)) * x,
    "custom_vjp": lambda x: (reversal(jnp.sin(x)) * x, cubed(x) + x),
    "calls": lambda x: jax.checkpoint(lambda y: jnp.sin(jnp.sin(y)))(jax.jit(lambda y: jnp.tanh(y) @ y.T)(x)),
    "linalg": solved,
    "eigen": lambda x: jnp.linalg.eigh(x @ x.T + jnp.diag(jnp.array([0.0, 2.0, 5.0], x.dtype)))[0],
    "fft": spectrum,
    "random": drawn,
    "attention": attention,
    "normaliser": normalised,
    "softmax": lambda x: (jax.nn.softmax(x), jax.nn.log_softmax(x, axis=0), jax.nn.logsumexp(x, axis=1)),
    "stepwise": stepwise,
    "einsum": lambda x: jnp.einsum("ab,cb,bd->acd", x, x**2, W),
    "vmap": lambda x: jax.vmap(lambda row, w: jax.nn.tanh(row @ W) * w, (0, None))(x, x[0]),
    "grad": lambda x: jax.grad(lambda y: jnp.sum(jnp.sin(y) ** 2 @ W))(x),
    "hessian": lambda x: jax.jvp(jax.grad(lambda y: jnp.sum(jnp.tanh(y @ W))), (x,), (x**2,))[1],
    "shapes": lambda x: jnp.pad(jnp.concatenate([x.T.reshape(3, 4)[::-1], x[1:2]]), ((1, 0), (0, 2)), mode="edge"),
    "slices": lambda x: lax.dynamic_slice(lax.dynamic_update_slice(x, x[:1] * 2, (1, 0)), (0, 1), (3, 2)),
    "division": lambda x: x / (1 + x**2) + 1 / (2 + x[:1]) + x**-2 + jnp.abs(x) ** 1.5,
    "extremes": lambda x: (jnp.max(x, 0), jnp.minimum(x, x[::-1]), jnp.clip(x, -0.5, 0.5), jnp.prod(x), jnp.var(x)),
    "identity": lambda x: x,
    "constant": lambda x: (jnp.cos(x), jnp.ones(2, x.dtype))[1],
    "several": lambda x: {"max": jnp.max(x), "none": None, "twice": [x, x], "half": x[0] / 2},
}
"""Functions of one matrix [3, 4] of many kinds."""

DIFFERENTIABLE = [name for name in ZOO if name != "while"]
"""Those that JAX differentiates in reverse."""


def total(f):
    """The sum of all floating-point outputs of f, each entry with a weight of its own."""

    def weighted(leaf):
        weights = jnp.cos(jnp.arange(leaf.size, dtype=leaf.dtype)).reshape(leaf.shape)
        return jnp.sum(leaf * weights)

    def scalar(*args):
        leaves = [leaf for leaf in jax.tree.leaves(f(*args)) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        return sum(map(weighted, leaves), jnp.zeros((), leaves[0].dtype))

    return scalar


# ------------------------------------------------------------------------------------------------------ random programs


def _like_channels(rng, x, *, scale=1.0):
    """One number for each channel (the last axis)."""
    return jnp.asarray(scale * rng.normal(size=(1,) * (x.ndim - 1) + x.shape[-1:]), x.dtype)


def _dense(rng, x):
    width = int(rng.integers(2, 5))
    kernel = jnp.asarray(rng.normal(size=(x.shape[-1], width)) / x.shape[-1] ** 0.5, x.dtype)
    out = jnp.tensordot(x, kernel, 1)
    return out + _like_channels(rng, out) if rng.random() < 0.7 else out


def _conv(rng, x):
    if x.ndim < 2:
        return x
    space = "XYZ"[: x.ndim - 1]
    size = [int(rng.integers(1, 4)) for _ in space]
    kernel = jnp.asarray(rng.normal(size=(*size, x.shape[-1], 3)) / x.shape[-1], x.dtype)
    strides = [int(rng.integers(1, 3)) for _ in space]
    numbers = (f"N{space}C", f"{space}IO", f"N{space}C")
    return lax.conv_general_dilated(x[None], kernel, strides, "SAME", dimension_numbers=numbers)[0]


def _batch_norm(rng, x):
    mean, shift, scale = (_like_channels(rng, x) for _ in range(3))
    variance = jnp.abs(_like_channels(rng, x)) + 0.1
    return (x - mean) * lax.rsqrt(variance + 1e-3) * scale + shift


def _layer_norm(rng, x):
    mean = jnp.mean(x, axis=-1, keepdims=True)
    if rng.random() < 0.5:
        variance = jnp.mean(x**2, axis=-1, keepdims=True) - mean**2
    else:
        variance = jnp.mean((x - mean) ** 2, axis=-1, keepdims=True)
    return (x - mean) / jnp.sqrt(variance + 0.1) * _like_channels(rng, x) + _like_channels(rng, x)


def _rms_norm(rng, x):
    return x * lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 0.1) * _like_channels(rng, x)


def _softmax(rng, x):
    axis = int(rng.integers(x.ndim))
    match rng.integers(3):
        case 0:
            return jax.nn.softmax(x, axis=axis)
        case 1:
            return jax.nn.log_softmax(x, axis=axis)
    mask = rng.random(x.shape) < 0.6
    mask[(slice(None),) * axis + (0,)] = True
    return jax.nn.softmax(jnp.where(mask, x, -jnp.inf), axis=axis)


def _reshape(rng, x):
    divisors = [n for n in range(1, x.size + 1) if x.size % n == 0]
    n = int(rng.choice(divisors))
    return x.reshape(n, x.size // n) if x.ndim != 2 else x.reshape(-1)


def _transpose(rng, x):
    return jnp.transpose(x, rng.permutation(x.ndim))


def _take(rng, x):
    axis = int(rng.integers(x.ndim))
    return jnp.take(x, jnp.asarray(rng.integers(x.shape[axis], size=3)), axis=axis)


def _slice(rng, x):
    starts = [int(rng.integers(n)) for n in x.shape]
    return lax.slice(x, starts, x.shape)


def _residual(rng, x):
    other = jnp.tanh(_like_channels(rng, x) * x) if rng.random() < 0.5 else jax.nn.relu(x[::-1])
    return x + other


def _gate(rng, x):
    return x * jax.nn.sigmoid(jnp.sum(x, axis=-1, keepdims=True) * 0.3 + _like_channels(rng, x))


def _attention(rng, x):
    if x.ndim != 2:
        return x
    scores = jnp.einsum("tc,sc->ts", x, x * _like_channels(rng, x)) * 0.3
    return jnp.einsum("ts,sc->tc", jax.nn.softmax(scores, axis=-1), x)


def _einsum(rng, x):
    return jnp.einsum("...a,...b->...ab", x, x * _like_channels(rng, x)) if x.ndim < 3 and x.size < 20 else x


def _reduce(rng, x):
    if x.ndim < 2:
        return x
    return (jnp.mean, jnp.max, jnp.sum, jax.nn.logsumexp)[rng.integers(4)](x, axis=int(rng.integers(x.ndim)))


def _concatenate(rng, x):
    axis = int(rng.integers(x.ndim))
    parts = [x, jax.nn.relu(-x), jnp.ones_like(x)][: int(rng.integers(2, 4))]
    return jnp.concatenate(parts, axis) if x.size < 30 else x


def _pool(rng, x):
    if x.ndim < 2:
        return x
    window = (2, *(1,) * (x.ndim - 1))
    start, operation = ((-np.inf, lax.max), (0.0, lax.add))[rng.integers(2)]
    return lax.reduce_window(x, np.asarray(start, x.dtype), operation, window, window, "SAME")


def _pad(rng, x):
    return jnp.pad(x, [(1, 0)] * x.ndim, constant_values=float(rng.integers(3))) if x.size < 20 else x


def _scan(rng, x):
    shift = jnp.asarray(rng.normal(size=x.shape[1:]), x.dtype)

    def step(h, row):
        h = jnp.tanh(0.7 * h + row) + shift
        return h, h * row

    return lax.scan(step, jnp.zeros(x.shape[1:], x.dtype), x)[1]


def _cond(rng, x):
    return lax.cond(jnp.sum(x) > rng.normal(), lambda x: x**2, lambda x: jnp.sin(x) + 1, x)


def _scatter(rng, x):
    return x.at[int(rng.integers(x.shape[0]))].add(x[0] ** 2).at[..., 0].set(1.5)


def _custom(rng, x):
    return (steep, reversal, cubed)[rng.integers(3)](jnp.tanh(x)) + (x if rng.random() < 0.5 else 0.0)


def _stop(rng, x):
    return lax.stop_gradient(jnp.sin(x)) * x + jnp.where(x > rng.normal(), x, 0.2 * x)


def _activation(rng, x):
    functions = [jax.nn.relu, jax.nn.gelu, jax.nn.silu, jax.nn.softplus, jax.nn.elu, jnp.tanh, jax.nn.hard_swish]
    functions += [jnp.abs, jnp.sin, lambda x: x**2 / (1 + x**2), lambda x: jnp.clip(x, -1, 0.5), jax.nn.relu6]
    return functions[rng.integers(len(functions))](x)


def _order(rng, x):
    axis = int(rng.integers(x.ndim))
    return (jnp.sort(x, axis), jnp.cumsum(x, axis), lax.cummax(x, axis), lax.rev(x, (axis,)))[rng.integers(4)]


def _call(rng, x):
    scale = _like_channels(rng, x)
    wrap = (jax.jit, jax.checkpoint)[rng.integers(2)]
    with jax.named_scope("called"):
        return wrap(lambda x: jnp.cos(x * scale) * x)(x)


STEPS = {
    f.__name__.strip("_"): f
    for f in (
        *(_dense, _activation, _conv, _batch_norm, _layer_norm, _rms_norm, _softmax, _reshape, _transpose, _take),
        *(_slice, _residual, _gate, _attention, _einsum, _reduce, _concatenate, _pool, _pad, _scan, _cond, _scatter),
        *(_custom, _stop, _order, _call),
    )
}
"""The steps of random programs: each takes a generator of parameters and an array, and returns an array."""


RANDOM = {
    "steps": st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=6),
    "shape": st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple),
    "seed": st.integers(0, 2**31),
}
"""Hypothesis strategies for the arguments of `random_program`."""


def random_program(steps, shape, seed):
    """The steps one after another, with parameters drawn by seed, and a weighted sum at the end; and an input."""

    def f(x):
        rng = np.random.default_rng(seed)
        for i, step in enumerate(steps):
            with jax.named_scope(f"{step}_{i}"):
                x = STEPS[step](rng, x)
        return jnp.sum(x * jnp.asarray(rng.normal(size=x.shape), x.dtype))

    return f, random(shape, seed + 1)
