"""The structure of PEFT adapters, and the number of labels of their heads."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from exporter.errors import ExportError
from exporter.models.binding import is_keyed
from exporter.models.peft_modules import base_of, is_plain_lora, keeps_form, parts_of
from exporter.models.peft_types import PROMPTS, REFUSED_VARIANTS, check_type, type_of

# The attribute names of classification heads in transformers.
_LABELLED = ("classifier", "score", "classification_head", "logits_proj")


def structure(model: Any, name: str, modules: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything but weights that the graph of an adapter depends on, as JSON types.

    Args:
        model: a PEFT model.
        name: the adapter name.
        modules: dotted name -> tuner layer or wrapper, for the modules that the adapter changes.

    Raises:
        ExportError: the adapter depends on the input in a way that no static graph has.
    """
    config = model.peft_config[name]
    kind = type_of(config)
    check_type(name, kind)
    if getattr(config, "sample_at_inference", False):
        raise ExportError(
            f"the adapter {name!r} sets sample_at_inference, with which its results are random: set it to False in its "
            "configuration"
        )
    described = {path: _module(path, module, name) for path, module in modules.items() if not _is_inner(path, modules)}
    found: dict[str, Any] = {"peft": kind, "modules": described, "projections": _projections(modules.values(), name)}
    if kind in PROMPTS:
        found["prompt"] = {"tokens": config.num_virtual_tokens, "submodules": config.num_transformer_submodules}
    if tied := _tied(modules, name):
        found["tied"] = tied
    return found


def _is_inner(path: str, modules: Mapping[str, Any]) -> bool:
    """Whether an adapted module is a part of another one, with which it is described."""
    return any(path.startswith(f"{other}.") and not hasattr(module, "modules_to_save") for other, module in modules.items())


def _projections(modules: Iterable[Any], name: str) -> list[str]:
    """Return digests of VeRA's projections.

    PEFT shares projections between adapters, so that their name in a trace does not identify an adapter. They are therefore not
    task weights, and adapters with different projections have different structures.
    """
    buffers = [buffer[name] for module in modules if hasattr(module, "vera_A") for buffer in (module.vera_A, module.vera_B)]
    distinct = {buffer.data_ptr(): buffer for buffer in buffers}.values()
    return [hashlib.sha256(buffer.float().cpu().contiguous().numpy().tobytes()).hexdigest() for buffer in distinct]


def _tied(modules: Mapping[str, Any], name: str) -> list[list[str]]:
    """Return the weights of an adapter that are one tensor with an earlier one, with the name of that one.

    A trace has one name for both. Adapters that tie other weights therefore need another trace: PEFT ties the layers of an
    adapter with `layer_replication`, but not those of the adapters that follow.
    """
    first: dict[int, str] = {}
    found = []
    for path, module in modules.items():
        if not hasattr(module, "vera_A"):  # VeRA's projections are in every layer
            for key, tensor in _weights(module, name).items():
                earlier = first.setdefault(tensor.data_ptr(), f"{path}.{key}") if tensor.numel() else ""
                if earlier not in ("", f"{path}.{key}"):
                    found.append([f"{path}.{key}", earlier])
    return found


def _weights(module: nn.Module, name: str) -> dict[str, torch.Tensor]:
    """The weights of one adapter in a tuner layer or wrapper, by the dictionary that contains them."""
    found: dict[str, torch.Tensor] = {}
    children: list[tuple[str, Any]] = list(module.named_children())
    for key, container in children:
        if is_keyed(container) and name in container:
            entry = container[name]
            tensors = {"": entry} if isinstance(entry, torch.Tensor) else dict(entry.state_dict(keep_vars=True))
            found.update({f"{key}.{inner}".rstrip("."): tensor for inner, tensor in tensors.items()})
    return found


def _module(path: str, module: Any, name: str) -> dict[str, Any]:
    from peft.tuners import ia3, lora, vera
    from peft.utils.other import ModulesToSaveWrapper

    if type(module) is ModulesToSaveWrapper:
        return {"saved": _saved(path, module.modules_to_save[name])}
    _check_variants(path, module, name)
    if keeps_form(module, name):
        if is_plain_lora(module, name):
            return {"lora": "Linear", "rank": module.r[name], "bias": module.lora_bias[name]}
        if type(module) in (lora.Linear, lora.Embedding):
            return {"lora": type(module).__name__, **_lora(module, name)}
        if type(module) is ia3.Linear:
            return {"ia3": "Linear", "feedforward": bool(module.is_feedforward)}
        if type(module) is vera.Linear:
            return {"vera": "Linear", **_vera(module, name)}
    kind = f"{type(module).__module__.removeprefix('peft.tuners.').partition('.')[0]}.{type(module).__name__}"
    shapes = {key: list(tensor.shape) for key, tensor in _weights(module, name).items()}
    return {"layer": kind, "settings": _settings(module, name), "shapes": shapes}


def _settings(module: Any, name: str) -> dict[str, Any]:
    """The settings of one adapter in a layer, as far as they are numbers and names, not arrays of indices."""
    found = {key: values[name] for key, values in vars(module).items() if isinstance(values, dict) and name in values}
    return {key: value for key, value in found.items() if key[0] != "_" and isinstance(value, bool | int | float | str)}


def _check_variants(path: str, module: nn.Module, name: str) -> None:
    for layer in parts_of(module, name):
        variant = type(getattr(layer, "lora_variant", {}).get(name)).__name__
        if variant in REFUSED_VARIANTS:
            raise ExportError(
                f"the adapter {name!r} has a {variant} in {path}, which has no static graph: {REFUSED_VARIANTS[variant]}"
            )


def _lora(module: Any, name: str) -> dict[str, Any]:
    return {
        "rank": module.r[name],
        "scaling": module.scaling[name],
        "dora": name in module.lora_variant,
        "bias": module.lora_bias[name],
    }


def _vera(module: Any, name: str) -> dict[str, Any]:
    rank, found = module.r[name], module.vera_A[name].shape[0]
    if rank != found:
        raise ExportError(
            f"the VeRA adapter {name!r} has rank {rank}, but PEFT assigned it another adapter's projections of rank {found}: "
            "use one rank for all VeRA adapters of a model"
        )
    return {"rank": rank}


def _saved(path: str, saved: nn.Module) -> list[list[Any]]:
    output = output_layer(path, saved)
    described: list[list[Any]] = []
    for child_path, child in saved.named_modules():
        shapes = {key: list(tensor.shape) for key, tensor in child.named_parameters(recurse=False)}
        if child is output:  # label counts may differ
            shapes = {key: shape[1:] for key, shape in shapes.items()}
        described.append([child_path, type(child).__qualname__, shapes])
    return described


def output_layer(path: str, head: nn.Module) -> nn.Linear | None:
    """Return the linear layer that computes the label logits; None if `path` is not that of a classification head."""
    if path.rpartition(".")[2] not in _LABELLED:
        return None
    linear = [child for name, child in head.named_modules() if isinstance(child, nn.Linear) and "lora_" not in name]
    return linear[-1] if linear else None


def label_count(model: Any, name: str) -> int:
    """Return the number of labels of an adapter's head: its copy in modules_to_save, or the base model's head."""
    base = base_of(model)
    for attribute in _LABELLED:
        head = getattr(base, attribute, None)
        if isinstance(head, nn.Module):
            saved = getattr(head, "modules_to_save", {})
            output = output_layer(attribute, saved[name] if name in saved else getattr(head, "original_module", head))
            if output is not None:
                return output.out_features
    return int(base.config.num_labels)
