"""The weights file of a bundle, shared by all of its graphs."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import TracebackType
from typing import Self

import onnx_ir as ir

# Smaller tensors stay in the graph: most are shapes and axes, which ONNX Runtime's graph optimizations read.
_IN_GRAPH_BYTES = 1024
# Bytes. ONNX Runtime maps the file into memory; kernels read whole cache lines.
_ALIGNMENT = 64


class WeightsFile:
    """A file to which the weights of graphs are appended; use it as a context manager.

    Equal contents are written once, even if names or graphs differ: variants and routed graphs share the trunk on disk and in
    the page cache.
    """

    def __init__(self, path: Path) -> None:
        """Set the path; the file is created on entry of the context.

        Args:
            path: in the folder of the graphs.
        """
        self._path = path
        self._offsets: dict[tuple[int, bytes], int] = {}

    def __enter__(self) -> Self:
        """Create the file."""
        self._file = self._path.open("wb")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Close the file."""
        self._file.close()

    def externalize(self, model: ir.Model) -> None:
        """Write the graph's weights and replace its initializers with references to the file, in place."""
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and tensor.nbytes > _IN_GRAPH_BYTES:
                value.const_value = ir.ExternalTensor(
                    location=self._path.name,
                    offset=self._append(tensor),
                    length=tensor.nbytes,
                    dtype=tensor.dtype,
                    shape=ir.Shape(tensor.numpy().shape),
                    name=str(value.name),
                    base_dir=self._path.parent,
                )
        self._file.flush()

    def _append(self, tensor: ir.TensorProtocol) -> int:
        data = tensor.tobytes()
        key = (len(data), hashlib.blake2b(data, digest_size=32).digest())
        if key not in self._offsets:
            self._file.write(bytes(-self._file.tell() % _ALIGNMENT))
            self._offsets[key] = self._file.tell()
            self._file.write(data)
        return self._offsets[key]
