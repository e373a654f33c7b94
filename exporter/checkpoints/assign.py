"""Assignment of a part's weights to a model; a mismatch is an error, where the library only warns."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from exporter.checkpoints.files import read_weights
from exporter.checkpoints.scan import FILES, PEFT_FILES, Part
from exporter.errors import ExportError
from runtime.hub import hub_id

Weights = dict[str, torch.Tensor]
# The containers of adapter and fusion weights in the library.
ADAPTER_KEYS = re.compile(
    r"(adapters|loras|refts|prefix_tunings|prefix_gates|prompt_tunings|shared_parameters|adapter_fusion_layer)\."
)

# The end of the names of models with quantized weights, such as "model-bnb-4bit" or "Model-GPTQ-Int4".
_QUANTIZED = re.compile(r"([-_.](unsloth|bnb|gptq|awq|torchao|ao|int[48]|[48]bit|nf4|w[48]a(8|16)|fp8))+$")


def part_weights(part: Part) -> Weights:
    """Return the tensors in a part's folder by their saved names."""
    safe, pickled = PEFT_FILES if part.kind == "peft" else FILES[part.kind][1:]
    return read_weights(part.folder, safe, pickled, part.label)


def fill(
    label: str, model: Any, new: Weights, weights: Weights, forgive: Callable[[list[str]], list[str]] = lambda missing: missing
) -> None:
    """Copy weights into the model's new tensors; the names and shapes must match.

    Args:
        label: a description of the part, for messages.
        model: the model that contains the tensors.
        new: name -> tensor of the model, to be overwritten.
        weights: saved name -> tensor.
        forgive: takes the names of missing weights and returns those that are required.

    Raises:
        ExportError: weights are missing, unexpected or of another shape.
    """
    prefix = f"{model.base_model_prefix}."
    given: Weights = {}
    unexpected = []
    for key, value in weights.items():
        # Names in a model with a head have a prefix, names in a base model do not.
        found = next((name for name in (key, prefix + key, key.removeprefix(prefix)) if name in new), None)
        if found is None:
            unexpected.append(key)
        else:
            given[found] = value
    # A module can be registered several times, such as the pool of prefixes.
    filled = {new[key].data_ptr() for key in given}
    missing = forgive([key for key in new if key not in given and new[key].data_ptr() not in filled])
    wrong = [key for key, value in given.items() if value.shape != new[key].shape]
    problems = []
    if missing:
        problems.append(f"lacks {len(missing)} weights, first {missing[0]!r}")
    if unexpected:
        problems.append(f"has {len(unexpected)} weights that are not in the model, first {unexpected[0]!r}")
    if wrong:
        shapes = f"{list(given[wrong[0]].shape)} instead of {list(new[wrong[0]].shape)}"
        problems.append(f"has {len(wrong)} weights of another shape, first {wrong[0]!r}: {shapes}")
    if problems:
        raise ExportError(
            f"{label} does not fit {describe(model)}: it {'; it '.join(problems)}. It was trained for another model, or the "
            "file is damaged"
        )
    with torch.no_grad():
        for key, value in given.items():
            new[key].copy_(value)


def check_origin(part: Part, model: Any) -> None:
    """Check that a part was trained for this model, as far as its configuration records it.

    Raises:
        ExportError: the model's type, hidden size or name differs.
    """
    config = part.config
    for key, ours in (("model_type", model.config.model_type), ("hidden_size", getattr(model.config, "hidden_size", None))):
        theirs = config.get(key)
        if theirs is not None and ours is not None and theirs != ours:
            raise ExportError(
                f"{part.label} was trained for {config.get('model_name') or 'a model'} with {key} {theirs!r}; "
                f"{describe(model)} has {ours!r}: choose the model that it was trained for with --model"
            )
    check_base_name(part, config.get("model_name"), model.config.name_or_path)


def check_base_name(part: Part, theirs: Any, ours: str) -> None:
    """Check the hub id of the model that a part was trained for; folder names are not compared.

    Args:
        part: the part, for messages.
        theirs: the model name in the part's configuration.
        ours: the name of the loaded model.

    Raises:
        ExportError: both are hub ids and differ.
    """
    if not isinstance(theirs, str) or not ours or Path(ours).exists() or hub_id(theirs) is None:
        return
    # bert-base-uncased was renamed to google-bert/bert-base-uncased.
    if _plain_name(theirs) != _plain_name(ours):
        raise ExportError(
            f"{part.label} was trained for the model {theirs!r}, not for {ours!r}: choose that model with --model, or, if both "
            f"are the same model, give a local folder with {ours!r}"
        )


def _plain_name(hub_id: str) -> str:
    """The name of a model without its organisation and the marks of quantized weights: adapters over them fit the original."""
    return _QUANTIZED.sub("", hub_id.rstrip("/").rsplit("/", 1)[-1].lower())


def describe(model: Any) -> str:
    """Return the class and name of a model, for messages."""
    return f"the {type(model).__name__} {model.config.name_or_path!r}"


def same(first: Part, second: Part) -> bool:
    """Return whether two parts have the same configuration and equal weights."""
    if first.kind != second.kind or first.kind == "model" or first.config.get("config") != second.config.get("config"):
        return False
    if first.kind == "peft" and first.config != second.config:
        return False
    left, right = (part_weights(part) for part in (first, second))
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)
