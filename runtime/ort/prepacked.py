"""Packed weights shared by all graphs of a bundle on the CPU.

ONNX Runtime packs the weights of matrix products into the layout of its kernels. Every session has a private copy, and the
Python API cannot share them. ONNX Runtime can, however, save an optimized graph with its packed weights, and it maps such a
file into memory. This module saves every variant that way, stores equal bytes once in a common file, and redirects the
external data of all graphs to it. The variants then share memory pages within a process, and so do all processes that use
the same cache folder.
"""

import contextlib
import errno
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Final

from runtime.bundle import BoundFolder, digest
from runtime.bundle.file_names import flat_name
from runtime.bundle.scratch import FolderLock, owned, remove_leftovers, scratch
from runtime.errors import BundleError
from runtime.import_ort import ort
from runtime.ort.external_data import Entries, rewrite
from runtime.ort.graph_file import GraphFile

_STORE: Final = "weights.bin"
_RECORD: Final = "files.json"  # file -> size in bytes and sha256; written last, so its presence marks a complete folder
_MAKING: Final = "making-"  # prefix of the folders of incomplete files
_SAVED: Final = ".saved"  # suffix of the file with the raw and packed weights that ONNX Runtime saved for a graph
_LEAST_BYTES: Final = 1024  # smaller weights stay in the graph
_HEAD: Final = 4096  # number of leading bytes that select candidates for equal weights
_ALIGNMENT: Final = 64  # kernels read whole cache lines
_PACKED: Final = "prepacked_"  # prefix of ONNX Runtime's keys: "prepacked_0" -> "MatMul+hash|offset;length;checksum|…"


def packed_graphs(graphs: Mapping[str, GraphFile], folder: Path, config: Mapping[str, str]) -> dict[str, GraphFile]:
    """Write optimized graphs that share one file of weights packed for this CPU, or reuse intact ones.

    One process writes at a time; the others wait, and reuse its files. The session configuration can change the layout of
    packed weights.

    Returns:
        File name -> optimized graph, which must be loaded without further optimization.

    Raises:
        OSError: there is no space or no permission; no partial result is left behind.
        BundleError: a file of the bundle has changed.
        Exception: an exception of ONNX Runtime for a graph that it cannot load.
    """
    names = sorted(graph.name for graph in graphs.values())
    place = folder / hashlib.sha256(" ".join(names).encode()).hexdigest()[:16]
    contents = all(graph.files.contents for graph in graphs.values())
    if (stored := _stored(place, contents)) is None:
        with _alone(folder) as alone:
            if alone:  # incomplete folders are those of killed processes
                remove_leftovers(folder, _MAKING)
            if (stored := _stored(place, contents)) is None:
                stored = _packed(graphs, folder, place, config)
    return {name: replace(graph, files=stored, name=flat_name(graph.name)) for name, graph in graphs.items()}


def _packed(graphs: Mapping[str, GraphFile], folder: Path, place: Path, config: Mapping[str, str]) -> BoundFolder:
    """Write the files and move them to `place`; broken files there are removed."""
    with scratch(folder, _MAKING) as making, scratch(folder, _MAKING) as broken:
        _make(graphs, made := making / "made", config)
        with contextlib.suppress(FileNotFoundError):
            place.rename(broken / "broken")
        try:
            made.rename(place)
        except OSError:
            if (stored := _stored(place, True)) is not None:  # another process was faster, on a system without locks
                return stored
            raise
    if (stored := _stored(place, True)) is None:
        raise OSError(errno.EIO, "the files that were written differ when they are read")
    return stored


def _make(graphs: Mapping[str, GraphFile], folder: Path, config: Mapping[str, str]) -> None:
    folder.mkdir(mode=0o700)
    files = list(graphs.values())
    with _Store(folder / _STORE) as store, ThreadPoolExecutor(1) as pool:
        saving = pool.submit(_save, files[0], folder, config)
        for graph, following in zip(files, [*files[1:], None], strict=True):
            saving.result()
            if following is not None:  # ONNX Runtime saves it without the GIL while the weights of this graph are moved
                saving = pool.submit(_save, following, folder, config)
            name = flat_name(graph.name)
            weights = folder / f"{name}{_SAVED}"
            weights.touch()  # ONNX Runtime writes none where all weights stay in the graph
            with weights.open("rb") as source:
                model = rewrite((folder / name).read_bytes(), lambda entries: _moved(entries, source, store))
            (folder / name).write_bytes(model)
            weights.unlink()
    record = {path.name: [path.stat().st_size, digest(path)] for path in sorted(folder.iterdir())}
    (folder / _RECORD).write_text(json.dumps(record), encoding="utf-8")


def _save(graph: GraphFile, folder: Path, config: Mapping[str, str]) -> None:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3  # hides the warning that the file is specific to this CPU, which is intended
    name = flat_name(graph.name)
    options.optimized_model_filepath = str(folder / name)
    for key, value in config.items():
        options.add_session_config_entry(key, value)
    for key, value in (
        ("save_external_prepacked_constant_initializers", "1"),
        ("optimized_model_external_initializers_file_name", f"{name}{_SAVED}"),
        ("optimized_model_external_initializers_min_size_in_bytes", str(_LEAST_BYTES)),
    ):
        options.add_session_config_entry(f"session.{key}", value)
    try:
        graph.session(options, ["CPUExecutionProvider"])
    except Exception as error:
        graph.session(ort.SessionOptions(), ["CPUExecutionProvider"])  # raises if it is the graph that is faulty
        free = shutil.disk_usage(folder).free / 1e6
        raise OSError(errno.EIO, f"the packed weights of {graph.name} cannot be written, {free:,.1f} MB are free") from error


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


def _stored(place: Path, contents: bool) -> BoundFolder | None:
    """Open the files of an earlier call.

    Args:
        place: their folder.
        contents: also compare their sha256.

    Returns:
        The files; None if they are missing, incomplete or altered, or if one is a link, which may leave the folder.
    """
    if not owned(place):
        return None
    try:
        files = BoundFolder.open(place)
        record = json.loads(files.read_unbound(_RECORD))
        if {path.name for path in place.iterdir()} != {*record, _RECORD} or _STORE not in record:
            return None
        if any((place / name).lstat().st_size != size for name, (size, _) in record.items()):
            return None
        files.bind({name: sha256 for name, (_, sha256) in record.items()}, contents, links=False)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, BundleError):
        return None
    return files


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Wait until no other process writes to `folder`. Yields False if the system does not support locks."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FolderLock.take(folder)
    try:
        yield lock is not None and lock.held
    finally:
        if lock is not None:
            lock.release()
