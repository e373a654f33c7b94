"""The layouts of an exported folder: its graph in the folder itself, or where transformers.js looks for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from exporter.errors import ExportError
from exporter.plan import Plan
from exporter.write.pipelines import MODEL_TYPES, PIPELINES, TYPED_TOKENIZERS, VERSION
from runtime.bundle import WEIGHTS, VariantEntry
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
_OMIT: Final = "omit it, and run the graph with onnxruntime-node or onnxruntime-web"


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


def check_tasks(layout: str, plans: Sequence[Plan], model_type: str, tokenizer: Any, processor: Any) -> None:
    """Check that the tasks of an export go with its layout.

    Args:
        layout: one of LAYOUTS.
        plans: the plans of all variants.
        model_type: type of the model in its config.json.
        tokenizer: the tokenizer that is written, or None.
        processor: the image processor that is written, or None.

    Raises:
        ExportError: there are several tasks or drops, transformers.js has no pipeline for the task or the model, or it needs a
            tokenizer or an image processor.
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
    inputs = {entry.name for entry in plans[0].inputs}
    pipeline = next((found for name, heads in PIPELINES.items() if name in inputs and (found := heads.get(task.head.kind))), "")
    if not pipeline:
        raise ExportError(
            f"--layout {layout}: transformers.js has no pipeline for {task.name}, a task of the type {task.head.kind}: {_OMIT}"
        )
    if model_type not in (types := MODEL_TYPES.get(pipeline, {model_type})):
        raise ExportError(
            f"--layout {layout}: the pipeline {pipeline} of transformers.js {VERSION} takes models of the types "
            f"{', '.join(sorted(types))}, found {model_type}: {_OMIT}"
        )
    if "input_ids" in inputs and tokenizer is None:
        raise ExportError(f"--layout {layout}: the pipelines of transformers.js need a tokenizer: export with one")
    name = type(tokenizer).__name__.removesuffix("Fast")
    if "token_type_ids" in inputs and name not in TYPED_TOKENIZERS and _has_types(tokenizer, pipeline):
        raise ExportError(
            f"--layout {layout}: transformers.js gives no token types for a {name}, which the task reads: save the tokenizer "
            "as that of its model, such as BertTokenizerFast"
        )
    if "pixel_values" in inputs and processor is None:
        raise ExportError(
            f"--layout {layout}: the pipeline {pipeline} of transformers.js needs an image processor: save it in the model's "
            "folder (preprocessor_config.json)"
        )


def _has_types(tokenizer: Any, pipeline: str) -> bool:
    """Whether a tokenizer gives token types other than zero for the texts of a pipeline, which are pairs for questions."""
    texts = ("a", "b") if pipeline == "question-answering" else ("a",)
    return any(tokenizer(*texts, return_token_type_ids=True)["token_type_ids"])


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
