"""Packed weights shared by all graphs of a bundle on the CPU.

ONNX Runtime packs the weights of matrix products into the layout of its kernels. Every session has a private copy, and the
Python API cannot share them. ONNX Runtime can, however, save an optimized graph with its packed weights, and it maps such a
file into memory. This module saves every variant that way, stores equal bytes once in a common file, and redirects the
external data of all graphs to it. The variants then share memory pages within a process, and so do all processes that use
the same cache folder.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Final

from runtime.import_ort import ort
from runtime.ort.external_data import Entries, rewrite

_STORE: Final = "weights.bin"
_SIZES: Final = "sizes.json"  # file -> size in bytes; written last, so its presence marks a complete folder
_SAVED: Final = ".saved"  # suffix of the file with the raw and packed weights that ONNX Runtime saved for a graph
_LEAST_BYTES: Final = 1024  # smaller weights stay in the graph
_HEAD: Final = 4096  # number of leading bytes that select candidates for equal weights
_ALIGNMENT: Final = 64  # kernels read whole cache lines
_PACKED: Final = "prepacked_"  # prefix of ONNX Runtime's keys: "prepacked_0" -> "MatMul+hash|offset;length;checksum|…"


def packed_graphs(graphs: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """Write optimized graphs that share one file of weights packed for this CPU, or reuse complete ones.

    Args:
        graphs: file name -> path of the original graph.
        folder: folder for the results.

    Returns:
        File name -> path of the optimized graph, which must be loaded without further optimization.

    Raises:
        OSError: there is no space or no permission; no partial result is left behind.
        Exception: an exception of ONNX Runtime for a graph that it cannot load.
    """
    place = folder / hashlib.sha256(" ".join(sorted(path.name for path in graphs.values())).encode()).hexdigest()[:16]
    if not _complete(place):
        folder.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(prefix="making-", dir=folder))
        try:
            _make(graphs, making)
            if place.exists():  # truncated, or another process was faster
                if _complete(place):
                    return {graph: place / path.name for graph, path in graphs.items()}
                shutil.rmtree(place)
            making.rename(place)
        except OSError:
            if not _complete(place):  # no other process has finished in the meantime
                raise
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return {graph: place / path.name for graph, path in graphs.items()}


def _make(graphs: Mapping[str, Path], folder: Path) -> None:
    paths = list(graphs.values())
    with _Store(folder / _STORE) as store, ThreadPoolExecutor(1) as pool:
        saving = pool.submit(_save, paths[0], folder)
        for path, following in zip(paths, [*paths[1:], None], strict=True):
            saving.result()
            if following is not None:  # ONNX Runtime saves it without the GIL while the weights of this graph are moved
                saving = pool.submit(_save, following, folder)
            weights = folder / f"{path.name}{_SAVED}"
            with weights.open("rb") as source:
                model = rewrite((folder / path.name).read_bytes(), lambda entries: _moved(entries, source, store))
            (folder / path.name).write_bytes(model)
            weights.unlink()
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    (folder / _SIZES).write_text(json.dumps(sizes), encoding="utf-8")


def _save(path: Path, folder: Path) -> None:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3  # hides the warning that the file is specific to this CPU, which is intended
    options.optimized_model_filepath = str(folder / path.name)
    for name, value in (
        ("save_external_prepacked_constant_initializers", "1"),
        ("optimized_model_external_initializers_file_name", f"{path.name}{_SAVED}"),
        ("optimized_model_external_initializers_min_size_in_bytes", str(_LEAST_BYTES)),
    ):
        options.add_session_config_entry(f"session.{name}", value)
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class _Store:
    """A file of weights that stores equal weights once."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b")
        self._end = 0
        self._known: dict[tuple[int, bytes], list[int]] = {}  # length and first bytes -> offsets

    def __enter__(self) -> "_Store":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def place(self, data: bytes) -> int:
        """Return the offset of `data`, written if it is new. A comparison is as fast as a hash, and exact."""
        known = self._known.setdefault((len(data), data[:_HEAD]), [])
        for offset in known:
            self._file.seek(offset)
            if self._file.read(len(data)) == data:
                return offset
        offset = self._end + -self._end % _ALIGNMENT
        self._file.seek(offset)  # the skipped bytes are zeros
        self._file.write(data)
        self._end = offset + len(data)
        known.append(offset)
        return offset


def _moved(entries: Entries, source: BinaryIO, store: _Store) -> Entries:
    """Copy a weight, raw and packed, into the store and return its new external data entries."""

    def move(offset: str, length: str) -> str:
        source.seek(int(offset))
        return str(store.place(source.read(int(length))))

    found = entries | {"location": _STORE, "offset": move(entries.get("offset", "0"), entries["length"])}
    for name in entries:
        if name.startswith(_PACKED):
            kernel, *blobs = entries[name].split("|")
            parts = [blob.split(";") for blob in blobs if blob]
            found[name] = "|".join([kernel, *(";".join([move(part[0], part[1]), *part[1:]]) for part in parts)])
    return found


def _complete(place: Path) -> bool:
    try:
        sizes = json.loads((place / _SIZES).read_text(encoding="utf-8"))
        return all((place / Path(name).name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False
