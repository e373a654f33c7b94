"""The structure of PEFT adapters, and the number of labels of their heads."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from exporter.errors import ExportError
from exporter.models.peft_modules import base_of

SUPPORTED = "LoRA, DoRA, IA3 and VeRA"
TYPES = ("LORA", "IA3", "VERA")
# The attribute names of classification heads in transformers.
_LABELLED = ("classifier", "score")


def structure(model: Any, name: str, modules: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything but weights that the graph of an adapter depends on, as JSON types.

    Args:
        model: a PeftModel.
        name: the adapter name.
        modules: dotted name -> tuner layer or wrapper, for the modules that the adapter changes.

    Raises:
        ExportError: the adapter's type, or that of an adapted module, is not supported.
    """
    config = model.peft_config[name]
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if kind not in TYPES:
        raise ExportError(f"the adapter {name!r} has the PEFT type {kind}, which is not supported: expected {SUPPORTED}")
    described = {path: _module(path, module, name) for path, module in modules.items()}
    return {"peft": kind, "modules": described, "projections": _projections(modules.values(), name)}


def _projections(modules: Iterable[Any], name: str) -> list[str]:
    """Return digests of VeRA's projections.

    PEFT shares projections between adapters, so that their name in a trace does not identify an adapter. They are therefore not
    task weights, and adapters with different projections have different structures.
    """
    buffers = [buffer[name] for module in modules if hasattr(module, "vera_A") for buffer in (module.vera_A, module.vera_B)]
    distinct = {buffer.data_ptr(): buffer for buffer in buffers}.values()
    return [hashlib.sha256(buffer.float().cpu().contiguous().numpy().tobytes()).hexdigest() for buffer in distinct]


def _module(path: str, module: Any, name: str) -> dict[str, Any]:
    from peft.tuners import ia3, lora, vera
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    inner = [child for child in module.modules() if isinstance(child, BaseTunerLayer) and child is not module]
    if inner:
        raise ExportError(f"{path} has nested adapters or modules to save: target each module once")
    # Exact types: subclasses have quantized or distributed weights.
    if type(module) is ModulesToSaveWrapper:
        return {"saved": _saved(path, module.modules_to_save[name])}
    if type(module) in (lora.Linear, lora.Embedding):
        return {"lora": type(module).__name__, **_lora(path, module, name)}
    if type(module) is ia3.Linear:
        return {"ia3": "Linear", "feedforward": bool(module.is_feedforward)}
    if type(module) is vera.Linear:
        return {"vera": "Linear", **_vera(module, name)}
    raise ExportError(
        f"the adapter {name!r} adapts {path} with {type(module).__module__}.{type(module).__name__}, which is not supported: "
        "expected linear layers or embeddings in full precision"
    )


def _lora(path: str, module: Any, name: str) -> dict[str, Any]:
    from peft.tuners.lora import variants

    variant = module.lora_variant.get(name)
    if variant is not None and type(variant) not in (variants.DoraLinearVariant, variants.DoraEmbeddingVariant):
        raise ExportError(
            f"the adapter {name!r} has a {type(variant).__name__} in {path}, which is not supported: expected {SUPPORTED}"
        )
    return {
        "rank": module.r[name],
        "scaling": module.scaling[name],
        "dora": variant is not None,
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
