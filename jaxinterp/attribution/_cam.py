"""Class-activation maps from the features at a site of the program and the gradient there."""

from collections.abc import Callable
from typing import TypedDict, Unpack

import jax
import jax.numpy as jnp

from jaxinterp import checks, tree
from jaxinterp.attribution._features import features_at, weighted_channels
from jaxinterp.attribution._guided import guided_backprop
from jaxinterp.attribution._images import Resize, align_corners, over_channels, single_image
from jaxinterp.interpreters import SiteLike, restrict_scalar
from jaxinterp.typing import Array, PyTree, ScalarFn

Activation = Callable[[Array], Array]


class MapOptions(TypedDict, total=False):
    """The keywords that all methods here share; see `class_activation_map`."""

    site: SiteLike | None
    activation: Activation
    resize: Resize
    channel_axis: int


def class_activation_map(
    f: ScalarFn,
    argnums: int | tuple[int, ...] = 0,
    *,
    combine: Callable[[Array, Array], Array],
    **options: Unpack[MapOptions],
) -> Callable[..., PyTree]:
    r"""A map of the features at a site: returns `(*args)` -> what `combine` makes of features and gradient.

    With the features :math:`A_k` (channel k, an array over positions) at a site of the program and
    :math:`G_k = \partial f/\partial A_k`, the map is the activation of `combine(A, G)`, brought to the positions of
    the image. The methods with names of their own are instances of this one.

    The site is found in the program of f, for any model library: `interpreters.sites(f)(*args)` lists all. The part of
    f before the site is evaluated once and not differentiated.

    Args:
      f: a scalar function.
      argnums: the explained argument: one image [*spatial, channels] with any number of spatial axes.
      combine: takes A and G, both [*positions, channels], and returns an array [*positions].
      site: a `Site`, its string form, or a path such as "blocks_8", which means the last output under it; `None` takes
        the last intermediate with as many axes as the image and more than one position: what the classifier pools.
      activation: applied to the map before it is resized (a ReLU by default); the identity keeps negative evidence.
      resize: brings the map to the positions of the image; `attribution.align_corners` by default.
      channel_axis: where the image and the features have their channels: -1 (the default) in Flax, -3 or 0 for images
        [channels, height, width], as in Equinox.

    Returns:
      A function of f's arguments; the map is like the explained argument, equal over the channels.

    Raises:
      TypeError: at the call, if f is not scalar or the input not one floating-point image.
      ValueError: at the call, if there is no such site, or its output has no positions.

    Source: Zhou, Khosla, Lapedriza, Oliva & Torralba (2016) and, for the gradient form, Selvaraju et al. (2017).

    >>> f = lambda x: jnp.sum(jax.nn.relu(x) @ jnp.array([1.0, -1.0]))
    >>> explain = class_activation_map(f, combine=lambda a, g: jnp.sum(a * g, -1), activation=lambda m: m)
    >>> explain(jnp.array([[1.0, 0.0], [2.0, 5.0]]))[:, 0].tolist()
    [1.0, -3.0]
    """
    return _map_at_site("class_activation_map", f, argnums, combine, **options)


def _map_at_site(
    method: str,
    f: ScalarFn,
    argnums: int | tuple[int, ...],
    combine: Callable[[Array, Array], Array],
    *,
    site: SiteLike | None = None,
    activation: Activation = jax.nn.relu,
    resize: Resize = align_corners,
    channel_axis: int = -1,
) -> Callable[..., PyTree]:
    checks.functions(method, combine=combine, activation=activation, resize=resize)

    def attribute(*args: PyTree) -> PyTree:
        g, x = restrict_scalar(method, f, argnums, args)
        image, restored = single_image(method, x, channel_axis)
        features, score = features_at(g, x, site, channel_axis)
        heat = activation(combine(features, jax.grad(score)(features)))
        return restored(over_channels(resize(heat, image.shape[:-1]), image))

    return attribute


def grad_cam(f: ScalarFn, argnums: int | tuple[int, ...] = 0, **options: Unpack[MapOptions]) -> Callable[..., PyTree]:
    r"""Grad-CAM: returns `(*args)` -> the features weighted by the mean gradient of their channel.

    :math:`\mathrm{ReLU}\bigl(\sum_k \alpha_k A_k\bigr),\ \alpha_k = \frac1{|S|}\sum_{s \in S} G_{k,s}`.

    The keywords, the result and errors are those of `class_activation_map`.

    Source: Selvaraju, Cogswell, Das, Vedantam, Parikh & Batra (2017).

    >>> f = lambda x: jnp.sum(jax.nn.relu(x) @ jnp.array([2.0, 0.0]))
    >>> grad_cam(f)(jnp.array([[1.0, 0.0], [3.0, 0.0]])).shape
    (2, 2)
    """
    return _map_at_site("grad_cam", f, argnums, _grad_cam, **options)


def grad_cam_plus_plus(
    f: ScalarFn, argnums: int | tuple[int, ...] = 0, **options: Unpack[MapOptions]
) -> Callable[..., PyTree]:
    r"""Grad-CAM++: returns `(*args)` -> as Grad-CAM, with weights for several instances of a class.

    :math:`\alpha_k = \sum_s \frac{G_{k,s}^2}{2G_{k,s}^2 + G_{k,s}^3\sum_{s'}A_{k,s'}}\,\mathrm{ReLU}(G_{k,s})`: the
    higher derivatives are those of exp(f), whose factor cancels but for the scale.

    The keywords, the result and errors are those of `class_activation_map`.

    Source: Chattopadhay, Sarkar, Howlader & Balasubramanian (2018).

    >>> f = lambda x: jnp.sum(jax.nn.relu(x) @ jnp.array([2.0, 0.0]))
    >>> grad_cam_plus_plus(f)(jnp.array([[1.0, 0.0], [3.0, 0.0]])).shape
    (2, 2)
    """
    return _map_at_site("grad_cam_plus_plus", f, argnums, _grad_cam_plus_plus, **options)


def hires_cam(f: ScalarFn, argnums: int | tuple[int, ...] = 0, **options: Unpack[MapOptions]) -> Callable[..., PyTree]:
    r"""HiResCAM: returns `(*args)` -> the features times their gradient, position by position.

    :math:`\mathrm{ReLU}\bigl(\sum_k A_k \odot G_k\bigr)`. Before the ReLU the map sums to f where the rest of f
    is linear in the features.

    The keywords, the result and errors are those of `class_activation_map`.

    Source: Draelos & Carin (2020).

    >>> f = lambda x: jnp.sum(jax.nn.relu(x) @ jnp.array([2.0, 0.0]))
    >>> hires_cam(f)(jnp.array([[1.0, 0.0], [3.0, 0.0]])).shape
    (2, 2)
    """
    return _map_at_site("hires_cam", f, argnums, _hires_cam, **options)


def layer_cam(f: ScalarFn, argnums: int | tuple[int, ...] = 0, **options: Unpack[MapOptions]) -> Callable[..., PyTree]:
    r"""LayerCAM: returns `(*args)` -> the features times the positive part of their gradient.

    :math:`\mathrm{ReLU}\bigl(\sum_k A_k \odot \mathrm{ReLU}(G_k)\bigr)`; meant for early layers too.

    The keywords, the result and errors are those of `class_activation_map`.

    Source: Jiang, Zhang, Hou, Cheng & Wei (2021).

    >>> f = lambda x: jnp.sum(jax.nn.relu(x) @ jnp.array([2.0, 0.0]))
    >>> layer_cam(f)(jnp.array([[1.0, 0.0], [3.0, 0.0]])).shape
    (2, 2)
    """
    return _map_at_site("layer_cam", f, argnums, _layer_cam, **options)


def xgrad_cam(f: ScalarFn, argnums: int | tuple[int, ...] = 0, **options: Unpack[MapOptions]) -> Callable[..., PyTree]:
    r"""XGrad-CAM: returns `(*args)` -> the features weighted by the gradient averaged over the features.

    :math:`\alpha_k = \sum_s \frac{A_{k,s}}{\sum_{s'}A_{k,s'}}\,G_{k,s}`: the weights that fit the axioms of
    sensitivity and conservation best.

    The keywords, the result and errors are those of `class_activation_map`.

    Source: Fu, Hu, Dong, Guo, Gao & Li (2020).

    >>> f = lambda x: jnp.sum(jax.nn.relu(x) @ jnp.array([2.0, 0.0]))
    >>> xgrad_cam(f)(jnp.array([[1.0, 0.0], [3.0, 0.0]])).shape
    (2, 2)
    """
    return _map_at_site("xgrad_cam", f, argnums, _xgrad_cam, **options)


def eigen_cam(f: ScalarFn, argnums: int | tuple[int, ...] = 0, **options: Unpack[MapOptions]) -> Callable[..., PyTree]:
    r"""Eigen-CAM: returns `(*args)` -> the features projected onto their first right singular vector.

    :math:`\mathrm{ReLU}(A v_1)` with :math:`A = U\Sigma V^\top` [positions, channels], not centred; the sign is
    the one with a non-negative sum. It does not depend on the class: f only says where the site is.

    The keywords, the result and errors are those of `class_activation_map`.

    Source: Muhammad & Yeasin (2020).

    >>> f = lambda x: jnp.sum(jax.nn.relu(x) @ jnp.array([2.0, 0.0]))
    >>> eigen_cam(f)(jnp.array([[1.0, 0.0], [3.0, 0.0]])).shape
    (2, 2)
    """
    return _map_at_site("eigen_cam", f, argnums, _eigen_cam, **options)


def guided_grad_cam(
    f: ScalarFn, argnums: int | tuple[int, ...] = 0, **options: Unpack[MapOptions]
) -> Callable[..., PyTree]:
    r"""Guided Grad-CAM: returns `(*args)` -> guided backpropagation times Grad-CAM, entry by entry.

    The keywords, the result and errors are those of `class_activation_map`, except
    that the channels differ; primitives need a rule as in `guided_backprop`.

    Source: Selvaraju, Cogswell, Das, Vedantam, Parikh & Batra (2017).

    >>> f = lambda x: jnp.sum(jax.nn.relu(x) @ jnp.array([2.0, 0.0]))
    >>> guided_grad_cam(f)(jnp.array([[1.0, 0.0], [3.0, 0.0]])).tolist()
    [[4.0, 0.0], [12.0, 0.0]]
    """
    cam = grad_cam(f, argnums, **options)
    guided = guided_backprop(f, argnums)
    return lambda *args: tree.mul(guided(*args), cam(*args))


def _positions(values: Array) -> tuple[int, ...]:
    return tuple(range(values.ndim - 1))


def _ratio(numerator: Array, denominator: Array) -> Array:
    """A quotient that is 0 where the denominator is."""
    is_zero = denominator == 0
    return jnp.where(
        is_zero, jnp.zeros_like(numerator), numerator / jnp.where(is_zero, 1.0, denominator).astype(numerator.dtype)
    )


def _grad_cam(a: Array, g: Array) -> Array:
    return weighted_channels(a, jnp.mean(g, _positions(g)))


def _grad_cam_plus_plus(a: Array, g: Array) -> Array:
    total = jnp.sum(a, _positions(a), keepdims=True)
    alpha = _ratio(g**2, 2 * g**2 + total * g**3)
    return weighted_channels(a, jnp.sum(alpha * jax.nn.relu(g), _positions(g)))


def _hires_cam(a: Array, g: Array) -> Array:
    return jnp.sum(a * g, -1)


def _layer_cam(a: Array, g: Array) -> Array:
    return jnp.sum(a * jax.nn.relu(g), -1)


def _xgrad_cam(a: Array, g: Array) -> Array:
    return weighted_channels(a, _ratio(jnp.sum(a * g, _positions(a)), jnp.sum(a, _positions(a))))


def _eigen_cam(a: Array, g: Array) -> Array:
    del g
    wide = a.reshape(-1, a.shape[-1]).astype(tree.accumulator(a.dtype))
    direction = jnp.linalg.svd(wide, full_matrices=False)[2][0]
    heat = jnp.tensordot(wide, direction, 1, precision="highest")
    return (heat * jnp.where(jnp.sum(heat) < 0, -1.0, 1.0).astype(heat.dtype)).astype(a.dtype).reshape(a.shape[:-1])
