"""Checks of arguments: each raises before any compilation and says what came and what to write instead.

A check of a *value* needs a concrete array. Under `jax.jit` or `jax.vmap` values are unknown, and the check passes;
the methods that use these checks then return NaN where they can tell at run time (see `jaxinterp.heads`).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp.typing import Array, Key, PyTree


def concrete(value: Any) -> np.ndarray | None:
    """Returns `value` as a NumPy array, or `None` if it is being traced."""
    try:
        return np.asarray(value)
    except jax.errors.TracerArrayConversionError:
        return None


def positive_integer(name: str, value: Any) -> int:
    """Returns `value` if it is a Python integer >= 1; `TypeError` or `ValueError` otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"`{name}` must be a Python integer >= 1, fixed when the method is built; got {value!r}.")
    if value < 1:
        raise ValueError(f"`{name}` must be at least 1; got {value}.")
    return int(value)


def optional_chunk_size(value: Any) -> int | None:
    """Returns `value` if it is `None` (everything at once) or an integer >= 1."""
    return None if value is None else positive_integer("chunk_size", value)


def functions(method: str, **values: Any) -> None:
    """`TypeError` for options that are no functions, such as their names."""
    for name, value in values.items():
        if not callable(value):
            raise TypeError(f"`{name}` of `{method}` must be a function; got {value!r}.")


def one_of(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """`ValueError` if `value` is none of the choices."""
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}; got {value!r}.")


def non_negative(name: str, value: PyTree, *, finite: bool = True) -> PyTree:
    """Returns `value` if its entries are finite and >= 0; otherwise `ValueError`, or NaN for entries being traced.

    With `finite=False` infinite ones are allowed.
    """

    def leaf(entries: Any) -> Any:
        known = concrete(entries)
        if known is not None and known.dtype.kind in "cOSU":
            raise TypeError(f"`{name}` must be a real number, or a pytree of them; got {entries!r}.")
        if known is None:
            numbers = entries if jnp.issubdtype(entries.dtype, jnp.floating) else entries.astype(float)
            allowed = (numbers >= 0) & (jnp.isfinite(numbers) | (not finite))
            return jnp.where(allowed, numbers, jnp.full_like(numbers, jnp.nan))
        if not np.all((known >= 0) & (np.isfinite(known) | (not finite))):
            raise ValueError(
                f"`{name}` must be {'finite and ' if finite else ''}>= 0; got {np.array2string(known, threshold=6)}."
            )
        return entries

    return jax.tree.map(leaf, value)


def distance(name: str, value: Any, *, finite: bool = True) -> Array:
    """Returns `value` as a scalar of at least float32 if it is one number >= 0; `ValueError` otherwise."""
    if jnp.shape(value) != ():
        raise ValueError(f"`{name}` must be one number; got an array of shape {jnp.shape(value)}.")
    number = jnp.asarray(non_negative(name, value, finite=finite))
    is_wide = jnp.issubdtype(number.dtype, jnp.floating) and jnp.finfo(number.dtype).bits >= 32
    return number if is_wide else number.astype(jnp.float32)


def _of(method: str | None) -> str:
    return f" of `{method}`" if method else ""


def number(name: str, value: Any, method: str | None = None) -> float:
    """Returns `value` if it is a real number; `TypeError` otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"`{name}`{_of(method)} must be a number, fixed when the method is built; got {value!r}.")
    return float(value)


def positive(name: str, value: Any, method: str | None = None) -> float:
    """Returns `value` if it is a number above 0; `TypeError` or `ValueError` otherwise."""
    if not number(name, value, method) > 0:
        raise ValueError(f"`{name}`{_of(method)} must be positive; got {value}.")
    return float(value)


def share(name: str, value: Any) -> float:
    """Returns `value` if it is a number between 0 and 1, both excluded; `TypeError` or `ValueError` otherwise."""
    if not 0 < number(name, value) < 1:
        raise ValueError(f"`{name}` must be between 0 and 1; got {value}.")
    return float(value)


def key(method: str, value: Any) -> Key:
    """Returns `value` if it is one typed random key; `TypeError` otherwise."""
    remedy = f"`{method}` takes a random key as its first argument; write `jax.random.key(seed)`"
    if not isinstance(value, jax.Array):
        raise TypeError(f"{remedy}. Got {value!r} of type {type(value).__name__}.")
    if not jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        hint = ", or `jax.random.wrap_key_data(old_key)` for a raw uint32 key" if value.dtype == jnp.uint32 else ""
        raise TypeError(f"{remedy}{hint}. Got an array of dtype {value.dtype} and shape {value.shape}.")
    if value.shape != ():
        raise TypeError(f"{remedy}. Got {value.shape} keys: map over them with `jax.vmap`.")
    return value


def floating(method: str, tree: PyTree) -> PyTree:
    """Returns `tree` if all its leaves are real floating-point arrays; `TypeError` naming the leaf otherwise."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    if not leaves:
        raise TypeError(f"`{method}` needs an input with at least one array; got {tree!r}.")
    for path, leaf in leaves:
        where = f"the leaf `{jax.tree_util.keystr(path)}` of its input" if path else "its input"
        dtype = getattr(leaf, "dtype", None)
        if dtype is None and isinstance(leaf, float):
            continue
        if dtype is None:
            raise TypeError(
                f"`{method}` needs floating-point arrays, but {where} is {leaf!r}; "
                f"write `jnp.asarray({leaf!r}, float)`."
            )
        if jnp.issubdtype(dtype, jax.dtypes.prng_key):
            raise TypeError(
                f"`{method}` needs floating-point arrays, but {where} is a random key. A key is the first argument of "
                "a method that draws samples, and of no other."
            )
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"`{method}` needs floating-point arrays, but {where} has dtype {dtype}. Such values can be "
                "neither differentiated nor perturbed: convert them if they are quantities (`x.astype(jnp.float32)`), "
                "or explain the embedding they are looked up in."
            )
    return tree


def _described(method: str, value: Any) -> tuple[tuple[int, ...], jnp.dtype]:
    """The shape and dtype of what a function returned; `TypeError` if it is no array."""
    if isinstance(value, tuple | list | dict) or value is None:
        raise TypeError(f"`{method}` needs a function that returns one array; it returned {type(value).__name__}.")
    return jnp.shape(value), jnp.result_type(value)


def not_differentiable(
    method: str,
    values: PyTree,
    why: str = "searches, so it has no derivative; differentiate the function at what it finds",
) -> PyTree:
    """Returns `values`; whoever differentiates with respect to them gets a `TypeError` that names the method."""

    @jax.custom_jvp
    def identity(values: PyTree) -> PyTree:
        return values

    @identity.defjvp
    def refuse(*_: Any) -> Any:
        raise TypeError(f"`{method}` {why}.")

    return identity(values)


def scalar(method: str, value: Any) -> Array:
    """Returns `value` if it is one real floating-point number; `TypeError` otherwise."""
    shape, dtype = _described(method, value)
    if shape != ():
        raise TypeError(
            f"`{method}` needs a function that returns a scalar, but it returned an array of shape {shape}. "
            "Choose one output first, for instance with `jaxinterp.heads.logit(f)`, or return a sum."
        )
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"`{method}` needs a function that returns a real number, but it returned dtype {dtype}.")
    return value


def logits(method: str, value: Any) -> Array:
    """Returns `value` if it is a vector of at least two real class scores; `TypeError` otherwise."""
    shape, dtype = _described(method, value)
    if len(shape) != 1 or shape[0] < 2:
        raise TypeError(
            f"`{method}` needs a function that returns the scores of two or more classes for one example, an array of "
            f"shape [classes], but it returned shape {shape}. Methods see one example at a time: map over a batch with "
            "`jax.vmap`."
        )
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"`{method}` needs real class scores, but the function returned dtype {dtype}.")
    return value


def label(method: str, value: Any, num_classes: int) -> None:
    """Checks that `value` is one integer and, where it is known, one of the classes."""
    if jnp.shape(value) != () or not jnp.issubdtype(jnp.result_type(value), jnp.integer):
        raise TypeError(
            f"The label of `{method}` must be one integer; got shape {jnp.shape(value)} and dtype "
            f"{jnp.result_type(value)}. Map over a batch of labels with `jax.vmap`; take the argmax of a one-hot row."
        )
    known = concrete(value)
    if known is not None and not 0 <= known < num_classes:
        raise ValueError(
            f"The label {int(known)} of `{method}` is not one of the {num_classes} classes 0..{num_classes - 1}."
        )


def argnums(method: str, value: Any, num_args: int) -> tuple[int, ...]:
    """Returns the explained positions as a tuple, negative ones counted from the end; errors if there is no such."""
    positions = value if isinstance(value, tuple) else (value,)
    for position in positions:
        if isinstance(position, bool) or not isinstance(position, int):
            raise TypeError(f"`argnums` of `{method}` must be an integer or a tuple of integers; got {value!r}.")
        if not -num_args <= position < num_args:
            raise ValueError(
                f"`{method}` was built with argnums={value!r}, but the function was called with {num_args} argument(s)."
            )
    positions = tuple(position % num_args for position in positions)
    if len(set(positions)) != len(positions) or not positions:
        raise ValueError(f"`argnums` of `{method}` must name at least one argument, each once; got {value!r}.")
    return positions


def examples(method: str, arrays: PyTree) -> int:
    """How many examples lie along the first axes; `ValueError` if these differ, or there are none."""
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(arrays)]
    lengths = {shape[:1] for shape in shapes}
    if len(lengths) != 1 or lengths <= {(), (0,)}:
        raise ValueError(
            f"`{method}` needs examples along the first axis of all arguments but those with parameters, equally many "
            f"and at least one; got shapes {shapes}."
        )
    return lengths.pop()[0]


def same_structure(method: str, name: str, tree: PyTree, like: PyTree) -> PyTree:
    """Returns `tree` if it has the tree structure and the shapes of `like`; `ValueError` otherwise."""
    wanted: Any = jax.tree.structure(like)
    got: Any = jax.tree.structure(tree)
    if wanted != got:
        raise ValueError(f"`{name}` of `{method}` must have the structure {wanted}; got {got}.")
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(like), strict=True):
        if jnp.shape(a) != jnp.shape(b):
            raise ValueError(
                f"`{name}{jax.tree_util.keystr(path)}` of `{method}` must have shape {jnp.shape(b)}; "
                f"got {jnp.shape(a)}."
            )
    return tree
