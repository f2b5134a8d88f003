"""The path of each submodule in the name stack of the program that a network is traced to.

Flax NNX opens no `jax.named_scope` (Linen does), so that nothing in a traced program tells which layer an equation
comes from. Here every module of a network gets a subclass of its own class whose `__call__` opens the module's path,
`blocks_0/attention/query`, and then does what the class does.
"""

import contextlib
import contextvars
import functools
import types
from collections.abc import Iterator
from typing import Any

import jax
from flax import nnx

_RUNNING: contextvars.ContextVar[str] = contextvars.ContextVar("path of the module whose call runs", default="")


def open_scopes(model: nnx.Module) -> None:
    """Changes the modules of `model`, in place, so that each opens a scope with its path while it is called.

    The name stack of an equation then gives the path of the module whose call it belongs to: the attributes, list
    positions and dictionary keys that lead there, joined by `/`. The root has the empty path. A module that is called
    by another than its parent opens what is missing of its path. Scopes can only be added, so a module called from
    outside its own branch (one object in two branches has the first path) opens its path anew with a leading slash:
    `decoder//encoder/shared`, to be read from the double slash on.

    Only the classes of the modules change. `isinstance` and `super` work as before; `type(layer) is nnx.Linear` fails.

    Args:
      model: a network of the caller's own, such as a copy.
    """
    for path, node in list(nnx.iter_graph(model)):
        if isinstance(node, nnx.Module) and callable(node) and not isinstance(node, _Scoped):
            scoped = _scoped_class(type(node), "/".join(map(str, path)), _is_pytree(node))
            object.__setattr__(node, "__class__", scoped)


class _Scoped(nnx.Module):
    """Marks the classes that are made here."""

    def __init_subclass__(cls, *, pytree: bool) -> None:
        # Straight to Flax's own: a registry that the user's class keeps of its subclasses is not to see this one.
        super(nnx.Module, cls).__init_subclass__(pytree=pytree)


@functools.cache
def _scoped_class(cls: type, path: str, is_pytree: bool) -> type:
    """The subclass of `cls` for the modules at `path`.

    The path is on the class, not on the module: a copy that a transformation makes (`nnx.remat`, `nnx.vmap`) keeps it,
    and the attributes of the module stay exactly as they were.
    """

    @functools.wraps(cls.__call__, ("__doc__",), ())  # Flax asks for the signature of layers
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _running(path):
            return super(scoped, self).__call__(*args, **kwargs)

    names = {"__call__": call} | {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
    # Python lets an object change to a subclass if both store attributes the way the first of their bases does: the
    # class that marks comes first, except where a mixin that is no module stands before Flax's own class.
    bases = (_Scoped, cls) if _stored_by_flax(cls) else (cls, _Scoped)
    scoped: Any = types.new_class(cls.__name__, bases, {"pytree": is_pytree}, lambda body: body.update(names))
    return scoped


def _stored_by_flax(cls: type) -> bool:
    base: type | None = cls
    while base not in (None, nnx.Module):
        base = base.__base__
    return base is nnx.Module


def _is_pytree(module: nnx.Module) -> bool:
    structure: Any = jax.tree.structure(module, is_leaf=lambda node: node is not module)
    return not jax.tree_util.treedef_is_leaf(structure)


@contextlib.contextmanager
def _running(path: str) -> Iterator[None]:
    name = _missing(path, _RUNNING.get())
    token = _RUNNING.set(path)
    try:
        with jax.named_scope(name) if name else contextlib.nullcontext():
            yield
    finally:
        _RUNNING.reset(token)


def _missing(path: str, opened: str) -> str:
    """What to open so that the name stack says `path` where it says `opened`."""
    if path in ("", opened):
        return ""  # the root, of a network inside a module of another one perhaps; or a module that calls itself
    if not opened:
        return path
    return path.removeprefix(f"{opened}/") if path.startswith(f"{opened}/") else f"/{path}"
