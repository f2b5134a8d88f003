"""The trained ResNet-20 on 16 images, and how its maps are compared with the golden arrays."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

X64 = jax.config.jax_enable_x64
DTYPE = jnp.float64 if X64 else jnp.float32


@pytest.fixture(scope="session")
def resnet(golden):
    return golden("resnet20")


@pytest.fixture(scope="session")
def logits(trained_resnet):
    return trained_resnet()


@pytest.fixture(scope="session")
def explained():
    """The maps of the predicted class, one image after the other through one compiled function."""

    def of(method, data, count=16, labels="pred", **arrays):
        explain = jax.jit(functools.partial(method, **arrays))
        images, labels = jnp.asarray(data["x"][:count], DTYPE), jnp.asarray(data[labels][:count])
        maps = [explain(x, y) for x, y in zip(images, labels, strict=True)]
        return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf, np.float64) for leaf in leaves]), *maps)

    return of


@pytest.fixture(scope="session")
def assert_golden():
    """In float64 the golden arrays are exact to their rounding to float32; `floor` is what torch loses in float32."""

    def compare(got, wanted, floor):
        wanted = np.asarray(wanted, np.float64)
        assert got.shape == wanted.shape
        error = np.max(np.abs(got - wanted)) / np.max(np.abs(wanted))
        assert error < (2e-7 if X64 else 3 * floor), error

    return compare
