"""Reference models that the libraries themselves load: PEFT from the folders of adapters, transformers from those of models."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from exporter.checkpoints.files import first_line, read_json
from exporter.checkpoints.fine_tunes import load_task
from exporter.checkpoints.linear_heads import LinearHead
from exporter.checkpoints.peft_config import is_headless, read_adapter_weights, start_of
from exporter.checkpoints.scan import Part
from exporter.errors import ExportError
from exporter.models.embeddings import Embedder, activate_embedder, add_embedders
from exporter.models.peft_structure import output_layer
from exporter.models.quiet_libraries import quiet
from exporter.models.shared_copy import copy_model, shared_copy, shared_data

_CONFIG = "adapter_config.json"


class References:
    """Loads adapters with `PeftModel.from_pretrained`, each into a fresh copy of its base model, and models of tasks."""

    def __init__(self) -> None:
        """Start without adapters."""
        self._loaded: dict[str, Any] = {}
        self._known: dict[str, tuple[Any, Path]] = {}
        self._embedders: dict[str, Embedder] = {}
        self._models: dict[str, tuple[Part, str]] = {}
        self._heads: dict[str, tuple[Callable[[Mapping[str, LinearHead]], tuple[Any, Any]], LinearHead]] = {}

    def add(self, base: Any, sources: Mapping[str, Path]) -> None:
        """Register adapters.

        Args:
            base: a transformers model without adapters, which is not changed.
            sources: adapter name -> folder.
        """
        fresh = shared_data(base)  # adapters that are loaded later can change the base model's weights
        self._known.update({name: (fresh, folder) for name, folder in sources.items()})

    def add_models(self, parts: Mapping[str, tuple[Part, str]]) -> None:
        """Register tasks without adapters: task name -> its model folder, and the class of its model."""
        self._models.update(parts)

    def add_heads(self, load: Callable[[Mapping[str, LinearHead]], tuple[Any, Any]], heads: Mapping[str, LinearHead]) -> None:
        """Register linear heads: a function that loads the model with one of them, and task name -> head."""
        self._heads.update({name: (load, head) for name, head in heads.items()})

    def embed(self, embedders: Mapping[str, Embedder]) -> None:
        """Register the modules after the encoder: adapter name -> modules."""
        self._embedders.update(embedders)

    def __call__(self, name: str) -> Any:
        """Return a model with one adapter, in evaluation mode and in fp32; the next call may change it.

        Args:
            name: the adapter name.

        Raises:
            ExportError: the library cannot load it.
        """
        if name in self._heads:
            return self._with_head(name)
        if name in self._models:
            own = load_task(*self._models[name]).model
            if name in self._embedders:
                add_embedders(own, {name: copy_model(self._embedders[name], {})}, name)
            return own
        from peft import PeftConfig, PeftModel, set_peft_model_state_dict

        base, folder = self._known[name]
        weights = read_adapter_weights(name, folder)
        key = _same_layers(base, folder, weights) if name not in self._embedders and _is_fp32(base) else None
        if key in self._loaded:
            with quiet():
                set_peft_model_state_dict(self._loaded[key], weights, adapter_name=self._loaded[key].active_adapter)
            return self._loaded[key]
        # Some initializations change the data of the base model's weights.
        model = shared_copy(base) if _is_fp32(base) and not start_of(folder) else copy_model(base, {})
        _own_weights(model, weights)
        _resize_head(model, weights)
        try:
            with quiet():
                config = None
                if is_headless(name, folder):
                    config = PeftConfig.from_pretrained(str(folder))
                    config.task_type = None
                loaded = PeftModel.from_pretrained(model, str(folder), config=config).eval().float()
        # PEFT raises many types: KeyError, RuntimeError, ValueError, …
        except Exception as error:
            raise ExportError(
                f"PEFT cannot load the adapter {name!r} from {str(folder)!r}: {type(error).__name__}: {first_line(error)}"
            ) from error
        if name in self._embedders:
            add_embedders(loaded, {loaded.active_adapter: copy_model(self._embedders[name], {})}, loaded.active_adapter)
        if key is not None:
            self._loaded[key] = loaded
        return loaded

    def _with_head(self, name: str) -> Any:
        """The model with all linear heads that one call loads, of which one is active."""
        load, _ = self._heads[name]
        key = f"heads {id(load)}"
        if key not in self._loaded:
            self._loaded[key], _ = load({other: head for other, (own, head) in self._heads.items() if own is load})
        activate_embedder(self._loaded[key], name)
        return self._loaded[key]


def _same_layers(base: Any, folder: Path, weights: Mapping[str, torch.Tensor]) -> str | None:
    """A text that is the same for adapters of LoRA that differ in nothing but weights; None for other adapters.

    Such an adapter takes the place of the one before in the model that PEFT made for that one, as
    `PeftModel.load_adapter` does it: with the weights of its file, which are all that it has.
    """
    config = read_json(folder / _CONFIG)
    if config.get("peft_type") != "LORA" or start_of(folder):
        return None
    return json.dumps([id(base), config, {key: [list(value.shape), str(value.dtype)] for key, value in weights.items()}])


def _is_fp32(base: nn.Module) -> bool:
    return all(tensor.dtype == torch.float32 for tensor in base.parameters() if tensor.is_floating_point())


def _own_weights(model: nn.Module, weights: Collection[str]) -> None:
    """Copy the weights of a shared copy that an adapter's file can overwrite."""
    names = {key.removeprefix("base_model.").removeprefix("model.").replace(".base_layer.", ".") for key in weights}
    for path, module in model.named_modules():
        for key, tensor in list(module.named_parameters(recurse=False)):
            if ".".join(part for part in (path, key) if part) in names:
                module.register_parameter(key, nn.Parameter(tensor.detach().clone(), requires_grad=False))


def _resize_head(model: Any, weights: Mapping[str, torch.Tensor]) -> None:
    """Give a copy of the base model a head with the number of labels in the adapter's file, as its user does."""
    for path, head in list(model.named_children()):
        output = output_layer(path, head)
        if output is None:
            continue
        inner = next(key for key, child in head.named_modules() if child is output)
        name = ".".join(part for part in (path, inner) if part)
        stored = next((weights[key] for key in weights if key.endswith(f"model.{name}.weight")), None)
        if stored is None or stored.dim() != 2 or stored.shape[1] != output.in_features or len(stored) == output.out_features:
            continue
        model.set_submodule(name, nn.Linear(output.in_features, len(stored), output.bias is not None))
        model.num_labels = len(stored)
