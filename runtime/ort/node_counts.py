"""Which provider ran how many nodes: from ONNX Runtime's own record of a run, not from what was asked for."""

import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.bundle import InputEntry, Manifest
from runtime.bundle.entries import BATCH
from runtime.import_ort import ort
from runtime.ort.providers import short_name


def example_feeds(manifest: Manifest, batch: int = 1, length: int = 8) -> dict[str, npt.NDArray[Any]]:
    """Valid feeds of [batch, length], or of the model's maximum where that is shorter: ones in masks, zeros elsewhere."""
    return {entry.name: _example(entry, manifest, batch, length) for entry in manifest.inputs}


def count_nodes(path: Path, requests: Any, options: Any, feeds: Mapping[str, npt.NDArray[Any]]) -> dict[str, int]:
    """Provider -> nodes that it ran for `feeds`, in a session of its own that is profiled and then closed. A provider that
    compiles counts each compiled part as one node.

    `requests`, `options`: the arguments of InferenceSession for the graph at `path`; `options` is changed.
    """
    with tempfile.TemporaryDirectory(prefix="adapterdrop-profile-") as folder:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(str(path), options, requests, enable_fallback=0)
        session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    ran = {
        (event["name"], event["args"]["provider"])
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time") and event.get("args", {}).get("provider")
    }
    return dict(sorted(Counter(short_name(provider) for _, provider in ran).items()))


def _example(entry: InputEntry, manifest: Manifest, batch: int, length: int) -> npt.NDArray[Any]:
    shape = [
        int(axis) if axis.isdecimal() else batch if axis == BATCH else min(length, manifest.max_lengths.get(axis, length))
        for axis in entry.shape
    ]
    make = np.ones if entry.name.endswith("attention_mask") else np.zeros
    return make(shape, dtype=entry.dtype)
