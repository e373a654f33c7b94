"""Loading of checkpoints from folders, hub ids, the bundled example or live models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, WhisperFeatureExtractor

from exporter.checkpoints.assemble import assemble
from exporter.checkpoints.config_requests import FULL_PRECISION, quantizer
from exporter.checkpoints.embedders import check_poolable, check_pooling, embed, named_embedders
from exporter.checkpoints.files import first_line, read_json
from exporter.checkpoints.image_settings import read_image_settings
from exporter.checkpoints.linear_heads import LinearHead, read_heads
from exporter.checkpoints.peft_tokenizers import common_folder
from exporter.checkpoints.sources import BASE, Source, check_base_names, find, is_base, split_name
from exporter.checkpoints.tokenizer import fast, read_tokenizer
from exporter.checkpoints.trunk_changes import fold_changes
from exporter.errors import ExportError
from exporter.example import base_model_folder, example_folder, fusion_folders, peft_folders
from exporter.families import ADAPTERS_INSTALL, PEFT_INSTALL, has_adapterhub, has_peft, is_adapterhub
from exporter.models.binding import check_names
from exporter.models.compositions import is_block
from exporter.models.injected import as_peft_model
from exporter.models.mixed import MixedModel
from exporter.models.peft_modules import is_peft
from exporter.models.plain_model import plain_model
from exporter.models.quiet_libraries import quiet
from exporter.models.shared_copy import shared_copy
from runtime.hub import Access

_PROCESSOR_FILE = "preprocessor_config.json"


@dataclass(frozen=True)
class Checkpoint:
    """A model with adapters, and the files that belong to it.

    Attributes:
        model: a model of the adapters library or of PEFT; the user's live model, or loaded from a folder.
        tokenizer: a fast transformers tokenizer, or None.
        source: what the user gave as the model, for messages.
        processor: the settings of an image processor, a transformers feature extractor, or None.
        setup: the saved composition, or None; a MultiTask of the compositions of several folders.
        head: the head setup saved with it: a name, a list of names, a composition, True or None.
        configs: PEFT adapter -> the content of the config.json saved with it; adapters without one are absent.
        reference: PEFT adapter -> a model that PEFT itself loaded from its folder; None for other models.
        notes: what a user of the bundle should know of its tokenizer.
    """

    model: Any
    tokenizer: Any
    source: str
    processor: Any = None
    setup: Any = None
    head: Any = None
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    reference: Callable[[str], Any] | None = None
    notes: tuple[str, ...] = ()


def load(
    model: Any,
    tokenizer: Any = None,
    adapters: Sequence[str] = (),
    fusions: Sequence[str] = (),
    pooling: Mapping[str, Any] | None = None,
    heads: Mapping[str, Any] | None = None,
    access: Access = Access(),  # noqa: B008  # frozen
) -> Checkpoint:
    """Load a model with its adapters, fusions, heads and tokenizer.

    Args:
        model: a folder of save_pretrained or a hub id, of a model with or without adapters; a live model with adapters; or None
            for the bundled example.
        tokenizer: a tokenizer; None for that of the model folder; False for none.
        adapters: [NAME=]SOURCE, each a folder or a hub id of save_adapter, save_all_adapters, save_adapter_setup or PEFT;
            NAME=SOURCE of a fine-tune of the model; NAME=base for the model's own head, also that of a live model.
        fusions: SOURCE, each a folder or a hub id of save_adapter_fusion, with or without the adapters of its members.
        pooling: PEFT adapter -> the name of a pooling, which makes embeddings of its hidden states.
        heads: task name -> a linear head over the model's embeddings, as in `exporter.checkpoints.linear_heads.read_heads`.
        access: token and cache of the hub.

    Raises:
        ExportError: a folder or hub id does not exist; a file is damaged, missing or could run code; weights are missing,
            unexpected or trained for another model; or two adapters, fusions or heads have the same name.
    """
    own = fast(tokenizer, "the tokenizer") if tokenizer is not None and tokenizer is not False else None
    for option, sources in (("adapters", adapters), ("fusions", fusions)):
        if isinstance(sources, str) or not isinstance(sources, Sequence):
            one = f": write [{str(sources)!r}] for a single one" if isinstance(sources, str | Path) else ""
            raise ExportError(f"{option} must be a list of folders or hub ids, found {sources!r}{one}")
    check_pooling(pooling)
    linear = read_heads(heads)
    if model is None:
        found = _example(adapters, fusions, tokenizer is None, pooling, linear, access)
    elif isinstance(model, str | Path):
        found = _folder(find(model, "model", access), adapters, fusions, tokenizer is None, pooling, linear, access)
    else:
        if linear:
            raise ExportError(f"heads require a model folder or hub id, found a live {type(model).__name__}: save it first")
        names = _own_heads(model, adapters, fusions)
        found = _with_own_heads(model, names) if names else _live(model)
        found = _pooled(found, pooling or {})
    return found if own is None else replace(found, tokenizer=own)


def _own_heads(model: Any, adapters: Sequence[str], fusions: Sequence[str]) -> list[str]:
    """The names of the tasks that are the own head of a live model."""
    named = [split_name(text) for text in adapters]
    if fusions or not all(is_base(source) for _, source in named):
        raise ExportError(
            f"adapters and fusions require a model folder or hub id, found a live {type(model).__name__}: load them into "
            "it with model.load_adapter and model.load_adapter_fusion"
        )
    check_base_names(named)
    return [str(name) for name, _ in named]


def _with_own_heads(model: Any, names: Sequence[str]) -> Checkpoint:
    """A live model with its own head, next to its adapters if it has some."""
    check_names(names)
    whole = model[0] if isinstance(model, list | tuple) and model else model
    if isinstance(whole, PreTrainedModel) and is_adapterhub(whole):
        raise ExportError(
            f"the {type(whole).__name__} is of the adapters library: {names[0]}={BASE} is for transformers and PEFT models"
        )
    is_plain = isinstance(whole, PreTrainedModel) and not is_peft(whole)
    found = Checkpoint(None, None, type(whole).__name__) if is_plain else _live(model)
    if quantized := getattr(whole.config, "quantization_config", None):
        raise ExportError(f"the weights are quantized{quantizer(quantized)}, and only {FULL_PRECISION}")
    plain = plain_model(whole)
    task = fold_changes(dict.fromkeys(names, plain), plain, (), dict.fromkeys(names, True))
    if found.model is None:
        return replace(found, model=task)
    parts = getattr(found.model, "parts", [found.model])
    return replace(found, model=MixedModel([*parts, task]))


def _live(model: Any) -> Checkpoint:
    if isinstance(model, list | tuple):
        parts = [_live(each).model for each in model]
        if not parts or not all(is_peft(part) for part in parts):
            raise ExportError("expected a list of PEFT models: models of the adapters library are exported one at a time")
        return Checkpoint(MixedModel(parts) if len(parts) > 1 else parts[0], None, type(parts[0]).__name__)
    name = type(model).__name__
    if quantized := getattr(getattr(model, "config", None), "quantization_config", None):
        raise ExportError(f"the weights of the {name} are quantized{quantizer(quantized)}, and only {FULL_PRECISION}")
    if isinstance(model, PreTrainedModel) and hasattr(model, "adapters_config") and hasattr(model, "iter_layers"):
        setup: Any = model.adapters_config.active_setup
        # A single active adapter is a Stack of one and needs no setup.
        if setup is None or isinstance(setup, str) or (is_block(setup, "Stack") and setup.children == [setup.last()]):
            return Checkpoint(model, None, name)
        return Checkpoint(model, None, name, setup=setup, head=getattr(model, "active_head", None))
    if hasattr(model, "peft_config") and is_peft(model):
        return Checkpoint(as_peft_model(model), None, name)
    if name in ("SentenceTransformer", "CrossEncoder"):
        raise ExportError(
            f"expected a transformers model, found a {name}: save it with save_pretrained(folder), and export the folder of "
            "its base model with adapters=[folder]"
        )
    raise ExportError(
        f"expected a model with adapters, found {name}: load it with "
        "adapters.AutoAdapterModel.from_pretrained or peft.PeftModel.from_pretrained"
    )


def _pooled(found: Checkpoint, pooling: Mapping[str, Any]) -> Checkpoint:
    """A live model that computes embeddings: a copy, which shares the weights."""
    if not pooling:
        return found
    if not (is_peft(found.model) or isinstance(found.model, MixedModel)):
        check_poolable(pooling)
    model = shared_copy(found.model)
    embed(model, named_embedders(model, pooling, {}))
    return replace(found, model=model)


def _example(
    adapters: Sequence[str],
    fusions: Sequence[str],
    with_tokenizer: bool,
    pooling: Mapping[str, Any] | None,
    heads: Mapping[str, LinearHead],
    access: Access,
) -> Checkpoint:
    try:
        trunk, (bundled, fused) = base_model_folder(), _bundled()
    except ModuleNotFoundError as error:
        raise ExportError(str(error)) from error
    bundled, fused = [*bundled, *adapters], [*fused, *fusions]
    found = _folder(Source(str(trunk), trunk), bundled, fused, with_tokenizer, pooling, heads, access)
    return replace(found, source="the bundled example")


def _bundled() -> tuple[list[str], list[str]]:
    """The folders of the example's adapters and fusions, of the family that is installed."""
    if has_adapterhub():
        return [str(path.parent) for path in sorted(example_folder().glob("*/adapter_config.json"))], list(
            map(str, fusion_folders())
        )
    if has_peft():
        return list(map(str, peft_folders())), []
    raise ExportError(
        "neither the adapters library nor PEFT is installed, or not for the installed version of transformers: "
        f"{ADAPTERS_INSTALL} or {PEFT_INSTALL}"
    )


def _folder(
    source: Source,
    adapters: Sequence[str],
    fusions: Sequence[str],
    with_tokenizer: bool,
    pooling: Mapping[str, Any] | None,
    heads: Mapping[str, LinearHead],
    access: Access,
) -> Checkpoint:
    found = assemble(source, adapters, fusions, pooling, heads, access)
    folder = source.folder
    tokenizer = read_tokenizer(folder) if with_tokenizer else None
    notes: tuple[str, ...] = ()
    if with_tokenizer and tokenizer is None and (other := common_folder(found.folders)) is not None:
        tokenizer = read_tokenizer(other)
        notes = (f"the tokenizer is that of {str(other)!r}: the model folder has none",)
    if tokenizer is not None and found.max_length is not None:
        tokenizer.model_max_length = found.max_length  # as sentence-transformers does
    processor = _processor(folder)
    return Checkpoint(
        found.model, tokenizer, source.text, processor, found.setup, found.head, found.configs, found.reference, notes
    )


def _processor(folder: Path) -> Any:
    path = folder / _PROCESSOR_FILE
    if not path.exists():
        return None
    # Speech models keep a feature extractor under the same name.
    content = read_json(path)
    audio = "sampling_rate" in content
    if audio and content.get("feature_extractor_type") != "WhisperFeatureExtractor":
        return None
    if not audio:
        return read_image_settings(path, content)
    try:
        with quiet():
            return WhisperFeatureExtractor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ExportError(f"the feature extractor in {str(folder)!r} cannot be loaded: {first_line(error)}") from error


def check_finite(model: Any) -> None:
    """Check that all weights are finite.

    Raises:
        ExportError: a weight contains NaN or infinity.
    """
    for name, parameter in model.named_parameters():
        # The sum is only finite if all elements are. As it can overflow, the elements are checked if it is not.
        if not torch.isfinite(parameter.detach().sum()) and not torch.isfinite(parameter.detach()).all():
            raise ExportError(
                f"the weight {name!r} contains NaN or infinity: the checkpoint is damaged or its training diverged"
            )
