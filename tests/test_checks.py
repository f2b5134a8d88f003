"""Checks of arguments: what is let through unchanged, and each message of refusal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import checks

pytestmark = pytest.mark.core


def known_inside(transform, value):
    """Whether `checks.concrete` knows the value inside a transformation."""
    seen = []

    def probe(x):
        seen.append(checks.concrete(x) is not None)
        return x

    transform(probe)(value)
    return seen


@pytest.mark.parametrize("value", [3, 2.5, np.arange(3), jnp.arange(3)], ids=["int", "float", "numpy", "jax"])
def test_concrete_values_become_numpy(value):
    known = checks.concrete(value)
    assert isinstance(known, np.ndarray)
    np.testing.assert_array_equal(known, value)


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap, jax.grad], ids=["jit", "vmap", "grad"])
def test_traced_values_are_unknown(transform):
    value = jnp.ones(3) if transform is jax.vmap else jnp.ones(())
    assert known_inside(transform, value) == [False]


@pytest.mark.parametrize("value", [1, 7, np.int32(7), np.int64(1)])
def test_positive_integers_pass(value):
    passed = checks.positive_integer("count", value)
    assert passed == value
    assert type(passed) is int


@pytest.mark.parametrize("value", [True, 2.0, "3", None, np.float32(2), jnp.asarray(2)])
def test_a_count_must_be_an_integer(value):
    with pytest.raises(TypeError, match="`count` must be a Python integer >= 1") as error:
        checks.positive_integer("count", value)
    assert repr(value) in str(error.value)


@pytest.mark.parametrize("value", [0, -4, np.int64(0)])
def test_a_count_must_be_positive(value):
    with pytest.raises(ValueError, match=f"`count` must be at least 1; got {value}"):
        checks.positive_integer("count", value)


def test_chunk_sizes():
    assert checks.optional_chunk_size(None) is None
    assert checks.optional_chunk_size(4) == 4
    with pytest.raises(ValueError, match="`chunk_size` must be at least 1; got 0"):
        checks.optional_chunk_size(0)
    with pytest.raises(TypeError, match="`chunk_size`"):
        checks.optional_chunk_size(2.0)


@pytest.mark.parametrize("value", [0.0, 3, {"a": jnp.zeros(2), "b": 1.0}, np.ones(3)])
def test_non_negative_values_pass(value):
    got = checks.non_negative("stddev", value)
    assert jax.tree.structure(got) == jax.tree.structure(value)
    assert all(a is b for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(value), strict=True))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (-1e-9, "-1.e-09"),
        (np.nan, "nan"),
        (np.inf, "inf"),
        ({"a": 1.0, "b": jnp.array([0.0, -2.0])}, r"\[ 0. -2.\]"),
        ([np.array([1.0, np.nan])], r"\[ 1. nan\]"),
    ],
)
def test_negative_and_not_finite_values_are_refused(value, shown):
    with pytest.raises(ValueError, match=f"`stddev` must be finite and >= 0; got {shown}"):
        checks.non_negative("stddev", value)


def test_unknown_values_become_nan_where_they_are_refused():
    values = jax.jit(lambda s: checks.non_negative("stddev", s))(jnp.array([0.0, 2.0, -1.0, jnp.inf, jnp.nan]))
    np.testing.assert_array_equal(values, [0, 2, np.nan, np.nan, np.nan])
    for value in (jnp.asarray(3), jnp.asarray(3, jnp.bfloat16), 3):
        assert jax.jit(lambda s: checks.non_negative("stddev", s))(value).tolist() == 3.0
    with pytest.raises(ValueError, match="`stddev`"):  # a known leaf beside an unknown one is still checked
        jax.jit(lambda s: checks.non_negative("stddev", (s, -1.0)))(1.0)


def test_one_typed_key_passes(key):
    assert checks.key("trace", key) is key
    jax.jit(lambda k: checks.key("trace", k))(key)
    jax.vmap(lambda k: jax.random.normal(checks.key("trace", k)))(jax.random.split(jax.random.key(1), 3))


@pytest.mark.parametrize("value", [0, None, np.zeros(2, np.uint32)], ids=["seed", "none", "numpy"])
def test_what_is_no_array_is_no_key(value):
    with pytest.raises(TypeError, match=r"`trace` takes a random key as its first arg.*`jax.random.key\(seed\)`"):
        checks.key("trace", value)


def test_raw_keys_are_told_how_to_become_typed():
    with pytest.raises(TypeError, match=r"wrap_key_data\(old_key\).* dtype uint32 and shape \(2,\)"):
        checks.key("trace", jnp.zeros(2, jnp.uint32))


def test_other_arrays_get_no_advice_for_raw_keys():
    with pytest.raises(TypeError, match=r"dtype float\d+ and shape \(3,\)") as error:
        checks.key("trace", jnp.zeros(3))
    assert "wrap_key_data" not in str(error.value)


def test_several_keys_are_to_be_mapped():
    with pytest.raises(TypeError, match=r"Got \(3,\) keys: map over them with `jax.vmap`"):
        checks.key("trace", jax.random.split(jax.random.key(0), 3))


@pytest.mark.parametrize(
    "tree",
    [1.0, np.zeros(2), {"a": jnp.zeros(2, jnp.bfloat16), "b": (jnp.zeros(()), 2.0)}, np.float64(1)],
    ids=["float", "numpy", "nested", "scalar"],
)
def test_floating_trees_pass(tree):
    assert checks.floating("gradient", tree) is tree


@pytest.mark.parametrize("tree", [{}, (), None])
def test_an_input_without_arrays_is_refused(tree):
    with pytest.raises(TypeError, match="`gradient` needs an input with at least one array"):
        checks.floating("gradient", tree)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint8, jnp.bool_, jnp.complex64])
def test_the_leaf_that_is_not_real_is_named(dtype):
    tree = {"tokens": [jnp.zeros(2), jnp.zeros(3, dtype)]}
    name = jnp.dtype(dtype).name
    with pytest.raises(TypeError, match=rf"the leaf `\['tokens'\]\[1\]` of its input has dtype {name}.*the embedding"):
        checks.floating("gradient", tree)
    with pytest.raises(TypeError, match=f"but its input has dtype {name}"):
        checks.floating("gradient", jnp.zeros(3, dtype))


@pytest.mark.parametrize("leaf", [3, "a", True])
def test_python_leaves_that_are_no_floats_are_refused(leaf):
    with pytest.raises(TypeError, match=rf"the leaf `\[0\]` of its input is {leaf!r}; write `jnp.asarray\({leaf!r}, f"):
        checks.floating("gradient", (leaf,))


def test_real_scalars_pass():
    value = jnp.ones((), jnp.bfloat16)
    assert checks.scalar("gradient", value) is value
    assert checks.scalar("gradient", 2.0) == 2.0


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 2)])
def test_arrays_are_no_scalars(shape):
    with pytest.raises(TypeError, match=r"`gradient` needs .* a scalar.* of shape .*heads.logit") as error:
        checks.scalar("gradient", jnp.zeros(shape))
    assert f"shape {shape}" in str(error.value)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.complex64, jnp.bool_])
def test_scalars_must_be_real(dtype):
    with pytest.raises(TypeError, match=f"`gradient` .* real number, but it returned dtype {jnp.dtype(dtype).name}"):
        checks.scalar("gradient", jnp.zeros((), dtype))


def test_class_scores_pass():
    scores = jnp.zeros(2)
    assert checks.logits("logit", scores) is scores


@pytest.mark.parametrize("shape", [(), (1,), (4, 3)])
def test_class_scores_are_a_vector_of_two_or_more(shape):
    with pytest.raises(TypeError, match=r"`logit` needs .* two or more classes.*`jax.vmap`") as error:
        checks.logits("logit", jnp.zeros(shape))
    assert f"returned shape {shape}" in str(error.value)


def test_class_scores_must_be_real():
    with pytest.raises(TypeError, match="`logit` needs real class scores, but the function returned dtype int32"):
        checks.logits("logit", jnp.zeros(3, jnp.int32))


@pytest.mark.parametrize(
    ("value", "positions"), [(0, (0,)), (2, (2,)), ((2, 0), (2, 0)), ((1,), (1,)), (-1, (2,)), ((0, -2), (0, 1))]
)
def test_argnums_become_a_tuple(value, positions):
    assert checks.argnums("hvp", value, 3) == positions


@pytest.mark.parametrize("value", [1.0, "0", True, (0, 1.0), [0, 1], None])
def test_argnums_are_integers(value):
    with pytest.raises(TypeError, match="`argnums` of `hvp` must be an integer or a tuple of integers"):
        checks.argnums("hvp", value, 3)


@pytest.mark.parametrize("value", [3, -4, (0, 3)])
def test_argnums_name_arguments_that_came(value):
    with pytest.raises(ValueError, match=r"`hvp` was built with argnums=.* called with 3 argument\(s\)") as error:
        checks.argnums("hvp", value, 3)
    assert f"argnums={value!r}" in str(error.value)


@pytest.mark.parametrize("value", [(), (1, 1), (1, -2)])
def test_argnums_name_each_argument_once(value):
    with pytest.raises(ValueError, match="must name at least one argument, each once"):
        checks.argnums("hvp", value, 3)


def test_trees_of_the_same_structure_pass():
    like = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(())}
    tree = {"a": np.ones((2, 3)), "b": 1.0}
    assert checks.same_structure("jvp", "vector", tree, like) is tree


@pytest.mark.parametrize("tree", [{"a": jnp.zeros(2)}, (jnp.zeros(2), jnp.zeros(3)), jnp.zeros(2)])
def test_another_structure_is_refused(tree):
    with pytest.raises(ValueError, match=r"`vector` of `jvp` must have the structure PyTreeDef.*; got PyTreeDef"):
        checks.same_structure("jvp", "vector", tree, {"a": jnp.zeros(2), "b": jnp.zeros(3)})


def test_another_shape_is_refused_by_name():
    like = {"a": jnp.zeros(2), "b": jnp.zeros((1, 3))}
    with pytest.raises(ValueError, match=r"`vector\['b'\]` of `jvp` must have shape \(1, 3\); got \(3,\)"):
        checks.same_structure("jvp", "vector", {"a": jnp.zeros(2), "b": jnp.zeros(3)}, like)
