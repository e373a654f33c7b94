"""The `AdapterLibrary` functions for PEFT models.

PEFT is an optional dependency: it is imported inside functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from exporter.errors import ExportError
from exporter.models.embeddings import activate_embedder, keep_embedders
from exporter.models.injected import InjectedModel
from exporter.models.peft_biases import biased, remove_biases
from exporter.models.peft_folded import activate_folded
from exporter.models.peft_modules import (
    adapted,
    base_of,
    encoder_layers_in,
    layer_lists,
    layer_numbers,
    layer_of,
    layers_are_recognized,
    layers_in,
    layers_within,
    lists_in,
    outside_of_adapters,
)
from exporter.models.peft_prompts import check_prompt, drop_prefixes, has_prefix, has_prompt
from exporter.models.peft_structure import structure
from exporter.models.peft_switch import same_flags, switch_to
from exporter.models.quiet_libraries import quiet
from exporter.plan import Task


def adapters_of(model: Any) -> list[str]:
    """Return the adapter names in the order in which they were added.

    Raises:
        ExportError: the model contains adapters but is not a PeftModel.
    """
    from peft import PeftMixedModel, PeftModel

    if not isinstance(model, PeftModel | PeftMixedModel | InjectedModel):
        raise ExportError(
            f"expected a PeftModel, found a {type(model).__name__} with PEFT adapters: load it with "
            "peft.PeftModel.from_pretrained(base, folder, adapter_name=name), and more adapters with model.load_adapter"
        )
    return list(model.peft_config)


def compositions_of(model: Any) -> dict[str, Any]:  # noqa: ARG001  # the interface has the argument
    """Return no compositions: with PEFT, a task is one adapter."""
    return {}


def layers_of(model: Any) -> int:
    """Return the number of transformer layers, of an encoder-decoder in both; for ALBERT, of layer groups.

    It is 1 for a model whose layers are not recognized.
    """
    return layers_in(model) or 1


def structure_of(model: Any, task: str, setup: Any, drop: int) -> dict[str, Any]:
    """Return the structure of an adapter; adapters with equal structure differ only in weights and number of labels.

    Raises:
        ExportError: the setup is a composition, the adapter's type is not supported or does not run with the model's class, or
            layers are dropped and not recognized.
    """
    if not isinstance(setup, str):
        raise ExportError(f"the setup of the task {task!r} is a composition: with PEFT, a task is one adapter")
    if drop and not layers_are_recognized(model):
        wanted, numbers, lists = lists_in(model), len(layer_numbers(model)), len(layer_lists(model))
        raise ExportError(
            f"the layers of {type(base_of(model)).__name__} are not recognized by their module names: expected "
            f"{layers_in(model)} in {wanted} list(s), found {numbers} different numbers in {lists}; only drop 0 can be exported"
        )
    if encoder_layers_in(model) and (name := type(base_of(model)).__name__).endswith("ForConditionalGeneration"):
        raise ExportError(f"{name} generates text: PEFT adapters on encoder-decoders are exported for classification only")
    check_prompt(model, setup)
    found = structure(model, setup, _without_dropped(model, adapted(model, setup), drop))
    if own := _without_dropped(model, biased(model, setup), drop):
        found["biases"] = {path: type(layer).__name__ for path, layer in own.items()}
    # The other classes pass all inputs to the model, as a plain PeftModel does.
    if (kind := type(model).__name__) == "PeftModelForQuestionAnswering":
        found["class"] = kind
    spans = any(layers_within(model, path, module, setup) for path, module in adapted(model, setup))
    return {**found, "drop": drop} if has_prefix(model, setup) or spans else found


def _without_dropped(model: Any, modules: Iterable[tuple[str, Any]], drop: int) -> dict[str, Any]:
    encoder = encoder_layers_in(model)
    numbered = ((path, module, layer_of(path, encoder)) for path, module in modules)
    return {path: module for path, module, layer in numbered if layer is None or layer >= drop}


def _merged(model: nn.Module) -> list[Any]:
    return [module for _, module in adapted(model) if getattr(module, "merged", False)]


def activate(model: Any, task: Task) -> None:
    """Activate the adapter of `task` without changing weights or requires_grad.

    Raises:
        ExportError: adapters are merged into the base model's weights; activating one would write to them.
    """
    if _merged(model):
        raise ExportError("adapters are merged into the base model's weights: call model.unmerge_adapter() first")
    switch_to(model, task.setup, has_prompt(model, task.setup))
    activate_folded((module for _, module in outside_of_adapters(model)), task.setup)
    activate_embedder(model, task.setup)


def prune(model: Any, tasks: Sequence[Task]) -> None:
    """Remove all adapters but those of `tasks` from a copy of the user's model, in place, and set it to evaluation mode.

    The original modules are restored where the tasks have no adapter. Merged adapters are unmerged in copies of the weights.

    Args:
        model: a copy of the user's model.
        tasks: tasks with equal structure.
    """
    for module in _merged(model):
        base = module.get_base_layer()
        for key, parameter in list(base.named_parameters(recurse=False)):
            base.register_parameter(key, nn.Parameter(parameter.detach().clone(), parameter.requires_grad))
        with quiet():
            module.unmerge()
    activate(model, tasks[0])
    model.eval()
    names = {task.setup for task in tasks}
    with quiet(), same_flags(model):
        for name in adapters_of(model):
            if name not in names:
                model.delete_adapter(name)
    kept = _without_dropped(model, adapted(model, tasks[0].setup), tasks[0].drop)
    removed: list[str] = []
    for path, module in list(adapted(model)):
        # An adapted module can contain another one: adapters of two types on one layer, the rows of trainable tokens.
        if any(other == path or other.startswith(f"{path}.") for other in kept) or _lies_in(path, removed):
            continue
        parent, _, child = path.rpartition(".")
        original = module.get_base_layer() if hasattr(module, "base_layer") else module.original_module
        setattr(model.get_submodule(parent), child, original)
        removed.append(path)
    for path, module in kept.items():
        for name in names:
            _restore_layers(model, path, module, name, tasks[0].drop)
    own = _without_dropped(model, biased(model, tasks[0].setup), tasks[0].drop)
    remove_biases(model, own, sorted(names))
    keep_embedders(model, names)
    if has_prefix(model, tasks[0].setup):
        drop_prefixes(model, tasks[0].drop)


def _restore_layers(model: Any, path: str, module: Any, name: str, drop: int) -> None:
    """Give the lowest layers in an adapter's copy of a module, such as the whole encoder, the weights of the base model."""
    for inner, layer in layers_within(model, path, module, name).items():
        if layer < drop:
            module.modules_to_save[name].set_submodule(inner, module.original_module.get_submodule(inner))


def _lies_in(path: str, others: Sequence[str]) -> bool:
    return any(path.startswith(f"{other}.") for other in others)


@contextmanager
def without_adapters(model: Any, task: Task) -> Iterator[None]:
    """Compute the base model, with its own head."""
    modules = [module for _, module in outside_of_adapters(model)]
    activate_folded(modules, "")
    try:
        with quiet(), same_flags(model), model.disable_adapter():
            yield
    finally:
        activate_folded(modules, task.setup)


def layers_without_adapter(model: Any, task: Task) -> tuple[int, ...]:
    """Return the layers that are dropped or not targeted by the adapter."""
    if not layers_are_recognized(model):
        return ()
    if has_prompt(model, task.setup):
        return tuple(range(task.drop))
    encoder = encoder_layers_in(model)
    changed = [*adapted(model, task.setup), *biased(model, task.setup)]
    used = {layer_of(path, encoder) for path, _ in changed}
    used |= {layer for path, module in changed for layer in layers_within(model, path, module, task.setup).values()}
    return tuple(layer for layer in range(layers_of(model)) if layer < task.drop or layer not in used)
