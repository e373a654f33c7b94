"""The modules that PEFT adds to a model, and the layers that contain them.

PEFT replaces a targeted module with a tuner layer, which stores the module as `base_layer`, and a module to save, such as the
head, with a wrapper, which stores it as `original_module`. Both store the weights of adapters in dictionaries with the
adapters' names as keys. PEFT is an optional dependency: it is imported inside functions.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

from torch import nn

from exporter.models.peft_folded import Folded

# What PEFT and the folded layers put between the names of a module and of its parts: copies for each adapter.
_WRAPPERS = re.compile(r"\b(?:original_module|base_layer|modules_to_save\.[^.]+|copies\.[^.]+)\.")
# The names of lists of layers in transformers; the leftmost match in a module name counts.
_LAYER = re.compile(r"(?:^|\.)(?:layer|layers|h|block|blocks|albert_layer_groups)\.(\d+)(?=\.|$)")


def is_peft(model: Any) -> bool:
    """Return whether `model` contains PEFT adapters, without importing PEFT if the process has not imported it."""
    if "peft" not in sys.modules or not isinstance(model, nn.Module):
        return False
    from peft import PeftMixedModel, PeftModel

    return isinstance(model, PeftModel | PeftMixedModel) or any(True for _ in adapted(model))


def adapted(model: nn.Module, name: str | None = None) -> Iterator[tuple[str, Any]]:
    """Yield the tuner layers and wrappers with their dotted names: those with the adapter `name`, or all."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    for path, module in outside_of_adapters(model):
        if not isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
            continue
        if name is None or name in module._get_available_adapters():
            yield path, module


def outside_of_adapters(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield all modules, with their dotted names, but those in the dictionaries of tuner layers, which are thousands."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    yield path, module
    keyed = isinstance(module, BaseTunerLayer)
    # With duplicates: a module registered twice must be replaced twice.
    for key, child in module._modules.items():
        if child is not None and not (keyed and isinstance(child, nn.ModuleDict)):
            yield from outside_of_adapters(child, f"{path}.{key}" if path else key)


def parts_of(layer: nn.Module, *names: str) -> Iterator[nn.Module]:
    """Yield a tuner layer or wrapper and all modules in it but those of other adapters than `names`."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    yield layer
    for child in layer.children():
        if isinstance(layer, BaseTunerLayer) and isinstance(child, nn.ModuleDict):
            for name in names:
                if name in child:
                    yield from parts_of(child[name], *names)
        else:
            yield from parts_of(child, *names)


def base_of(model: Any) -> Any:
    """Return the transformers model inside a PeftModel, including its tuner layers; any other model unchanged."""
    if type(model).__name__ == "PeftMixedModel":  # without get_base_model
        return model.base_model.model
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def layer_of(module_name: str, encoder_layers: int = 0) -> int | None:
    """Return the transformer layer (for ALBERT, the layer group) that contains a module; None outside of the layers.

    Args:
        module_name: the dotted name.
        encoder_layers: of an encoder-decoder, the number of layers in the encoder, after which those of the decoder are
            counted; 0 for other models.
    """
    found = _LAYER.search(module_name)
    if found is None:
        return None
    return int(found.group(1)) + (encoder_layers if "decoder" in module_name[: found.start()].split(".") else 0)


def layers_in(model: Any) -> int:
    """Return the number of transformer layers (for ALBERT, of layer groups) in a configuration; 0 if it has none."""
    # SigLIP with a head for images has the configuration of texts as well, without their layers.
    images = getattr(model, "main_input_name", "input_ids") == "pixel_values"
    config = getattr(model.config, "vision_config", model.config) if images else model.config
    own = getattr(config, "num_hidden_groups", None) or getattr(config, "num_hidden_layers", None) or 0
    return own + _decoder_layers(model)


def encoder_layers_in(model: Any) -> int:
    """Return the number of layers in the encoder of an encoder-decoder; 0 for other models."""
    decoder = _decoder_layers(model)
    return layers_in(model) - decoder if decoder else 0


def _decoder_layers(model: Any) -> int:
    config = model.config
    # Of Whisper, the model for classification only has the encoder.
    if not getattr(config, "is_encoder_decoder", False) or type(base_of(model)).__name__.endswith("ForAudioClassification"):
        return 0
    return int(getattr(config, "decoder_layers", None) or getattr(config, "num_decoder_layers", None) or 0)


def layer_numbers(model: Any) -> set[int]:
    """Return the numbers of the layers, by the names of the modules."""
    encoder = encoder_layers_in(model)
    found = {layer_of(path, encoder) for path, _ in base_of(model).named_modules()}
    return {number for number in found if number is not None}


def layers_within(model: Any, path: str, module: Any, name: str) -> dict[str, int]:
    """Return the transformer layers in an adapter's copy of a module that contains whole layers, such as the encoder.

    Args:
        model: a PEFT model.
        path: the dotted name of the module.
        module: a tuner layer or wrapper.
        name: the adapter.

    Returns:
        Dotted name in the module -> number of the layer; empty for modules in a layer and for heads.
    """
    saved = getattr(module, "modules_to_save", {})
    if name not in saved or layer_of(path) is not None:
        return {}
    base = base_of(model)
    trunk = getattr(base, base.base_model_prefix, base)
    if not any(module is each for each in trunk.modules()):
        return {}
    encoder = encoder_layers_in(model)
    inside = [inner for inner, _ in saved[name].named_modules() if is_layer(f"{path}.{inner}")]
    return {inner: number for inner in inside if (number := layer_of(f"{path}.{inner}", encoder)) is not None}


def layer_lists(model: Any) -> set[str]:
    """Return the names of the lists of layers: more than `lists_in` where each stage numbers its own layers."""
    found = (_LAYER.search(path) for path, _ in base_of(model).named_modules())
    return {_WRAPPERS.sub("", each.string[: each.start(1)]) for each in found if each is not None}


def lists_in(model: Any) -> int:
    """Return the number of lists of layers: two in an encoder-decoder."""
    return 2 if encoder_layers_in(model) else 1


def layers_are_recognized(model: Any) -> bool:
    """Return whether the names of the modules have as many layers as the configuration, each number once."""
    return layer_numbers(model) == set(range(layers_in(model))) and len(layer_lists(model)) <= lists_in(model)


def has_adapted_embeddings(model: Any) -> bool:
    """Return whether a PEFT adapter or a fine-tune changes the embeddings, before all layers."""
    changed = [path for path, module in model.named_modules() if isinstance(module, Folded)]
    changed += [path for path, _ in adapted(model)] if is_peft(model) else []
    return any("embed" in path and layer_of(path) is None for path in changed)


def is_layer(module_name: str) -> bool:
    """Return whether a module is a transformer layer, and not a part of one."""
    found = _LAYER.search(module_name)
    return found is not None and found.end() == len(module_name)


def is_plain_lora(layer: Any, *names: str) -> bool:
    """Return whether a tuner layer adds nothing but A and B of LoRA to a linear layer, so that its scale can be folded into B.

    Args:
        layer: a tuner layer or wrapper.
        names: the adapters.
    """
    from peft.tuners import lora

    return type(layer) is lora.Linear and keeps_form(layer, *names) and not any(name in layer.lora_variant for name in names)


def keeps_form(layer: Any, *names: str) -> bool:
    """Return whether a tuner layer is traced as PEFT computes it, which for these types takes the fewest weights.

    The results of all other linear layers, embeddings and convolutions are those of a plain layer with other weights, which is
    traced in their place.

    Args:
        layer: a tuner layer or wrapper.
        names: the adapters to trace.
    """
    from peft.tuners import ia3, lora, road, vera
    from peft.tuners.lora import layer as lora_layer
    from peft.tuners.lora import variants
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    if isinstance(layer, ModulesToSaveWrapper):
        return True
    if any(isinstance(part, BaseTunerLayer) and part is not layer for part in parts_of(layer, *names)):
        return False
    # Exact types: subclasses have quantized or distributed weights.
    if type(layer) in (lora.Linear, lora.Embedding, lora_layer.Conv1d, lora_layer.Conv2d, lora_layer.Conv3d):
        kinds = (
            type(None),
            variants.DoraLinearVariant,
            variants.DoraEmbeddingVariant,
            *variants._DoraConvNdVariant.__subclasses__(),
        )
        return all(type(layer.lora_variant.get(name)) in kinds for name in names)
    return type(layer) in (ia3.Linear, ia3.Conv2d, ia3.Conv3d, vera.Linear, road.Linear)
