"""What a pruned network is kept as: sparse arrays, and files that hold nothing of what was removed."""

import hashlib
import importlib
import io
import json
import math
import os
import pathlib
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import sparse

from jaxinterp import checks, tree
from jaxinterp.typing import Array, PyTree

_RECORD = "jaxinterp"
"""The name of the record, in the metadata of .safetensors and among the arrays of .npz."""


def to_bcoo(params: PyTree, masks: PyTree) -> PyTree:
    """Returns the parameters with those that have a mask as `jax.experimental.sparse.BCOO`.

    The entries whose mask is 1 are stored, in row-major order, and no others: a kept weight that is 0 stays a weight.
    `todense()` equals `apply(params, masks)` for finite parameters, up to the sign of zeros. Under `jax.jit` the
    parameters may be traced, the masks may not: the number of stored entries is a shape.

    They are for code that multiplies with them, as in `x @ kernel`; the layers of Flax take dense arrays only.

    Args:
      params: a pytree of arrays.
      masks: entries 0 and 1, in shapes that broadcast to those of the parameters; `None` for what stays dense.

    Raises:
      TypeError: if a mask is traced.
      ValueError: if the masks do not fit the parameters, or hold other values than 0 and 1.

    >>> params = {"kernel": jnp.array([[1.0, 2.0], [0.0, 4.0]]), "bias": jnp.ones(2)}
    >>> kernel = to_bcoo(params, {"kernel": jnp.array([[0.0, 1.0], [1.0, 0.0]]), "bias": None})["kernel"]
    >>> kernel.data.tolist(), (jnp.ones(2) @ kernel).tolist()
    ([2.0, 0.0], [0.0, 2.0])
    """

    def one(leaf: Array, mask: np.ndarray | None) -> Any:
        if mask is None:
            return leaf
        kept = np.broadcast_to(mask != 0, leaf.shape)
        data, indices = jnp.ravel(leaf)[np.flatnonzero(kept)], jnp.asarray(np.argwhere(kept), jnp.int32)
        return sparse.BCOO((data, indices), shape=leaf.shape, indices_sorted=True, unique_indices=True)

    leaves = [one(leaf, mask) for _, leaf, mask in _paired("to_bcoo", params, masks)]
    return jax.tree.unflatten(jax.tree.structure(params), leaves)


def save(path: str | os.PathLike[str], params: PyTree, masks: PyTree = None) -> None:
    """Writes parameters to a file, of those that have a mask only what is kept; the suffix decides the format.

    A parameter without a mask is an array named by its path, `dense_0/bias`. One with a mask is two arrays:

      * `dense_0/kernel.values`, [kept]: the entries whose mask is 1, in row-major order;
      * `dense_0/kernel.mask`, uint8: the bits of the mask in its own shape, which broadcasts to that of the parameter,
        in row-major order, eight to a byte, the first in the highest bit (`numpy.packbits`).

    Shapes and dtypes are in a record, JSON, which is the metadata `jaxinterp` of a .safetensors file and the uint8
    array `jaxinterp`, in UTF-8, of an .npz file:

        {"parameters": {"dense_0/kernel": {"dtype": "float32", "shape": [3, 4],
                                           "mask": {"dtype": "float32", "shape": [3, 4]}},
                        "dense_0/bias": {"dtype": "float32", "shape": [4], "mask": null}},
         "digest": <SHA-256 of all this>}

    In .npz a dtype that NumPy lacks, as bfloat16, is stored as unsigned integers of the same bits. PyTorch reads

        with safetensors.safe_open(path, "pt") as file:
            bits = file.get_tensor("dense_0/kernel.mask").numpy()
            kept = torch.from_numpy(numpy.unpackbits(bits, count=12).reshape(3, 4).astype(bool))
            kernel = torch.zeros(3, 4)
            kernel[kept] = file.get_tensor("dense_0/kernel.values")

    Written under a temporary name and renamed: a file that is there is whole.

    Args:
      path: ends in `.npz` or `.safetensors`; missing directories are made.
      params: a pytree of arrays.
      masks: as of `apply`, with entries 0 and 1; `None` for none.

    Raises:
      ImportError: if the path ends in `.safetensors` and that package is not installed (`jaxinterp[export]`).
      TypeError: if a parameter is no array of numbers.
      ValueError: if the suffix is another, two arrays have one name, or a mask does not fit its parameter.

    >>> import tempfile
    >>> params = {"kernel": jnp.array([3.0, 1.0, 2.0]), "bias": jnp.ones(1)}
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     save(directory + "/net.npz", params, {"kernel": jnp.array([1.0, 0.0, 1.0]), "bias": None})
    ...     load(directory + "/net.npz")[0]
    {'bias': Array([1.], dtype=float32), 'kernel': Array([3., 0., 2.], dtype=float32)}
    """
    path = pathlib.Path(path)
    encode, _ = _codec(path)
    arrays: dict[str, np.ndarray] = {}
    parameters: dict[str, Any] = {}
    for name, leaf, mask in _paired("save", params, masks):
        value = _numbers(name, leaf)
        parts = {name: value}
        if mask is not None:
            kept = mask != 0
            parts = {f"{name}.values": value[np.broadcast_to(kept, value.shape)], f"{name}.mask": np.packbits(kept)}
        twice = sorted((parts.keys() | {name}) & (arrays.keys() | parameters.keys() | {_RECORD}))
        if twice:
            raise ValueError(f"`save` cannot write two arrays named `{twice[0]}`; rename that parameter.")
        arrays |= parts
        parameters[name] = _described(value) | {"mask": None if mask is None else _described(mask)}
    record = json.dumps({"parameters": parameters, "digest": _digest(arrays, parameters)})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        temporary.write_bytes(encode(arrays, record))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: str | os.PathLike[str], like: PyTree = None) -> tuple[PyTree, PyTree]:
    """Returns the parameters and the masks of a file that `save` wrote, bit for bit; what was removed is 0.

    Args:
      path: ends in `.npz` or `.safetensors`.
      like: a pytree of the structure, shapes and dtypes of the parameters, such as freshly initialised ones or
        `jax.ShapeDtypeStruct`. Without it both results are flat dictionaries by path.

    Returns:
      `(params, masks)`; a mask is `None` where there is none, so that `apply(params, masks)` works.

    Raises:
      FileNotFoundError: if there is no such file.
      ImportError: as of `save`.
      ValueError: if the suffix is another, the file is damaged or was not written by `save`, it does not fit `like`, or
        it holds 64 bits where JAX has 32.

    >>> import tempfile
    >>> params = {"dense": {"kernel": jnp.array([3.0, 1.0])}}
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     save(directory + "/net.npz", params, {"dense": {"kernel": jnp.array([0.0, 1.0])}})
    ...     load(directory + "/net.npz")
    ...     load(directory + "/net.npz", like=params)[0]
    ({'dense/kernel': Array([0., 1.], dtype=float32)}, {'dense/kernel': Array([0., 1.], dtype=float32)})
    {'dense': {'kernel': Array([0., 1.], dtype=float32)}}
    """
    path = pathlib.Path(path)
    _, decode = _codec(path)
    content = path.read_bytes()
    try:
        found = dict(_decoded(*decode(content)))
    except Exception as error:  # whatever a reader does with bytes that nobody wrote
        raise ValueError(f"{path} is damaged or was not written by `save`: {error!r}") from error
    params = {name: _as_jax(path, name, value) for name, (value, _) in found.items()}
    masks = {name: mask if mask is None else _as_jax(path, name, mask) for name, (_, mask) in found.items()}
    if like is None:
        return params, masks
    shapes = jax.tree_util.tree_leaves_with_path(jax.eval_shape(lambda tree: tree, like))
    wanted = {tree.path_name(where): f"{leaf.dtype.name}{list(leaf.shape)}" for where, leaf in shapes}
    there = {name: f"{value.dtype.name}{list(value.shape)}" for name, value in params.items()}
    for name in sorted(wanted.keys() | there.keys()):
        if wanted.get(name) != there.get(name):
            raise ValueError(
                f"{path} does not fit `like`: `{name}` is {there.get(name, 'absent')} there and "
                f"{wanted.get(name, 'absent')} in `like`."
            )
    like = jax.tree.structure(like)
    return jax.tree.unflatten(like, map(params.get, wanted)), jax.tree.unflatten(like, map(masks.get, wanted))


def _paired(method: str, params: PyTree, masks: PyTree) -> list[tuple[str, Any, np.ndarray | None]]:
    """The path, the value and the mask of each parameter, in the order of the leaves."""
    try:
        jax.tree.map(lambda *_: None, masks, params, is_leaf=lambda leaf: leaf is None)
    except (ValueError, TypeError) as error:
        raise ValueError(f"`masks` of `{method}` must have the structure of the parameters: {error}") from error
    pairs = []

    def visit(path: tuple, mask: Any, part: PyTree) -> None:
        leaves = jax.tree_util.tree_leaves_with_path(part)
        if mask is not None and [inner for inner, _ in leaves] != [()]:
            raise ValueError(
                f"`masks` of `{method}` has an array at `{tree.path_name(path)}`, where the parameters have none."
            )
        for inner, leaf in leaves:
            name = tree.path_name((*path, *inner))
            pairs.append((name, leaf, None if mask is None else _binary(method, name, mask, jnp.shape(leaf))))

    jax.tree_util.tree_map_with_path(visit, masks, params, is_leaf=lambda leaf: leaf is None)
    return pairs


def _binary(method: str, name: str, mask: Any, shape: tuple[int, ...]) -> np.ndarray:
    known = checks.concrete(mask)
    if known is None:
        raise TypeError(f"The mask of `{name}` of `{method}` is traced, but how many entries it keeps is a shape.")
    pairs = zip(known.shape[::-1], shape[::-1], strict=False)
    if known.ndim > len(shape) or any(n not in (1, m) for n, m in pairs):
        raise ValueError(f"The mask of `{name}` of shape {known.shape} does not broadcast to the parameter's {shape}.")
    if not np.all((known == 0) | (known == 1)):
        raise ValueError(f"The mask of `{name}` of `{method}` must hold 0 and 1 only; `threshold` gates first.")
    return known


def _numbers(name: str, leaf: Any) -> np.ndarray:
    """A parameter as a NumPy array."""
    try:
        jax.eval_shape(lambda array: array, leaf)  # refuses what is no array of numbers, but keys
        value = np.asarray(leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf))
    except TypeError as error:
        raise TypeError(f"`save` cannot write `{name}`, which is no array of numbers: {error}") from error
    return np.asarray(value, order="C")


def _described(value: np.ndarray) -> dict[str, Any]:
    return {"dtype": value.dtype.name, "shape": list(value.shape)}


def _digest(arrays: dict[str, np.ndarray], parameters: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(f"{name}:{arrays[name].nbytes};".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def _decoded(arrays: dict[str, np.ndarray], record: str) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray | None]]]:
    """The path of each parameter, with its value and its mask."""
    known = json.loads(record)
    if known["digest"] != _digest(arrays, known["parameters"]):
        raise ValueError("its arrays are not those that were written")
    for name, about in known["parameters"].items():
        dtype, shape = np.dtype(about["dtype"]), tuple(about["shape"])
        if about["mask"] is None:
            yield name, (arrays[name].view(dtype).reshape(shape), None)
            continue
        bits = np.unpackbits(arrays[f"{name}.mask"], count=math.prod(about["mask"]["shape"]))
        mask = bits.reshape(about["mask"]["shape"]).astype(about["mask"]["dtype"])
        value = np.zeros(shape, dtype)
        value[np.broadcast_to(mask != 0, shape)] = arrays[f"{name}.values"].view(dtype)
        yield name, (value, mask)


def _as_jax(path: pathlib.Path, name: str, value: np.ndarray) -> Array:
    array = jnp.asarray(value)
    if array.dtype != value.dtype:
        raise ValueError(
            f"`{name}` in {path} is {value.dtype}, which JAX would narrow to {array.dtype}; set `jax_enable_x64`."
        )
    return array


def _codec(path: pathlib.Path) -> tuple[Callable[..., bytes], Callable[[bytes], tuple[dict[str, np.ndarray], str]]]:
    if path.suffix == ".npz":
        return _to_npz, _from_npz
    if path.suffix != ".safetensors":
        raise ValueError(f"The path must end in .npz or .safetensors, which decides the format; got {path}.")
    try:
        importlib.import_module("safetensors.numpy")
    except ImportError as error:
        raise ImportError(
            f"{path} needs the package safetensors: `pip install jaxinterp[export]`; or let the path end in .npz."
        ) from error
    return _to_safetensors, _from_safetensors


def _to_npz(arrays: dict[str, np.ndarray], record: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # `numpy.savez` has no arrays named `file`
        for name, value in (arrays | {_RECORD: np.frombuffer(record.encode(), np.uint8)}).items():
            foreign = value.dtype.isbuiltin != 1
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, value.view(f"u{value.itemsize}") if foreign else value)
    return buffer.getvalue()


def _from_npz(content: bytes) -> tuple[dict[str, np.ndarray], str]:
    with np.load(io.BytesIO(content)) as file:
        arrays = {name: file[name] for name in file.files}
    return arrays, arrays.pop(_RECORD).tobytes().decode()


def _to_safetensors(arrays: dict[str, np.ndarray], record: str) -> bytes:
    return importlib.import_module("safetensors.numpy").save(arrays, {_RECORD: record})


def _from_safetensors(content: bytes) -> tuple[dict[str, np.ndarray], str]:
    """The arrays as bytes, since NumPy lacks some of their dtypes."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    parts = importlib.import_module("safetensors").deserialize(content)
    return {name: np.frombuffer(part["data"], np.uint8) for name, part in parts}, header["__metadata__"][_RECORD]
