"""Every example in a docstring of the package runs and prints what it says."""

import doctest
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import pytest

import jaxinterp

MODULES = sorted(m.name for m in pkgutil.walk_packages(jaxinterp.__path__, "jaxinterp.") if "__main__" not in m.name)


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings(name):
    module = importlib.import_module(name)
    with jax.numpy_dtype_promotion("standard"):
        outcome = doctest.testmod(module, extraglobs={"jax": jax, "jnp": jnp, "ji": jaxinterp})
    assert outcome.failed == 0
