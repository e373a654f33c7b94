"""The weights of an adapter's file in a PEFT model; missing and unexpected ones, of which PEFT only warns, are errors."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
import transformers
from torch import nn

from exporter.checkpoints.peft_shapes import fit_heads, fit_projections
from exporter.errors import ExportError
from exporter.models.peft import layers_of
from exporter.models.peft_modules import layer_of
from exporter.models.quiet_libraries import quiet

__all__ = ["PREFIX", "lies_in", "load_weights", "renamed_modules", "take_biases"]

# Of the names of the base model's weights in an adapter's file.
PREFIX = "base_model.model."
# Weights that VB-LoRA, TinyLoRA and UniLoRA share between layers.
_REFERRED = ("vblora_vector_bank", "tinylora_v", "unilora_theta_d")


def load_weights(model: Any, name: str, weights: dict[str, torch.Tensor], what: str) -> None:
    """Load the weights of an adapter's file into a model, in place.

    Args:
        model: a PEFT model with the adapter.
        name: the adapter name.
        weights: the weights by their saved names; those of the base model are removed.
        what: a description of the adapter, for messages.

    Raises:
        ExportError: weights are missing, unexpected, of other shapes, or those of another base model.
    """
    from peft import set_peft_model_state_dict

    fit_heads(model, name, weights, what)
    fit_projections(model, name, weights)
    differing = _remove_base_weights(model, weights, what)
    try:
        with quiet():
            result: Any = set_peft_model_state_dict(model, weights, adapter_name=name)
    except KeyError as error:
        weight = _as_saved(str(error), name)
        remedy = "save it again"
        if ".original_module." in weight or weight.count(".modules_to_save.") > 1:  # which PEFT cannot load either
            remedy = (
                "its modules_to_save name a module with others of similar names in it, which PEFT saves in part: name the "
                'inner ones, such as "word_embeddings" instead of "embeddings", and train again'
            )
        raise ExportError(f"{what} lacks the weight {weight}: {remedy}") from error
    except (RuntimeError, ValueError) as error:  # torch lists each weight of another shape on a separate line
        lines = str(error).strip().splitlines()
        reason = _as_saved(lines[min(1, len(lines) - 1)].strip(), name)
        raise ExportError(f"{what} was trained for another model: {reason}") from error
    # The weights of prompts have other names in a file; PEFT raises KeyError if they are not there.
    prompt = model.peft_config[name].is_prompt_learning
    keyed = [(path, module) for path, module in model.named_modules() if _is_keyed(module) and name in module]
    paths = [f"{path}.{name}" for path, _ in keyed if not (prompt and path.startswith("prompt_encoder"))]
    own = [key for key in result.missing_keys if f".{name}" in key]
    lacking = sorted(key for key in own if any(lies_in(key, path) for path in paths))
    # Layers refer to weights that the adapter has once, outside of the layers; a file contains them once.
    lacking = [key for key in lacking if not (key.startswith(PREFIX) and any(part in key for part in _REFERRED))]
    lacking = [key for key in lacking if _is_written(model, name, key)]
    unexpected = sorted(key for key in result.unexpected_keys if not (prompt and key.startswith("prompt_")))
    problems = [f"lacks {len(lacking)} weights, first {_as_saved(lacking[0], name)!r}"] if lacking else []
    if unexpected:
        problems.append(f"has {len(unexpected)} weights that are not in the model, first {_as_saved(unexpected[0], name)!r}")
    if problems:
        named = [_as_saved(key, name) for key in unexpected]
        layers, has = max((layer_of(key) or 0 for key in unexpected), default=0) + 1, layers_of(model)
        reason = (
            f"it has {layers} layers, the base model {has}"
            if layers > has
            else f"it is damaged or was trained for another model{renamed_modules(model, named)}"
        )
        raise ExportError(f"{what} {' and '.join(problems)}: {reason}")
    if differing:
        raise ExportError(
            f"{what} has {len(differing)} weights of the base model with other values, first {differing[0]!r}: it was trained "
            "over another model, in another precision, or has changed them, and the tasks of a graph share them; choose that "
            "model with --model, or save the adapter with save_embedding_layers=False if it does not depend on them"
        )


def renamed_modules(model: nn.Module, keys: Iterable[str]) -> str:
    """Return a hint for a message if weights of an adapter belong to modules that the model does not have.

    transformers 5 has other names for the modules of some models (ViT, DINOv2), whose weights it renames when it loads them.
    PEFT does not rename those of adapters.

    Args:
        model: the base model, or a PEFT model over it.
        keys: names of the weights in the adapter's file.
    """
    paths = {path.removeprefix(PREFIX) for path, _ in model.named_modules()}
    for key in (key.replace(".base_layer.", ".") for key in keys if key.startswith(PREFIX)):
        parts = key.removeprefix(PREFIX).split(".")
        # The names of an adapter's own weights have one or two parts: lora_A.weight, ia3_l.
        if not any(".".join(parts[:-count]) in paths for count in (1, 2)):
            return (
                f". The base model has no module {'.'.join(parts[:-2])!r}: if the adapter was trained with another version of "
                f"transformers than {transformers.__version__}, which named it so, export it with that version"
            )
    return ""


def take_biases(model: Any, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Remove the base model's biases from `weights`; return those that differ, by their names without adapters."""
    own = _base_weights(model)
    found = {}
    for key in [key for key in weights if "bias" in key]:  # as PEFT selects them
        if ".modules_to_save." in key or ".original_module." in key:  # the head's, which the file contains as a head, too
            del weights[key]
        elif _plain(key) in own and own[_plain(key)].shape == weights[key].shape:
            tensor, bias = own[_plain(key)], weights.pop(key)
            if not torch.equal(bias.to(tensor.dtype), tensor):
                found[_plain(key)] = bias
    return found


def _as_saved(text: str, name: str) -> str:
    """A text with the names of weights in files, which do not contain the adapter's name."""
    return re.sub(rf"\.{re.escape(name)}(?=\.|'|$)", "", text)


def _is_written(model: Any, name: str, key: str) -> bool:
    """Whether PEFT writes a weight of an adapter; of AdaLoRA, it leaves out the ranks, which follow from the configuration."""
    from peft import get_peft_model_state_dict

    with quiet():
        return _as_saved(key, name) in get_peft_model_state_dict(model, adapter_name=name)


def _is_keyed(module: nn.Module) -> bool:
    return isinstance(module, nn.ModuleDict | nn.ParameterDict)


def lies_in(key: str, prefix: str) -> bool:
    """Return whether a dotted name is that of a module or of something in it."""
    return key == prefix or key.startswith(f"{prefix}.")


def _remove_base_weights(model: Any, weights: dict[str, torch.Tensor], what: str) -> list[str]:
    """Remove the base model's weights, which PEFT would overwrite, from `weights`; return the names of those that differ."""
    own = _base_weights(model)
    stored = {key: own[name] for key in sorted(weights) if (name := _plain(key)) in own}
    for key, tensor in stored.items():
        if "embed" in key and len(weights[key]) != len(tensor):
            raise ExportError(
                f"{what} has embeddings of {len(weights[key]):,} tokens, the base model {len(tensor):,}: it was trained with "
                "resized embeddings, which would replace those of the other tasks; give the base model with that vocabulary"
            )
    return [key for key, tensor in stored.items() if not torch.equal(weights.pop(key).to(tensor.dtype), tensor)]


def _base_weights(model: Any) -> dict[str, torch.Tensor]:
    """The weights by their names in a model in which no adapter changes that layer."""
    return {_plain(key): tensor for key, tensor in model.state_dict().items()}


def _plain(key: str) -> str:
    # Other adapters of the model have other targets than the one that wrote a file.
    return key.replace(".base_layer.", ".")
