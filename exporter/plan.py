"""What to export: the tasks with their heads, the layers dropped, the graph's inputs. Decided once, then frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtime.bundle import OUTPUTS, HeadType, InputEntry, output_names


@dataclass(frozen=True)
class Head:
    """Attributes:
    name: the head's name in a model with named heads; None for a model's own head.
    kind: the bundle's name of the head type.
    labels: the label names in the order of the logits; empty where there are none.
    choices: answers per question of a multiple choice head, else 1.
    structure: equal for heads that differ in weights and label count alone; JSON-able.
    """

    name: str | None
    kind: HeadType
    labels: tuple[str, ...]
    choices: int
    structure: Any


@dataclass(frozen=True)
class Task:
    """One adapter or composition of adapters, with a head.

    Attributes:
        name: the task's own name; graph outputs begin with it.
        setup: an adapter's name, or a composition of the adapters library.
        head: its prediction head.
        drop: adapters leave the layers 0 to drop - 1.
        kept: fusion -> layer -> the members that stay there; a fusion or layer that is absent keeps all.
        structure: equal for tasks that one trace serves: everything but weights and label count.
        names: the adapters and fusion layers by name, in an order that is the same for tasks of one structure.
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
        """The graph's outputs for this task, beside other tasks'."""
        return output_names(self.name, OUTPUTS[self.head.kind])


@dataclass(frozen=True)
class Plan:
    """Attributes:
    tasks: in the order of the graph's outputs.
    layers: how many layers the model has.
    inputs: the graph's inputs, in order.
    max_lengths: the longest sequence per axis, in tokens; an axis without a limit is absent.
    padding_id: the token that fills up short rows, if the model knows one.
    end_id: the token with which texts end, where the model looks for it.
    opset: the ONNX operator set.
    precision, target: what the graph is compiled for.
    atol: parity tolerance relative to max(1, max |eager|).
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

    @property
    def rounds(self) -> bool:
        """Whether the graph itself holds numbers of a lower precision than fp32."""
        return self.precision in ("fp16", "int8")

    @property
    def drop(self) -> int:
        """In the layers 0 to drop - 1 no task has an adapter."""
        return min(task.drop for task in self.tasks)

    @property
    def groups(self) -> tuple[tuple[Task, ...], ...]:
        """The tasks by structure, groups and tasks in the order given."""
        by_structure: dict[str, list[Task]] = {}
        for task in self.tasks:
            by_structure.setdefault(task.structure, []).append(task)
        return tuple(part for group in by_structure.values() for part in _by_common_adapters(tuple(group), 0))


def _by_common_adapters(group: tuple[Task, ...], role: int) -> list[tuple[Task, ...]]:
    """Divides tasks whose first adapters are common to some of them: Stack(en, a) and Stack(en, b) share en, which is then part
    of their trunk, and Stack(de, c) has another one."""
    if role >= len(group[0].names):
        return [group]
    by_name: dict[str, list[Task]] = {}
    for task in group:
        by_name.setdefault(task.names[role], []).append(task)
    if len(by_name) == len(group):
        return [group]
    return [part for tasks in by_name.values() for part in _by_common_adapters(tuple(tasks), role + 1)]
