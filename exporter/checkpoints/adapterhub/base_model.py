"""Loading of a model folder as the class that its adapters and heads need."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import adapters
import transformers
from adapters import AdapterModelInterface
from adapters.wrappers.model import load_model as load_static

from exporter.checkpoints.adapterhub.deferred_adapters import add_deferred, config_without_adapters, deferred_section
from exporter.checkpoints.adapterhub.model_class import choose
from exporter.checkpoints.allocation_limit import limited_allocations
from exporter.checkpoints.base_model import OPTIONS, Loaded, as_loaded, check_shapes, check_unexpected, read_config, reading
from exporter.checkpoints.files import read_json, stored_bytes
from exporter.checkpoints.scan import INTERFACE, Part
from exporter.checkpoints.sources import Source
from exporter.errors import ExportError
from exporter.models.quiet_libraries import quiet


def load_folder(source: Source, parts: Sequence[Part]) -> Loaded:
    """Load a model folder as a class that supports the given parts.

    Args:
        source: the model folder.
        parts: the adapters, fusions and heads to be added to the model.

    Raises:
        ExportError: the folder is damaged, or no class supports all parts.
    """
    config = read_config(source.folder, source.text)
    class_name, options = choose(source.folder, config, parts)
    interface = _read_interface(source.folder, config)
    options = {**OPTIONS, **options}
    later = deferred_section(config)
    with reading(source):
        if later is not None:
            options["config"] = config_without_adapters(source.folder)
        if class_name is None:
            model, info = adapters.AutoAdapterModel.from_pretrained(source.folder, **options)
        else:
            del options["trust_remote_code"]
            model, info = load_static(str(source.folder), getattr(transformers, class_name), interface, **options)
    check_shapes(source.folder, model, info, with_head=not any(part.kind == "head" for part in parts))
    loaded = as_loaded(source, model, info)
    _drop_converted_head(model, config, parts)
    if later is None:
        check_unexpected(source.folder, model, info["unexpected_keys"])
    else:
        with quiet(), limited_allocations(f"the model folder {str(source.folder)!r}", stored_bytes(source.folder)):
            add_deferred(model, later, source.folder)
        model.eval()
    return loaded


def _read_interface(folder: Path, config: dict[str, Any]) -> AdapterModelInterface | None:
    path = folder / INTERFACE
    if not path.is_file():
        return None
    content = read_json(path)
    if content.get("model_type") not in (None, config["model_type"]):
        raise ExportError(
            f"{str(path)!r} is for models of type {content['model_type']!r}, the model is of type {config['model_type']!r}: "
            "save the complete model again"
        )
    try:
        return AdapterModelInterface(**content["interface"])
    except (KeyError, TypeError, ValueError) as error:
        raise ExportError(f"{str(path)!r} contains no adapter interface ({error}): save it again") from error


def _drop_converted_head(model: Any, config: dict[str, Any], parts: Sequence[Part]) -> None:
    """Delete the pretraining head of the base model, which is not the head of a task."""
    if parts and "default" in getattr(model, "heads", {}) and "default" not in (config.get("prediction_heads") or {}):
        model.delete_head("default")
