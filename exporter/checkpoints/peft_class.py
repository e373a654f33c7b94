"""The transformers class that a PEFT adapter was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exporter.checkpoints.model_class import is_class
from exporter.checkpoints.scan import Part
from exporter.checkpoints.sentence_folder import sentence_task
from exporter.errors import ExportError

# The class of models without a head.
HEADLESS = "AutoModel"
# task_type -> class.
_CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "FEATURE_EXTRACTION": HEADLESS,
}
_ANSWERS = ("ForQuestionAnswering", "ForQuestionAnsweringSimple")  # XLNet, XLM and FlauBERT
_SEQUENCES = ("ForSequenceClassification", "ForImageClassification", "ForMultipleChoice", "ForAudioClassification")
# task_type -> suffixes of the classes that fit. None: the adapter has no task_type.
_SUFFIXES: Mapping[str | None, tuple[str, ...]] = {
    "SEQ_CLS": _SEQUENCES,
    "TOKEN_CLS": ("ForTokenClassification",),
    "QUESTION_ANS": _ANSWERS,
    "CAUSAL_LM": ("ForCausalLM", "LMHeadModel"),
    "FEATURE_EXTRACTION": ("Model", "ModelWithProjection"),
    None: (
        *(*_SEQUENCES, "ForTokenClassification", *_ANSWERS, "ForMaskedLM", "ForCausalLM", "LMHeadModel", "Model"),
        "ModelWithProjection",
    ),
}


def peft_class(part: Part, config: Mapping[str, Any]) -> str:
    """Return the name of the class that an adapter needs.

    It is that of the task type. An adapter without one names its class, or it was trained on the class of the model folder, as
    adapters that transformers added to a model.

    Args:
        part: the adapter.
        config: the content of the model folder's config.json.

    Raises:
        ExportError: the task type is unknown, or absent and no class is known either.
    """
    if sentence_task(part.folder) is not None:  # the library loads its encoders without a head
        return HEADLESS
    kind = part.config.get("task_type")
    own = [name for name in config.get("architectures") or [] if is_class(name)]
    if kind == "SEQ_CLS" and own and own[0].endswith(_SEQUENCES[1:]):
        return str(own[0])
    if isinstance(kind, str) and kind in _CLASSES:
        return _CLASSES[kind]
    if kind is None:
        mapping = part.config.get("auto_mapping")
        named = [mapping.get("base_model_class")] if isinstance(mapping, Mapping) else []
        for name in [*named, *own]:
            if is_class(name):
                return str(name)
    raise ExportError(
        f"{part.label} has the task_type {kind!r}: expected one of {', '.join(_CLASSES)}; correct its adapter_config.json"
    )


def check_fit(name: str, task_type: Any, base: Any) -> None:
    """Check that a base model has the class for an adapter's task type.

    Args:
        name: the adapter name, for the message.
        task_type: the task type; None for an adapter without one.
        base: the base model.

    Raises:
        ExportError: it has not, or it is a model of the adapters library.
    """
    found = type(base).__name__
    kind = None if task_type is None else str(getattr(task_type, "value", task_type))
    fitting = _SUFFIXES.get(kind, ())
    if not found.endswith(fitting) or hasattr(base, "adapters_config"):
        raise ExportError(
            f"the adapter {name!r} has the task_type {kind}, the base model is a {found}: expected "
            + (
                f"a transformers class whose name ends in {' or '.join(fitting)}"
                if fitting
                else f"{', '.join(each for each in _SUFFIXES if each)}"
            )
        )
