"""Neutral names, under which adapters are put into PEFT models.

PEFT looks for modules by the ends of their names, also among those of adapters: where the head `classifier` is saved, the
weights `lora_A.topic_classifier` of an adapter with the name `topic_classifier` would be taken for a head.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

__all__ = ["neutral_names", "rename_adapters"]


def neutral_names(names: Iterable[str]) -> dict[str, str]:
    """Return a name for each adapter that is not the end of any other name."""
    return {name: f"adapterdrop_{number}_" for number, name in enumerate(names)}


def rename_adapters(model: nn.Module, names: Mapping[str, str]) -> None:
    """Rename adapters of a PEFT model wherever it has their names, in place; their order stays.

    Args:
        model: the model.
        names: present name -> new name. The present ones are the names of nothing else.
    """
    seen: set[int] = set()
    for module in model.modules():
        for key, value in vars(module).items():
            renamed = _renamed(value, names, seen)
            if renamed is not value:
                vars(module)[key] = renamed


def _renamed(value: Any, names: Mapping[str, str], seen: set[int]) -> Any:
    """A string or list with the new names; dictionaries and sets, which modules can share, are changed in place."""
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, list) and any(isinstance(each, str) and each in names for each in value):
        return [_renamed(each, names, seen) for each in value]
    if isinstance(value, dict | set) and id(value) not in seen:
        seen.add(id(value))
        if any(isinstance(each, str) and each in names for each in value):
            entries: Any = [names.get(each, each) for each in value]
            filled = dict(zip(entries, value.values(), strict=True)) if isinstance(value, dict) else set(entries)
            value.clear()
            value.update(filled)
    return value
