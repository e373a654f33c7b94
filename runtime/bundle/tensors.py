"""The format of safetensors, read and written with numpy only: probes, task files and trunk states."""

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["DTYPES", "Array", "check_seal", "map_file", "pack", "pack_parts", "sealed", "unpack"]

Array = npt.NDArray[Any]

DTYPES: Final[Mapping[str, str]] = {
    "BOOL": "bool",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "I8": "int8",
    "U8": "uint8",
    "I32": "int32",
    "I64": "int64",
}
_NAMES: Final = {name: code for code, name in DTYPES.items()}
_LENGTH: Final = struct.Struct("<Q")
_METADATA: Final = "__metadata__"
_SEAL: Final = "sha256"


def pack(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> bytes:
    """Return the content of a safetensors file; equal arguments give equal bytes.

    Raises:
        ValueError: an array has another type than those of `DTYPES`.
    """
    return b"".join(pack_parts(arrays, metadata))


def pack_parts(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> list[bytes | memoryview]:
    """Return the content of a safetensors file in parts, without copies of the arrays that are in C order.

    Raises:
        ValueError: as for `pack`.
    """
    header: dict[str, Any] = {_METADATA: dict(sorted(metadata.items()))} if metadata else {}
    parts: list[bytes | memoryview] = []
    end = 0
    # By size of the elements, so that each array is aligned.
    for name in sorted(arrays, key=lambda each: (-arrays[each].dtype.itemsize, each)):
        array = arrays[name]
        if array.dtype.name not in _NAMES:
            raise ValueError(f"{name}: expected one of the types {', '.join(_NAMES)}, found {array.dtype.name}")
        data = np.asarray(array, array.dtype.newbyteorder("<"), order="C").reshape(-1).view(np.uint8).data
        header[name] = {"dtype": _NAMES[array.dtype.name], "shape": list(array.shape), "data_offsets": [end, end + len(data)]}
        parts.append(data)
        end += len(data)
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return [_LENGTH.pack(len(text)), text, *parts]


def sealed(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata with the sha256 of the arrays and of itself, for `check_seal`."""
    return {**metadata, _SEAL: _digest(arrays, metadata)}


def check_seal(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Compare the arrays and the metadata of a file with its sha256.

    Raises:
        ValueError: they differ, or the file has none.
    """
    found = _digest(arrays, metadata)
    if metadata.get(_SEAL) != found:
        raise ValueError(f"expected the content with sha256 {metadata.get(_SEAL)!r:.70}, found {found}")


def _digest(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> str:
    found = hashlib.sha256()
    text = {key: value for key, value in metadata.items() if key != _SEAL}
    shapes = {name: [array.dtype.name, array.shape] for name, array in arrays.items()}
    found.update(json.dumps([text, shapes], sort_keys=True).encode())
    for name in sorted(arrays):
        found.update(np.asarray(arrays[name], arrays[name].dtype.newbyteorder("<"), order="C").reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def map_file(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Return the arrays and the metadata of a file, as `unpack`; the arrays are read-only views of the mapped file.

    Raises:
        OSError: the file cannot be read.
        ValueError: as for `unpack`.
    """
    if not path.stat().st_size:  # which cannot be mapped
        return unpack(b"")
    return unpack(np.memmap(path, np.uint8, "r").data)


def unpack(content: bytes | memoryview) -> tuple[dict[str, Array], dict[str, str]]:
    """Return the arrays and the metadata of a safetensors file. The arrays are views of `content`.

    Raises:
        ValueError: the content is not that of a safetensors file, or is not complete.
    """
    if len(content) < _LENGTH.size:
        raise ValueError(f"expected at least {_LENGTH.size} bytes, found {len(content)}")
    (length,) = _LENGTH.unpack_from(content)
    start = _LENGTH.size + length
    if start > len(content):
        raise ValueError(f"expected a header of {length:,} bytes, found {len(content) - _LENGTH.size:,} bytes after its length")
    try:
        header = json.loads(bytes(content[_LENGTH.size : start]).decode("utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested too deeply
        raise ValueError(f"expected a header in JSON, found: {error}") from error
    if not isinstance(header, dict):
        raise ValueError(f"expected an object as the header, found {header!r:.40}")  # noqa: TRY004 - what a stranger wrote
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError(f"{_METADATA}: expected an object of strings")
    data = memoryview(content)[start:]
    arrays = {name: _array(name, entry, data) for name, entry in header.items()}
    if (size := sum(array.nbytes for array in arrays.values())) != len(data):
        raise ValueError(f"expected {size:,} bytes of weights, found {len(data):,}")
    return arrays, metadata


def _array(name: str, entry: Any, data: memoryview) -> Array:
    try:
        code, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = [*shape, begin, end]
        valid = all(isinstance(number, int) and not isinstance(number, bool) and number >= 0 for number in numbers)
        dtype = np.dtype(DTYPES[code])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected dtype ({', '.join(DTYPES)}), shape and data_offsets in the header") from error
    if not valid or end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name}: expected offsets that fit {code} {shape}, found {[begin, end]}")
    if end > len(data):
        raise ValueError(f"{name}: expected its weights up to byte {end:,}, found {len(data):,} bytes: the file is truncated")
    return np.frombuffer(data[begin:end], dtype).reshape(shape)
