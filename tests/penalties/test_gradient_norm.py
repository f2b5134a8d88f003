"""The gradient-norm penalty: linear and quadratic classifiers in closed form, a tanh network by finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxinterp import heads
from jaxinterp.penalties import input_gradient_norm

X64 = jax.config.jax_enable_x64
DTYPE = jnp.float64 if X64 else jnp.float32
RTOL = 1e-11 if X64 else 2e-5

RNG = np.random.default_rng(11)
W = RNG.normal(size=(3, 4))
B = RNG.normal(size=3)
POINTS = RNG.normal(size=(5, 4))
LABELS = [0, 2, 1, 1, 2]
ALL_HEADS = ["logit", "log_prob", "cross_entropy", "margin"]


def linear(params, state, x):
    return jnp.dot(params["w"], x, precision="highest") + state["b"]


LINEAR = ({"w": jnp.asarray(W, DTYPE)}, {"b": jnp.asarray(B, DTYPE)})


def of_linear(head, x, label, w=W):
    """‖∂head/∂logits · W‖²."""
    scores = w @ x + B
    one = np.eye(3)[label]
    rival = np.eye(3)[max((i for i in range(3) if i != label), key=lambda i: scores[i])]
    by_scores = {
        "logit": one,
        "log_prob": one - scipy.special.softmax(scores),
        "cross_entropy": scipy.special.softmax(scores) - one,
        "margin": one - rival,
    }[head]
    return np.sum((by_scores @ w) ** 2)


def network(params, state, x):
    hidden = jnp.tanh(jnp.dot(params["w0"], x, precision="highest") + state)
    return jnp.dot(params["w1"], hidden, precision="highest")


NETWORK = {"w0": RNG.normal(size=(6, 4)) / 2, "w1": RNG.normal(size=(3, 6))}
SHIFT = RNG.normal(size=6)


def of_network(params, x, label):
    """The squared norm of the input gradient of the cross-entropy of `network`, in float64."""
    hidden = np.tanh(params["w0"] @ x + SHIFT)
    by_scores = scipy.special.softmax(params["w1"] @ hidden) - np.eye(3)[label]
    return np.sum((((by_scores @ params["w1"]) * (1 - hidden**2)) @ params["w0"]) ** 2)


def as_arrays(params):
    return jax.tree.map(lambda a: jnp.asarray(a, DTYPE), params)


def key():
    return jax.random.key(0)


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("head", ALL_HEADS)
@pytest.mark.parametrize("i", range(5))
def test_a_linear_classifier(head, i):
    penalty = input_gradient_norm(getattr(heads, head))
    run = jax.jit(functools.partial(penalty, linear))
    got = run(*LINEAR, key(), jnp.asarray(POINTS[i], DTYPE), jnp.asarray(LABELS[i]))
    assert got.shape == ()
    assert got.dtype == DTYPE
    assert float(got) == pytest.approx(of_linear(head, POINTS[i], LABELS[i]), rel=RTOL)
    alone = penalty(linear, *LINEAR, key(), jnp.asarray(POINTS[i], DTYPE), LABELS[i])
    assert float(alone) == pytest.approx(float(got), rel=RTOL)


@pytest.mark.core
def test_the_default_head_is_the_cross_entropy():
    got = input_gradient_norm()(linear, *LINEAR, key(), jnp.asarray(POINTS[0], DTYPE), 1)
    assert float(got) == pytest.approx(of_linear("cross_entropy", POINTS[0], 1), rel=2e-5)


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("label", range(3))
def test_a_quadratic_classifier(label):
    """Logits ½xᵀAₖx: the penalty is ‖Aₖx‖², and its gradient with respect to Aₖ is xyᵀ + yxᵀ for y = Aₖx."""
    half = np.random.default_rng(2).normal(size=(3, 4, 4))
    matrices, x = half + half.transpose(0, 2, 1), POINTS[2]

    def apply(params, state, x):
        symmetric = (params + params.transpose(0, 2, 1)) / 2
        return jnp.einsum("i,kij,j->k", x, symmetric, x, precision="highest") / 2

    penalty = input_gradient_norm(heads.logit)
    value, slope = jax.jit(jax.value_and_grad(functools.partial(penalty, apply)))(
        jnp.asarray(matrices, DTYPE), (), key(), jnp.asarray(x, DTYPE), label
    )
    y = matrices[label] @ x
    assert float(value) == pytest.approx(y @ y, rel=RTOL)
    wanted = np.zeros((3, 4, 4))
    wanted[label] = np.outer(x, y) + np.outer(y, x)
    np.testing.assert_allclose(slope, wanted, rtol=RTOL, atol=10 * RTOL)


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("i", range(3))
def test_the_gradient_in_the_parameters(i):
    """Double backpropagation, against central differences of the float64 formula."""
    x, label, step = POINTS[i], LABELS[i], 1e-5
    run = jax.jit(jax.value_and_grad(functools.partial(input_gradient_norm(), network)))
    value, slope = run(as_arrays(NETWORK), jnp.asarray(SHIFT, DTYPE), key(), jnp.asarray(x, DTYPE), label)
    assert float(value) == pytest.approx(of_network(NETWORK, x, label), rel=RTOL)
    for name, matrix in NETWORK.items():
        wanted = np.zeros(matrix.shape)
        for place in np.ndindex(matrix.shape):
            e = np.zeros(matrix.shape)
            e[place] = step
            up, down = ({**NETWORK, name: matrix + sign * e} for sign in (1, -1))
            wanted[place] = (of_network(up, x, label) - of_network(down, x, label)) / (2 * step)
        atol = (1e-8 if X64 else 1e-4) * np.abs(wanted).max()
        np.testing.assert_allclose(slope[name], wanted, rtol=0, atol=atol)


@pytest.mark.core
@pytest.mark.numerics
def test_the_gradient_of_a_linear_logit_does_not_touch_the_other_classes():
    """‖W_y‖² has the gradient 2W_y in one row."""
    penalty = functools.partial(input_gradient_norm(heads.logit), linear)
    slope = jax.grad(penalty)(*LINEAR, key(), jnp.asarray(POINTS[0], DTYPE), 1)
    np.testing.assert_allclose(slope["w"], 2 * W * np.eye(3)[1][:, None], rtol=RTOL)


@pytest.mark.core
@pytest.mark.numerics
def test_the_mean_over_a_batch_does_not_depend_on_its_size():
    """A batch is a loop, and twice the batch has the same mean."""
    one = functools.partial(input_gradient_norm(), linear, *LINEAR, key())
    mean = jax.jit(lambda x, y: jnp.mean(jax.vmap(one)(x, y)))
    x, labels = jnp.asarray(POINTS, DTYPE), jnp.asarray(LABELS)
    wanted = np.mean([of_linear("cross_entropy", p, k) for p, k in zip(POINTS, LABELS, strict=True)])
    assert float(mean(x, labels)) == pytest.approx(wanted, rel=RTOL)
    assert float(mean(jnp.tile(x, (2, 1)), jnp.tile(labels, 2))) == pytest.approx(wanted, rel=RTOL)


@pytest.mark.core
@pytest.mark.numerics
def test_the_norm_is_over_all_leaves_of_the_input():
    apply = lambda params, state, x: linear(params, state, jnp.concatenate([x["u"], x["v"].reshape(-1)]))  # noqa: E731
    x = {"u": jnp.asarray(POINTS[3][:1], DTYPE), "v": jnp.asarray(POINTS[3][1:], DTYPE).reshape(3, 1)}
    got = input_gradient_norm()(apply, *LINEAR, key(), x, 2)
    assert float(got) == pytest.approx(of_linear("cross_entropy", POINTS[3], 2), rel=RTOL)


@pytest.mark.core
def test_it_draws_nothing():
    run = functools.partial(input_gradient_norm(), linear, *LINEAR)
    x = jnp.asarray(POINTS[0], DTYPE)
    assert float(run(jax.random.key(1), x, 0)) == float(run(jax.random.key(2), x, 0))


@pytest.mark.core
def test_where_the_classifier_is_flat():
    """The penalty is 0, and so is its gradient: no square root is taken."""
    apply = lambda params, state, x: params * jnp.sum(x**2)  # noqa: E731
    run = jax.value_and_grad(functools.partial(input_gradient_norm(heads.logit), apply))
    value, slope = run(jnp.array([1.0, 2.0]), None, key(), jnp.zeros(3), 0)
    assert float(value) == 0
    assert slope.tolist() == [0, 0]


@pytest.mark.core
def test_inputs_of_bfloat16_are_summed_in_float32():
    """In bfloat16 a running sum of ones stops at 256."""
    apply = lambda params, state, x: jnp.stack([jnp.sum(x), jnp.zeros((), x.dtype)])  # noqa: E731
    got = input_gradient_norm(heads.logit)(apply, None, None, key(), jnp.ones(3000, jnp.bfloat16), 0)
    assert got.dtype == jnp.float32
    assert float(got) == 3000


@pytest.mark.core
@pytest.mark.parametrize("head", ALL_HEADS)
@pytest.mark.parametrize("where", ["params", "x"])
def test_nan_is_seen(head, where):
    """In a parameter that the head depends on, or in the input of a function that is not linear."""
    params, x = as_arrays(NETWORK), jnp.asarray(POINTS[0], DTYPE)
    if where == "params":
        params = {**params, "w0": params["w0"].at[2, 1].set(jnp.nan)}
    else:
        x = x.at[1].set(jnp.nan)
    run = jax.jit(jax.value_and_grad(functools.partial(input_gradient_norm(getattr(heads, head)), network)))
    value, slope = run(params, jnp.asarray(SHIFT, DTYPE), key(), x, 0)
    assert np.isnan(value)
    assert np.isnan(slope["w1"]).any()


@pytest.mark.core
@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_no_class(label):
    penalty = functools.partial(input_gradient_norm(), linear, *LINEAR)
    x = jnp.asarray(POINTS[0], DTYPE)
    with pytest.raises(ValueError, match=rf"The label {label} of `cross_entropy\(f\)` is not one of the 3 classes"):
        penalty(key(), x, label)
    assert np.isnan(jax.jit(penalty)(key(), x, label))


@pytest.mark.core
def test_what_is_refused():
    penalty = functools.partial(input_gradient_norm(), linear, *LINEAR)
    with pytest.raises(TypeError, match=r"^`input_gradient_norm` needs floating-point arrays, .* has dtype int32"):
        penalty(key(), jnp.ones(4, jnp.int32), 0)
    with pytest.raises(TypeError, match=r"The label of `cross_entropy\(f\)` must be one integer; .* dtype float"):
        penalty(key(), jnp.ones(4, DTYPE), 0.0)
    with pytest.raises(TypeError, match=r"The label of `cross_entropy\(f\)` must be one integer; got shape \(2,\)"):
        penalty(key(), jnp.ones(4, DTYPE), jnp.array([0, 1]))
    with pytest.raises(TypeError, match=r"returns the scores of two or more classes .* it returned shape \(\)"):
        input_gradient_norm()(lambda p, s, x: jnp.sum(x), None, None, key(), jnp.ones(4), 0)
    vector = lambda f: lambda x, label: f(x)  # noqa: E731
    with pytest.raises(TypeError, match=r"^`input_gradient_norm` needs a function that returns a scalar.*\(3,\)"):
        input_gradient_norm(vector)(linear, *LINEAR, key(), jnp.ones(4, DTYPE), 0)
