"""Loading of adapters and fusion layers into a model of the adapters library."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from adapters import ADAPTER_CONFIG_MAP, AdapterConfig, AdapterFusionConfig, ConfigUnion, DiReftConfig
from adapters.loading import AdapterLoader

from exporter.checkpoints.allocation_limit import limited_allocations, stored_with
from exporter.checkpoints.assign import check_origin, describe, fill, part_weights
from exporter.checkpoints.files import first_line
from exporter.checkpoints.scan import Part
from exporter.errors import ExportError

_CONTAINERS = r"(adapters|prefix_tunings|prefix_gates|loras|refts|prompt_tunings|shared_parameters)"


def add_adapter(model: Any, part: Part) -> None:
    """Add an adapter with its weights to the model.

    Raises:
        ExportError: the adapter is damaged or was trained for another model.
    """
    check_origin(part, model)
    loader = AdapterLoader(model, adapter_type="text_task" if part.config.get("type") == "text_task" else None)
    content = loader.weights_helper.load_weights_config(str(part.folder))
    old, saved = set(model.state_dict()), part_weights(part)
    try:
        loader._fix_backward_compat(content)
        with limited_allocations(part.label, stored_with(saved, model)):
            model.add_adapter(part.name, config=as_object(content.get("config"), part.label))
    except ExportError:
        raise
    # The configuration classes validate little: TypeError, KeyError, AttributeError, ValueError, …
    except Exception as error:
        raise ExportError(f"{part.label} cannot be added to {describe(model)}: {first_line(error)}") from error
    weights = {_renamed(loader._rename_legacy_weights(key), part): value for key, value in saved.items()}
    new = {key: tensor for key, tensor in model.state_dict().items() if key not in old}

    def legacy(missing: list[str]) -> list[str]:
        # Configurations of task adapters from old versions list invertible adapters that do not exist.
        return list(loader._fix_legacy_config(part.name, missing))

    fill(part.label, model, new, weights, legacy)


def _renamed(key: str, part: Part) -> str:
    # The library's renaming omits prompt tuning, whose weights would stay randomly initialised.
    return re.sub(rf"{_CONTAINERS}\.{re.escape(str(part.saved))}\.", lambda match: f"{match[1]}.{part.name}.", key)


def add_fusion(model: Any, part: Part, renamed: Mapping[str, str]) -> None:
    """Add a fusion layer with its weights to the model.

    Args:
        model: a model with the fusion's members.
        part: the fusion on disk.
        renamed: saved name -> new name of the adapters that the user renamed.

    Raises:
        ExportError: the fusion is damaged, was trained for another model, or a member is not in the model.
    """
    check_origin(part, model)
    members = part.config.get("adapter_names") or part.saved
    members = members.split(",") if isinstance(members, str) else members
    if not isinstance(members, list) or not all(isinstance(name, str) for name in members):
        raise ExportError(f"{part.label} has no list of adapter names, found {members!r}: save it again")
    known = list(model.adapters_config.adapters)
    members = [name if name in known else renamed.get(name, name) for name in members]
    for name in members:
        if name not in known:
            raise ExportError(
                f"{part.label} fuses the adapter {name!r}, which is not in the model: add its folder with --adapter; "
                f"adapters: {', '.join(map(repr, known)) or 'none'}"
            )
    config = part.config.get("config")
    if not isinstance(config, dict):
        raise ExportError(f"{part.label} has no fusion configuration, found {config!r}: save it again")
    old = set(model.state_dict())
    try:
        model.add_adapter_fusion(members, dict(config), name=part.name)
    except Exception as error:
        raise ExportError(f"{part.label} cannot be added to {describe(model)}: {first_line(error)}") from error
    new = {key: tensor for key, tensor in model.state_dict().items() if key not in old}
    # The library also saves the weights of every fusion whose name starts with this name.
    others = re.compile(rf"adapter_fusion_layer\.(?!{re.escape(part.name)}\.)")
    weights = {key: value for key, value in part_weights(part).items() if not others.search(key)}
    fill(part.label, model, new, weights)


def as_objects(config: Any) -> None:
    """Convert the dictionaries in a model's adapter configuration to configuration objects, in place.

    AutoAdapterModel.from_pretrained stores dictionaries where add_adapter stores objects.

    Args:
        config: the adapters_config of a model loaded from a folder.

    Raises:
        ExportError: a dictionary is not an adapter configuration.
    """
    for name, key in config.adapters.items():
        found = config.config_map.get(key)
        if isinstance(found, dict):
            config.config_map[key] = as_object(found, f"the adapter {name!r}")
    for key, found in config.fusion_config_map.items():
        if isinstance(found, dict):
            config.fusion_config_map[key] = AdapterFusionConfig.from_dict(found)


def as_object(config: Any, label: str) -> AdapterConfig:
    """Return an adapter's configuration object.

    Args:
        config: the configuration as JSON types.
        label: a description of the adapter, for messages.

    Raises:
        ExportError: `config` is not an adapter configuration.
    """
    # With any other string, the library would search files and servers for a configuration.
    if not isinstance(config, dict) and config not in ADAPTER_CONFIG_MAP:
        raise ExportError(f"{label} has no adapter configuration, found {config!r}: save it again")
    if isinstance(config, dict) and config.get("architecture") == "union":
        return ConfigUnion(*(as_object(part, label) for part in config["configs"]))
    if isinstance(config, dict) and config.get("architecture") == "reft" and not config.get("orthogonality"):
        # The library does not save this field, and runs every DiReFT adapter from a folder as NoReFT.
        subtracts = config.get("subtract_projection")
        if not isinstance(subtracts, bool):
            raise ExportError(
                f'{label} is NoReFT or DiReFT, and the library did not save which: add "subtract_projection": true for NoReFT, '
                'false for DiReFT, to its configuration (next to "orthogonality" in adapter_config.json or config.json)'
            )
        if not subtracts:
            return DiReftConfig.from_dict({key: value for key, value in config.items() if key != "subtract_projection"})
    return AdapterConfig.load(config)
