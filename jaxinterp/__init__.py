"""What a neural network is really doing around a point, as transformations of pure JAX functions."""

import importlib
from types import ModuleType

from jaxinterp import attribution as attribution
from jaxinterp import batching as batching
from jaxinterp import derivatives as derivatives
from jaxinterp import geometry as geometry
from jaxinterp import heads as heads
from jaxinterp import interpreters as interpreters
from jaxinterp import local as local
from jaxinterp import penalties as penalties
from jaxinterp import robustness as robustness
from jaxinterp import sparsity as sparsity
from jaxinterp import tree as tree

__version__ = "0.1.0"

_ON_DEMAND = ("app", "data", "evaluation", "models", "training")


def __getattr__(name: str) -> ModuleType:
    """Imports the packages that need Flax, Optax or Orbax when they are first used."""
    if name in _ON_DEMAND:
        return importlib.import_module(f"jaxinterp.{name}")
    raise AttributeError(f"module 'jaxinterp' has no attribute {name!r}")


def __dir__() -> list[str]:
    rooms = [name for name, value in globals().items() if getattr(value, "__name__", "").startswith("jaxinterp.")]
    return sorted({"__version__", *rooms, *_ON_DEMAND})
