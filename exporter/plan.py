"""The export plan: tasks with their heads, dropped layers and graph inputs, as frozen data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runtime.bundle import OUTPUTS, HeadType, InputEntry, output_names


@dataclass(frozen=True)
class Head:
    """A prediction head.

    Attributes:
        name: the head's name in a model with named heads; None for the single head of a model.
        kind: the head type as it is named in a bundle.
        labels: label names in the order of the logits; empty for heads without labels, and for a regression with one output.
        choices: choices per question of a multiple choice head, otherwise 1.
        structure: JSON-serializable; equal for heads that differ only in their weights and number of labels.
        width: numbers of a sentence embedding; 0 for other heads.
        prompts: name -> text that comes before a text, of sentence embeddings.
        default_prompt: the name of the default prompt; empty for none.
        output_label: the name of the only output of a regression; empty for other heads.
    """

    name: str | None
    kind: HeadType
    labels: tuple[str, ...]
    choices: int
    structure: Any
    width: int = 0
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str = ""
    output_label: str = ""


@dataclass(frozen=True)
class Task:
    """One adapter or composition of adapters, with a head.

    Attributes:
        name: the task name, which is the prefix of its graph outputs.
        setup: an adapter name, or a composition of the adapters library.
        head: the prediction head.
        drop: adapters are removed from the layers 0 to drop - 1.
        kept: fusion -> layer -> the members kept there; a fusion or layer that is absent keeps all members.
        structure: describes everything but weights and number of labels; tasks with equal structure share one trace.
        names: the names of the adapters and fusion layers, in the same order for all tasks with equal structure.
    """

    name: str
    setup: Any
    head: Head
    drop: int
    kept: Mapping[str, Mapping[int, tuple[str, ...]]]
    structure: str
    names: tuple[str, ...]

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of this task's outputs in a graph of several tasks."""
        return output_names(self.name, OUTPUTS[self.head.kind])


@dataclass(frozen=True)
class TaskPadding:
    """The costs of the zeros in the weights of a task.

    Attributes:
        bytes: bytes of zeros, in fp32.
        operations: additional operations relative to those of the task's branch without zeros.
    """

    bytes: int
    operations: float


@dataclass(frozen=True)
class Plan:
    """The complete description of one graph to export.

    Attributes:
        tasks: in the order of the graph's outputs.
        layers: number of transformer layers.
        inputs: the graph's inputs, in order.
        max_lengths: axis -> the longest sequence in tokens; an axis without a limit is absent.
        padding_id: id of the padding token; None if the model has none.
        end_id: id of the end-of-sequence token; None if the model does not read it.
        opset: ONNX operator set version.
        precision: a precision of `exporter.targets.PRECISIONS`.
        target: a key of `exporter.targets.TARGETS`.
        atol: parity tolerance relative to max(1, max |eager|).
        int8_ranges: ranges of activations in int8, of `exporter.targets.INT8_RANGES`; None for the default of the target.
        switch_length: length, padding included, above which longrope has other frequencies for all tokens; None without it.
    """

    tasks: tuple[Task, ...]
    layers: int
    inputs: tuple[InputEntry, ...]
    max_lengths: Mapping[str, int]
    padding_id: int | None
    end_id: int | None
    opset: int
    precision: str
    target: str
    atol: float
    int8_ranges: str | None = None
    switch_length: int | None = None

    @property
    def rounds(self) -> bool:
        """Whether the graph contains values of lower precision than fp32."""
        return self.precision in ("fp16", "int8")

    @property
    def drop(self) -> int:
        """The number of lowest layers without adapters: no task has one in the layers 0 to drop - 1."""
        return min(task.drop for task in self.tasks)

    @property
    def outputs(self) -> dict[str, tuple[str, ...]]:
        """Task -> the names of its outputs in the graph.

        The outputs of a single task have the names of transformers, so that Optimum loads the folder.
        """
        if len(self.tasks) == 1:
            return {self.tasks[0].name: OUTPUTS[self.tasks[0].head.kind]}
        return {task.name: task.outputs for task in self.tasks}

    @property
    def groups(self) -> tuple[tuple[Task, ...], ...]:
        """The tasks grouped by structure and common adapters; groups and tasks keep the order of `tasks`."""
        by_structure: dict[str, list[Task]] = {}
        for task in self.tasks:
            by_structure.setdefault(task.structure, []).append(task)
        return tuple(part for group in by_structure.values() for part in _by_common_adapters(tuple(group), 0))


def _by_common_adapters(group: tuple[Task, ...], position: int) -> list[tuple[Task, ...]]:
    """Split a group where only some of its tasks have the same adapter from `position` on.

    Stack(en, a) and Stack(en, b) share the adapter en, which becomes part of their trunk; Stack(de, c) is a group by itself.
    """
    if position >= len(group[0].names):
        return [group]
    by_name: dict[str, list[Task]] = {}
    for task in group:
        by_name.setdefault(task.names[position], []).append(task)
    if len(by_name) == len(group):
        return [group]
    return [part for tasks in by_name.values() for part in _by_common_adapters(tuple(tasks), position + 1)]
