"""Arrays that say of each entry which channel it belongs to, as equations move them; in NumPy, without compilation."""

from collections.abc import Iterable

import numpy as np

from jaxinterp.interpreters._graph import Node
from jaxinterp.interpreters._ir import names

STRUCTURAL = names("reshape transpose squeeze expand_dims broadcast_in_dim slice rev concatenate pad copy copy_p")


def moved(node: Node, channels: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """What one of the `STRUCTURAL` equations makes of numbers."""
    numbers, params = channels[0], node.params
    if node.name == "transpose":
        return numbers.transpose(params["permutation"])
    if node.name == "broadcast_in_dim":
        kept = params["broadcast_dimensions"]
        aligned = [numbers.shape[kept.index(axis)] if axis in kept else 1 for axis in range(len(shape))]
        return np.broadcast_to(numbers.reshape(aligned), shape)
    if node.name == "slice":
        steps = params["strides"] or (1,) * len(shape)
        ranges = zip(params["start_indices"], params["limit_indices"], steps, strict=True)
        return numbers[tuple(slice(*each) for each in ranges)]
    if node.name == "rev":
        return np.flip(numbers, params["dimensions"])
    if node.name == "concatenate":
        return np.concatenate(channels, params["dimension"])
    if node.name == "pad":
        return _padded(numbers, channels[1], params["padding_config"])
    return numbers.reshape(shape)


def _padded(numbers: np.ndarray, value: np.ndarray, config: Iterable[tuple[int, int, int]]) -> np.ndarray:
    """With entries before, after and between along each axis; a negative number takes entries away."""
    for axis, (before, after, between) in enumerate(config):
        length = numbers.shape[axis]
        size = length + between * max(length - 1, 0)
        spread = np.full((*numbers.shape[:axis], size, *numbers.shape[axis + 1 :]), value)
        spread[(slice(None),) * axis + (slice(None, None, between + 1),)] = numbers
        widths = [(0, 0)] * axis + [(max(before, 0), max(after, 0))] + [(0, 0)] * (numbers.ndim - axis - 1)
        spread = np.pad(spread, widths, constant_values=value.item())
        numbers = spread[(slice(None),) * axis + (slice(max(-before, 0), spread.shape[axis] - max(-after, 0)),)]
    return numbers


def compact(numbers: np.ndarray) -> np.ndarray:
    """The same array as a view of its first entries along axes on which it does not change."""
    for axis in range(numbers.ndim):
        repeated = np.broadcast_to(numbers[(slice(None),) * axis + (slice(0, 1),)], numbers.shape)
        if np.array_equal(repeated, numbers):
            numbers = repeated
    return numbers


def without_repeats(*arrays: np.ndarray) -> list[np.ndarray]:
    """Arrays of one shape, with one entry along axes on which each is a view of its first."""
    repeated = [all(array.strides[axis] == 0 for array in arrays) for axis in range(arrays[0].ndim)]
    where = tuple(slice(0, 1) if alike else slice(None) for alike in repeated)
    return [array[where] for array in arrays]
