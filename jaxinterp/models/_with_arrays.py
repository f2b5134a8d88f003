"""A network with other arrays in place of its own, such as smaller ones."""

from flax import nnx

from jaxinterp.models._function import place
from jaxinterp.typing import PyTree


def with_arrays(model: nnx.Module, params: PyTree, state: PyTree) -> nnx.Module:
    """Returns a copy of a network with given parameters and state, in the mode of the original.

    The arrays may have other shapes, as from `sparsity.Coupling.shrink`: the sizes that linear layers, convolutions and
    batch and layer normalisations keep of themselves are brought up to date, so that the copy trains, is saved and is
    printed like any network. Sizes that the network's own code keeps are its own affair.

    Args:
      model: a Flax NNX module.
      params: as of `as_function(model).params`, nested dictionaries with string keys.
      state: as of `as_function(model).state`.

    Raises:
      TypeError: if the model is no NNX module.
      ValueError: if an array is missing, or has no place.

    >>> from jaxinterp import models
    >>> net = models.MLP((4,), widths=(8,), num_classes=3, rngs=nnx.Rngs(0))
    >>> params = models.as_function(net).params
    >>> first, last = params["dense_0"], params["head"]
    >>> smaller = {"dense_0": {"kernel": first["kernel"][:, :5], "bias": first["bias"][:5]},
    ...            "head": {"kernel": last["kernel"][:5], "bias": last["bias"]}}
    >>> models.with_arrays(net, smaller, {}).dense_0.out_features
    5
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(f"`with_arrays` needs a Flax NNX module; got {type(model).__name__}.")
    copy = place(nnx.clone(model), params, state)
    for _, node in nnx.iter_graph(copy):
        if isinstance(node, nnx.Linear):
            node.in_features, node.out_features = node.kernel[...].shape
        elif isinstance(node, nnx.Conv):
            node.kernel_shape = node.kernel[...].shape
            node.in_features, node.out_features = (
                node.kernel_shape[-2] * node.feature_group_count,
                node.kernel_shape[-1],
            )
        elif isinstance(node, nnx.BatchNorm):
            node.num_features = node.mean[...].size
        elif isinstance(node, nnx.LayerNorm):
            sizes = [array[...].size for array in (node.scale, node.bias) if array is not None]
            node.num_features = sizes[0] if sizes else node.num_features
    return copy
