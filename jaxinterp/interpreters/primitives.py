"""JAX's primitives by name: `primitives.tanh` is what a rule for `tanh` is keyed by.

Any attribute is looked up in `jax.lax` (where primitives end in `_p`), then in `jax.extend.core.primitives`; which
there are depends on the version of JAX. Libraries that define primitives of their own export those themselves.

>>> from jaxinterp.interpreters import primitives
>>> primitives.tanh, primitives.dot_general
(tanh, dot_general)
"""

from typing import Any

import jax

from jaxinterp.interpreters import _ir


def __getattr__(name: str) -> Any:
    for module in (jax.lax, _ir.NAMED):
        if not name.startswith("_") and hasattr(module, f"{name}_p"):
            return getattr(module, f"{name}_p")
    raise AttributeError(f"JAX {jax.__version__} has no primitive `{name}`; `dir(primitives)` lists them.")


def __dir__() -> list[str]:
    names = [*dir(jax.lax), *dir(_ir.NAMED)]
    return sorted({name.removesuffix("_p") for name in names if name.endswith("_p") and not name.startswith("_")})
