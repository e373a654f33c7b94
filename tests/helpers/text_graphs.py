"""Bundles with the tokenizer in the graph, compared on a part of the texts that an export compares."""

from __future__ import annotations

import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from exporter.text_graph import verify
from exporter.text_graph.build import TextGraph, save_text_graphs
from exporter.text_graph.hard_texts import hard_texts
from runtime.bundle import digest, read_manifest

LIMIT = 24
needs_extensions = pytest.mark.skipif(
    find_spec("onnxruntime_extensions") is None, reason="needs onnxruntime-extensions, which make test installs"
)
NAMES = ("input_ids", "attention_mask", "token_type_ids")


def text_plan(names: tuple[str, ...] = NAMES, **fields: Any) -> Any:
    """Return a stand-in for a plan, with what the graph of a tokenizer reads."""
    defaults = {"opset": 20, "outputs": {"t": ("t",)}, "max_lengths": {"sequence": LIMIT}, "padding_id": 0, "atol": 1e-4}
    return SimpleNamespace(inputs=[SimpleNamespace(name=name) for name in names], **(defaults | fields))


def few_texts(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Compare every step-th text: export compares all."""
    monkeypatch.setattr(verify, "hard_texts", lambda *given: hard_texts(*given)[::step])


def with_text_graph(graph: TextGraph, bundle: Path, folder: Path) -> Path:
    """Copy a bundle of one variant to a folder, with a graph from texts."""
    shutil.copytree(bundle, folder)
    files = save_text_graphs(graph, folder, ["model.onnx"], text_plan())
    manifest = read_manifest(folder)
    listed = {**manifest.files, **{file: digest(folder / file) for file in files.values()}}
    replace(manifest, files=listed, text_graphs=files).write(folder)
    return folder
