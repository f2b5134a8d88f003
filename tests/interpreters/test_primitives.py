"""Primitives by name."""

import jax
import pytest
from jax import lax

from jaxinterp import interpreters
from jaxinterp.interpreters import primitives

pytestmark = pytest.mark.core


def test_primitives_are_those_of_jax():
    assert primitives.tanh is lax.tanh_p
    assert primitives.conv_general_dilated is lax.conv_general_dilated_p
    assert primitives.scatter_add is lax.scatter_add_p


@pytest.mark.parametrize("f", [jax.nn.relu, jax.jit(lax.sin), lax.cbrt, jax.numpy.fft.rfft])
def test_primitives_of_programs_are_found_by_name(f):
    for node in interpreters.graph(f, jax.numpy.ones(3))[0].nodes:
        assert getattr(primitives, node.name) is node.equation.primitive


def test_a_name_that_does_not_exist():
    with pytest.raises(AttributeError, match=rf"JAX {jax.__version__} has no primitive `tanhh`; `dir\(primitives\)`"):
        _ = primitives.tanhh
    assert not hasattr(primitives, "_private")


def test_all_names_are_listed_and_found():
    listed = dir(primitives)
    assert {"tanh", "exp", "dot_general", "scan", "jit", "custom_jvp_call"} <= set(listed)
    assert listed == sorted(set(listed))
    for name in listed:
        assert interpreters.Rules("example").define(getattr(primitives, name)) is not None
