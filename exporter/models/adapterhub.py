"""Models of the adapters library: structure, pruning and activation of their tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from adapters import AdapterConfig, BnConfig, ConfigUnion
from adapters.composition import Fuse
from adapters.methods.adapter_layer_base import AdapterLayerBase
from adapters.methods.prefix_tuning import PrefixTuningLayer

from exporter.errors import ExportError
from exporter.models.compositions import adapters_of as names_of
from exporter.models.compositions import fuses_of, fusions_of, shape_of
from exporter.models.fusion import Pruning, freeze_temperature, fusion_layers, prune_fusion
from exporter.models.merged_lora import unmerge
from exporter.models.quiet_libraries import quiet
from exporter.plan import Task

# Adapter settings that change nothing in evaluation mode.
_ONLY_IN_TRAINING = frozenset({"dropout", "init_weights", "init_weights_seed", "stochastic_depth"})


def adapters_of(model: Any) -> list[str]:
    return list(model.adapters_config.adapters)


def compositions_of(model: Any) -> dict[str, Any]:
    """The fusions by name. The library notes the last adapter of each member alone: members that are stacks must be given as a
    composition."""
    found = {}
    for name in model.adapters_config.fusions:
        _, members = model.adapters_config.get_fusion(name)
        found[name] = Fuse(*members, name=name)
    return found


def layers_of(model: Any) -> int:
    return sum(1 for _ in model.iter_layers())


def structure_of(model: Any, task: str, setup: Any, drop: int) -> Any:
    roles = {name: number for number, name in enumerate(names_of(setup))}
    fusions = [_fusion_config(model, task, name) for name in fusions_of(setup)]
    configs = [_adapter_config(model, name) for name in roles]
    if isinstance(setup, str) and isinstance(configs[0], BnConfig):
        # Tasks that differ in how they come to have no adapter in a layer are one structure.
        return {**_comparable(configs[0]), "leave_out": sorted({*range(drop), *configs[0].leave_out})}
    return [shape_of(setup, roles), [_comparable(config) for config in configs], fusions, drop]


def _adapter_config(model: Any, name: str) -> AdapterConfig:
    # A model that comes from a folder holds plain dictionaries.
    return AdapterConfig.load(model.adapters_config.get(name))


def _comparable(config: AdapterConfig) -> dict[str, Any]:
    if isinstance(config, ConfigUnion):
        return {"union": [_comparable(part) for part in config.configs]}
    found = {key: value for key, value in config.to_dict().items() if key not in _ONLY_IN_TRAINING}
    # A class attribute, which alone tells DiReFT from NoReFT and which to_dict leaves out.
    return {**found, "subtract_projection": getattr(config, "subtract_projection", None)}


def _fusion_config(model: Any, task: str, name: str) -> Any:
    known = model.adapters_config.fusions
    if name not in known:
        raise ExportError(
            f"the task {task!r} has no fusion layer {name!r}; fusions: {', '.join(map(repr, known)) or 'none'}; load it with "
            "--fusion, or add it with model.add_adapter_fusion"
        )
    config, _ = model.adapters_config.get_fusion(name)
    return config.to_dict() if hasattr(config, "to_dict") else dict(config)


def prune(model: Any, tasks: Sequence[Task]) -> None:
    """As with the library's own `skip_layers`, the dropped layers' adapters stay in the module tree and are never run, and
    invertible adapters and prompts, which belong to no layer, are kept. Tracing leaves behind what does not run."""
    unmerge(model)
    _relink_prefixes(model)
    model.adapters_config.active_setup = None
    adapters = {name for task in tasks for name in names_of(task.setup)}
    fusions = {name for task in tasks for name in fusions_of(task.setup)}
    for name in [name for name in model.adapters_config.fusions if name not in fusions]:
        with quiet():
            model.delete_adapter_fusion(name)
    for name in [name for name in model.adapters_config.adapters if name not in adapters]:
        model.delete_adapter(name)
    heads = {task.head.name for task in tasks}
    for name in [name for name in getattr(model, "heads", {}) if name not in heads]:
        model.delete_head(name)
    for task in tasks:
        activate(model, task)
        for fuse in fuses_of(task.setup):
            # Walked for its errors: what the library cannot run, it answers with a KeyError from its insides.
            list(fusion_layers(model, fuse))
    if any(task.kept for task in tasks):
        prune_fusion(model, [Pruning(task.setup, task.kept) for task in tasks])
    freeze_temperature(model)


def _relink_prefixes(model: Any) -> None:
    """`save_pretrained` takes the prefixes' pool out of the layers and leaves it out: deleting an adapter then fails."""
    pool = getattr(model.base_model, "prefix_tuning", None)
    for layer in model.modules():
        if isinstance(layer, PrefixTuningLayer) and layer.pool is None and pool is not None:
            layer.set_pool(pool)


def activate(model: Any, task: Task) -> None:
    with quiet():  # the library warns of the moment in which no adapter is active
        model.set_active_adapters(task.setup, skip_layers=list(range(task.drop)) or None)
    if task.head.name is not None:
        model.active_head = task.head.name


def layers_without_adapter(model: Any, task: Task) -> tuple[int, ...]:
    """Dropped, or left out by the adapter's own configuration."""
    names = set(names_of(task.setup))
    used = {
        module.layer_idx
        for module in model.modules()
        if isinstance(module, AdapterLayerBase) and names & set(module.adapter_modules.keys())
    }
    return tuple(layer for layer in range(layers_of(model)) if layer < task.drop or layer not in used)
