"""The result of an export, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from exporter.plan import TaskPadding
from exporter.prune.fusion_members import FusionReport
from exporter.texts.drift import Drift
from runtime.bundle import ParityRow, PassRow, SplitEntry


@dataclass(frozen=True)
class ExportedTask:
    """One exported task.

    Attributes:
        name: the task's name.
        setup: its adapter, or the composition of its adapters, such as "Stack(en, qnli)".
        head: the type of its prediction head.
        labels: the label names in the order of the logits; empty for a head without labels.
        drop: the task has no adapter in the layers 0 to drop - 1.
        group: number of the group of tasks with one structure, which are traced once and computed as one batch.
        bytes: the weights that the task does not share, in fp32; those of its adapter and its head.
        forms: form in which the changes of PEFT's tuners and of fine-tunes are stored, such as "whole weight" -> number of
            layers; empty for adapters that are stored as they are.
        padding: what it costs that the adapter is padded with zeros to the size of others in its group; None if it is not.
    """

    name: str
    setup: str
    head: str
    labels: tuple[str, ...]
    drop: int
    group: int
    bytes: int = 0
    forms: Mapping[str, int] = field(default_factory=dict)
    padding: TaskPadding | None = None


@dataclass(frozen=True)
class GraphReport:
    """Sizes of the exported graph.

    Attributes:
        nodes: operators in the graph; trunk_nodes + branch_nodes.
        trunk_nodes: operators that depend on no task: computed once for all tasks.
        branch_nodes: operators that depend on a task.
        initializer_bytes: all weights; shared_bytes + task_bytes.
        shared_bytes: weights that all tasks share.
        task_bytes: adapters and heads.
        passes: nodes and bytes before and after each pass, in order.
    """

    nodes: int
    trunk_nodes: int
    branch_nodes: int
    initializer_bytes: int
    shared_bytes: int
    task_bytes: int
    passes: tuple[PassRow, ...]


@dataclass(frozen=True)
class VariantReport:
    """The tasks at one drop.

    Attributes:
        model: the graph's file name.
        routed: the file name of the routed graph, in which each row selects a task; empty without one.
        tasks: in the order of the graph's outputs.
        drop: no task has an adapter in the layers 0 to drop - 1.
        shared: what is computed once for all tasks, as text.
        adapter_parameters: parameters of all adapters in the remaining layers, each adapter counted by itself.
        stored_adapter_parameters: the same with equal weights counted once, as the file stores them.
        graph: sizes of the graph.
        fusions: attention per member and layer, and the members kept; empty without a calibration file.
        drift: how dropping and pruning change each task's predictions on the calibration texts.
        parity: one row per task and shape, all within tolerance.
        evaluation: the graph's predictions compared with PyTorch's on the evaluation texts; empty without such texts.
        notes: what a user of the graph should know: tasks that do not read an input, adapters without an effect,
            and what tasks without adapters share.
        split: the graphs of the trunk and of the branches, and the states between them; None without them.
        text_graph: the file name of the graph with the tokenizer in front of it; empty without one.
    """

    model: str
    routed: str
    tasks: tuple[ExportedTask, ...]
    drop: int
    shared: str
    adapter_parameters: int
    stored_adapter_parameters: int
    graph: GraphReport
    fusions: tuple[FusionReport, ...]
    drift: tuple[Drift, ...]
    parity: tuple[ParityRow, ...]
    evaluation: tuple[Drift, ...]
    notes: tuple[str, ...] = ()
    split: SplitEntry | None = None
    text_graph: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Convert the report to JSON types."""
        return {**asdict(replace(self, fusions=())), "fusions": [report.to_dict() for report in self.fusions]}


@dataclass(frozen=True)
class Report:
    """The result of `export` or `add`.

    Attributes:
        output: the folder that was written.
        source: what was exported.
        layers: number of layers of the trunk.
        variants: one per drop, in the order requested; `tasks`, `graph` and `parity` are those of the first.
        seconds: time per stage, in order.
    """

    output: Path
    source: str
    layers: int
    variants: tuple[VariantReport, ...]
    seconds: Mapping[str, float]

    @property
    def tasks(self) -> tuple[ExportedTask, ...]:
        """The exported tasks, in the order of the graph's outputs."""
        return self.variants[0].tasks

    @property
    def graph(self) -> GraphReport:
        """Sizes of the first variant's graph."""
        return self.variants[0].graph

    @property
    def parity(self) -> tuple[ParityRow, ...]:
        """How far the first variant's graph is from PyTorch, one row per task and shape."""
        return self.variants[0].parity

    def to_dict(self) -> dict[str, Any]:
        """Convert the report to JSON types: the fields of the first variant, and all variants."""
        variants = [variant.to_dict() for variant in self.variants]
        common = {"output": str(self.output), "source": self.source, "layers": self.layers, "seconds": dict(self.seconds)}
        return {**common, **variants[0], "variants": variants}
