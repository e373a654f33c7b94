"""Sizes in which an adapter's file differs from its configuration in PEFT: numbers of labels, projections of VeRA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from exporter.errors import ExportError
from exporter.models.peft_modules import adapted, base_of
from exporter.models.peft_structure import output_layer

__all__ = ["fit_heads", "fit_projections"]


def fit_heads(model: Any, name: str, weights: Mapping[str, torch.Tensor], what: str) -> None:
    """Resize the adapter's head to the number of labels in its file: PEFT copies the base model's head.

    Args:
        model: a PEFT model with the adapter.
        name: the adapter name.
        weights: the weights of its file.
        what: a description of the adapter, for messages.

    Raises:
        ExportError: the base model is for multiple choice, and the head in
            the file has another number of outputs than one score per choice.
    """
    for path, wrapper in adapted(model, name):
        saved = getattr(wrapper, "modules_to_save", None)
        output = None if saved is None else output_layer(path, saved[name])
        if saved is None or output is None:
            continue
        inner = next(key for key, child in saved[name].named_modules() if child is output)
        stored = weights.get(".".join(part for part in (path, inner, "weight") if part))
        if stored is None or stored.dim() != 2 or stored.shape[1] != output.in_features or len(stored) == output.out_features:
            continue
        if (found := type(base_of(model)).__name__).endswith("ForMultipleChoice"):
            raise ExportError(
                f"{what} has a head with {len(stored)} labels, but {found} gives one score per choice: the adapter was trained "
                "on a model of another class. Give that base model, or set architectures in this model's config.json to that "
                "class"
            )
        fitting = nn.Linear(output.in_features, len(stored), output.bias is not None)
        if inner:
            saved[name].set_submodule(inner, fitting)
        else:
            saved[name] = fitting


def fit_projections(model: Any, name: str, weights: Mapping[str, torch.Tensor]) -> None:
    """Give a VeRA adapter separate projections: PEFT shares those of the first adapter and loads every file into them.

    Equal projections stay one tensor, which is then part of the trunk.
    """
    layers = [layer for _, layer in adapted(model, name) if hasattr(layer, "vera_A")]
    if not layers:
        return
    rank = layers[0].r[name]
    wide, high = max(layer.in_features for layer in layers), max(layer.out_features for layer in layers)
    for attribute, shape in (("vera_A", (rank, wide)), ("vera_B", (high, rank))):
        buffers = {id(owner): getattr(owner, attribute) for owner in (model.base_model, *layers)}.values()
        shared = next(iter(buffers))
        stored = weights.get(f"base_model.{attribute}")
        if stored is not None and stored.shape == shape:
            equal = (other for key, other in shared.items() if key != name and torch.equal(other, stored))
            own = next(equal, stored.clone())
            for buffer in buffers:
                buffer[name] = own
