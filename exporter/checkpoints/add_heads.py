"""Adds prediction heads from their folders to a model."""

from __future__ import annotations

import re
from typing import Any

import torch
from adapters.head_utils import STATIC_TO_FLEX_HEAD_MAP, get_head_config_and_rename_list
from adapters.loading import PredictionHeadLoader

from exporter.checkpoints.assign import OURS, Weights, check_origin, describe, fill, part_weights
from exporter.checkpoints.scan import Part
from exporter.checkpoints.sources import first_line
from exporter.errors import ExportError


def add_head(model: Any, part: Part) -> set[str]:
    """Adds a named head, or fills the one head of a model that has no named ones. Returns the names of the weights set.

    Raises:
        ExportError: the head is damaged, or is none that this model can have.
    """
    check_origin(part, model)
    return _add_named_head(model, part) if hasattr(model, "heads") else _fill_own_head(model, part)


def _add_named_head(model: Any, part: Part) -> set[str]:
    weights = _without_base(part, model)
    made_by, here = str(part.config.get("model_class")), type(model).__name__
    if made_by in (here, here.replace("AdapterModel", "ModelWithHeads")):
        config = part.config.get("config")
        if not isinstance(config, dict):
            raise ExportError(f"{part.label} has no head configuration, found {config!r}: save it again")
        config = dict(config)
        # The library also writes the weights of every head whose name begins with this one's.
        others = re.compile(rf"heads\.(?!{re.escape(str(part.saved))}\.)")
        weights = {key: value for key, value in weights.items() if not others.match(key)}
        weights = {key.replace(f"heads.{part.saved}.", f"heads.{part.name}.", 1): value for key, value in weights.items()}
    elif made_by in STATIC_TO_FLEX_HEAD_MAP:
        labels, count = part.config.get("label2id"), part.config.get("num_labels")
        config, rename = get_head_config_and_rename_list(made_by, part.name, labels, num_labels=count)
        weights = _without_copies({rename(key): value for key, value in weights.items()})
    else:
        raise ExportError(
            f"{part.label} is the head of a {made_by}, which cannot become a head of a {here}: save it from a {here}"
        )
    old = model.state_dict()
    try:
        if config.get("label2id"):
            config["id2label"] = {int(number): label for label, number in config["label2id"].items()}
        model.add_prediction_head_from_config(part.name, config, set_active=False)
    except Exception as error:
        raise ExportError(f"{part.label} cannot be added to {describe(model)}: {first_line(error)}") from error
    new = {key: tensor for key, tensor in model.state_dict().items() if key not in old}
    # A language model's head shares its matrix with the embeddings, which belong to the model.
    shared = {tensor.data_ptr() for tensor in old.values()}
    for key, tensor in new.items():
        if tensor.data_ptr() in shared and key in weights and not torch.equal(tensor, weights[key].to(tensor.dtype)):
            raise ExportError(
                f"{part.label} comes with word embeddings of its own, other than those of {describe(model)}: it was trained "
                "with another model, or with embeddings that were trained too; save the complete model"
            )
    fill(part.label, model, new, weights)
    return set(new)


def _without_base(part: Part, model: Any) -> Weights:
    """The library writes a T5 model's complete trunk beside a head that is not called by name."""
    weights = part_weights(part)
    prefix = f"{model.base_model_prefix}."
    trunk = {key: value for key, value in weights.items() if key.startswith(prefix)}
    own = model.state_dict()
    for key, value in trunk.items():
        if key in own and not OURS.search(key) and not torch.equal(value.to(own[key].dtype), own[key]):
            raise ExportError(
                f"{part.label} was saved with a trunk other than that of {describe(model)}, first at {key!r}: name the model "
                "that it was made for with --model"
            )
    return {key: value for key, value in weights.items() if key not in trunk}


def _without_copies(weights: Weights) -> Weights:
    """Static heads hold some biases twice, under a second name that named heads have not, and some that are all zero."""
    named = {key: value for key, value in weights.items() if key.startswith("heads.")}

    def idle(key: str, value: torch.Tensor) -> bool:
        copies = (other for other in named.values() if other.shape == value.shape)
        return key.endswith("bias") and (not value.any() or any(torch.equal(value, other) for other in copies))

    return {key: value for key, value in weights.items() if key in named or not idle(key, value)}


def _fill_own_head(model: Any, part: Part) -> set[str]:
    made_by, here = str(part.config.get("model_class")), type(model).__name__
    if made_by != here:
        raise ExportError(
            f"{part.label} is the head of a {made_by}, which does not fit a {here}: name a base that is a {made_by}"
        )
    is_head = PredictionHeadLoader(model).filter_func(None)
    # Prompts belong to adapters, although they do not lie in the base model.
    new = {key: value for key, value in model.state_dict().items() if is_head(key) and "prompt_tuning" not in key}
    weights = {key: value for key, value in _without_base(part, model).items() if "prompt_tuning" not in key}
    fill(part.label, model, new, weights)
    return set(new)
