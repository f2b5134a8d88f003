"""Heads against NumPy and SciPy, and labels that are no class."""

import hypothesis
import hypothesis.extra.numpy as arrays
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import strategies as st

from jaxinterp import attribution, heads

CLASSES = 4
TOLERANCE = 1e-12 if jax.config.jax_enable_x64 else 1e-5


def one_hot(label):
    return np.arange(CLASSES) == label


def surprise(s, y):
    """Minus the log-probability, exact to float64 also where it is tiny."""
    return np.log1p(np.exp(np.delete(s, y) - s[y]).sum())


def surprise_gradient(s, y):
    others = np.where(one_hot(y), 0.0, scipy.special.softmax(s))
    return others - one_hot(y) * others.sum()


# name: (head, value, gradient with respect to the scores), in float64
ORACLES = {
    "logit": (heads.logit, lambda s, y: s[y], lambda s, y: one_hot(y)),
    "log_prob": (
        heads.log_prob,
        lambda s, y: -surprise(s, y),
        lambda s, y: -surprise_gradient(s, y),
    ),
    "cross_entropy": (
        heads.cross_entropy,
        surprise,
        surprise_gradient,
    ),
    "margin": (
        heads.margin,
        lambda s, y: s[y] - np.delete(s, y).max(),
        lambda s, y: one_hot(y).astype(float) - one_hot(np.argmax(np.where(one_hot(y), -np.inf, s))),
    ),
}
SCORES = arrays.arrays(np.float32, CLASSES, elements=st.integers(-200, 200).map(lambda n: n / 16), unique=True)
BOTH = {name: jax.jit(jax.value_and_grad(head(lambda s: s))) for name, (head, _, _) in ORACLES.items()}


def model(w, x):
    return {"w": w}["w"] @ jnp.tanh(x)


def model_inputs():
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(CLASSES, 3)), float), jnp.asarray(rng.normal(size=(6, 3)), float)


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("name", ORACLES)
@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(scores=SCORES, label=st.integers(0, CLASSES - 1))
def test_values_and_gradients(name, scores, label):
    _, value, gradient = ORACLES[name]
    exact = scores.astype(np.float64)
    got = BOTH[name](jnp.asarray(scores, float), label)
    np.testing.assert_allclose(got[0], value(exact, label), rtol=TOLERANCE)
    np.testing.assert_allclose(got[1], gradient(exact, label), rtol=10 * TOLERANCE, atol=1e-30)


@pytest.mark.core
@pytest.mark.parametrize("name", ORACLES)
def test_jit_vmap_and_loop_agree_over_several_inputs(name):
    score = ORACLES[name][0](model)
    w, x = model_inputs()
    labels = jnp.array([0, 3, 1, 1, 2, 0])
    loop = [float(score(w, x[i], int(labels[i]))) for i in range(6)]
    np.testing.assert_allclose(jax.vmap(score, (None, 0, 0))(w, x, labels), loop, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(jax.vmap(score, (None, 0, 0)))(w, x, labels), loop, rtol=1e-5)
    expected = [ORACLES[name][1](np.asarray(model(w, x[i]), np.float64), int(labels[i])) for i in range(6)]
    np.testing.assert_allclose(loop, expected, rtol=1e-4)


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(scores=SCORES, label=st.integers(0, CLASSES - 1))
def test_the_margin_is_positive_where_the_label_is_predicted(scores, label):
    value, _ = BOTH["margin"](jnp.asarray(scores, float), label)
    assert (float(value) > 0) == (int(np.argmax(scores)) == label)


@pytest.mark.core
@pytest.mark.parametrize("lead", [20.0, 60.0])
def test_a_nearly_sure_network_keeps_its_relative_precision(lead):
    scores = np.array([0.0, lead, 1.0, -2.0])
    for name, sign in [("log_prob", -1), ("cross_entropy", 1)]:
        value, gradient = BOTH[name](jnp.asarray(scores, float), 1)
        assert float(value) == pytest.approx(sign * surprise(scores, 1), rel=1e-5, abs=0)
        np.testing.assert_allclose(gradient, sign * surprise_gradient(scores, 1), rtol=1e-5)


def test_only_the_log_probability_ignores_a_common_shift():
    x = jnp.array([0.3, -1.0, 2.0])
    for name, (head, _, _) in ORACLES.items():
        plain = jax.grad(head(lambda x: jnp.tanh(x)))(x, 1)
        shifted = jax.grad(head(lambda x: jnp.tanh(x) + jnp.sum(x**2)))(x, 1)
        unchanged = bool(jnp.allclose(plain, shifted, atol=1e-5))
        assert unchanged == (name != "logit")


@pytest.mark.core
@pytest.mark.numerics
@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint32", "numpy", "python"])
def test_labels_of_any_integer_type(name, dtype):
    label = {"numpy": np.int64(2), "python": 2}.get(dtype)
    label = jnp.asarray(2, dtype) if label is None else label
    scores = jnp.array([0.5, -1.0, 3.0, 1.0])
    score = ORACLES[name][0](lambda s: s)
    expected = ORACLES[name][1](np.asarray(scores, np.float64), 2)
    assert float(score(scores, label)) == pytest.approx(expected, abs=1e-5)
    assert float(jax.jit(score)(scores, label)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.core
@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_the_dtype_of_the_scores_is_kept(name, dtype):
    scores = jnp.array([0.5, -1.0, 3.0, 1.0], dtype)
    value, gradient = jax.value_and_grad(ORACLES[name][0](lambda s: s))(scores, 2)
    assert value.dtype == gradient.dtype == dtype
    expected = ORACLES[name][1](np.asarray(scores, np.float64), 2)
    assert float(value) == pytest.approx(expected, abs=3 * float(jnp.finfo(dtype).eps))


@pytest.mark.core
@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("label", [-1, CLASSES, -CLASSES, 1000])
def test_a_known_label_outside_the_classes_is_an_error(name, label):
    message = rf"The label {label} of `{name}\(f\)` is not one of the 4 classes 0..3"
    for value in (label, np.int32(label), jnp.asarray(label)):
        with pytest.raises(ValueError, match=message):
            ORACLES[name][0](lambda s: s)(jnp.zeros(CLASSES), value)


@pytest.mark.core
@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("label", [-1, CLASSES, -CLASSES, 1000])
def test_a_traced_label_outside_the_classes_is_nan_with_its_derivatives(name, label):
    value, gradient = BOTH[name](jnp.arange(4.0), label)
    assert np.isnan(value)
    assert np.all(np.isnan(gradient))


@pytest.mark.parametrize("name", ORACLES)
def test_the_second_derivative_at_a_wrong_label_is_nan(name):
    score = ORACLES[name][0](lambda x: jnp.stack([x**2, x**3, jnp.sin(x)]))
    second = jax.jit(jax.grad(jax.grad(score)))
    assert np.isnan(second(0.7, 3))
    assert np.isfinite(second(0.7, 1))


@pytest.mark.core
@pytest.mark.parametrize("name", ORACLES)
def test_under_vmap_only_the_wrong_label_is_nan(name):
    score = ORACLES[name][0](lambda s: s)
    scores = jnp.array([[0.5, -1.0, 3.0, 1.0]] * 3)
    values, gradients = jax.vmap(jax.value_and_grad(score))(scores, jnp.array([2, -1, 2]))
    assert np.isnan(values).tolist() == [False, True, False]
    assert np.isnan(gradients).all(1).tolist() == [False, True, False]


@pytest.mark.core
@pytest.mark.parametrize("name", ORACLES)
def test_the_label_must_come(name):
    with pytest.raises(TypeError, match=rf"`{name}\(f\)` takes the arguments of f and then the label; got 1 argument"):
        ORACLES[name][0](lambda s: s)(jnp.zeros(3))


@pytest.mark.core
@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize(
    ("label", "got"),
    [
        (1.0, r"shape \(\) and dtype float"),
        (np.array([1, 2], np.int32), r"shape \(2,\) and dtype int32"),
        (np.array([0.0, 1.0], np.float32), r"shape \(2,\) and dtype float32"),
        (True, r"shape \(\) and dtype bool"),
    ],
    ids=["float", "batch", "one-hot", "bool"],
)
def test_the_label_must_be_one_integer(name, label, got):
    with pytest.raises(TypeError, match=rf"The label of `{name}\(f\)` must be one integer; got {got}"):
        ORACLES[name][0](lambda s: s)(jnp.zeros(3), label)


@pytest.mark.core
@pytest.mark.parametrize("name", ORACLES)
def test_the_scores_must_be_a_vector(name):
    with pytest.raises(TypeError, match=rf"`{name}` needs .* returned shape \(5, 3\)"):
        ORACLES[name][0](lambda s: s)(jnp.zeros((5, 3)), 0)


def test_a_head_is_named_after_its_function():
    assert heads.logit(model).__name__ == "model"


@pytest.mark.core
def test_the_signature_is_not_that_of_the_function():
    """`jax.jit(..., static_argnums=1)` looks at it."""
    score = heads.logit(lambda x: x)
    assert float(jax.jit(score, static_argnums=1)(jnp.arange(3.0), 2)) == 2


@pytest.mark.core
@pytest.mark.parametrize("label", [4, np.int64(-1)])
def test_a_known_label_is_checked_inside_a_loop_too(label):
    """The function is traced there; the label is not."""
    score = heads.logit(lambda x: jnp.sin(x))
    with pytest.raises(ValueError, match=r"is not one of the 4 classes"):
        attribution.integrated_gradients(score)(jnp.zeros(CLASSES), label)
