"""One file for the weights of all graphs of a bundle, each weight in it once."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import TracebackType
from typing import Self

import onnx_ir as ir

# Smaller tensors stay in the graph: most are shapes and axes, which ONNX Runtime wants to read while it optimizes.
_IN_GRAPH_BYTES = 1024
# ONNX Runtime maps the file into memory; kernels read whole cache lines.
_ALIGNMENT = 64


class WeightsFile:
    """Appends weights to a file and points graphs to them. Equal contents are written once, whatever they are called and
    whichever graph they belong to: variants and routed graphs then share the trunk on disk and in the page cache."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offsets: dict[tuple[int, bytes], int] = {}

    def __enter__(self) -> Self:
        self._file = self._path.open("wb")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._file.close()

    def place(self, model: ir.Model) -> None:
        """Moves the graph's weights into the file; from then on its initializers only say where theirs are."""
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and tensor.nbytes > _IN_GRAPH_BYTES:
                value.const_value = ir.ExternalTensor(
                    location=self._path.name,
                    offset=self._place(tensor),
                    length=tensor.nbytes,
                    dtype=tensor.dtype,
                    shape=ir.Shape(tensor.numpy().shape),
                    name=str(value.name),
                    base_dir=self._path.parent,
                )
        self._file.flush()

    def _place(self, tensor: ir.TensorProtocol) -> int:
        data = tensor.tobytes()
        key = (len(data), hashlib.blake2b(data, digest_size=32).digest())
        if key not in self._offsets:
            self._file.write(bytes(-self._file.tell() % _ALIGNMENT))
            self._offsets[key] = self._file.tell()
            self._file.write(data)
        return self._offsets[key]
