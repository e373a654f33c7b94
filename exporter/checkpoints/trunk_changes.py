"""Comparison of fine-tunes with their base model, weight by weight: what is equal is shared, the rest belongs to the task."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from exporter.models.module_surgery import replace_module
from exporter.models.own_tasks import OwnModel, OwnTask, Sharing
from exporter.models.peft_folded import (
    Folded,
    FoldedConv,
    FoldedEmbedding,
    FoldedHead,
    FoldedLinear,
    FoldedModule,
    FoldedTokens,
)
from exporter.models.shared_copy import copy_model, shared_copy
from exporter.models.weight_changes import changed_rows, low_rank_change

__all__ = ["fold_changes"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Modules that read the weights of their children themselves.
_WHOLE = (nn.MultiheadAttention,)
# Heads of models that have no separate trunk.
_HEADS = ("classifier", "score", "qa_outputs")


def fold_changes(models: Mapping[str, Any], base: Any, missing: Collection[str], is_base: Mapping[str, bool]) -> OwnModel:
    """Return one model for tasks whose models have one class and equal settings, over the weights of the base model.

    Args:
        models: task -> its model; not changed.
        base: the base model, of the same class; its head is not used.
        missing: the names of the weights of `base` that are randomly initialised, with which nothing is compared.
        is_base: task -> whether its model is the base model itself.
    """
    whole = shared_copy(next(iter(models.values())))
    heads = _heads(whole, missing)
    _set_weights(whole, base, heads)
    units: dict[str, set[str]] = {}
    for name, model in models.items():
        for path in _differing(model, whole, heads):
            units.setdefault(path, set()).add(name)
    found = OwnModel(whole, {name: OwnTask(model.config) for name, model in models.items()})
    ranks: dict[str, list[int]] = {name: [] for name in models}
    outer: list[str] = []
    for path in sorted(units, key=lambda path: path.count(".")):
        if any(path.startswith(f"{other}.") for other in outer):
            continue  # part of a module that is copied
        outer.append(path)
        # A module around others that differ: its copy has the changes of all.
        names = {name for other, names in units.items() if other == path or other.startswith(f"{path}.") for name in names}
        own = {name: models[name].get_submodule(path) for name in models if name in names}
        layer = _folded(own, whole.get_submodule(path))
        layer.is_read = True
        replace_module(whole, path, layer)
        for name in own:
            ranks[name] += _ranks(layer, name)
    for path in heads:
        copies = {name: copy_model(model.get_submodule(path), _tied(model, whole)) for name, model in models.items()}
        whole.set_submodule(path, FoldedHead(whole.get_submodule(path), copies=copies))
    for name, model in models.items():
        if not is_base[name]:
            found.tasks[name] = OwnTask(model.config, _sharing(model, base, heads, ranks[name]))
    return found.eval()


def _heads(model: Any, missing: Collection[str]) -> list[str]:
    """The names of the modules of a model that are not its trunk, or that the base model lacks, such as its pooler."""
    trunk = model.base_model
    found = [
        name
        for name, child in model.named_children()
        if (child is not trunk if trunk is not model else name in _HEADS) and any(True for _ in child.parameters())
    ]
    lacking = {key.rpartition(".")[0] for key in missing}
    return found + [path for path, _ in model.named_modules() if path in lacking and not _is_head(path, found)]


def _is_head(path: str, heads: Collection[str]) -> bool:
    return any(path == head or path.startswith(f"{head}.") for head in heads)


def _tied(model: Any, whole: Any) -> dict[int, Any]:
    """The weights of a task's model that equal those of the base model, with which a head can be tied."""
    ours = dict(whole.named_parameters())
    return {id(tensor): ours[key] for key, tensor in model.named_parameters() if key in ours and torch.equal(tensor, ours[key])}


def _set_weights(model: Any, base: Any, heads: Collection[str]) -> None:
    """Give the trunk of a model the weights of the base model, in place."""
    for path, module in model.named_modules():
        if _is_head(path, heads):
            continue
        other = base.get_submodule(path)
        for own, theirs in ((module._parameters, other._parameters), (module._buffers, other._buffers)):
            for key, tensor in own.items():
                if tensor is not None:
                    own[key] = theirs[key]


def _tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The parameters and saved buffers of a module itself."""
    yield from module.named_parameters(recurse=False)
    yield from (
        (key, each) for key, each in module.named_buffers(recurse=False) if key not in module._non_persistent_buffers_set
    )


def _differing(model: Any, whole: Any, heads: Collection[str]) -> Iterator[str]:
    """The modules of the trunk in which a task's model differs, without those inside of modules that are copied as a whole."""
    inside: list[str] = []
    for path, module in model.named_modules():
        if _is_head(path, heads) or any(path.startswith(f"{other}.") for other in inside):
            continue
        other = whole.get_submodule(path)
        if isinstance(module, _WHOLE):
            inside.append(path)
            if any(not torch.equal(one, two) for one, two in zip(module.parameters(), other.parameters(), strict=True)):
                yield path
        elif any(not torch.equal(tensor, getattr(other, key)) for key, tensor in _tensors(module)):
            yield path


def _folded(own: Mapping[str, Any], base: Any) -> Folded:
    """Return the layer with the weights of the tasks in which it differs, in the cheapest exact form."""
    # Exact types: subclasses can compute something else.
    if type(base) is nn.Linear or type(base).__name__ == "Conv1D":
        return _linear(own, base)
    if type(base) in _CONVOLUTIONS:
        dense = {name: layer.weight.detach() for name, layer in own.items()}
        biases = {} if base.bias is None else {name: layer.bias.detach() for name, layer in own.items()}
        return FoldedConv(base, **_given(dense=dense, biases=biases))
    if type(base) is nn.Embedding and base.max_norm is None:
        return _embedding(own, base)
    return FoldedModule(base, copies={name: _copy(layer, base) for name, layer in own.items()})


def _given(**weights: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    return {key: tensors for key, tensors in weights.items() if tensors}


def _copy(own: Any, base: Any) -> Any:
    """A copy of a task's module, with the weights of the base model where they are equal."""
    theirs = dict(base.named_parameters())
    equal = {id(tensor): theirs[key] for key, tensor in own.named_parameters() if torch.equal(tensor, theirs[key])}
    return copy_model(own, equal)


def _linear(own: Mapping[str, Any], base: Any) -> Folded:
    found: dict[str, dict[str, torch.Tensor]] = {"down": {}, "up": {}, "dense": {}, "biases": {}}
    turned = type(base).__name__ == "Conv1D"
    before = base.weight.detach().t() if turned else base.weight.detach()
    for name, layer in own.items():
        after = layer.weight.detach().t() if turned else layer.weight.detach()
        changed = base.bias is not None and not torch.equal(layer.bias, base.bias)
        factors = None if torch.equal(after, before) else low_rank_change(after, before)
        if torch.equal(after, before) or factors is not None:
            if factors is not None:
                found["down"][name], found["up"][name] = factors
            if changed:  # added to that of the layer
                found["biases"][name] = (layer.bias.detach().double() - base.bias.detach().double()).float()
        else:
            found["dense"][name] = after
            if changed:
                found["biases"][name] = layer.bias.detach()
    return FoldedLinear(base, **_given(**found))


def _embedding(own: Mapping[str, Any], base: Any) -> Folded:
    before = base.weight.detach()
    rows = {name: changed_rows(layer.weight, before) for name, layer in own.items()}
    few = [each for each in rows.values() if each is not None]
    if len(few) == len(rows):  # one number of rows, so that the tasks have equal structures
        most = max(map(len, few))
        tokens, changes = {}, {}
        for name, each in zip(rows, few, strict=True):
            more = most - len(each)
            tokens[name] = nn.functional.pad(each, (0, more), value=-1)
            change = own[name].weight.detach()[each].double() - before[each].double()
            changes[name] = nn.functional.pad(change.float(), (0, 0, 0, more))
        return FoldedTokens(base, tokens=tokens, rows=changes)
    found: dict[str, dict[str, torch.Tensor]] = {"down": {}, "up": {}, "dense": {}}
    for name, layer in own.items():
        factors = low_rank_change(layer.weight.detach().t(), before.t())
        if factors is None:
            found["dense"][name] = layer.weight.detach()
        else:
            down, up = factors
            found["down"][name], found["up"][name] = down.t(), up.t()
    return FoldedEmbedding(base, **_given(**found))


def _ranks(layer: Any, name: str) -> list[int]:
    down = getattr(layer, "down", {})
    return [min(down[name].shape)] if name in down else []


def _sharing(model: Any, base: Any, heads: Collection[str], ranks: list[int]) -> Sharing:
    ours = dict(base.named_parameters())
    named = [(key, tensor) for key, tensor in model.named_parameters() if not _is_head(key, heads)]
    equal = sum(torch.equal(tensor, ours[key]) for key, tensor in named)
    return Sharing(equal, tuple(sorted(set(ranks))), len(ranks), len(named) - equal - len(ranks))
