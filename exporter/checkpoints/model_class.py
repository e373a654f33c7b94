"""The transformers class that a model folder is loaded as."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from exporter.checkpoints.files import CUSTOM_CODE
from exporter.errors import ExportError


def own_class(config: dict[str, Any]) -> str | None:
    """Return the class of a transformers model with a head; None for a base model and for classes of the adapters library."""
    names = config.get("architectures") or [None]
    name = names[0]
    bare = MODEL_MAPPING_NAMES.get(config["model_type"])
    if not isinstance(name, str) or name in (bare, *([] if isinstance(bare, str) or bare is None else bare)):
        return None
    return name if is_class(name) else None


def base_class(folder: Path, config: dict[str, Any]) -> str:
    """Return the name of the class without a head for the type of model in a config.json.

    Raises:
        ExportError: transformers has no such type of model.
    """
    name = MODEL_MAPPING_NAMES.get(config["model_type"])
    if not isinstance(name, str):
        missing = f"transformers has no model of type {config['model_type']!r}"
        raise ExportError(
            f"the model folder {str(folder)!r} cannot be loaded: {CUSTOM_CODE if 'auto_map' in config else missing}"
        )
    return name


def is_class(name: Any) -> bool:
    """Return whether transformers has a model class of this name."""
    try:
        found = getattr(transformers, name, None) if isinstance(name, str) else None
    except ImportError:  # the class needs a package that is not installed
        return False
    return isinstance(found, type) and issubclass(found, PreTrainedModel)
