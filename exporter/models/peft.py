"""Models of PEFT: structure, pruning and activation of their adapters, which are LoRA, DoRA, IA3 or VeRA.

PEFT replaces a targeted module by a tuner layer, which holds the module as `base_layer`, and a module to save, such as the
head, by a wrapper, which holds it as `original_module`. Both keep an adapter's weights in dictionaries keyed by its name.

PEFT is imported where it is used: the exporter works without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from exporter.errors import ExportError
from exporter.models.peft_modules import adapted, base_of, layer_of
from exporter.models.peft_structure import structure
from exporter.models.quiet_libraries import quiet
from exporter.plan import Task


def adapters_of(model: Any) -> list[str]:
    """The adapters' names in the order in which they were added.

    Raises:
        ExportError: the model is no PeftModel, though it holds adapters.
    """
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        raise ExportError(
            f"expected a PeftModel, found {type(model).__name__} with adapters of PEFT: load it with "
            "peft.PeftModel.from_pretrained(base, folder, adapter_name=name), further adapters with model.load_adapter"
        )
    return list(model.peft_config)


def compositions_of(model: Any) -> dict[str, Any]:  # noqa: ARG001  # models of the other library have some
    """None: a task is one adapter."""
    return {}


def layers_of(model: Any) -> int:
    """The number of transformer layers; in ALBERT, of layer groups.

    Raises:
        ExportError: the model has a decoder beside its encoder, or names its layers in an unknown way.
    """
    config, kind = model.config, type(base_of(model)).__name__
    if getattr(config, "is_encoder_decoder", False):
        raise ExportError(f"{kind} is an encoder with a decoder: of PEFT, models with one stack of layers are supported")
    expected = getattr(config, "num_hidden_groups", None) or getattr(config, "num_hidden_layers", None) or 0
    found = {layer_of(path) for path, _ in base_of(model).named_modules()} - {None}
    if found != set(range(expected)):
        raise ExportError(
            f"the layers of {kind} cannot be told by their modules' names: expected {expected}, found {len(found)} numbers"
        )
    return expected


def structure_of(model: Any, task: str, setup: Any, drop: int) -> dict[str, Any]:
    """Adapters of equal structure differ in their weights and label counts alone.

    Raises:
        ExportError: the setup is a composition, or the adapter is of a kind that is not supported.
    """
    if not isinstance(setup, str):
        raise ExportError(f"the setup of the task {task!r} is a composition: in a model of PEFT, a task is one adapter")
    return structure(model, setup, {path: module for path, module in adapted(model, setup) if not _is_dropped(path, drop)})


def _is_dropped(path: str, drop: int) -> bool:
    layer = layer_of(path)
    return layer is not None and layer < drop


@contextmanager
def _same_flags(model: nn.Module) -> Iterator[None]:
    """PEFT sets requires_grad wherever it activates or deletes an adapter, also on parameters shared with the user's model."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _merged(model: nn.Module) -> list[Any]:
    return [module for _, module in adapted(model) if getattr(module, "merged", False)]


def activate(model: Any, task: Task) -> None:
    """Changes neither weights nor flags.

    Raises:
        ExportError: adapters are merged into the base model's weights; activating one would write to these.
    """
    if _merged(model):
        raise ExportError("adapters are merged into the base model's weights: call model.unmerge_adapter() first")
    with quiet(), _same_flags(model):
        model.base_model.enable_adapter_layers()
        model.set_adapter(task.setup)
    model.eval()


def prune(model: Any, tasks: Sequence[Task]) -> None:
    """Removes the other adapters, and puts the base model's own modules back where the tasks, all of one structure, have no
    adapter. Merged adapters are taken out of copies of the weights, as PEFT does when it activates an adapter."""
    for module in _merged(model):
        base = module.get_base_layer()
        for key, parameter in list(base.named_parameters(recurse=False)):
            base.register_parameter(key, nn.Parameter(parameter.detach().clone(), parameter.requires_grad))
        with quiet():
            module.unmerge()
    activate(model, tasks[0])
    names = {task.setup for task in tasks}
    with quiet(), _same_flags(model):
        for name in adapters_of(model):
            if name not in names:
                model.delete_adapter(name)
    kept = {path for path, _ in adapted(model, tasks[0].setup) if not _is_dropped(path, tasks[0].drop)}
    for path, module in list(adapted(model)):
        if path not in kept:
            parent, _, child = path.rpartition(".")
            original = module.base_layer if hasattr(module, "base_layer") else module.original_module
            setattr(model.get_submodule(parent), child, original)


def layers_without_adapter(model: Any, task: Task) -> tuple[int, ...]:
    """Dropped, or not among the adapter's targets."""
    used = {layer_of(path) for path, _ in adapted(model, task.setup)}
    return tuple(layer for layer in range(layers_of(model)) if layer < task.drop or layer not in used)
