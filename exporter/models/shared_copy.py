"""Copies of a model that share its weights, and models that share the weights of one trunk."""

from __future__ import annotations

import copy
import itertools
from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from exporter.errors import ExportError

__all__ = ["copy_model", "share_trunk", "shared_copy", "shared_data"]

_COLLECTIONS = (OrderedDict, dict, set)


def shared_copy(model: Any) -> Any:
    """Copy the module tree; the copy shares all weights with the original.

    Raises:
        ExportError: an attribute of the model cannot be copied.
    """
    tensors = itertools.chain(model.parameters(), model.buffers())
    return copy_model(model, {id(tensor): tensor for tensor in tensors})


def shared_data(model: Any) -> Any:
    """Copy a model with parameters that share the data of the original: data that is assigned to the copy leaves it as it is.

    Raises:
        ExportError: an attribute of the model cannot be copied.
    """
    memo: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    memo |= {id(tensor): nn.Parameter(tensor.detach(), requires_grad=tensor.requires_grad) for tensor in model.parameters()}
    return copy_model(model, memo)


def copy_model(model: Any, memo: dict[int, Any]) -> Any:
    """Copy a model, with the objects of `memo` in place of copies.

    Args:
        model: the model.
        memo: identity of an object -> the object in the copy.

    Raises:
        ExportError: an attribute of the model cannot be copied.
    """
    # Most attributes of modules are empty collections, and copy.deepcopy takes most of its time for these.
    values = (value for module in model.modules() for value in vars(module).values())
    empty = {id(value): type(value)() for value in values if type(value) in _COLLECTIONS and not value}
    memo = {**empty, **memo}
    try:
        return copy.deepcopy(model, memo)
    except (TypeError, RuntimeError) as error:
        raise ExportError(
            f"the model cannot be copied ({error}): remove its hooks and parametrizations first, for example with "
            "torch.nn.utils.prune.remove"
        ) from error


def share_trunk(model: Any, other: Any) -> None:
    """Replace the weights of a model's trunk that equal those of another model's trunk by these, in place.

    Args:
        model: a transformers model.
        other: a model of the same trunk, possibly of another class.
    """
    known = dict(_tensors(other.base_model))
    equal = {
        id(tensor): known[name]
        for name, tensor in _tensors(model.base_model).items()
        if name in known and tensor.shape == known[name].shape and torch.equal(tensor, known[name])
    }
    # By identity, so that weights that are tied stay tied.
    for module in model.modules():
        for weights in (module._parameters, module._buffers):
            for key, tensor in weights.items():
                if id(tensor) in equal:
                    weights[key] = equal[id(tensor)]


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
