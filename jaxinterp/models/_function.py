"""Networks as pure functions of one example."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen, nnx
from flax.core import unfreeze
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxinterp.models._scopes import open_scopes
from jaxinterp.typing import Array, Key, PyTree


@dataclasses.dataclass(frozen=True)
class Function:
    """A network in evaluation mode as a pure function of one example.

    Attributes:
      apply: `(params, state, x) -> logits`, without a batch axis, without side effects.
      params: the trainable parameters, nested dictionaries with string keys.
      state: what else the function depends on, such as the running statistics of batch normalisation; likewise.
    """

    apply: Callable[[PyTree, PyTree, PyTree], Array]
    params: dict
    state: dict


@dataclasses.dataclass(frozen=True)
class TrainingFunction:
    """A network in training mode as a pure function of a batch.

    Attributes:
      apply: `(params, state, key, batch) -> (logits, new_state)`; the key feeds dropout.
      params: the trainable parameters, nested dictionaries with string keys.
      state: what else the function depends on; likewise.
    """

    apply: Callable[[PyTree, PyTree, Key, PyTree], tuple[Array, dict]]
    params: dict
    state: dict


Network = nnx.Module | linen.Module


def as_function(model: Network, variables: Mapping[str, Any] | None = None, **call: Any) -> Function:
    """Returns the evaluation-mode function of a network, with its parameters and state apart.

    The network itself is neither changed nor kept: later updates of it do not reach the function. Pass `params` and
    `state` as arguments of what you jit; a function that closes over them keeps the old values.

    In the traced program the name stack of each equation says which module it comes from, by its attributes and list
    positions, as in `blocks_0/attention/query`; what the network itself computes is outside of any scope. (The modules
    of Linen say the same by themselves.)

    Args:
      model: a Flax NNX module, or a Flax Linen module.
      variables: the variables of a Linen module, as `module.init` returns them.
      call: further arguments for each call of a Linen module, such as `train=False`; NNX modules are put into
        evaluation mode by their own `eval()`.

    Raises:
      TypeError: for another kind of model, a Linen module without variables, or an NNX module with them.

    >>> from jaxinterp import models
    >>> net = models.as_function(models.MLP((4,), widths=(8,), num_classes=3, rngs=nnx.Rngs(0)))
    >>> net.apply(net.params, net.state, jnp.ones(4)).shape
    (3,)
    """
    if isinstance(model, nnx.Module):
        split = _split(model, variables, call, training=False)

        def apply(params: PyTree, state: PyTree, x: PyTree) -> Array:
            return _first(split.merge(params, state, split.random)(_batch_of_one(x)))

        return Function(apply, split.params, split.state)

    variables = _linen_variables("as_function", model, variables)

    def apply_linen(params: PyTree, state: PyTree, x: PyTree) -> Array:
        return _first(model.apply({"params": params, **state}, _batch_of_one(x), **call))

    return Function(apply_linen, variables.pop("params", {}), variables)


def as_training_function(model: Network, variables: Mapping[str, Any] | None = None, **call: Any) -> TrainingFunction:
    """Returns the training-mode function of a network: a batch in, logits and the updated state out.

    Args:
      model: a Flax NNX module (put into training mode by its own `train()`), or a Flax Linen module.
      variables: the variables of a Linen module.
      call: further arguments for each call of a Linen module, such as `train=True`.

    Raises:
      TypeError: for another kind of model, a Linen module without variables, or an NNX module with them.

    >>> from jaxinterp import models
    >>> net = models.as_training_function(
    ...     models.ConvNet((8, 8, 1), widths=(4,), num_classes=3, batch_norm=True, rngs=nnx.Rngs(0)))
    >>> logits, state = net.apply(net.params, net.state, jax.random.key(0), jnp.ones((2, 8, 8, 1)))
    >>> logits.shape, jax.tree.structure(state) == jax.tree.structure(net.state)
    ((2, 3), True)
    """
    if isinstance(model, nnx.Module):
        split = _split(model, variables, call, training=True)

        def apply(params: PyTree, state: PyTree, key: Key, batch: PyTree) -> tuple[Array, dict]:
            module = split.merge(params, state, split.reseeded(key))
            logits = module(batch)
            return logits, _named(_take_apart(module)[3])

        return TrainingFunction(apply, split.params, split.state)

    variables = _linen_variables("as_training_function", model, variables)

    def apply_linen(params: PyTree, state: PyTree, key: Key, batch: PyTree) -> tuple[Array, dict]:
        collections = {"params": params, **state}
        logits, updated = model.apply(collections, batch, mutable=list(state), rngs={"dropout": key}, **call)
        return logits, {**state, **updated}

    return TrainingFunction(apply_linen, variables.pop("params", {}), variables)


@dataclasses.dataclass(frozen=True)
class _Split:
    """An NNX module taken apart; dictionaries with string keys go in and out.

    Attributes:
      graph: its structure.
      params: initial parameters, with string keys.
      state: the other variables, likewise.
      param_paths: where the parameters belong, with the keys of the module (list positions are integers).
      state_paths: where the other variables belong, likewise.
      random: the state of its random number generators, as it comes.
    """

    graph: Any
    params: dict
    state: dict
    param_paths: tuple[tuple, ...]
    state_paths: tuple[tuple, ...]
    random: dict

    def merge(self, params: dict, state: dict, random: dict) -> Callable[..., Array]:
        return nnx.merge(self.graph, _placed(self.param_paths, params), random, _placed(self.state_paths, state))

    def reseeded(self, key: Key) -> dict:
        """The random state with every key drawn anew and every counter at zero."""

        def reset(index: int, value: Array) -> Array:
            is_key = jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
            return jax.random.fold_in(key, index) if is_key else jnp.zeros_like(value)

        leaves, structure = jax.tree.flatten(self.random)
        return jax.tree.unflatten(structure, [reset(i, leaf) for i, leaf in enumerate(leaves)])


def _split(model: nnx.Module, variables: Any, call: Mapping[str, Any], *, training: bool) -> _Split:
    if variables is not None or call:
        given = "`variables`" if variables is not None else ", ".join(f"`{name}`" for name in call)
        raise TypeError(f"{given} is for Linen modules; an NNX module holds its variables and its mode itself.")
    copy = nnx.clone(model)
    if training:
        copy.train()
    else:
        copy.eval()
        open_scopes(copy)
    graph, params, random, state = _take_apart(copy)
    param_paths, state_paths = (tuple(flatten_dict(part)) for part in (params, state))
    # Copies: an array that the user changes in place must not change under the function.
    params, state = (jax.tree.map(jnp.array, _named(part)) for part in (params, state))
    return _Split(graph, params, state, param_paths, state_paths, random)


def place(model: nnx.Module, params: PyTree, state: PyTree) -> nnx.Module:
    """A module like `model` with other arrays, given under string keys."""
    graph, own_params, random, own_state = _take_apart(model)
    given = []
    for own, new in ((own_params, params), (own_state, state)):
        paths = tuple(flatten_dict(own))
        unknown = sorted(set(flatten_dict(new)) - {tuple(map(str, path)) for path in paths})
        if unknown:
            raise ValueError(f"The network has no place for {', '.join('/'.join(path) for path in unknown)}.")
        given.append(_placed(paths, new))
    return nnx.merge(graph, given[0], random, given[1])


def of_zeros(build: Callable[[], Any]) -> Any:
    """The module that `build` makes, of zeros: to be filled in, without drawing and compiling what is replaced."""
    graph, shapes = nnx.split(nnx.eval_shape(build))
    return nnx.merge(graph, jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes))


def _take_apart(model: Any) -> tuple[Any, dict, dict, dict]:
    # Intermediates that a module sows count as nothing: they are not there before the first call.
    graph, *parts = cast(tuple, nnx.split(model, nnx.Param, (nnx.RngState, nnx.Intermediate), ...))
    params, random, state = (nnx.to_pure_dict(part) for part in parts)
    return graph, params, random, state


def _named(pure: dict) -> dict:
    """The same nested dictionary with string keys."""
    return unflatten_dict({tuple(map(str, path)): value for path, value in flatten_dict(pure).items()})


def _placed(paths: tuple[tuple, ...], named: dict) -> dict:
    """Undoes `_named`: the values under the keys of `paths`."""
    values = flatten_dict(named)
    missing = ["/".join(map(str, path)) for path in paths if tuple(map(str, path)) not in values]
    if missing:
        raise ValueError(f"The network needs values for {', '.join(missing)}; got {jax.tree.map(jnp.shape, named)}.")
    return unflatten_dict({path: values[tuple(map(str, path))] for path in paths})


def _linen_variables(caller: str, model: Any, variables: Mapping[str, Any] | None) -> dict:
    if not isinstance(model, linen.Module):
        raise TypeError(
            f"A Flax NNX or Linen module is needed; got {type(model).__name__}. A plain function needs no conversion: "
            "write `f = lambda x: apply(params, x)` and explain that."
        )
    if variables is None:
        raise TypeError(f"The Linen module {type(model).__name__} needs its variables: {caller}(module, variables).")
    if variables and not {"params", "batch_stats"} & set(variables):
        raise TypeError(
            f"{caller} needs the variables as `module.init` returns them, a dictionary with the key 'params'; got the "
            f"keys {', '.join(map(repr, variables))}. Write {caller}(module, {{'params': params}})."
        )
    return jax.tree.map(jnp.array, unfreeze(dict(variables)))


def _batch_of_one(x: PyTree) -> PyTree:
    return jax.tree.map(lambda a: jnp.asarray(a)[None], x)


def _first(batch: PyTree) -> PyTree:
    return jax.tree.map(lambda a: a[0], batch)
