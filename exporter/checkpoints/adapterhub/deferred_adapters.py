"""Adapters in a model folder that from_pretrained cannot create; they are added after loading, from the same files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapters import ADAPTER_CONFIG_MAP
from transformers import AutoConfig

from exporter.checkpoints.adapterhub.add_adapters import as_object
from exporter.checkpoints.assign import ADAPTER_KEYS, fill
from exporter.checkpoints.files import first_line, read_all_weights
from exporter.errors import ExportError


def deferred_section(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the adapters section of a config.json if from_pretrained cannot load it, otherwise None.

    Compacter modules initialise their weights with the result of a torch.nn.init function, which is None while from_pretrained
    runs.
    """
    section = config.get("adapters")
    if not isinstance(section, dict):
        return None
    configs = section.get("config_map") or {}
    named = [configs.get(key, ADAPTER_CONFIG_MAP.get(key)) for key in (section.get("adapters") or {}).values()]
    # All or none, to keep the order of the adapters, which is the order of the tasks.
    return section if any(_is_compacter(found) for found in named) else None


def _is_compacter(config: Any) -> bool:
    if not isinstance(config, Mapping):
        return False
    if config.get("architecture") == "union":
        return any(map(_is_compacter, config["configs"]))
    return bool(config.get("phm_layer"))


def config_without_adapters(folder: Path) -> Any:
    """Return the model's configuration without the adapters section."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    del config.adapters
    return config


def add_deferred(model: Any, section: Mapping[str, Any], folder: Path) -> None:
    """Add the adapters and fusions of a config.json's adapters section, with their weights from the model folder.

    Args:
        model: the model loaded without adapters.
        section: the adapters section of its config.json.
        folder: the model folder.

    Raises:
        ExportError: the section or the weights are damaged.
    """
    label = f"the model folder {str(folder)!r}"
    old = set(model.state_dict())
    try:
        for name, key in section["adapters"].items():
            model.add_adapter(name, config=as_object(section["config_map"].get(key, key), f"the adapter {name!r}"))
        for name, key in (section.get("fusions") or {}).items():
            members = (section.get("fusion_name_map") or {}).get(name, name.split(","))
            model.add_adapter_fusion(members, (section.get("fusion_config_map") or {}).get(key, key), name=name)
    except ExportError:
        raise
    # The configuration classes validate little: TypeError, KeyError, AttributeError, ValueError, …
    except Exception as error:
        raise ExportError(f"{label} cannot be loaded: {first_line(error)}") from error
    new = {key: tensor for key, tensor in model.state_dict().items() if key not in old}
    weights = {key: value for key, value in read_all_weights(folder).items() if ADAPTER_KEYS.search(key)}
    fill(label, model, new, weights)
