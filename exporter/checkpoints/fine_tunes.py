"""Loading of the models of tasks without adapters: the base model with its own head, and full fine-tunes of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from exporter.checkpoints.base_model import TEXT_ENCODERS, Loaded, load_folder, read_config
from exporter.checkpoints.model_class import own_class
from exporter.checkpoints.peft_class import HEADLESS
from exporter.checkpoints.peft_tokenizers import check_vocabulary
from exporter.checkpoints.scan import Part
from exporter.checkpoints.sentence_folder import sentence_task
from exporter.checkpoints.sources import Source
from exporter.checkpoints.trunk_changes import fold_changes
from exporter.errors import ExportError
from exporter.models.own_tasks import OwnModel
from exporter.models.shared_copy import share_trunk

__all__ = ["load_own", "load_task", "task_class"]

# Settings in which models of one trunk cannot differ.
_SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
)
# Settings without an effect on results, or only on labels.
_NEUTRAL = frozenset(
    (
        *("_name_or_path", "architectures", "dtype", "finetuning_task", "gradient_checkpointing", "id2label", "label2id"),
        *("num_labels", "problem_type", "torch_dtype", "transformers_version", "use_cache", "_attn_implementation"),
        *("_attn_implementation_autoset", "auto_map", "is_composition"),
    )
)


def task_class(part: Part, pooled: bool = False) -> str:
    """Return the name of the class of a task's model.

    Args:
        part: the model folder as a task.
        pooled: whether its pooling is named; that of a folder of sentence-transformers is in the folder.

    Raises:
        ExportError: the model has no prediction head, or is an encoder-decoder.
    """
    config = read_config(part.folder)
    name = HEADLESS if pooled or sentence_task(part.folder) is not None else own_class(config)
    if name is None:
        found = (config.get("architectures") or ["no class"])[0]
        raise ExportError(
            f"{part.label} is a model without a prediction head ({found}): expected a model that was saved with a trained "
            "head, such as one of AutoModelForSequenceClassification, a folder of sentence-transformers, or a pooling for "
            f"embeddings, such as --pooling {part.name}=mean"
        )
    if config.get("is_encoder_decoder") and not (name == HEADLESS and config["model_type"] in TEXT_ENCODERS):
        raise ExportError(f"{part.label} is an encoder-decoder ({name}): only models with one stack of layers can be tasks")
    return name


def load_task(part: Part, class_name: str) -> Loaded:
    """Load the complete model of a task.

    Args:
        part: the model folder as a task.
        class_name: the transformers class.

    Raises:
        ExportError: weights are missing, for which transformers only warns, or contain NaN.
    """
    loaded = load_folder(Source(str(part.folder), part.folder), class_name)
    # Embeddings do not read the pooler.
    missing = {key for key in loaded.missing if not (class_name == HEADLESS and key.startswith("pooler."))}
    if missing:
        first, base = sorted(missing)[0], loaded.model.base_model
        names = set(base.state_dict())
        trunk = any(key.removeprefix(f"{loaded.model.base_model_prefix}.") in names for key in missing)
        reason = "save the complete model again" if trunk else "its head is not trained; choose a model with a trained head"
        raise ExportError(f"{part.label} lacks {len(missing)} weights of {class_name}, first {first!r}: {reason}")
    for name, tensor in loaded.model.named_parameters():
        if not torch.isfinite(tensor).all():
            raise ExportError(f"the weight {name!r} of {part.label} contains NaN or infinity: it is damaged or diverged")
    return loaded


def load_own(parts: Mapping[str, tuple[Part, str]], source: Source, trunk: Any) -> Iterator[OwnModel]:
    """Load tasks without adapters, those of each class and configuration into one model over the trunk.

    Args:
        parts: task name -> its model folder, that of the base model for its own head, and the class of its model.
        source: the folder of the base model.
        trunk: a model whose weights are shared where they are equal; None for those of the first task's class.

    Raises:
        ExportError: a model is damaged, incomplete, without a head, or not a fine-tune of the base model.
    """
    base_config = read_config(source.folder)
    groups: dict[tuple[str, str], list[tuple[Part, Loaded]]] = {}
    for part, class_name in parts.values():
        _check_family(part, read_config(part.folder), base_config, source)
        check_vocabulary(part.name, part.folder, source.folder)
        loaded = load_task(part, class_name)
        groups.setdefault((class_name, _settings(loaded.model.config)), []).append((part, loaded))
    bases: dict[str, Loaded] = {}
    for (class_name, _), members in groups.items():
        if class_name not in bases:
            base = bases[class_name] = load_folder(source, class_name)
            if trunk is not None:
                share_trunk(base.model, trunk)
            trunk = base.model if trunk is None else trunk
        base = bases[class_name]
        for part, loaded in members:
            _check_shapes(part, loaded.model, base.model, source)
        is_base = {part.name: part.folder == source.folder for part, _ in members}
        models = {part.name: loaded.model for part, loaded in members}
        yield fold_changes(models, base.model, base.missing, is_base)


def _check_family(part: Part, own: Mapping[str, Any], base: Mapping[str, Any], source: Source) -> None:
    for key in ("model_type", *_SIZES):
        if own.get(key) != base.get(key):
            raise ExportError(
                f"{part.label} is not a fine-tune of the model in {source.text!r}: {key} is {own.get(key)!r} instead of "
                f"{base.get(key)!r}; choose its base model with --model, or export it separately"
            )


def _check_shapes(part: Part, own: Any, base: Any, source: Source) -> None:
    ours = {name: list(tensor.shape) for name, tensor in base.base_model.state_dict().items()}
    theirs = {name: list(tensor.shape) for name, tensor in own.base_model.state_dict().items()}
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise ExportError(
                f"{part.label} is not a fine-tune of the model in {source.text!r}: the shape of {name!r} is "
                f"{theirs.get(name)} instead of {ours.get(name)}; choose its base model with --model"
            )


def _settings(config: Any) -> str:
    """The settings of a configuration that may change results; models that differ in them are traced separately."""
    kept = {
        key: value for key, value in config.to_dict().items() if key not in _NEUTRAL and "drop" not in key and "init" not in key
    }
    return json.dumps(kept, sort_keys=True, default=str)
