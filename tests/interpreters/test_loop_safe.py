"""Rewritten programs: the same values, derivatives included, and every convolution in the layout fast in a loop."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax import lax

from jaxinterp import interpreters

TOLERANCE = 1e-12 if jax.config.jax_enable_x64 else 2e-5


def random(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), float)


X = random((1, 2, 4, 5), 1)
KERNEL = 0.3 * random((2, 2, 3, 3), 2)


def programs_of(params):
    """The programs among the parameters of an equation."""
    leaves = jax.tree.leaves(dict(params), is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr"))
    return [leaf for leaf in leaves if hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr")]


def equations(jaxpr):
    """All equations, those of inner programs included."""
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield equation
        for inner in programs_of(equation.params):
            yield from equations(inner)


def convolutions(f, *args):
    """The dimension numbers of all convolutions of a program."""
    found = [e for e in equations(jax.make_jaxpr(f)(*args)) if e.primitive.name == "conv_general_dilated"]
    return [tuple(e.params["dimension_numbers"]) for e in found]


def is_canonical(numbers):
    """Channels last, kernels height-width-in-out."""
    last = len(numbers[0]) - 1
    space = tuple(range(1, last))
    return numbers == ((0, last, *space), (last, last - 1, *(i - 1 for i in space)), (0, last, *space))


def assert_rewritten(f, *args):
    """The program loses no convolution, and each is canonical; it had others before."""
    before, after = convolutions(f, *args), convolutions(interpreters.loop_safe(f), *args)
    assert len(after) == len(before) > 0
    assert not all(map(is_canonical, before))
    assert all(map(is_canonical, after))


def assert_close(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        scale = np.max(np.abs(b), initial=1)
        np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE * scale)


def conv(x, kernel=KERNEL):
    return lax.conv(x, kernel, (1, 1), "SAME")


@jax.custom_jvp
def with_jvp(x):
    return conv(x)


with_jvp.defjvp(lambda primals, tangents: (conv(primals[0]), 2 * conv(tangents[0])))


@jax.custom_vjp
def with_vjp(x):
    return conv(x)


with_vjp.defvjp(lambda x: (conv(x), x), lambda x, g: (3 * conv(g) + x,))


def positive(v):
    """A symmetric positive operator made of convolutions."""
    return 10 * v + jax.linear_transpose(conv, v)(conv(v))[0]


def repeated(x):
    return lax.scan(lambda c, _: (jnp.tanh(conv(c)), jnp.sum(c)), x, None, length=3)


def closing_over(x):
    """A checkpointed function with constants of its own, an inner call with some more."""
    numbers = np.arange(20.0, dtype=X.dtype).reshape(1, 1, 4, 5)
    return jax.checkpoint(lambda y: conv(y) * jax.jit(lambda z: z + numbers + X[:, :1])(y[:, :1]).repeat(2, 1))(x)


PROGRAMS = {
    "plain": conv,
    "gradient": jax.grad(lambda x: jnp.sum(conv(x) ** 3)),
    "gradient of the kernel": lambda x: jax.grad(lambda k: jnp.sum(conv(x, k) ** 2))(KERNEL),
    "hvp": lambda x: jax.jvp(jax.grad(lambda y: jnp.sum(conv(y) ** 3)), (x,), (x + 1,))[1],
    "jit": lambda x: jax.jit(conv)(x) + 1,
    "jit in jit": lambda x: jax.jit(lambda y: jax.jit(conv)(y) * 2)(x),
    "scan": repeated,
    "gradient of scan": jax.grad(lambda x: jnp.sum(repeated(x)[0])),
    "map": lambda x: lax.map(conv, jnp.stack([x, x + 1])),
    "while body": lambda x: lax.while_loop(lambda s: s[1] < 3, lambda s: (jnp.tanh(conv(s[0])), s[1] + 1), (x, 0))[0],
    "while condition": lambda x: lax.while_loop(lambda c: jnp.sum(conv(c) ** 2) < 1e3, lambda c: 2 * c + 1, x),
    "cond": lambda x: lax.cond(jnp.sum(x) > 0, conv, lambda y: conv(conv(y)), x),
    "switch": lambda x: lax.switch(2, [conv, jnp.tanh, lambda y: conv(y) - 1], x),
    "checkpoint": lambda x: jax.checkpoint(lambda y: jnp.sin(conv(y)))(x),
    "gradient of checkpoint": jax.grad(lambda x: jnp.sum(jax.checkpoint(lambda y: jnp.sin(conv(jnp.sin(conv(y)))))(x))),
    "checkpoint with constants": closing_over,
    "custom_jvp": with_jvp,
    "gradient of custom_jvp": jax.grad(lambda x: jnp.sum(with_jvp(x) ** 2)),
    "custom_vjp": with_vjp,
    "gradient of custom_vjp": jax.grad(lambda x: jnp.sum(with_vjp(x) ** 2)),
    "custom rules in scan": lambda x: lax.scan(lambda c, _: (with_vjp(with_jvp(c)), None), x, None, length=2)[0],
    "linear solve": lambda x: jax.scipy.sparse.linalg.cg(positive, x, maxiter=3)[0],
    "vmap over kernels": lambda x: jax.vmap(conv, (None, 0))(x, jnp.stack([KERNEL, KERNEL + 1])),
}
FORWARD_ONLY = ["while body", "while condition"]
LINEAR_TWICE = ["custom_vjp", "gradient of custom_vjp", "custom rules in scan"]


@pytest.mark.core
@pytest.mark.parametrize("name", PROGRAMS)
def test_values_and_layouts(name):
    f = PROGRAMS[name]
    expected = jax.jit(f)(X)
    assert_close(jax.jit(interpreters.loop_safe(f))(X), expected)
    assert_rewritten(f, X)


@pytest.mark.numerics
@pytest.mark.parametrize("name", PROGRAMS)
def test_batches_and_derivatives(name):
    """Transformations of the rewritten function, and the rewritten transformations of the function."""
    f = PROGRAMS[name]
    safe = interpreters.loop_safe(f)

    def pulled(f):
        return jax.grad(lambda x: sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(f(x)) if leaf.ndim))

    def pushed(f):
        return lambda x: jax.jvp(f, (x,), (jnp.cos(x),))

    transformations = [jax.vmap]
    if name not in FORWARD_ONLY:
        transformations.append(pulled)
    if name not in LINEAR_TWICE:
        transformations.append(pushed)
    for transform in transformations:
        x = jnp.stack([X, 0.5 * X]) if transform is jax.vmap else X
        expected, outside, inside = jax.jit(
            lambda x, t=transform: (t(f)(x), t(safe)(x), interpreters.loop_safe(t(f))(x))
        )(x)
        assert_close(outside, expected)
        assert_close(inside, expected)
        assert all(map(is_canonical, convolutions(interpreters.loop_safe(transform(f)), x)))


LAYOUTS = {
    "NCHW": ("NCHW", "OIHW", "NCHW"),
    "NHWC": ("NHWC", "HWIO", "NHWC"),
    "mixed": ("NHWC", "OIHW", "NCHW"),
    "odd": ("HCNW", "HOWI", "CWNH"),
}
OPTIONS = {
    "strides": {"window_strides": (2, 1), "padding": "VALID"},
    "padding": {"window_strides": (1, 1), "padding": ((2, 0), (1, 3))},
    "dilated inputs": {"window_strides": (1, 1), "padding": ((1, 2), (2, 1)), "lhs_dilation": (2, 3)},
    "dilated kernel": {"window_strides": (1, 1), "padding": "SAME", "rhs_dilation": (2, 1)},
    "feature groups": {"window_strides": (1, 1), "padding": "SAME", "feature_group_count": 2},
    "batch groups": {"window_strides": (1, 1), "padding": "SAME", "batch_group_count": 2},
    "output type": {
        "window_strides": (1, 1),
        "padding": "SAME",
        "preferred_element_type": jnp.float32,
        "precision": "highest",
    },
}


def arrange(array, order, names):
    """From the axes `names` to the axes `order`."""
    return np.asarray(array).transpose([names.index(axis) for axis in order])


@pytest.mark.numerics
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_in_every_layout(layout, option):
    """Against the convolution in the layout NCHW, itself arranged by NumPy."""
    lhs, rhs, out = LAYOUTS[layout]
    params = OPTIONS[option]
    dtype = jnp.bfloat16 if "preferred_element_type" in params else float
    x = random((2, 4, 5, 4), 3).astype(dtype)
    kernel = random((4, 4 // params.get("feature_group_count", 1), 3, 2), 4).astype(dtype)
    expected = lax.conv_general_dilated(x, kernel, dimension_numbers=LAYOUTS["NCHW"], **params)
    f = functools.partial(lax.conv_general_dilated, dimension_numbers=LAYOUTS[layout], **params)
    args = arrange(x, lhs, "NCHW"), arrange(kernel, rhs, "OIHW")
    assert_close(jax.jit(interpreters.loop_safe(f))(*args), arrange(expected, out, "NCHW"))
    if layout != "NHWC":
        assert_rewritten(f, *args)


def slid(x, window, padding, dilation, window_dilation):
    """A convolution in two dimensions without strides, in the layout NCHW, by its definition."""
    x, window = np.asarray(x, np.float64), np.asarray(window, np.float64)
    spread = np.zeros((*x.shape[:2], *(e * (n - 1) + 1 for n, e in zip(x.shape[2:], dilation, strict=True))))
    spread[:, :, :: dilation[0], :: dilation[1]] = x
    reach = [e * (n - 1) for n, e in zip(window.shape[2:], window_dilation, strict=True)]
    sizes = [n + sum(pad) - r for n, pad, r in zip(spread.shape[2:], padding, reach, strict=True)]
    result = np.zeros((x.shape[0], window.shape[0], *sizes))
    for *o, i, j in np.ndindex(*sizes, *window.shape[2:]):
        row, column = (a + e * b - p[0] for a, b, e, p in zip(o, (i, j), window_dilation, padding, strict=True))
        if 0 <= row < spread.shape[2] and 0 <= column < spread.shape[3]:
            result[:, :, o[0], o[1]] += spread[:, :, row, column] @ window[:, :, i, j].T
    return jnp.asarray(result, float)


@pytest.mark.core
@pytest.mark.parametrize("layout", LAYOUTS)
@hypothesis.settings(max_examples=8, deadline=None)
@hypothesis.given(data=st.data())
def test_a_window_larger_than_the_inputs_changes_places_with_them(layout, data):
    """With any padding and dilation: the same values, and the smaller of the two is the window."""
    small = lambda most: data.draw(st.tuples(*[st.integers(1, most)] * 2))  # noqa: E731
    inputs, dilation, kernel_dilation = small(3), small(3), small(2)
    kernel = tuple(n + data.draw(st.integers(1, 3)) for n in inputs)
    reach = [
        d * (k - 1) + 1 - (e * (n - 1) + 1)
        for n, k, e, d in zip(inputs, kernel, dilation, kernel_dilation, strict=True)
    ]
    low = [data.draw(st.integers(-1, 4)) for _ in reach]
    padding = tuple((p, max(r, 0) - p + data.draw(st.integers(0, 2))) for p, r in zip(low, reach, strict=True))
    lhs, rhs, out = LAYOUTS[layout]
    params = {"window_strides": (1, 1), "padding": padding, "lhs_dilation": dilation, "rhs_dilation": kernel_dilation}
    x, window = random((2, 4, *inputs), 11), random((3, 4, *kernel), 12)
    f = functools.partial(lax.conv_general_dilated, dimension_numbers=LAYOUTS[layout], **params)
    args = arrange(x, lhs, "NCHW"), arrange(window, rhs, "OIHW")
    safe = interpreters.loop_safe(f)
    expected = slid(x, window, padding, dilation, kernel_dilation)
    assert_close(jax.jit(safe)(*args), arrange(expected, out, "NCHW"))
    rewritten = [e for e in equations(jax.make_jaxpr(safe)(*args)) if e.primitive.name == "conv_general_dilated"]
    assert len(rewritten) == 1 or not np.any(expected)  # none where the padding takes all away
    for equation in rewritten:
        assert tuple(equation.invars[1].aval.shape[:2]) == inputs
        assert is_canonical(tuple(equation.params["dimension_numbers"]))


@pytest.mark.core
def test_precisions_change_places_too():
    high, low = lax.Precision.HIGHEST, lax.Precision.DEFAULT
    f = lambda x, k: lax.conv(x, k, (1, 1), "SAME", (high, low))  # noqa: E731
    x, safe = X[..., :2, :2], interpreters.loop_safe(f)
    found = [e for e in equations(jax.make_jaxpr(safe)(x, KERNEL)) if e.primitive.name == "conv_general_dilated"]
    assert [e.params["precision"] for e in found] == [(low, high)]
    assert_close(safe(x, KERNEL), f(x, KERNEL))


@pytest.mark.core
@pytest.mark.parametrize("shape", [(2, 2, 0, 4), (0, 2, 3, 4), (2, 2, 1, 0)])
def test_empty_inputs(shape):
    f = lambda x, k: lax.conv_general_dilated(x, k, (1, 1), ((1, 1), (2, 1)))  # noqa: E731
    x = jnp.ones(shape)
    assert_close(interpreters.loop_safe(f)(x, KERNEL), jnp.zeros(jax.eval_shape(f, x, KERNEL).shape))
    slopes = interpreters.loop_safe(jax.grad(lambda x, k: f(x, k).sum(), (0, 1)))(x, KERNEL)
    assert slopes[0].shape == shape
    assert_close(slopes[1], jnp.zeros_like(KERNEL))


@pytest.mark.core
def test_a_convolution_without_space_is_a_matrix_product():
    numbers = lax.ConvDimensionNumbers((0, 1), (0, 1), (0, 1))
    x, k = random((2, 3)), random((4, 3))
    f = interpreters.loop_safe(lambda x, k: lax.conv_general_dilated(x, k, (), (), dimension_numbers=numbers))
    assert_close(f(x, k), x @ k.T)


@pytest.mark.core
@pytest.mark.parametrize("shape", [(1, 2, 2, 2), (1, 2, 6, 5)])
def test_arrays_of_numpy_as_inputs_and_as_kernels(shape):
    x, kernel = np.asarray(random(shape)), np.asarray(KERNEL)
    expected = lax.conv(x, kernel, (1, 1), "SAME")
    assert_close(interpreters.loop_safe(lambda x: lax.conv(x, kernel, (1, 1), "SAME"))(x), expected)
    assert_close(interpreters.loop_safe(lambda k: lax.conv(x, k, (1, 1), "SAME"))(kernel), expected)


@pytest.mark.core
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("padding", [((-2, 2), (0, 0)), ((0, -2), (-2, 1)), ((-1, -1), (-2, 2))])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 3)])
def test_negative_padding(layout, padding, dilation):
    """Which XLA itself computes wrongly on the CPU up to jax 0.10."""
    lhs, rhs, out = LAYOUTS[layout]
    x, window = random((2, 4, 6, 5), 13), random((3, 4, 3, 2), 14)
    params = {"window_strides": (1, 1), "padding": padding, "lhs_dilation": dilation}
    f = functools.partial(lax.conv_general_dilated, dimension_numbers=LAYOUTS[layout], **params)
    got = interpreters.loop_safe(f)(arrange(x, lhs, "NCHW"), arrange(window, rhs, "OIHW"))
    assert_close(got, arrange(slid(x, window, padding, dilation, (1, 1)), out, "NCHW"))


@pytest.mark.core
@hypothesis.settings(max_examples=6, deadline=None)
@hypothesis.given(st.data())
def test_any_order_of_axes_in_any_dimension(data):
    space = data.draw(st.integers(1, 3), "spatial dimensions")
    lhs, rhs, out = (tuple(data.draw(st.permutations(range(space + 2)))) for _ in range(3))
    strides = tuple(data.draw(st.integers(1, 2)) for _ in range(space))
    # Axis i of the array holds the quantity whose position in the specification is i.
    sizes = (2, 3, *range(4, 4 + space))  # batch, channels, space
    window = (5, 3, *range(1, 1 + space))  # out, in, space
    x = random([sizes[lhs.index(axis)] for axis in range(space + 2)], 5)
    kernel = random([window[rhs.index(axis)] for axis in range(space + 2)], 6)
    numbers = lax.ConvDimensionNumbers(lhs, rhs, out)
    safe = interpreters.loop_safe(
        lambda x, k: lax.conv_general_dilated(x, k, strides, "SAME", dimension_numbers=numbers)
    )
    standard = tuple(range(space + 2))
    expected = lax.conv_general_dilated(
        np.transpose(x, lhs),
        np.transpose(kernel, rhs),
        strides,
        "SAME",
        dimension_numbers=lax.ConvDimensionNumbers(standard, standard, standard),
    )
    assert_close(jax.jit(safe)(x, kernel), np.transpose(expected, np.argsort(out)))
    assert all(map(is_canonical, convolutions(safe, x, kernel)))


@pytest.mark.core
@pytest.mark.parametrize("space", [1, 2, 3])
def test_values_against_numpy(space):
    """One output channel, no padding: a correlation written as a loop."""
    x, kernel = random((1, 2, *(4,) * space), 7), random((1, 2, *(2,) * space), 8)
    safe = interpreters.loop_safe(lambda x: lax.conv(x, kernel, (1,) * space, "VALID"))
    expected = np.zeros((3,) * space)
    for position in np.ndindex(*(3,) * space):
        window = (0, slice(None), *(slice(i, i + 2) for i in position))
        expected[position] = np.sum(np.asarray(x, np.float64)[window] * np.asarray(kernel, np.float64)[0])
    np.testing.assert_allclose(safe(x)[0, 0], expected, atol=1e-5)


@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
def test_transposed_convolutions(strides):
    kernel = random((3, 3, 2, 4), 9)
    x = random((1, 4, 5, 4), 10)

    def f(x):
        return lax.conv_transpose(x, kernel, strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def gradient(x):
        return jax.grad(lambda x: jnp.sum(jnp.sin(f(x))))(x)

    x = x[..., :2]
    assert_close(interpreters.loop_safe(f)(x), f(x))
    assert_close(interpreters.loop_safe(gradient)(x), gradient(x))
    assert_rewritten(gradient, x)


@pytest.mark.core
def test_what_is_canonical_already_is_left_alone():
    kernel = random((3, 3, 2, 4), 11)

    def f(x):
        return lax.scan(lambda c, _: (jnp.sin(jax.vmap(network)(c)), None), x, None, length=2)[0]

    def network(x):
        y = lax.conv_general_dilated(x[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return y[0, ..., :2] + y[0, ..., 2:]

    x = random((3, 4, 4, 2), 12)
    single = functools.partial(network, x[0])
    names = [e.primitive.name for e in equations(jax.make_jaxpr(interpreters.loop_safe(lambda: single()))())]
    assert names == [e.primitive.name for e in equations(jax.make_jaxpr(lambda: single())())]
    assert_close(interpreters.loop_safe(f)(x), f(x))


@pytest.mark.core
def test_the_python_body_runs_once():
    calls = []

    def f(x):
        calls.append(1)
        return jnp.sum(conv(x) ** 2)

    safe = jax.jit(interpreters.loop_safe(jax.grad(f)))
    for scale in (1.0, 2.0, 3.0):
        safe(scale * X)
    assert len(calls) == 1
    interpreters.loop_safe(f)(X)
    assert len(calls) == 2


@pytest.mark.core
def test_arguments_are_trees_numbers_and_keys():
    def f(tree, factor, key):
        return {"out": conv(tree["x"]) * factor, "noise": jax.random.normal(key, (2,)), "nothing": None}

    result = interpreters.loop_safe(f)({"x": X}, 2.0, jax.random.key(0))
    assert result["nothing"] is None
    np.testing.assert_array_equal(result["noise"], jax.random.normal(jax.random.key(0), (2,)))
    assert_close(result["out"], 2 * conv(X))


def test_values_closed_over_keep_their_gradient():
    def loss(kernel):
        return jnp.sum(jnp.sin(interpreters.loop_safe(lambda x: jax.jit(conv)(x, kernel))(X)))

    assert_close(jax.grad(loss)(KERNEL), jax.grad(lambda k: jnp.sum(jnp.sin(conv(X, k))))(KERNEL))


def test_programs_that_name_an_axis():
    """A convolution beside a collective over the axis of a vmap outside, or of a shard_map inside."""

    def centred(x):
        return conv(x) - lax.pmean(conv(x), "batch")

    x = random((8, *X.shape), 13)
    expected = jax.vmap(centred, axis_name="batch")(x)
    assert_close(jax.vmap(interpreters.loop_safe(centred), axis_name="batch")(x), expected)
    assert_close(interpreters.loop_safe(jax.vmap(centred, axis_name="batch"))(x), expected)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("batch")
    by_hand = jax.shard_map(lambda x: centred(x[0])[None], mesh=mesh, in_specs=spec, out_specs=spec)
    assert_close(jax.device_get(by_hand(x)), jax.device_get(expected))
    assert_close(jax.device_get(interpreters.loop_safe(by_hand)(x)), jax.device_get(expected))


@pytest.mark.core
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_the_dtype_is_kept(dtype):
    x, kernel = X.astype(dtype), KERNEL.astype(dtype)
    result = interpreters.loop_safe(lambda x: conv(x, kernel))(x)
    assert result.dtype == dtype
    expected = conv(x.astype(jnp.float32), kernel.astype(jnp.float32))
    np.testing.assert_allclose(np.asarray(result, np.float32), expected, atol=10 * float(jnp.finfo(dtype).eps))
