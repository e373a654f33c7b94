"""The probe of a variant: a few inputs and the logits that the export verified for them, in the format of safetensors.

Another execution provider is compared with them when a bundle is loaded. They take kilobytes: large outputs are thinned out,
and inputs of fixed size, such as images, repeat a small block.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from runtime.bundle.entries import InputEntry
from runtime.bundle.tensors import Array, pack, unpack

_TYPES: Final = ("float32", "int64")
_INPUT, _OUTPUT = "input.", "output."
_POSITIONS: Final = 64  # of each axis of an output after the batch
# Side of the block that fills an input of fixed size. A prime: other than with a divisor, the patches of an image differ.
_SIDE: Final = 37
_MOST_BYTES: Final = 2**24


@dataclass(frozen=True, eq=False)
class Probe:
    """Inputs and verified outputs of one variant.

    Attributes:
        feeds: input name -> array [rows, …].
        outputs: name of the graph's output -> its logits, thinned out (`thinned`), float32 [rows, …].
    """

    feeds: Mapping[str, Array]
    outputs: Mapping[str, Array]

    def write(self, path: Path) -> None:
        """Write the file, of which equal probes have equal bytes."""
        tensors = {_INPUT + name: _block(array) for name, array in self.feeds.items()}
        tensors |= {_OUTPUT + name: array.astype(np.float32) for name, array in self.outputs.items()}
        wide = {
            name: array.astype(np.int64) if array.dtype.kind == "i" else array.astype(np.float32)
            for name, array in tensors.items()
        }
        path.write_bytes(pack(wide, {}))

    @classmethod
    def parse(cls, content: bytes, inputs: tuple[InputEntry, ...]) -> "Probe":
        """Read a file.

        Args:
            content: bytes of the file.
            inputs: inputs of the manifest, whose fixed sizes are restored.

        Raises:
            ValueError: the content is not a probe.
        """
        tensors = dict(_tensors(content))
        shapes = {entry.name: entry.shape for entry in inputs}
        named = {name.removeprefix(_INPUT): array for name, array in tensors.items() if name.startswith(_INPUT)}
        feeds = {name: _spread(array, shapes[name]) for name, array in named.items() if name in shapes}
        outputs = {name.removeprefix(_OUTPUT): array for name, array in tensors.items() if name.startswith(_OUTPUT)}
        if len(feeds) + len(outputs) != len(tensors):
            raise ValueError(f"expected inputs and outputs of the graph, found {', '.join(map(repr, sorted(tensors)[:10]))}")
        if not all(np.isfinite(array).all() for array in outputs.values()):
            raise ValueError("expected finite logits")
        return cls(feeds, outputs)


def probe_file(model: str) -> str:
    """Return the file name of the probe that belongs to the graph `model`."""
    return f"{model.removesuffix('.onnx')}.probe"


def thinned(output: Array) -> Array:
    """Return evenly spaced positions of an output: at most 64 of each axis after the batch."""
    return output[(slice(None), *(slice(None, None, -(-size // _POSITIONS) or 1) for size in output.shape[1:]))]


def repeated_block(values: Array) -> Array:
    """Return an input of the same shape as `values` that a probe stores as a small block."""
    return _spread(_block(values), ("", *map(str, values.shape[1:])))


def _block(values: Array) -> Array:
    return values[(slice(None), *(slice(_SIDE) for _ in values.shape[1:]))] if values.dtype.kind == "f" else values


def _spread(block: Array, shape: tuple[str, ...]) -> Array:
    """Repeat a block along the axes of fixed size."""
    if block.ndim != len(shape) or not block.size:
        raise ValueError(f"expected an input [{', '.join(shape)}], found shape {list(block.shape)}")
    for axis, size in enumerate(shape):
        if size.isdecimal() and int(size) != block.shape[axis]:
            block = np.take(block, np.arange(int(size)) % block.shape[axis], axis)
    return block


def _tensors(content: bytes) -> Iterator[tuple[str, Array]]:
    if len(content) > _MOST_BYTES:
        raise ValueError(f"expected at most {_MOST_BYTES:,} bytes, found {len(content):,}")
    for name, array in unpack(content)[0].items():
        if array.dtype.name not in _TYPES:
            raise ValueError(f"{name!r}: expected {' or '.join(_TYPES)}, found {array.dtype.name}")
        yield name, array.copy()
