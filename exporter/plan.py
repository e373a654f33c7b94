"""What to export: the tasks with their heads, the layers dropped, the graph's inputs. Decided once, then frozen."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from adapters import AdapterConfig, BnConfig
from adapters.heads import PredictionHead

from runtime.bundle import HEADS, HeadType

from .errors import ExportError

# How the library's head types are called in a bundle.
_HEAD_TYPES: dict[str, HeadType] = {
    "classification": "classification",
    "multilabel_classification": "multilabel",
    "tagging": "tagging",
}
# Adapter settings that change nothing in evaluation mode.
_ONLY_IN_TRAINING = frozenset({"dropout", "init_weights", "init_weights_seed", "stochastic_depth"})
DEFAULT_OPSET = 20
OPSETS = range(18, 24)


@dataclass(frozen=True)
class Task:
    """One adapter with the head of its own name.

    Attributes:
        name: the adapter's and the head's name, and the graph's output.
        head: classification, multilabel, regression or tagging.
        labels: the label names in the order of the logits; empty for regression.
        structure: equal for tasks that one trace serves: adapter configuration and head, apart from label count and weights.
    """

    name: str
    head: HeadType
    labels: tuple[str, ...]
    structure: str


@dataclass(frozen=True)
class Plan:
    """Attributes:
    tasks: in the order of the graph's outputs.
    drop: adapters leave the layers 0 to drop - 1.
    layers: how many layers the model has.
    inputs: the graph's input names, in order.
    max_length: the longest sequence the model takes, in tokens.
    opset: the ONNX operator set.
    atol: parity tolerance relative to max(1, max |eager|).
    """

    tasks: tuple[Task, ...]
    drop: int
    layers: int
    inputs: tuple[str, ...]
    max_length: int
    opset: int
    atol: float

    @property
    def groups(self) -> tuple[tuple[Task, ...], ...]:
        """The tasks by structure, groups and tasks in the order given."""
        by_structure: dict[str, list[Task]] = {}
        for task in self.tasks:
            by_structure.setdefault(task.structure, []).append(task)
        return tuple(tuple(group) for group in by_structure.values())


def _choose(model: Any, wanted: Sequence[str] | None) -> list[str]:
    """The task names to export; by default all adapters, each of which must then have a head of its own name."""
    adapters = list(model.adapters_config.adapters)
    heads = list(getattr(model, "heads", {}))
    if not adapters:
        raise ExportError("the model has no adapters: add or load some (model.load_adapter), or name another --model")
    if not hasattr(model, "heads"):
        raise ExportError(
            f"{type(model).__name__} has no named prediction heads: load it with AutoAdapterModel.from_pretrained and add one "
            "head per adapter, each under the adapter's name"
        )
    if wanted is None:
        headless = [name for name in adapters if name not in heads]
        orphans = [name for name in heads if name not in adapters]
        problems = [f"the adapter {name!r} has no prediction head of its own name" for name in headless]
        problems += [f"the head {name!r} has no adapter of its own name" for name in orphans]
        if problems:
            remedy = "add what is missing, delete it, or name the tasks to export (--tasks a,b)"
            raise ExportError("; ".join(problems) + ": " + remedy)
        return adapters
    if isinstance(wanted, Mapping):
        raise ExportError("tasks must be a list of adapter names: compositions (Stack, Fuse, …) are not supported so far")
    if isinstance(wanted, str) or not isinstance(wanted, Sequence):
        raise ExportError(f"tasks must be a list of adapter names, found {wanted!r}: write [{wanted!r}] for a single one")
    if not wanted:
        raise ExportError("no task was named: expected at least one adapter name, or leave tasks out for all of them")
    for name in wanted:
        if not isinstance(name, str):
            raise ExportError(f"a task must be an adapter's name, found {name!r}: compositions are not supported so far")
        if name not in adapters:
            raise ExportError(f"there is no adapter {name!r}; the model has {', '.join(adapters)}")
        if name not in heads:
            raise ExportError(
                f"the adapter {name!r} has no prediction head of its own name; heads: {', '.join(heads) or 'none'}"
            )
        if wanted.count(name) > 1:
            raise ExportError(f"the task {name!r} is named twice")
    return list(wanted)


def _refuse_name(name: str, inputs: Sequence[str]) -> None:
    # The name becomes a graph output beside the inputs.
    if name in inputs:
        raise ExportError(f"the task {name!r} is called like an input of the graph: rename the adapter")


def _labels(name: str, head: PredictionHead) -> tuple[str, ...]:
    count = int(head.config["num_labels"])
    label2id = head.config.get("label2id") or {}
    try:
        by_id = {int(number): str(label) for label, number in label2id.items()}
    except (AttributeError, TypeError, ValueError):
        by_id = {-1: ""}
    if len(by_id) != len(label2id) or not all(0 <= number < count for number in by_id):
        raise ExportError(
            f"the labels of the head {name!r} must have different ids from 0 to {count - 1}, found {label2id!r}: "
            "correct its label2id"
        )
    return tuple(by_id.get(number, f"LABEL_{number}") for number in range(count))


def _head_type(name: str, head: PredictionHead) -> HeadType:
    found = head.config.get("head_type")
    kind = _HEAD_TYPES.get(str(found))
    if kind is None:
        raise ExportError(
            f"the head {name!r} is of type {found!r}, which is not supported: expected one of {', '.join(HEADS)}; "
            "leave it out with --tasks"
        )
    if kind == "classification" and int(head.config["num_labels"]) == 1:
        return "regression"  # the library's own reading of one label: its loss is the mean squared error
    return kind


def _bottleneck(model: Any, name: str) -> BnConfig:
    # A model that comes from a folder holds plain dictionaries.
    config = AdapterConfig.load(model.adapters_config.get(name))
    if not isinstance(config, BnConfig):
        raise ExportError(
            f"the adapter {name!r} is a {type(config).__name__}: only bottleneck adapters (BnConfig and its kinds) work so far"
        )
    return config


def _structure(model: Any, name: str, head: HeadType, drop: int) -> str:
    config = _bottleneck(model, name)
    adapter = {key: value for key, value in config.to_dict().items() if key not in _ONLY_IN_TRAINING}
    # Tasks that differ in dropped layers alone are one structure.
    adapter["leave_out"] = sorted({*range(drop), *config.leave_out})
    kept = {
        key: value for key, value in model.heads[name].config.items() if key not in ("num_labels", "label2id", "dropout_prob")
    }
    # Regression differs from classification by its label count alone.
    kept["head_type"] = "classification" if head == "regression" else head
    return json.dumps({"adapter": adapter, "head": kept}, sort_keys=True, default=str)


def check_drop(drop: object, layers: int) -> int:
    """`drop` as a number of layers.

    Raises:
        ExportError: it is no whole number from 0 to `layers`.
    """
    try:
        number = operator.index(drop)  # type: ignore[arg-type]  # numpy's integers are welcome
    except TypeError:
        number = None
    if number is None or isinstance(drop, bool):
        raise ExportError(f"drop must be a whole number of layers from 0 to {layers}, found {drop!r}")
    if not 0 <= number <= layers:
        raise ExportError(f"drop must be from 0 to {layers}, the model's number of layers; found {number}")
    return number


def input_names(model: Any, tokenizer: Any) -> tuple[str, ...]:
    """The graph's inputs: the tokenizer's where there is one, else what the model's embeddings can tell apart."""
    names = ("input_ids", "attention_mask")
    segments = getattr(model.config, "type_vocab_size", 0) or 0
    # RoBERTa has one segment, which only a tokenizer that names it makes worth feeding.
    wanted = segments > 1 if tokenizer is None else segments > 0 and "token_type_ids" in tokenizer.model_input_names
    return (*names, "token_type_ids") if wanted else names


def max_length(model: Any) -> int:
    """The longest sequence in tokens that the position embeddings allow."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            # RoBERTa and its relatives keep the positions up to the padding index free and count from the next one.
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    limit = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(limit, int):
        raise ExportError(f"the configuration of {type(model).__name__} has no max_position_embeddings: no length to check")
    return limit


def _check_encoder(model: Any) -> None:
    config, name = model.config, type(model).__name__
    if getattr(config, "is_encoder_decoder", False):
        raise ExportError(f"{name} is an encoder with a decoder: only text encoders are supported so far")
    if not isinstance(getattr(config, "vocab_size", None), int):
        raise ExportError(f"the configuration of {name} has no vocab_size: only text encoders are supported so far")
    if max_length(model) < 2:
        raise ExportError(f"{name} takes no more than one token (max_position_embeddings): nothing to export")


def _check_vocabulary(model: Any, tokenizer: Any) -> None:
    if tokenizer is not None and len(tokenizer) > model.config.vocab_size:
        raise ExportError(
            f"the tokenizer has {len(tokenizer):,} tokens, the model's vocabulary {model.config.vocab_size:,}: they do not "
            "belong together"
        )


def make_plan(
    model: Any, tokenizer: Any, tasks: Sequence[str] | None, drop: int, opset: int | None, atol: float | None
) -> Plan:
    """Checks the request against the model.

    Raises:
        ExportError: a task, head, method, drop or opset that cannot be exported.
    """
    _check_encoder(model)
    layers = sum(1 for _ in model.iter_layers())
    drop = check_drop(drop, layers)
    opset = DEFAULT_OPSET if opset is None else opset
    if not isinstance(opset, int) or opset not in OPSETS:
        raise ExportError(f"opset must be from {OPSETS[0]} to {OPSETS[-1]}, found {opset}")
    atol = 1e-4 if atol is None else atol
    if not isinstance(atol, int | float) or not 0 < atol < math.inf:
        raise ExportError(f"atol must be a finite number above 0, found {atol}")
    _check_vocabulary(model, tokenizer)
    inputs = input_names(model, tokenizer)
    chosen = []
    for name in _choose(model, tasks):
        _refuse_name(name, inputs)
        head = model.heads[name]
        kind = _head_type(name, head)
        labels = () if kind == "regression" else _labels(name, head)
        chosen.append(Task(name, kind, labels, _structure(model, name, kind, drop)))
    return Plan(tuple(chosen), drop, layers, inputs, max_length(model), opset, atol)
