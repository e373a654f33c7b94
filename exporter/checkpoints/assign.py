"""Weights of a Part into a model. Unlike the library's loaders, which warn at most, what does not fit is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from exporter.checkpoints.scan import FILES, Part
from exporter.checkpoints.sources import read_weights
from exporter.errors import ExportError

Weights = dict[str, torch.Tensor]
# Where the library keeps weights of adapters and fusions.
OURS = re.compile(r"(adapters|loras|refts|prefix_tunings|prefix_gates|prompt_tunings|shared_parameters|adapter_fusion_layer)\.")


def part_weights(part: Part) -> Weights:
    """The tensors in a part's folder, by the names that they have there."""
    _, safe, pickled = FILES[part.kind]
    return read_weights(part.folder, safe, pickled, part.label)


def fill(
    label: str, model: Any, new: Weights, weights: Weights, forgive: Callable[[list[str]], list[str]] = lambda missing: missing
) -> None:
    """Copies `weights` into the model's tensors `new`, each of which must have its like.

    Args:
        label: what the weights belong to, for messages.
        forgive: takes the names of weights that are missing and returns those that must not be.

    Raises:
        ExportError: weights are missing, superfluous or of another shape.
    """
    prefix = f"{model.base_model_prefix}."
    given: Weights = {}
    strange = []
    for key, value in weights.items():
        # A model without a head has no prefix, one with a head has.
        found = next((name for name in (key, prefix + key, key.removeprefix(prefix)) if name in new), None)
        if found is None:
            strange.append(key)
        else:
            given[found] = value
    # One module can stand at several places, as the pool of prefixes does.
    filled = {new[key].data_ptr() for key in given}
    missing = forgive([key for key in new if key not in given and new[key].data_ptr() not in filled])
    wrong = [key for key, value in given.items() if value.shape != new[key].shape]
    problems = []
    if missing:
        problems.append(f"lacks {len(missing)} weights, first {missing[0]!r}")
    if strange:
        problems.append(f"has {len(strange)} weights for which there is no place, first {strange[0]!r}")
    if wrong:
        shapes = f"{list(given[wrong[0]].shape)} instead of {list(new[wrong[0]].shape)}"
        problems.append(f"has {len(wrong)} weights of another shape, first {wrong[0]!r}: {shapes}")
    if problems:
        raise ExportError(
            f"{label} does not fit {describe(model)}: it {'; it '.join(problems)}. It was made for another model, or the "
            "file is damaged"
        )
    with torch.no_grad():
        for key, value in given.items():
            new[key].copy_(value)


def check_origin(part: Part, model: Any) -> None:
    config = part.config
    for key, ours in (("model_type", model.config.model_type), ("hidden_size", getattr(model.config, "hidden_size", None))):
        theirs = config.get(key)
        if theirs is not None and ours is not None and theirs != ours:
            raise ExportError(
                f"{part.label} was made for {config.get('model_name') or 'a model'} with {key} {theirs!r}; "
                f"{describe(model)} has {ours!r}: name the model that it was made for with --model"
            )
    check_base_name(part, config.get("model_name"), model.config.name_or_path)


def check_base_name(part: Part, theirs: Any, ours: str) -> None:
    """Refuses a part that was made for another model of the hub. What folders are called says nothing.

    Raises:
        ExportError: both names are known and differ.
    """
    if not isinstance(theirs, str) or not theirs or not ours or Path(ours).exists() or Path(theirs).is_absolute():
        return
    # bert-base-uncased has become google-bert/bert-base-uncased.
    if theirs.rstrip("/").rsplit("/", 1)[-1].lower() != ours.rsplit("/", 1)[-1].lower():
        raise ExportError(
            f"{part.label} was made for the model {theirs!r}, not for {ours!r}: name its own with --model, or, if the two are "
            f"the same in truth, name a folder with {ours!r}"
        )


def describe(model: Any) -> str:
    """For messages."""
    return f"the {type(model).__name__} {model.config.name_or_path!r}"


def same(first: Part, second: Part) -> bool:
    """Whether two parts are copies of one."""
    if first.kind != second.kind or first.config.get("config") != second.config.get("config"):
        return False
    left, right = part_weights(first), part_weights(second)
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)
