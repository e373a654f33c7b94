"""The part of a config.json that makes transformers run or load more than the folder's weights: checked before it is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import transformers

from exporter.checkpoints.files import read_json
from exporter.errors import ExportError
from runtime.bundle.entries import shown

# Other implementations come from packages, or as code from the hub ("organisation/kernel").
_IMPLEMENTATIONS = (None, "eager", "sdpa")
_EXPERTS = (*_IMPLEMENTATIONS, "grouped_mm", "batched_mm")
_QUANTIZED = ("quantization_config", "compression_config")
# transformers 5 reads null as no quantization.
_NULL_IS_QUANTIZED = int(transformers.__version__.partition(".")[0]) < 5
FULL_PRECISION = (
    "weights in full precision are exported: give the full-precision model that they were made from, and quantize the graph "
    "with --precision int8"
)
# Numbers of modules, which are created before the weights are read; the time is in proportion to them.
_LAYERS = (
    *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers", "num_encoder_layers", "encoder_layers"),
    *("decoder_layers", "num_hidden_groups", "inner_group_num", "layers", "depths"),
)
# Some models share one layer's weights, but such models are not deep.
_FEW_LAYERS = 64
_MOST_LAYERS = 1000
# transformers copies the names of all labels many times. Bases can state those of a head that they lack: 21,843 of ImageNet.
_FEW_LABELS = 2**15
_MOST_LABELS = 2**20
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


def check_requests(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse a configuration that asks for code, for quantized weights or for files elsewhere.

    Args:
        path: the file, for messages.
        config: its content.

    Raises:
        ExportError: it asks for one of these. Custom code (auto_map) is no error: it is never run.
    """
    for where, key, value in _entries(config):
        if key == "quantization_config" and not value and (value is not None or _NULL_IS_QUANTIZED):
            raise ExportError(
                f"{str(path)!r} sets {where} to {json.dumps(value)}, in which transformers {transformers.__version__} looks "
                "for the kind of quantized weights: remove the entry, if the weights are in full precision"
            )
        if key in _QUANTIZED and value:
            raise ExportError(
                f"{str(path)!r} has a {where}: the weights are quantized{quantizer(value)}, and only {FULL_PRECISION}"
            )
        if key.strip("_").removesuffix("_internal") in ("attn_implementation", "experts_implementation"):
            _check_implementation(path, where, value, _EXPERTS if "experts" in key else _IMPLEMENTATIONS)
        # Some configurations pass it on to one that they contain, whatever the caller passed (CVE-2026-5241).
        if key == "trust_remote_code" and value not in (None, False):
            raise ExportError(
                f"{str(path)!r} sets {where} to {value!r}: code of a model is never run; remove the entry, if it needs none"
            )
        if key in ("use_kernels", "transformers_weights") and value:
            raise ExportError(f"{str(path)!r} sets {where} to {value!r}, which is not supported: remove the entry")
    for name in _INDEXES:
        if (index := path.with_name(name)).is_file():
            _check_index(index)


def check_sizes(path: Path, config: Mapping[str, Any], shapes: Sequence[tuple[int, ...]] | None = None) -> None:
    """Refuse numbers of layers and labels that no model has: creating them would take minutes or all memory.

    Args:
        path: the file, for messages.
        config: its content.
        shapes: those of the weights that belong to it, if they are known.

    Raises:
        ExportError: there is such a number.
    """
    layers, labels = _MOST_LAYERS, _MOST_LABELS
    if shapes is not None:
        layers = min(layers, max(_FEW_LAYERS, len(shapes)))
        labels = min(labels, max(_FEW_LABELS, *(max(shape, default=0) for shape in shapes)))
    most = {**dict.fromkeys(_LAYERS, layers), "num_labels": labels}
    for where, key, value in _entries(config):
        for found in value if isinstance(value, list) else [value]:
            if key in most and isinstance(found, int) and found > most[key]:
                raise ExportError(
                    f"{str(path)!r} sets {where} to {shown(found)}: expected at most {most[key]:,}; correct the file"
                )


def _entries(value: Any, where: str = "") -> Iterator[tuple[str, str, Any]]:
    """The entries of nested objects: dotted path, key, value."""
    if isinstance(value, Mapping):
        for key, found in value.items():
            dotted = f"{where}.{key}" if where else str(key)
            yield dotted, str(key), found
            yield from _entries(found, dotted)
    elif isinstance(value, list):
        for number, found in enumerate(value):
            yield from _entries(found, f"{where}[{number}]")


def _check_implementation(path: Path, where: str, value: Any, allowed: tuple[str | None, ...]) -> None:
    # A mapping gives one for each part of the model.
    for found in value.values() if isinstance(value, Mapping) else [value]:
        if found not in allowed:
            raise ExportError(
                f"{str(path)!r} sets {where} to {found!r}, which would run code from outside the model: expected "
                f"{', '.join(map(str, filter(None, allowed)))} or no entry; remove it, the weights are the same"
            )


def quantizer(value: Any) -> str:
    """Return the method of a quantization_config in parentheses, for messages; empty if it does not state one."""
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    method = value.get("quant_method") if isinstance(value, Mapping) else None
    if method is None and isinstance(value, Mapping) and (value.get("load_in_8bit") or value.get("load_in_4bit")):
        method = "bitsandbytes"
    # An enumeration of strings in a live model.
    return f" ({getattr(method, 'value', method)})" if isinstance(method, str) else ""


def _check_index(path: Path) -> None:
    files = read_json(path).get("weight_map")
    for name in files.values() if isinstance(files, dict) else ():
        if not isinstance(name, str) or Path(name).name != name:
            raise ExportError(f"{str(path)!r} names the file {name!r}: expected files in the same folder; save the model again")
