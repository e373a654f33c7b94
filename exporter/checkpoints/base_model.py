"""Loading of a model folder as a transformers class, and the checks of a loaded model."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModel, AutoModelForTextEncoding

from exporter.checkpoints.allocation_limit import limited_allocations
from exporter.checkpoints.assign import ADAPTER_KEYS
from exporter.checkpoints.config_requests import check_requests, check_sizes
from exporter.checkpoints.files import read_all_weights, read_json, reason, stored_bytes, stored_shapes
from exporter.checkpoints.sources import Source
from exporter.errors import ExportError
from exporter.models.neutral_state import use_neutral_settings
from exporter.models.quiet_libraries import quiet

# Never run code from a folder, and never prompt for permission.
# Weights of other shapes are for `check_shapes`: transformers lists them for logs, or has torch's message.
OPTIONS: Mapping[str, Any] = {
    "output_loading_info": True,
    "local_files_only": True,
    "trust_remote_code": False,
    "ignore_mismatched_sizes": True,
}
# Types of which texts are encoded without the decoder, as sentence-transformers loads them.
TEXT_ENCODERS = ("t5", "mt5", "umt5")
# Number of a layer within the name of a weight
_NUMBER = re.compile(r"\.\d+\.")
# Classes whose head gives a start and an end, whatever labels another head of the folder has.
_SPANS = ("ForQuestionAnswering", "ForQuestionAnsweringSimple")


@dataclass(frozen=True)
class Loaded:
    """A model loaded from its folder, not checked for completeness yet.

    Attributes:
        model: the model with the adapters in its folder.
        missing: names of the weights that the folder lacks; they are randomly initialised.
    """

    model: Any
    missing: frozenset[str]


def read_config(folder: Path, text: str = "") -> dict[str, Any]:
    """Return the content of config.json in a model folder.

    Args:
        folder: the model folder.
        text: what the user gave, for messages; the folder without it.

    Raises:
        ExportError: the file is missing, is not the configuration of a model, or asks for more than the folder's weights; or
            a PEFT adapter is next to it, with which transformers loads the model that the adapter names.
    """
    path, adapter, given = folder / "config.json", folder / "adapter_config.json", text or str(folder)
    remedy = "add it with --adapter, and choose the model that it was trained for with --model"
    if not path.is_file():
        if adapter.is_file():
            raise ExportError(f"{given!r} is not a model folder: it has no config.json but an adapter; {remedy}")
        raise ExportError(
            f"{given!r} is not a model folder: it has no config.json; write one with model.save_pretrained, or name the "
            "subfolder that has one: SOURCE:SUBFOLDER"
        )
    if adapter.is_file() and "peft_type" in read_json(adapter, "is not the configuration of an adapter"):
        raise ExportError(
            f"{given!r} contains a PEFT adapter, with which transformers loads the model that adapter_config.json names: "
            f"{remedy}; if the folder contains that model as well, move the adapter to another folder"
        )
    wrong = "has no model_type: expected a file of model.save_pretrained(folder)"
    config = read_json(path, wrong)
    if "model_type" not in config:
        raise ExportError(f"{str(path)!r} {wrong}")
    check_requests(path, config)
    check_sizes(path, config, stored_shapes(folder))
    return config


def load_folder(source: Source, class_name: str) -> Loaded:
    """Load a model folder as a transformers class.

    Args:
        source: the model folder.
        class_name: the name of the class.

    Raises:
        ExportError: the folder is damaged.
    """
    with reading(source):
        labels = {"num_labels": 2} if class_name.endswith(_SPANS) else {}
        # transformers 5 would keep the dtype of the weights, in which a head in fp32 of an adapter would be rounded.
        kind = getattr(transformers, class_name)
        if kind is AutoModel and read_config(source.folder)["model_type"] in TEXT_ENCODERS:
            kind = AutoModelForTextEncoding
        model, info = kind.from_pretrained(source.folder, dtype=torch.float32, **labels, **OPTIONS)
    check_unexpected(source.folder, model, info["unexpected_keys"])
    # ModernBERT's head for answers has the name of that for other classes, whose size can differ.
    check_shapes(source.folder, model, info, with_head=not labels)
    return as_loaded(source, model, info)


def check_shapes(folder: Path, model: Any, info: Mapping[str, Any], with_head: bool) -> None:
    """Refuse weights of another shape than in the model, which `OPTIONS` let transformers initialise randomly.

    Args:
        folder: the model folder, for messages.
        model: the loaded model.
        info: what from_pretrained returned with it.
        with_head: also those of the head; False if it is another one than that of the folder.

    Raises:
        ExportError: there are such weights.
    """
    trunk = f"{model.base_model_prefix}."
    wrong = sorted(name for name in _mismatched(info) if with_head or name.startswith(trunk))
    if not wrong:
        return
    name = wrong[0]
    stored = read_all_weights(folder).get(name)
    shape = "" if stored is None else f" of shape {list(stored.shape)}"
    if name.startswith(trunk):
        remedy = "load the model and save it again"
    else:
        remedy = (
            f"as {type(model).__name__} it has {model.config.num_labels} labels; give it the id2label, or num_labels, of the "
            "head that was saved, or save the model without a head if each task brings its own"
        )
    raise ExportError(
        f"the model folder {str(folder)!r} has {len(wrong)} weights of another shape than its config.json describes, first "
        f"{name!r}{shape}: {remedy}"
    )


@contextlib.contextmanager
def reading(source: Source) -> Iterator[None]:
    """Load quietly, and raise ExportError for a damaged folder."""
    try:
        with quiet(), limited_allocations(f"the model folder {str(source.folder)!r}", stored_bytes(source.folder)):
            yield
    except ExportError:
        raise
    # Damaged files raise many types: OSError, ValueError, KeyError, SafetensorError, UnpicklingError, …
    except Exception as error:
        raise ExportError(f"the model folder {str(source.folder)!r} cannot be loaded: {reason(error)}") from error


def as_loaded(source: Source, model: Any, info: Mapping[str, Any]) -> Loaded:
    """Return a model in evaluation mode with the names of its missing weights.

    Args:
        source: the model folder.
        model: the model.
        info: what from_pretrained returned with it.
    """
    if source.hub is not None:
        model.config.name_or_path = source.hub
    use_neutral_settings(model)
    return Loaded(model.eval(), frozenset({*info["missing_keys"], *_mismatched(info)}))


def _mismatched(info: Mapping[str, Any]) -> set[str]:
    """The names of weights of another shape; transformers 5 gives them with their shapes."""
    return {entry if isinstance(entry, str) else entry[0] for entry in info["mismatched_keys"]}


def check_unexpected(folder: Path, model: Any, unexpected: Iterable[str]) -> None:
    """Refuse weights of layers, adapters or heads that the configuration does not list.

    Args:
        folder: the model folder, for messages.
        model: the loaded model.
        unexpected: names of the weights in the folder that are not in the model.

    Raises:
        ExportError: there are such weights.
    """
    # Heads of other classes, such as those of pretraining, are not part of the model; its further layers are.
    prefix = f"{model.base_model_prefix}."
    known = {_NUMBER.sub(".#.", name.removeprefix(prefix)) for name in model.state_dict()}
    surplus = sorted(key for key in unexpected if _NUMBER.sub(".#.", key.removeprefix(prefix)) in known)
    if surplus:
        raise ExportError(
            f"the model folder {str(folder)!r} has {len(surplus)} weights that are not in the model that its config.json "
            f"describes, first {surplus[0]!r}: correct the number of layers, or load the model and save it again"
        )
    unlisted = sorted(key for key in unexpected if ADAPTER_KEYS.search(key) or key.startswith("heads."))
    if unlisted:
        raise ExportError(
            f"the model folder {str(folder)!r} contains weights of adapters or heads that its config.json does not list, first "
            f"{unlisted[0]!r}: save the model again"
        )


def check_complete(folder: Path, model: Any, missing: Iterable[str]) -> None:
    """Refuse randomly initialised weights, of which transformers only warns.

    Args:
        folder: the model folder, for messages.
        model: the loaded model.
        missing: names of the weights that the folder lacks.

    Raises:
        ExportError: one of these weights affects an output.
    """
    present = model.state_dict()
    named = getattr(model, "heads", None)
    # Named heads declare whether they read the pooler; other models only have a pooler if they need it.
    uses_pooler = named is None or any(head.config.get("use_pooler") for head in named.values())
    lacking = sorted(key for key in missing if key in present and (uses_pooler or ".pooler." not in key))
    # Prompt tuning registers the word embeddings a second time, under a name that checkpoints lack.
    lacking = [key for key in lacking if "prompt_tuning.base_model_embeddings" not in key]
    added_biases = _biases_of_wrappers(model, lacking)
    with torch.no_grad():
        for key in added_biases:
            present[key].zero_()
    lacking = [key for key in lacking if key not in added_biases]
    if lacking:
        raise ExportError(
            f"the model folder {str(folder)!r} lacks {len(lacking)} weights that its config.json requires, first "
            f"{lacking[0]!r}: save the complete model again"
        )


def _biases_of_wrappers(model: Any, lacking: Iterable[str]) -> set[str]:
    """Biases that the library adds to merged query-key-value layers without one in transformers (DeBERTa, ModernBERT)."""
    biases = {key for key in lacking if key.endswith(".bias")}
    if not biases:
        return biases
    with torch.device("meta"), quiet():
        original = set(AutoModel.from_config(model.config).state_dict())
    names = {key: key.removeprefix(f"{model.base_model_prefix}.").removesuffix("bias") for key in biases}
    return {key for key, name in names.items() if f"{name}weight" in original and f"{name}bias" not in original}
