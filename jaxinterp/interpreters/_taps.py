"""Intermediates of a program: read, perturbed, replaced, and the program from one of them on."""

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxinterp.interpreters._graph import Graph, Node, Site, graph
from jaxinterp.interpreters._restrict import restrict
from jaxinterp.typing import Array, PyTree

SiteLike = Site | str
"""A `Site`; its string form `path:primitive#occurrence`; or a path alone, which means the last output under it."""

Selection = Callable[[Site], bool] | Iterable[SiteLike] | None
"""A predicate; sites; or `None` for all."""


def _table(program: Graph) -> dict[Site, int]:
    """The variables of all intermediates that depend on the input, by site, in the order of execution."""
    outputs = ((node.site(i), v) for node in program.nodes for i, v in enumerate(node.outputs))
    return {site: v for site, v in outputs if v in program.dependent}


def resolve(site: SiteLike, sites: Iterable[Site]) -> Site:
    """Returns the one of `sites` that an address means: a `Site`, its string form, or a path (its last output).

    Raises:
      ValueError: if there is none; the message names the nearest.

    >>> str(resolve("head", [Site("head", "dot_general"), Site("head", "add"), Site("tail", "add")]))
    'head:add#0'
    """
    known = list(sites)
    if isinstance(site, str) and ":" not in site:
        under = [s for s in known if s.path == site or s.path.startswith(f"{site}/")]
        if under:
            return under[-1]
    else:
        wanted = Site.parse(site) if isinstance(site, str) else site
        if wanted in known:
            return wanted
    names = list(dict.fromkeys([*map(str, known), *(s.path for s in known if s.path)]))
    near = difflib.get_close_matches(str(site), names, 5, 0.3) or names[-5:]
    raise ValueError(
        f"There is no site {str(site)!r} among the {len(known)} intermediates that depend on the explained argument. "
        f"Near: {', '.join(map(repr, near))}. `interpreters.sites(f)(*args)` lists all."
    )


def _selected(table: dict[Site, int], select: Selection) -> dict[Site, int]:
    if select is None:
        return table
    if callable(select):
        return {site: v for site, v in table.items() if select(site)}
    if isinstance(select, str):
        raise TypeError(f"`select` must be a predicate or several sites; write `[{select!r}]`.")
    return {site: table[site] for site in (resolve(s, table) for s in select)}


def _traced(method: str, f: Callable[..., PyTree], argnums: int | tuple[int, ...], args: tuple) -> tuple[Graph, list]:
    g, x = restrict(method, f, argnums, args)
    return graph(g, x)


def sites(f: Callable[..., PyTree], argnums: int | tuple[int, ...] = 0) -> Callable[..., dict[Site, Any]]:
    """Returns `(*args)` -> the sites of all intermediates that depend on x, in order, with their shapes and dtypes.

    Nothing is computed.

    >>> def f(x):
    ...     with jax.named_scope("square"):
    ...         return jnp.sum(x * x)
    >>> [f"{site} {shape.shape}" for site, shape in sites(f)(jnp.ones(3)).items()]
    ['square:mul#0 (3,)', 'square:reduce_sum#0 ()']
    """

    def at(*args: PyTree) -> dict[Site, Any]:
        program, _ = _traced("sites", f, argnums, args)
        avals = program.avals
        return {site: jax.ShapeDtypeStruct(avals[v].shape, avals[v].dtype) for site, v in _table(program).items()}

    return at


def intermediates(
    f: Callable[..., PyTree], argnums: int | tuple[int, ...] = 0, *, select: Selection = None
) -> Callable[..., dict[Site, Array]]:
    """Returns `(*args)` -> the values of the intermediates that depend on x, by site.

    Calls (`jax.jit`, `jax.checkpoint`) are opened. Functions with a derivative of their own (`jax.custom_jvp`,
    `jax.custom_vjp`) and loops stay closed: what they return is a site, what happens inside is none.

    Args:
      f: any function.
      argnums: the arguments that count as x.
      select: which sites: a predicate, or an iterable of sites, their string forms, or paths; `None` takes all. What is
        not selected is not kept.

    Returns:
      A function of f's arguments; a dictionary of arrays. (`sites` tells the order of execution.)

    Raises:
      ValueError: at the call, if a selected site does not exist.

    >>> def f(x):
    ...     with jax.named_scope("layer"):
    ...         h = jnp.tanh(x)
    ...     return jnp.sum(h)
    >>> values = intermediates(f, select=["layer"])(jnp.zeros(2))
    >>> {str(site): value.tolist() for site, value in values.items()}
    {'layer:tanh#0': [0.0, 0.0]}
    """

    def at(*args: PyTree) -> dict[Site, Array]:
        program, arrays = _traced("intermediates", f, argnums, args)
        chosen = _selected(_table(program), select)
        values = program.evaluate(arrays)
        return {site: values[v] for site, v in chosen.items()}

    return at


def with_perturbations(
    f: Callable[..., PyTree], argnums: int | tuple[int, ...] = 0
) -> Callable[..., tuple[PyTree, dict[Site, Array]]]:
    r"""Returns `(perturbations, *args)` -> f with a tensor added at chosen sites, and the values there.

    `perturbations` is a dictionary from sites (or, for all keys, string forms or paths: JAX sorts the keys of a
    dictionary, so they must be of one type) to arrays of the site's shape. At zeros
    the value is that of f, and ONE reverse pass gives the gradients with respect to all the chosen intermediates:
    :math:`\partial f/\partial h_s = \partial f(\dots, h_s + p_s, \dots)/\partial p_s` at p = 0.

    Args:
      f: any function.
      argnums: the arguments that count as x.

    Returns:
      A function of the perturbations and f's arguments: the output, and the perturbed values by the same keys.

    Raises:
      ValueError: at the call, if a site does not exist or is given twice, or a perturbation has another shape.

    >>> def f(x):
    ...     with jax.named_scope("layer"):
    ...         h = 3.0 * x
    ...     return jnp.sum(h**2)
    >>> zeros = {"layer": jnp.zeros(2)}
    >>> gradients, values = jax.grad(with_perturbations(f), has_aux=True)(zeros, jnp.array([1.0, 2.0]))
    >>> values["layer"].tolist(), gradients["layer"].tolist()
    ([3.0, 6.0], [6.0, 12.0])
    """

    def at(perturbations: Mapping[SiteLike, Array], *args: PyTree) -> tuple[PyTree, dict]:
        def changed(key: SiteLike, value: Array) -> Array:
            extra = jnp.asarray(perturbations[key])
            if extra.shape != value.shape:
                raise ValueError(f"The perturbation at {str(key)!r} must have shape {value.shape}; got {extra.shape}.")
            return value + extra.astype(value.dtype)

        program, values, keys = _changed("with_perturbations", f, argnums, args, perturbations, changed)
        return program.unflatten(values), {key: values[v] for v, key in keys.items()}

    return at


def patched(
    f: Callable[..., PyTree],
    replacements: Mapping[SiteLike, Array | Callable[[Array], Array]],
    argnums: int | tuple[int, ...] = 0,
) -> Callable[..., PyTree]:
    """Returns f with intermediates replaced: an intervention.

    Args:
      f: any function.
      replacements: from sites (or string forms, or paths) to the new value, or to a function from the old value to
        the new one, such as `lambda h: h.at[..., 3].set(0)`.
      argnums: the arguments that count as x.

    Returns:
      A function of f's arguments.

    Raises:
      ValueError: at the call, if a site does not exist or is given twice, or a replacement has another shape.

    >>> def f(x):
    ...     with jax.named_scope("layer"):
    ...         h = 3.0 * x
    ...     return jnp.sum(h)
    >>> float(patched(f, {"layer": lambda h: h.at[0].set(0.0)})(jnp.array([1.0, 2.0])))
    6.0
    """

    def at(*args: PyTree) -> PyTree:
        def changed(key: SiteLike, value: Array) -> Array:
            new = replacements[key]
            new = jnp.asarray(new(value) if callable(new) else new)
            if new.shape != value.shape:
                raise ValueError(f"The replacement at {str(key)!r} must have shape {value.shape}; got {new.shape}.")
            return new.astype(value.dtype)

        program, values, _ = _changed("patched", f, argnums, args, replacements, changed)
        return program.unflatten(values)

    return at


def _changed(
    method: str,
    f: Callable[..., PyTree],
    argnums: int | tuple[int, ...],
    args: tuple,
    sites: Iterable[SiteLike],
    change: Callable[[SiteLike, Array], Array],
) -> tuple[Graph, dict[int, Any], dict[int, SiteLike]]:
    """The program with `change` applied at some sites: itself, the values of all variables, and which were changed."""
    program, arrays = _traced(method, f, argnums, args)
    table = _table(program)
    keys: dict[int, SiteLike] = {}
    for site in sites:
        v = table[resolve(site, table)]
        if v in keys:
            raise ValueError(f"{str(keys[v])!r} and {str(site)!r} are the same site; give one of them.")
        keys[v] = site

    def visit(node: Node, operands: list) -> list:
        return [
            change(keys[v], out) if v in keys else out for v, out in zip(node.outputs, node(*operands), strict=True)
        ]

    return program, program.evaluate(arrays, visit), keys


def resume_from(
    f: Callable[..., PyTree], site: SiteLike, argnums: int | tuple[int, ...] = 0
) -> Callable[..., tuple[Array, Callable[[Array], PyTree]]]:
    """Returns `(*args)` -> the value h at one site, and the rest of the program as a function of h.

    f's output is `rest(h)`; what does not depend on h is computed once, so `rest` can be mapped and differentiated at
    the cost of the part of f behind the site.

    Args:
      f: any function.
      site: where to cut: a site, its string form or a path.
      argnums: the arguments that count as x.

    Raises:
      ValueError: at the call, if the site does not exist; at that of `rest`, if h has another shape.

    >>> def f(x):
    ...     with jax.named_scope("layer"):
    ...         h = 3.0 * x
    ...     return jnp.sum(h)
    >>> h, rest = resume_from(f, "layer")(jnp.array([1.0, 2.0]))
    >>> h.tolist(), float(rest(jnp.zeros(2)))
    ([3.0, 6.0], 0.0)
    """

    def at(*args: PyTree) -> tuple[Array, Callable[[Array], PyTree]]:
        program, arrays = _traced("resume_from", f, argnums, args)
        table = _table(program)
        chosen = resolve(site, table)
        start = table[chosen]
        values = program.evaluate(arrays)

        def rest(value: Array) -> PyTree:
            value, old = jnp.asarray(value), values[start]
            if value.shape != old.shape:
                raise ValueError(f"The value at {str(chosen)!r} must have shape {old.shape}; got {value.shape}.")
            known = {**values, start: value.astype(old.dtype)}
            fresh = {start}
            for node in program.nodes:
                if not fresh.isdisjoint(node.inputs) and start not in node.outputs:
                    known.update(zip(node.outputs, node(*[known[v] for v in node.inputs]), strict=True))
                    fresh.update(node.outputs)
            return program.unflatten(known)

        return values[start], rest

    return at
