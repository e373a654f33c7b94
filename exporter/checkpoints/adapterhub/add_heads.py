"""Loading of prediction heads into a model of the adapters library."""

from __future__ import annotations

import re
from typing import Any

import torch
from adapters.head_utils import STATIC_TO_FLEX_HEAD_MAP, get_head_config_and_rename_list
from adapters.loading import PredictionHeadLoader

from exporter.checkpoints.allocation_limit import limited_allocations, stored_with
from exporter.checkpoints.assign import ADAPTER_KEYS, Weights, check_origin, describe, fill, part_weights
from exporter.checkpoints.files import first_line
from exporter.checkpoints.scan import Part
from exporter.errors import ExportError


def add_head(model: Any, part: Part) -> set[str]:
    """Add a named head, or load the weights of the single head of a model without named heads.

    Returns:
        The names of the weights that were set.

    Raises:
        ExportError: the head is damaged, or its type does not fit the model.
    """
    check_origin(part, model)
    return _add_named_head(model, part) if hasattr(model, "heads") else _fill_single_head(model, part)


def _add_named_head(model: Any, part: Part) -> set[str]:
    weights = _without_base(part, model)
    saved_from, here = str(part.config.get("model_class")), type(model).__name__
    if saved_from in (here, here.replace("AdapterModel", "ModelWithHeads")):
        config = part.config.get("config")
        if not isinstance(config, dict):
            raise ExportError(f"{part.label} has no head configuration, found {config!r}: save it again")
        config = dict(config)
        # The library also saves the weights of every head whose name starts with this name.
        others = re.compile(rf"heads\.(?!{re.escape(str(part.saved))}\.)")
        weights = {key: value for key, value in weights.items() if not others.match(key)}
        weights = {key.replace(f"heads.{part.saved}.", f"heads.{part.name}.", 1): value for key, value in weights.items()}
    elif saved_from in STATIC_TO_FLEX_HEAD_MAP:
        labels, count = part.config.get("label2id"), part.config.get("num_labels")
        config, rename = get_head_config_and_rename_list(saved_from, part.name, labels, num_labels=count)
        weights = _without_copies({rename(key): value for key, value in weights.items()})
    else:
        raise ExportError(
            f"{part.label} is the head of a {saved_from}, which cannot be a head of a {here}: save it from a {here}"
        )
    old = model.state_dict()
    try:
        if config.get("label2id"):
            config["id2label"] = {int(number): label for label, number in config["label2id"].items()}
        with limited_allocations(part.label, stored_with(weights, model)):
            model.add_prediction_head_from_config(part.name, config, set_active=False)
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(f"{part.label} cannot be added to {describe(model)}: {first_line(error)}") from error
    new = {key: tensor for key, tensor in model.state_dict().items() if key not in old}
    # A language model's head shares its matrix with the word embeddings of the model.
    shared = {tensor.data_ptr() for tensor in old.values()}
    for key, tensor in new.items():
        if tensor.data_ptr() in shared and key in weights and not torch.equal(tensor, weights[key].to(tensor.dtype)):
            raise ExportError(
                f"{part.label} contains word embeddings that differ from those of {describe(model)}: it was trained with "
                "another model, or the embeddings were trained too; save the complete model"
            )
    fill(part.label, model, new, weights)
    return set(new)


def _without_base(part: Part, model: Any) -> Weights:
    """Remove the trunk's weights, which the library saves with an unnamed head of T5."""
    weights = part_weights(part)
    prefix = f"{model.base_model_prefix}."
    trunk = {key: value for key, value in weights.items() if key.startswith(prefix)}
    own = model.state_dict()
    for key, value in trunk.items():
        if key in own and not ADAPTER_KEYS.search(key) and not torch.equal(value.to(own[key].dtype), own[key]):
            raise ExportError(
                f"{part.label} was saved with a trunk that differs from {describe(model)}, first at {key!r}: choose the model "
                "that it was trained for with --model"
            )
    return {key: value for key, value in weights.items() if key not in trunk}


def _without_copies(weights: Weights) -> Weights:
    """Remove the biases of static heads that named heads do not have: second copies, and biases that are all zero."""
    named = {key: value for key, value in weights.items() if key.startswith("heads.")}

    def idle(key: str, value: torch.Tensor) -> bool:
        copies = (other for other in named.values() if other.shape == value.shape)
        return key.endswith("bias") and (not value.any() or any(torch.equal(value, other) for other in copies))

    return {key: value for key, value in weights.items() if key in named or not idle(key, value)}


def _fill_single_head(model: Any, part: Part) -> set[str]:
    saved_from, here = str(part.config.get("model_class")), type(model).__name__
    if saved_from != here:
        raise ExportError(
            f"{part.label} is the head of a {saved_from}, which does not fit a {here}: choose a base model of class "
            f"{saved_from}"
        )
    is_head = PredictionHeadLoader(model).filter_func(None)
    # Prompts belong to adapters, although they are outside of the base model.
    new = {key: value for key, value in model.state_dict().items() if is_head(key) and "prompt_tuning" not in key}
    weights = {key: value for key, value in _without_base(part, model).items() if "prompt_tuning" not in key}
    fill(part.label, model, new, weights)
    return set(new)
