"""The type aliases of the public signatures; shapes stand in the docstrings."""

from collections.abc import Callable
from typing import Any

import jax

Array = jax.Array
"""Anything `jax.numpy` takes; a traced value counts."""

Key = jax.Array
"""A typed random key, as made by `jax.random.key`."""

PyTree = Any
"""A nested container (tuple, list, dict, registered dataclass) of arrays."""

ScalarFn = Callable[..., Array]
"""`(*args) -> scalar`: what the methods explain."""

LogitsFn = Callable[..., Array]
"""`(*args) -> [classes]`: what the heads of `jaxinterp.heads` turn into a `ScalarFn`."""

MatVec = Callable[[PyTree], PyTree]
"""A linear operator on pytrees: takes a vector, returns the operator times the vector."""
