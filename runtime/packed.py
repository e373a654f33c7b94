"""One copy of the packed weights for all graphs of a bundle on the CPU.

ONNX Runtime packs the weights of matrix products into the layout of its kernels, a private copy in every session, and its
Python API has no way to share them. It can save an optimized graph with its packed weights, though, and maps such a file into
memory. So: save every variant that way, put equal bytes of all of them into one file once, and let the graphs point there.
The variants then share pages within a process, and all processes that use one cache folder share them too.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from runtime._ort import ort
from runtime.wire import Entries, rewrite

_STORE: Final = "weights.bin"
_SIZES: Final = "sizes.json"  # file -> bytes; written last
_SAVED: Final = "saved.bin"
_LEAST_BYTES: Final = 1024  # smaller weights stay in the graph
_ALIGNMENT: Final = 64  # kernels read whole cache lines
_PACKED: Final = "prepacked_"  # ONNX Runtime's keys: "prepacked_0" -> "MatMul+hash|offset;length;checksum|…"


def packed_graphs(graphs: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """File name -> an optimized graph in `folder` whose weights are packed for this processor and stored once for all of
    `graphs`; load it without further optimization. What is there already is used where it is complete.

    Raises:
        OSError: no space or no permission; nothing half-written is left behind.
        Exception: ONNX Runtime's own, where it cannot load a graph.
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
            if not _complete(place):  # another process was not faster either
                raise
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return {graph: place / path.name for graph, path in graphs.items()}


def _make(graphs: Mapping[str, Path], folder: Path) -> None:
    offsets: dict[tuple[int, bytes], int] = {}
    with (folder / _STORE).open("wb") as store:
        for path in graphs.values():
            saved = folder / path.name
            _save(path, saved)
            with (folder / _SAVED).open("rb") as source:
                model = rewrite(saved.read_bytes(), lambda entries: _moved(entries, source, store, offsets))
            saved.write_bytes(model)
            (folder / _SAVED).unlink()
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    (folder / _SIZES).write_text(json.dumps(sizes), encoding="utf-8")


def _save(path: Path, saved: Path) -> None:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3  # a warning says that the file is for this processor alone, which is the point
    options.optimized_model_filepath = str(saved)
    for name, value in (
        ("save_external_prepacked_constant_initializers", "1"),
        ("optimized_model_external_initializers_file_name", _SAVED),
        ("optimized_model_external_initializers_min_size_in_bytes", str(_LEAST_BYTES)),
    ):
        options.add_session_config_entry(f"session.{name}", value)
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _moved(entries: Entries, source: Any, store: Any, offsets: dict[tuple[int, bytes], int]) -> Entries:
    """Copies a weight, raw and packed, into the store, and says where it lies there."""

    def move(offset: str, length: str) -> str:
        source.seek(int(offset))
        data = source.read(int(length))
        key = (len(data), hashlib.blake2b(data, digest_size=32).digest())
        if key not in offsets:
            store.write(bytes(-store.tell() % _ALIGNMENT))
            offsets[key] = store.tell()
            store.write(data)
        return str(offsets[key])

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
