"""The layouts of an exported folder: its graph in the folder itself, or where transformers.js looks for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from exporter.errors import ExportError
from exporter.plan import Plan
from runtime.bundle import WEIGHTS, HeadType, VariantEntry
from runtime.bundle.file_names import GRAPHS
from runtime.ort.external_data import rewrite

__all__ = ["FLAT", "LAYOUTS", "arrange", "check_layout", "check_tasks"]

FLAT: Final = "flat"
TRANSFORMERS_JS: Final = "transformersjs"
LAYOUTS: Final = (FLAT, TRANSFORMERS_JS)

# Precision -> the dtype of transformers.js and the suffix of its graph. q8 is what a browser takes by default.
_DTYPES: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {"fp32": ("fp32", ""), "fp16": ("fp16", "_fp16"), "int8": ("q8", "_quantized")}
)
_TARGETS: Final = ("portable", "cpu")
_CONFIG: Final = "config.json"

# Heads whose outputs the pipelines of transformers.js read, by the first input of the model
_PIPELINES: Final[Mapping[str, tuple[HeadType, ...]]] = MappingProxyType(
    {
        "input_ids": (
            *("classification", "multilabel", "regression", "tagging"),
            *("question_answering", "masked_lm", "hidden_states"),
        ),
        "pixel_values": ("classification", "multilabel", "hidden_states"),
    }
)


def check_layout(layout: str, precision: str, target: str, others: Sequence[str]) -> None:
    """Check the layout of an export before any work is done.

    Args:
        layout: one of LAYOUTS.
        precision: precision of the export.
        target: target of the export.
        others: options of the export that write further graphs.

    Raises:
        ExportError: the layout is unknown, or the other options do not go with it.
    """
    if layout not in LAYOUTS:
        raise ExportError(f"layout must be one of {', '.join(LAYOUTS)}, found {layout!r}")
    if layout == FLAT:
        return
    if others:
        raise ExportError(f"--layout {layout} writes one graph: omit {' and '.join(others)}")
    if precision not in _DTYPES:
        raise ExportError(f"--layout {layout}: expected a precision of {', '.join(_DTYPES)}, found {precision!r}")
    if target not in _TARGETS:
        raise ExportError(f"--layout {layout}: expected a target of {', '.join(_TARGETS)}, found {target!r}")


def check_tasks(layout: str, plans: Sequence[Plan], tokenizer: bool) -> None:
    """Check that the tasks of an export go with its layout.

    Args:
        layout: one of LAYOUTS.
        plans: the plans of all variants.
        tokenizer: whether a tokenizer is written.

    Raises:
        ExportError: there are several tasks or drops, transformers.js has no pipeline for the task, or the pipeline needs a
            tokenizer.
    """
    if layout == FLAT:
        return
    tasks = [task.name for task in plans[0].tasks]
    if len(tasks) > 1:
        raise ExportError(
            f"--layout {layout}: a pipeline of transformers.js takes a graph of one task, found {', '.join(tasks)}: name one "
            "with --tasks"
        )
    if len(plans) > 1:
        raise ExportError(
            f"--layout {layout} writes one graph: expected one drop, found {', '.join(str(each.drop) for each in plans)}"
        )
    (task,) = plans[0].tasks
    first = next((name for name in _PIPELINES if name in {entry.name for entry in plans[0].inputs}), "")
    if task.head.kind not in _PIPELINES.get(first, ()):
        raise ExportError(
            f"--layout {layout}: transformers.js has no pipeline for {task.name}, a task of the type {task.head.kind}: "
            "omit it, and run the graph with onnxruntime-node or onnxruntime-web"
        )
    if first == "input_ids" and not tokenizer:
        raise ExportError(f"--layout {layout}: the pipelines of transformers.js need a tokenizer: export with one")


def arrange(layout: str, folder: Path, entry: VariantEntry, precision: str) -> VariantEntry:
    """Move the files of a bundle to where its layout has them, before the manifest is written.

    Args:
        layout: one of LAYOUTS.
        folder: the bundle.
        entry: the entry of its only variant, if the layout is not the flat one.
        precision: precision of the graph.

    Returns:
        The entry with the new name of the graph.
    """
    if layout == FLAT:
        return entry
    dtype, suffix = _DTYPES[precision]
    name = f"model{suffix}.onnx"
    weights = f"{name}_data"
    (folder / GRAPHS).mkdir()
    graph = rewrite((folder / entry.model).read_bytes(), lambda entries: entries | {"location": weights})
    (folder / GRAPHS / name).write_bytes(graph)
    (folder / entry.model).unlink()
    (folder / WEIGHTS).rename(folder / GRAPHS / weights)
    config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    config["transformers.js_config"] = {"dtype": dtype, "use_external_data_format": True}
    (folder / _CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return replace(entry, model=GRAPHS + name)
