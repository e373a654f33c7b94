"""Prediction heads of live models: their types and labels."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any

from exporter.errors import ExportError
from exporter.models.embeddings import embedder_of
from exporter.models.own_tasks import OwnModel
from exporter.models.peft_modules import base_of
from exporter.models.peft_structure import label_count
from exporter.plan import Head
from runtime.bundle import HEADS, HeadType

# Head type of the adapters library -> head type in a bundle.
_FLEX: dict[str, HeadType] = {
    "classification": "classification",
    "image_classification": "classification",
    "multilabel_classification": "multilabel",
    "tagging": "tagging",
    "question_answering": "question_answering",
    "multiple_choice": "multiple_choice",
    "masked_lm": "masked_lm",
    "causal_lm": "causal_lm",
    "seq2seq_lm": "seq2seq_lm",
    "dependency_parsing": "dependency_parsing",
}
# Suffix of a transformers class with a single head -> head type in a bundle.
_STATIC: dict[str, HeadType] = {
    "ForSequenceClassification": "classification",
    "ForImageClassification": "classification",
    "ForAudioClassification": "classification",
    "ForTokenClassification": "tagging",
    "ForQuestionAnswering": "question_answering",
    "ForQuestionAnsweringSimple": "question_answering",
    "ForMultipleChoice": "multiple_choice",
    "ForMaskedLM": "masked_lm",
    "ForCausalLM": "causal_lm",
    "LMHeadModel": "causal_lm",
    "ForConditionalGeneration": "seq2seq_lm",
    "TextModelWithProjection": "text_embedding",
    "VisionModelWithProjection": "image_embedding",
    # The output of a text encoder without a head is its last hidden states; sentence embeddings are pooled from them. Image
    # models and the text model of SigLIP also give the pooled state that they were trained with.
    "Model": "hidden_states",
}
# Of these, transformers' model of texts compares the pooled state with images, without a projection.
_POOLED_TEXTS = ("siglip_text_model", "siglip2_text_model")
_LABELLED = ("classification", "multilabel", "tagging")
_DEFAULT_LABELS = {0: "LABEL_0", 1: "LABEL_1"}
# problem_type in a configuration of transformers -> head type of a classification head. None: by the number of labels.
_PROBLEMS: dict[str | None, HeadType] = {
    None: "classification",
    "regression": "regression",
    "single_label_classification": "classification",
    "multi_label_classification": "multilabel",
}
# Keys of a flex head's configuration that only change the shapes of its weights or its training.
_NOT_STRUCTURE = ("num_labels", "label2id", "dropout_prob", "num_choices")


def find_head(model: Any, task: str, name: str, own: Mapping[str, Any] = MappingProxyType({})) -> Head:
    """Return the head `name` of a model with named heads, or the single head of any other model.

    Args:
        model: a live model.
        task: the task name, for messages and for the label count of a PEFT adapter.
        name: the head name; ignored for a model with a single head.
        own: the content of the config.json that was saved with a PEFT adapter; its labels are those of the head.

    Raises:
        ExportError: the head does not exist or its type is not supported.
    """
    heads = getattr(model, "heads", None)
    if heads is None:
        return _static_head(model, task, own)
    if name not in heads:
        raise ExportError(
            f"the task {task!r} has no prediction head {name!r}; heads: {', '.join(heads) or 'none'}; for a head of "
            f"another name use --tasks HEAD={task} (in Python tasks={{head: adapter}})"
        )
    config = heads[name].config
    found = str(config.get("head_type"))
    kind = _FLEX.get(found)
    if kind is None:
        raise ExportError(
            f"the head {name!r} is of type {found!r}, which is not supported: expected one of {', '.join(HEADS)}; "
            "exclude it with --tasks"
        )
    if "classification" in found:
        _check_first_head(model, heads)
    labels: tuple[str, ...] = ()
    if kind in _LABELLED:
        labels = _labels(f"head {name!r}", int(config["num_labels"]), "label2id", config.get("label2id") or {})
    if kind == "classification" and config.get("multilabel") and len(labels) > 1:  # the loss of one label is that of regression
        kind = "multilabel"
    structure = {key: value for key, value in config.items() if key not in _NOT_STRUCTURE}
    return _finished(name, kind, labels, int(config.get("num_choices") or 1), structure)


def _check_first_head(model: Any, heads: Any) -> None:
    first = str(next(iter(heads.values())).config.get("head_type"))
    if type(model).__name__ == "MBartAdapterModel" and "classification" not in first:
        raise ExportError(
            f"the first head of {type(model).__name__} is of type {first!r}: the library reads the pooling of classification "
            "heads from the first head, not from the active one; add a classification head before it, or delete it"
        )


def _reads_padding_id(model_class: type) -> bool:
    """Whether a class with a head looks for the last token of a text by the padding id, as those of decoders do."""
    try:
        return "pad_token_id" in inspect.getsource(model_class.forward)  # type: ignore[attr-defined]
    except (OSError, TypeError):  # no source
        return False


def _static_head(model: Any, task: str, own: Mapping[str, Any]) -> Head:
    name = type(_base(model)).__name__
    kind = next((kind for suffix, kind in _STATIC.items() if name.endswith(suffix)), None)
    if kind is None:
        raise ExportError(
            f"{name} has no supported prediction head: load it with AutoAdapterModel.from_pretrained and add one head per "
            f"adapter, or use a class whose name ends in {', '.join(_STATIC)}"
        )
    config = model.tasks[task].config if isinstance(model, OwnModel) else model.config
    if kind == "hidden_states":
        _check_headless(model, name)
        if _gives_pooled(model):
            kind = "pooled_states"
        elif (embedder := embedder_of(model, task)) is not None:
            structure = [name, embedder.structure()]
            if embedder.labels:
                return Head(None, embedder.kind, embedder.labels, 1, structure)
            prompts, default = embedder.prompts, embedder.default_prompt
            return Head(None, "sentence_embedding", (), 1, structure, embedder.width, prompts, default)
    if kind == "classification" and getattr(config, "pad_token_id", None) is None and _reads_padding_id(type(_base(model))):
        raise ExportError(
            f"{name} classifies the last token of a text and needs a padding id to find it: set config.pad_token_id"
        )
    labels: tuple[str, ...] = ()
    if kind in _LABELLED:
        count = _label_count(model, task)
        config, where = _config_of_head(config, own, count), f"configuration of {name}"
        if isinstance(config, SimpleNamespace):
            where = f"config.json that was saved with the adapter {task!r}"
        # Pipelines of transformers read id2label: label2id may be missing, or differ.
        key = "id2label" if hasattr(config, "id2label") else "label2id"
        # PEFT adapters can have heads of another size, whose labels are not in the base model's configuration.
        named = getattr(config, key) if count == config.num_labels else None
        labels = _labels(where, count, key, named or {})  # PVT's configuration can have None
    if kind == "classification":
        kind = _problem(config, name, len(labels))
    return _finished(None, kind, labels, 1, name)


def _config_of_head(config: Any, own: Mapping[str, Any], count: int) -> Any:
    """The configuration with the labels and problem type that were saved with an adapter, if they fit its head."""
    # A whole configuration leaves out what has its default, which are two labels without names and no problem type.
    is_whole = "model_type" in own
    key = next((key for key in ("id2label", "label2id") if isinstance(own.get(key), Mapping)), "id2label")
    named = own[key] if isinstance(own.get(key), Mapping) else _DEFAULT_LABELS if is_whole else {}
    if len(named) != count:
        return config
    problem = own.get("problem_type", None if is_whole else getattr(config, "problem_type", None))
    return SimpleNamespace(**{key: named}, num_labels=count, problem_type=problem)


def _problem(config: Any, name: str, count: int) -> HeadType:
    """Return the type of a classification head, as transformers' losses and text-classification pipeline have it."""
    problem = getattr(config, "problem_type", None)
    if problem not in _PROBLEMS:
        expected = ", ".join(str(each) for each in _PROBLEMS)
        raise ExportError(f"the problem_type of {name} must be one of {expected}; found {problem!r}: correct its configuration")
    if problem == "single_label_classification" and count == config.num_labels == 1:
        # The softmax over one label is always 1. The pipeline gives its sigmoid.
        return "multilabel"
    return _PROBLEMS[problem]


def _check_headless(model: Any, name: str) -> None:
    """Raise ExportError if a model without a head is not one encoder of texts or images."""
    if getattr(model.config, "text_config", None) is not None:
        raise ExportError(
            f"{name} compares texts with images, which is not supported: use the class of one encoder, whose name ends in "
            "TextModelWithProjection or VisionModelWithProjection, or without a projection in TextModel or VisionModel"
        )
    inputs = getattr(model, "main_input_name", "input_ids")
    if getattr(model.config, "is_encoder_decoder", False) or inputs not in ("input_ids", "pixel_values"):
        raise ExportError(
            f"{name} has no prediction head, and only encoders of texts or of images are exported without one: "
            + _with_head(model.config, inputs)
        )


def _with_head(config: Any, inputs: str) -> str:
    """Return the advice for a model without a head."""
    if getattr(config, "model_type", None) == "whisper":
        return "use WhisperForAudioClassification"
    if inputs not in ("input_ids", "pixel_values"):
        return "of audio models, only WhisperForAudioClassification is exported"
    return "load it with AutoAdapterModel.from_pretrained and add one head per adapter"


def _gives_pooled(model: Any) -> bool:
    """Whether a model without a head is made to give a pooled state: one of images, or the text model of SigLIP."""
    inner = _base(model)
    inner = getattr(inner, "vision_model", inner)
    if getattr(model, "main_input_name", "input_ids") != "pixel_values":
        return getattr(model.config, "model_type", None) in _POOLED_TEXTS
    # ViT and others can be loaded without the pooler, SigLIP without its attention pooling.
    return getattr(inner, "pooler", True) is not None and bool(getattr(inner, "use_head", True))


def _label_count(model: Any, task: str) -> int:
    if isinstance(model, OwnModel):
        return int(model.tasks[task].config.num_labels)
    if not hasattr(model, "peft_config"):
        return int(model.config.num_labels)
    return label_count(model, task)


def _base(model: Any) -> Any:
    return base_of(model) if hasattr(model, "peft_config") or isinstance(model, OwnModel) else model


def _finished(name: str | None, kind: HeadType, labels: tuple[str, ...], choices: int, structure: Any) -> Head:
    if kind in ("classification", "regression") and len(labels) == 1:
        # As in the libraries: with one label, the loss is the mean squared error.
        return Head(name, "regression", (), choices, structure, output_label=labels[0])
    return Head(name, kind, labels, choices, structure)


def _labels(where: str, count: int, key: str, named: Any) -> tuple[str, ...]:
    """Return the labels in the order of their ids.

    Args:
        where: what has them, for messages.
        count: number of outputs.
        key: id2label or label2id.
        named: its value; labels without a name get that of transformers.
    """
    try:
        pairs = named.items() if key == "id2label" else [(number, label) for label, number in named.items()]
        by_id = {int(number): label for number, label in pairs}
        are_distinct = len(by_id) == len(named)
    except (AttributeError, TypeError, ValueError):
        by_id, are_distinct = {}, False
    if not are_distinct or not all(0 <= number < count for number in by_id):
        raise ExportError(
            f"the labels of the {where} must have distinct ids from 0 to {count - 1}, found {named!r}: correct its {key}"
        )
    labels = tuple(str(by_id.get(number, f"LABEL_{number}")) for number in range(count))
    if len(set(labels)) != count or None in by_id.values():  # predictions have scores by label
        raise ExportError(f"the labels of the {where} must be different names, found {named!r}: correct its {key}")
    return labels
