"""AdapterFusion in live models: its layers, and the removal of members by layer.

The shapes of a fusion's query, key and value weights do not depend on the number of members. A layer therefore runs with fewer
members and unchanged weights; the softmax is taken over the members that are kept.
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
from exporter.models.compositions import Kept, adapters_of, describe, fuses_of, members_of


@dataclass(frozen=True)
class Pruning:
    """The fusion members that a task keeps.

    Attributes:
        setup: the task's setup.
        kept: fusion -> layer -> the members kept there; empty for a task that is not pruned.
    """

    setup: Any
    kept: Mapping[str, Kept] = field(default_factory=dict)

    def at(self, layer: int) -> Any:
        """Return the composition that runs in `layer`; a pruned fusion keeps its name and therefore its weights."""
        return _rewrite(self.setup, layer, self.kept)

    def to_dict(self) -> dict[str, Any]:
        """Return {fusion: {layer: [member]}} as JSON types."""
        return {name: {str(layer): list(members) for layer, members in kept.items()} for name, kept in self.kept.items()}


def fusion_layers(model: Any, fuse: Fuse) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """Yield the bottleneck layers in which `fuse` runs with the active setup, each with the members present there.

    Raises:
        ExportError: the fusion has no weights in a layer, or the library cannot run it there.
    """
    for name in dict.fromkeys(adapters_of(fuse)):
        # A model loaded from a folder stores plain dictionaries.
        config = AdapterConfig.load(model.adapters_config.get(name))
        if not isinstance(config, BnConfig):
            raise ExportError(
                f"the fusion {fuse.name!r} contains {name!r}, a {type(config).__name__}: the library only fuses bottleneck "
                "adapters"
            )
    for layer in model.modules():
        if not isinstance(layer, BottleneckLayer) or layer.layer_idx < 0 or layer.get_active_setup() is None:
            continue
        where = f"layer {layer.layer_idx} ({layer.location_key})"
        here = [[name in layer.adapters for name in adapters_of(child)] for child in fuse.children]
        if not any(map(any, here)):
            raise ExportError(
                f"the fusion {fuse.name!r} is active in {where}, where none of its members has an adapter: the library cannot "
                "run it; give all adapters of the setup the same layers (leave_out) and locations (mh_adapter, output_adapter)"
            )
        # As in the library: an adapter that is missing in a layer is skipped by the fusion there, a stack is not.
        present = [child for child, there in zip(fuse.children, here, strict=True) if any(there)]
        empty = [describe(child) for child in fuse.children if not isinstance(child, str) and child not in present]
        if empty:
            raise ExportError(
                f"the fusion {fuse.name!r} contains {empty[0]}, which has no adapter in {where}: exclude fewer layers "
                "(leave_out)"
            )
        if fuse.name not in layer.adapter_fusion_layer:
            raise ExportError(f"the fusion {fuse.name!r} has no weights in {where}: add or load them (add_adapter_fusion)")
        if fuse.last() not in layer.adapters:
            raise ExportError(
                f"the last member of the fusion {fuse.name!r}, {fuse.last()!r}, has no adapter in {where}: the library reads "
                "the block's settings from it and cannot run the fusion; name another member last"
            )
        yield layer, tuple(describe(child) for child in present)


def prune_fusion(model: Any, tasks: Sequence[Pruning]) -> None:
    """Remove the members that are not kept from the layers of `model`, in place.

    Call this once per model copy, with all of its tasks: an adapter is kept in a layer as long as one task uses it there. Each
    layer then runs its pruned composition when one of the setups is active. The module tree changes, the weights do not. An
    invertible adapter is not part of a layer: the library runs that of the first member, even if no layer keeps the member.

    Args:
        model: a copy of the user's model that is only used for `tasks`.
        tasks: the setups with the members to keep.

    Raises:
        ExportError: no member, or an unknown one, is to be kept in a layer.
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
        # Only bottleneck layers run a fusion; the layers of LoRA and other methods ignore Fuse blocks.
        if changed and isinstance(layer, BottleneckLayer):
            _check_last(layer, changed.values())
            layer.get_active_setup = functools.partial(_setup_of_layer, layer.get_active_setup, changed)


def _check_last(layer: BottleneckLayer, setups: Iterable[Any]) -> None:
    for fuse in (fuse for setup in setups for fuse in fuses_of(setup)):
        if fuse.last() not in layer.adapters and any(name in layer.adapters for name in adapters_of(fuse)):
            raise ExportError(
                f"the fusion {fuse.name!r} cannot keep {describe(fuse.children[-1])} as its last member in layer "
                f"{layer.layer_idx}, where {fuse.last()!r} has no adapter: keep more members, or exclude no layer (leave_out)"
            )


def _setup_of_layer(active: Callable[[], Any], changed: Mapping[str, Any]) -> Any:
    # A module-level function in a partial instead of a closure: deepcopy must rebind it to the copied layer.
    setup = active()
    return changed.get(_key(setup), setup)


def freeze_temperature(model: Any) -> dict[str, float]:
    """Fix the temperature of all fusions at its current value, in place.

    The library lowers the temperature of a BertFusion module with `temperature` in its configuration at every forward pass. A
    checkpoint does not store the value: a fusion loaded from a folder starts at the library's default of 50.

    Returns:
        Dotted module name -> temperature; empty if no fusion has one.
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
        unexpected = [name for name in names if name not in members]
        if unexpected or not names:
            raise ExportError(
                f"the fusion {fuse.name!r} cannot keep {', '.join(map(repr, unexpected)) or 'nothing'} in layer {layer}: "
                f"expected some of {', '.join(members)}"
            )


def _rewrite(setup: Any, layer: int, kept: Mapping[str, Kept]) -> Any:
    if isinstance(setup, Fuse):
        members = kept.get(setup.name, {}).get(layer)
        children = [child for child in setup.children if members is None or describe(child) in members]
        return Fuse(*children, name=setup.name)
    if isinstance(setup, AdapterCompositionBlock) and any(True for _ in fuses_of(setup)):
        # Only a Stack can contain a Fuse; it has no attributes besides its children.
        return type(setup)(*(_rewrite(child, layer, kept) for child in setup.children))
    return setup


def _key(setup: Any) -> str:
    """A key that is equal for equal compositions, including the fusions' names, which the library's `==` ignores."""
    if setup is None or isinstance(setup, str):
        return repr(setup)
    details = setup.name if isinstance(setup, Fuse) else getattr(setup, "weights", "")
    return f"{type(setup).__name__}({', '.join(map(_key, setup.children))}; {details})"
