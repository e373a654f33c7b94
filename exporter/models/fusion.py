"""Takes members out of AdapterFusion, layer by layer.

A fusion's query, key and value weights have the same shape whatever the number of its members, so that a layer of a fusion runs
with fewer of them unchanged: softmax is then taken over the members that are left.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapters import AdapterConfig, BnConfig
from adapters.composition import AdapterCompositionBlock, Fuse
from adapters.methods.adapter_layer_base import AdapterLayerBase
from adapters.methods.bottleneck import BottleneckLayer
from adapters.methods.modeling import BertFusion

from exporter.errors import ExportError
from exporter.models.compositions import adapters_of, describe, fuses_of

# layer -> the members that stay there, in the fusion's order. A layer that is not named keeps them all.
Kept = Mapping[int, tuple[str, ...]]


@dataclass(frozen=True)
class Pruning:
    """A task's setup and, for each of its fusions by name, what stays; nothing for a task that is not pruned."""

    setup: Any
    kept: Mapping[str, Kept] = field(default_factory=dict)

    def at(self, layer: int) -> Any:
        """The composition that runs in `layer`. A fusion keeps its name and thereby its weights."""
        return _rewrite(self.setup, layer, self.kept)

    def to_dict(self) -> dict[str, Any]:
        """{fusion: {layer: [member]}}, as JSON types."""
        return {name: {str(layer): list(members) for layer, members in kept.items()} for name, kept in self.kept.items()}


def members_of(fuse: Fuse) -> tuple[str, ...]:
    """The members' names.

    Raises:
        ExportError: a member is named twice.
    """
    names = tuple(describe(child) for child in fuse.children)
    if len(set(names)) != len(names):
        raise ExportError(f"the fusion {fuse.name!r} has a member twice: {', '.join(names)}; name each once")
    return names


def fusion_layers(model: Any, fuse: Fuse) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """The bottleneck layers in which `fuse` runs under the active setup, each with the members that it has there.

    Raises:
        ExportError: the fusion has no weights in a layer, or the library could not run it there.
    """
    for name in dict.fromkeys(adapters_of(fuse)):
        # A folder's model holds plain dictionaries.
        config = AdapterConfig.load(model.adapters_config.get(name))
        if not isinstance(config, BnConfig):
            raise ExportError(
                f"the fusion {fuse.name!r} has {name!r}, a {type(config).__name__}: the library fuses bottleneck adapters alone"
            )
    for layer in model.modules():
        if not isinstance(layer, BottleneckLayer) or layer.layer_idx < 0 or layer.get_active_setup() is None:
            continue
        where = f"layer {layer.layer_idx} ({layer.location_key})"
        here = [[name in layer.adapters for name in adapters_of(child)] for child in fuse.children]
        if not any(map(any, here)):
            raise ExportError(
                f"the fusion {fuse.name!r} is active in {where}, where none of its members has an adapter: the library cannot "
                "run it; give all adapters of the setup the same layers (leave_out) and places (mh_adapter, output_adapter)"
            )
        # As the library decides it: an adapter that a layer lacks is left out of the fusion there, a stack is not.
        present = [child for child, there in zip(fuse.children, here, strict=True) if any(there)]
        empty = [describe(child) for child in fuse.children if not isinstance(child, str) and child not in present]
        if empty:
            raise ExportError(
                f"the fusion {fuse.name!r} has {empty[0]}, of which {where} has no adapter: leave fewer layers out"
            )
        if fuse.name not in layer.adapter_fusion_layer:
            raise ExportError(f"the fusion {fuse.name!r} has no weights in {where}: add or load them (add_adapter_fusion)")
        if fuse.last() not in layer.adapters:
            raise ExportError(
                f"the last member of the fusion {fuse.name!r}, {fuse.last()!r}, has no adapter in {where}: the library takes "
                "the block's settings from there and cannot run it; name another member last"
            )
        yield layer, tuple(describe(child) for child in present)


def prune_fusion(model: Any, tasks: Sequence[Pruning]) -> None:
    """Takes the members that are not kept out of the layers of `model`, a copy that serves `tasks` and no others.

    Call it once per copy, with all of its tasks: an adapter stays in a layer while any of them uses it there. Each layer then
    runs its own composition whenever one of the setups is active. Only the module tree changes, no weight. An invertible
    adapter is no part of a layer: the library runs the first member's, whether that member is kept in a layer or not.

    Raises:
        ExportError: what is to be kept is empty or no member of the fusion.
    """
    for task in tasks:
        for fuse in fuses_of(task.setup):
            _check_kept(fuse, task.kept.get(fuse.name, {}))
    named = dict.fromkeys(name for task in tasks for name in adapters_of(task.setup))
    for layer in model.modules():
        if not isinstance(layer, AdapterLayerBase) or layer.layer_idx < 0:
            continue
        setups = {_key(task.setup): task.at(layer.layer_idx) for task in tasks}
        used = {name for setup in setups.values() for name in adapters_of(setup)}
        for name in named:
            if name not in used:
                layer.delete_adapter(name)
        changed = {key: setup for key, setup in setups.items() if key != _key(setup)}
        # Fusion runs in bottleneck layers alone; LoRA and the like pass a Fuse block by.
        if changed and isinstance(layer, BottleneckLayer):
            _check_last(layer, changed.values())
            layer.get_active_setup = functools.partial(_setup_of_layer, layer.get_active_setup, changed)


def _check_last(layer: BottleneckLayer, setups: Iterable[Any]) -> None:
    for fuse in (fuse for setup in setups for fuse in fuses_of(setup)):
        if fuse.last() not in layer.adapters and any(name in layer.adapters for name in adapters_of(fuse)):
            raise ExportError(
                f"the fusion {fuse.name!r} cannot keep {describe(fuse.children[-1])} as its last member in layer "
                f"{layer.layer_idx}, where {fuse.last()!r} has no adapter: keep more members, or leave no layer out"
            )


def _setup_of_layer(active: Callable[[], Any], changed: Mapping[str, Any]) -> Any:
    # A function of the module and a partial, not a closure: a deepcopy of the model must point at the copied layer.
    setup = active()
    return changed.get(_key(setup), setup)


def freeze_temperature(model: Any) -> dict[str, float]:
    """Stops the fusions' temperature, which the library lowers at every forward pass, at its present value.

    Where: in every BertFusion module whose configuration says `temperature`. A checkpoint does not store the value, so that a
    fusion that comes from a folder starts at the library's 50, as it does in the library.

    Returns:
        Temperature by dotted module name; empty without such a fusion.
    """
    frozen = {}
    for name, module in model.named_modules():
        if isinstance(module, BertFusion) and module.config["temperature"]:
            module.reduction = 0.0
            frozen[name] = float(module.T)
    return frozen


def _check_kept(fuse: Fuse, kept: Kept) -> None:
    members = members_of(fuse)
    for layer, names in kept.items():
        strange = [name for name in names if name not in members]
        if strange or not names:
            raise ExportError(
                f"the fusion {fuse.name!r} cannot keep {', '.join(map(repr, strange)) or 'nothing'} in layer {layer}: expected "
                f"some of {', '.join(members)}"
            )


def _rewrite(setup: Any, layer: int, kept: Mapping[str, Kept]) -> Any:
    if isinstance(setup, Fuse):
        members = kept.get(setup.name, {}).get(layer)
        children = [child for child in setup.children if members is None or describe(child) in members]
        return Fuse(*children, name=setup.name)
    if isinstance(setup, AdapterCompositionBlock) and any(True for _ in fuses_of(setup)):
        # Only a Stack may hold a Fuse: nothing but its children to carry over.
        return type(setup)(*(_rewrite(child, layer, kept) for child in setup.children))
    return setup


def _key(setup: Any) -> str:
    """Equal for equal compositions, fusions' names included, which the library's own comparison leaves out."""
    if setup is None or isinstance(setup, str):
        return repr(setup)
    details = setup.name if isinstance(setup, Fuse) else getattr(setup, "weights", "")
    return f"{type(setup).__name__}({', '.join(map(_key, setup.children))}; {details})"
