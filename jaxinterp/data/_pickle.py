"""Pickled dictionaries of NumPy arrays, read without running anything that the file asks for.

A pickle names functions and calls them when it is loaded, and even NumPy's own constructors can be called with
arguments that crash the process. Here every name that such files need stands for a function of this module, which
checks what it gets and builds an array of integers from its bytes; any other name is refused.
"""

import pathlib
import pickle
from typing import Any

import numpy as np

from jaxinterp.data._dataset import DataError


def load_arrays(path: pathlib.Path) -> Any:
    """Returns what a pickle of lists, dictionaries, strings, numbers and integer arrays holds.

    Raises:
      DataError: if the file is damaged, or asks for anything else.
    """
    try:
        with path.open("rb") as stream:
            return _plain(_Unpickler(stream, encoding="bytes").load())
    except Exception as error:  # a damaged pickle can raise anything
        raise DataError(f"{path}: not a CIFAR batch of the Python version ({error!r}); fetch it again.") from error


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "_codecs" and name == "encode":
            return _encode
        if module.split(".")[0] == "numpy" and name in _STAND_INS:
            return _STAND_INS[name]
        raise pickle.UnpicklingError(f"it wants to load {module}.{name}, which no CIFAR batch needs")


class _Dtype:
    """An integer dtype by its code."""

    def __init__(self, code: str | bytes, *flags: Any) -> None:
        self.dtype = np.dtype(code.decode() if isinstance(code, bytes) else code)
        if self.dtype.kind not in "iu":
            raise pickle.UnpicklingError(f"it holds {self.dtype}, not integers")

    def __setstate__(self, state: tuple) -> None:
        order = _encode(state[1]).decode()
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder("<" if order == "<" else ">")


class _Array:
    """An array whose content arrives after it was made."""

    def __init__(self, *blueprint: Any) -> None:
        self.content = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, raw = state
        self.content = _from_bytes(raw, dtype, shape, "F" if is_fortran else "C")


def _from_bytes(raw: bytes | str, dtype: _Dtype, shape: tuple, order: str, *more: Any) -> np.ndarray:
    return np.frombuffer(_encode(raw), dtype.dtype).reshape(shape, order="F" if order == "F" else "C").copy()


def _scalar(dtype: _Dtype, raw: bytes | str) -> int:
    return int(_from_bytes(raw, dtype, (), "C"))


def _encode(text: bytes | bytearray | str, *encoding: Any) -> bytes:
    return text.encode("latin1") if isinstance(text, str) else bytes(text)


_STAND_INS = {
    "dtype": _Dtype,
    "ndarray": "ndarray",  # an argument of the blueprint; a string cannot be called
    "_reconstruct": _Array,
    "_frombuffer": _from_bytes,
    "scalar": _scalar,
}


def _plain(value: Any) -> Any:
    """The value with arrays in the place of their stand-ins."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.content if isinstance(value, _Array) else value
