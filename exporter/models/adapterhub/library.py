"""The `AdapterLibrary` functions for models of the adapters library (AdapterHub)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from adapters import AdapterConfig, BnConfig, ConfigUnion
from adapters.composition import Fuse
from adapters.methods.adapter_layer_base import AdapterLayerBase
from adapters.methods.prefix_tuning import PrefixTuningLayer

from exporter.errors import ExportError
from exporter.models.adapterhub.fusion import Pruning, freeze_temperature, fusion_layers, prune_fusion
from exporter.models.adapterhub.merged_lora import unmerge
from exporter.models.binding import is_keyed
from exporter.models.compositions import adapters_of as setup_adapters
from exporter.models.compositions import fuses_of, fusions_of, shape_of
from exporter.models.plain_lora import is_plain_config
from exporter.models.quiet_libraries import quiet
from exporter.plan import Task

# Adapter settings without effect in evaluation mode.
_ONLY_IN_TRAINING = frozenset({"dropout", "init_weights", "init_weights_seed", "stochastic_depth"})


def adapters_of(model: Any) -> list[str]:
    """Return the adapter names in the order in which they were added."""
    return list(model.adapters_config.adapters)


def compositions_of(model: Any) -> dict[str, Any]:
    """Return the fusions by name.

    The library stores only the last adapter of each member: a fusion of stacks must be requested as a composition.
    """
    found = {}
    for name in model.adapters_config.fusions:
        _, members = model.adapters_config.get_fusion(name)
        found[name] = Fuse(*members, name=name)
    return found


def layers_of(model: Any) -> int:
    """Return the number of transformer layers, encoder and decoder together."""
    return sum(1 for _ in model.iter_layers())


def structure_of(model: Any, task: str, setup: Any, drop: int) -> Any:
    """Return the structure of a task: its composition, the configurations of its adapters and fusions, and its drop.

    Raises:
        ExportError: the setup contains a fusion without a fusion layer in the model.
    """
    numbers = {name: number for number, name in enumerate(setup_adapters(setup))}
    fusions = [_fusion_config(model, task, name) for name in fusions_of(setup)]
    configs = [_adapter_config(model, name) for name in numbers]
    if isinstance(setup, str) and isinstance(configs[0], BnConfig):
        # Dropping a layer and excluding it with leave_out give the same structure.
        return {**_comparable(configs[0]), "leave_out": sorted({*range(drop), *configs[0].leave_out})}
    return [shape_of(setup, numbers), [_comparable(config) for config in configs], fusions, drop]


def _adapter_config(model: Any, name: str) -> AdapterConfig:
    # A model loaded from a folder stores plain dictionaries.
    return AdapterConfig.load(model.adapters_config.get(name))


def _comparable(config: AdapterConfig) -> dict[str, Any]:
    if isinstance(config, ConfigUnion):
        return {"union": [_comparable(part) for part in config.configs]}
    found = {key: value for key, value in config.to_dict().items() if key not in _ONLY_IN_TRAINING}
    if is_plain_config(found):
        del found["alpha"]  # folded into the weights
        found["attn_matrices"] = sorted(found["attn_matrices"])
    # The only difference between DiReFT and NoReFT is this class attribute, which to_dict omits.
    return {**found, "subtract_projection": getattr(config, "subtract_projection", None)}


def _fusion_config(model: Any, task: str, name: str) -> Any:
    known = model.adapters_config.fusions
    if name not in known:
        raise ExportError(
            f"the task {task!r} needs the fusion layer {name!r}; fusions: {', '.join(map(repr, known)) or 'none'}; load it "
            "with --fusion, or add it with model.add_adapter_fusion"
        )
    config, _ = model.adapters_config.get_fusion(name)
    return config.to_dict() if hasattr(config, "to_dict") else dict(config)


def prune(model: Any, tasks: Sequence[Task]) -> None:
    """Remove everything that `tasks` do not use from a copy of the user's model, in place.

    Adapters and fusions of dropped layers are removed, so that a task without adapters there by its configuration (`leave_out`)
    has the same modules as one that drops the layers. Invertible adapters and prompts belong to no layer and are kept.

    Raises:
        ExportError: a merged adapter cannot be unmerged, or a fusion cannot run.
    """
    unmerge(model)
    _relink_prefixes(model)
    model.adapters_config.active_setup = None
    adapters = {name for task in tasks for name in setup_adapters(task.setup)}
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
            # Iterated for its errors: the library raises a bare KeyError for a fusion that it cannot run.
            list(fusion_layers(model, fuse))
    if any(task.kept for task in tasks):
        prune_fusion(model, [Pruning(task.setup, task.kept) for task in tasks])
    _remove_dropped(model, tasks)
    freeze_temperature(model)


def _remove_dropped(model: Any, tasks: Sequence[Task]) -> None:
    """Remove the adapters and fusions of each layer that all their tasks drop, in place."""
    for layer in model.modules():
        if isinstance(layer, AdapterLayerBase) and layer.layer_idx >= 0:
            used = {name for task in tasks if task.drop <= layer.layer_idx for name in task.names}
            for container in filter(is_keyed, layer.children()):
                for name in [name for name in container if name not in used]:
                    del container[name]


def _relink_prefixes(model: Any) -> None:
    """Restore the layers' links to the pool of prefixes; `save_pretrained` removes them, and `delete_adapter` then fails."""
    pool = getattr(model.base_model, "prefix_tuning", None)
    for layer in model.modules():
        if isinstance(layer, PrefixTuningLayer) and layer.pool is None and pool is not None:
            layer.set_pool(pool)


def activate(model: Any, task: Task) -> None:
    """Activate the adapters and the head of `task`, without the dropped layers."""
    # The library warns while no adapter is active. Only then, because to change a level costs a part of a forward pass.
    with nullcontext() if model.active_adapters else quiet():
        model.set_active_adapters(task.setup, skip_layers=list(range(task.drop)) or None)
    if task.head.name is not None:
        model.active_head = task.head.name


@contextmanager
def without_adapters(model: Any, task: Task) -> Iterator[None]:  # noqa: ARG001  # the interface has the argument
    """Compute no adapter; the head of `task` stays active."""
    setup = model.adapters_config.active_setup
    model.adapters_config.active_setup = None
    try:
        yield
    finally:
        model.adapters_config.active_setup = setup


def layers_without_adapter(model: Any, task: Task) -> tuple[int, ...]:
    """Return the layers that are dropped or excluded by the adapter's configuration."""
    names = set(setup_adapters(task.setup))
    used = {
        module.layer_idx
        for module in model.modules()
        if isinstance(module, AdapterLayerBase) and names & set(module.adapter_modules.keys())
    }
    return tuple(layer for layer in range(layers_of(model)) if layer < task.drop or layer not in used)
