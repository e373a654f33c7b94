"""Number of nodes that each provider runs, from a profile of ONNX Runtime."""

import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.bundle import InputEntry, Manifest
from runtime.bundle.interface import BATCH
from runtime.errors import AdapterDropError
from runtime.ort.graph_file import GraphFile
from runtime.ort.known_providers import short_name


def example_feeds(manifest: Manifest, batch: int = 1, length: int = 8) -> dict[str, npt.NDArray[Any]]:
    """Return valid feeds: ones in masks, zeros elsewhere.

    Args:
        manifest: manifest with the inputs.
        batch: number of rows.
        length: length of every other named axis, at most the maximum of the model.
    """
    return {entry.name: _example(entry, manifest, batch, length) for entry in manifest.inputs}


def count_nodes(
    graph: GraphFile, providers: Any, options: Any, feeds: Mapping[str, npt.NDArray[Any]], by_path: bool = False
) -> dict[str, int]:
    """Run a graph in a separate session, and return provider name -> number of nodes.

    A subgraph that a provider compiled counts as one node. The arguments are those of `GraphFile.session`, of whose options
    profiling is enabled, and the inputs of the run.

    Raises:
        AdapterDropError: the profile cannot be written, for example because the disk is full.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="adapterdrop-profile-") as folder:
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            session = graph.session(options, providers, by_path)
            session.run(None, feeds)
            events = _events(Path(session.end_profiling()).read_bytes())
    except OSError as error:
        raise _unwritable(error.strerror or str(error)) from error
    ran = {
        (event["name"], event["args"]["provider"])
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time") and event.get("args", {}).get("provider")
    }
    return dict(sorted(Counter(short_name(provider) for _, provider in ran).items()))


def _events(profile: bytes) -> Any:
    try:
        return json.loads(profile)
    except (ValueError, RecursionError) as error:  # ONNX Runtime writes as much as fits, and reports nothing
        raise _unwritable("it is incomplete") from error


def _unwritable(reason: str) -> AdapterDropError:
    return AdapterDropError(
        f"the profile that counts nodes cannot be written to a temporary folder: {reason}; free disk space, or set TMPDIR to a "
        "folder elsewhere"
    )


def _example(entry: InputEntry, manifest: Manifest, batch: int, length: int) -> npt.NDArray[Any]:
    shape = [
        int(axis) if axis.isdecimal() else batch if axis == BATCH else min(length, manifest.max_lengths.get(axis, length))
        for axis in entry.shape
    ]
    make = np.ones if entry.name.endswith("attention_mask") else np.zeros
    return make(shape, dtype=entry.dtype)
