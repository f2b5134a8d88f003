"""Sizes along the axes of an array: one integer for all, or one per axis."""

from jaxinterp import checks


def checked_sizes(name: str, value: int | tuple[int, ...]) -> int | tuple[int, ...]:
    """Returns `value` if it is a positive integer or a tuple of them; `TypeError` or `ValueError` otherwise."""
    if isinstance(value, tuple):
        return tuple(checks.positive_integer(name, v) for v in value)
    return checks.positive_integer(name, value)


def one_per_axis(
    method: str, name: str, value: int | tuple[int, ...], shape: tuple[int, ...], of: str = "the input of shape"
) -> tuple[int, ...]:
    """Returns `value` for each axis of `shape`; `ValueError` if it is a tuple of another length.

    >>> one_per_axis("example", "window", 2, (4, 5))
    (2, 2)
    """
    spread = value if isinstance(value, tuple) else (value,) * len(shape)
    if len(spread) != len(shape):
        raise ValueError(
            f"`{name}` of `{method}` must have one size per axis of {of} {shape}, or be one integer; got {value}."
        )
    return spread
