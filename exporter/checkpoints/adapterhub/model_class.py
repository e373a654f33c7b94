"""The choice of the class that a model folder is loaded as, given its adapters and heads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapters.head_utils import STATIC_TO_FLEX_HEAD_MAP
from adapters.models.auto.adapter_model import ADAPTER_MODEL_MAPPING_NAMES

from exporter.checkpoints.model_class import base_class, is_class, own_class
from exporter.checkpoints.scan import INTERFACE, Part
from exporter.errors import ExportError


def choose(folder: Path, config: dict[str, Any], parts: Sequence[Part]) -> tuple[str | None, dict[str, Any]]:
    """Choose the class for a model folder.

    Args:
        folder: the model folder.
        config: the content of its config.json.
        parts: the adapters, fusions and heads to be added.

    Returns:
        The name of a transformers class, or None for AutoAdapterModel with named heads; and options for from_pretrained.

    Raises:
        ExportError: no single class supports all parts.
    """
    heads = [part for part in parts if part.kind == "head"]
    own = own_class(config)
    saved_from = list(dict.fromkeys(str(part.config.get("model_class")) for part in heads))
    flexible = config["model_type"] in ADAPTER_MODEL_MAPPING_NAMES and not (folder / INTERFACE).is_file()
    inside = bool((config.get("adapters") or {}).get("adapters"))
    if flexible and not (inside and own):
        # Adapters saved without a head use the model's head.
        headless = bool(parts) and not heads and own
        inconvertible = [name for name in saved_from if name not in STATIC_TO_FLEX_HEAD_MAP and is_class(name)]
        if not headless and not inconvertible:
            return None, {}
    if inside or not heads:
        return own or base_class(folder, config), {}
    if len(saved_from) > 1 or not is_class(saved_from[0]):
        raise ExportError(
            f"a {config['model_type']} model of this kind has one head, but the adapters have heads of "
            f"{', '.join(saved_from)}: export those of one class at a time"
        )
    return saved_from[0], _labels(heads[0])


def _labels(head: Part) -> dict[str, Any]:
    """The from_pretrained options for the head's size, which can differ from that of the base model's head."""
    count, label2id = head.config.get("num_labels"), head.config.get("label2id")
    options: dict[str, Any] = {}
    if isinstance(count, int):
        options["num_labels"] = count
    if isinstance(label2id, dict) and (count is None or len(label2id) == count):
        options |= {"label2id": label2id, "id2label": {number: label for label, number in label2id.items()}}
    return options
