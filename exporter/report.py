"""What an export did, as data and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from exporter.prune.fusion_members import FusionReport
from exporter.prune.fusion_scores import attention_table
from exporter.texts.drift import Drift
from runtime.bundle import ParityRow, PassRow


@dataclass(frozen=True)
class TaskReport:
    """Attributes:
    name: the task's own.
    setup: the adapters it composes, in words.
    head: the head's type.
    labels: their names in the order of the logits; empty where the head has none.
    drop: its adapters were taken out of the layers 0 to drop - 1.
    group: numbers the structure that it is computed with.
    """

    name: str
    setup: str
    head: str
    labels: tuple[str, ...]
    drop: int
    group: int


@dataclass(frozen=True)
class GraphReport:
    """Sizes of the exported graph.

    Attributes:
        nodes: operators in the graph; trunk_nodes + branch_nodes.
        trunk_nodes: operators that no task weight reaches: computed once per text.
        branch_nodes: operators of the tasks.
        initializer_bytes: all weights; trunk_bytes + branch_bytes.
        trunk_bytes: weights that all tasks share.
        branch_bytes: adapters and heads.
        passes: nodes and bytes before and after each pass, in order.
    """

    nodes: int
    trunk_nodes: int
    branch_nodes: int
    initializer_bytes: int
    trunk_bytes: int
    branch_bytes: int
    passes: tuple[PassRow, ...]


@dataclass(frozen=True)
class VariantReport:
    """The tasks at one drop.

    Attributes:
        model: the graph's file name.
        routed: the file name of the graph whose rows choose their task; empty where there is none.
        tasks: in the order of the graph's outputs.
        drop: no task has an adapter in the layers 0 to drop - 1.
        shared: what is computed once for all tasks, in words.
        adapter_parameters: of all tasks in the layers that are left, each adapter of each layer for itself.
        stored_adapter_parameters: the same with equal weights counted once, as the file holds them.
        graph: sizes, also pass by pass.
        fusions: attention per member and layer, and the members kept, where a calibration file was given.
        drift: what dropping and pruning change in each task's answers to the calibration texts.
        parity: one row per task and shape, all within tolerance.
        evaluation: the graph's answers to the evaluation texts against PyTorch's, where such texts were given.
    """

    model: str
    routed: str
    tasks: tuple[TaskReport, ...]
    drop: int
    shared: str
    adapter_parameters: int
    stored_adapter_parameters: int
    graph: GraphReport
    fusions: tuple[FusionReport, ...]
    drift: tuple[Drift, ...]
    parity: tuple[ParityRow, ...]
    evaluation: tuple[Drift, ...]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types."""
        return {**asdict(replace(self, fusions=())), "fusions": [report.to_dict() for report in self.fusions]}


@dataclass(frozen=True)
class Report:
    """The result of `export`.

    Attributes:
        output: the folder that was written.
        source: what was exported.
        layers: of the trunk.
        variants: one per drop, in the order asked for; tasks, graph and parity of the first are also the report's own.
        seconds: time per stage, in order.
    """

    output: Path
    source: str
    layers: int
    variants: tuple[VariantReport, ...]
    seconds: Mapping[str, float]

    @property
    def tasks(self) -> tuple[TaskReport, ...]:
        return self.variants[0].tasks

    @property
    def graph(self) -> GraphReport:
        return self.variants[0].graph

    @property
    def parity(self) -> tuple[ParityRow, ...]:
        return self.variants[0].parity

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types: the first variant's fields, and all variants."""
        variants = [variant.to_dict() for variant in self.variants]
        own = {"output": str(self.output), "source": self.source, "layers": self.layers, "seconds": dict(self.seconds)}
        return {**own, **variants[0], "variants": variants}


_PASS_COLUMNS: dict[str, Literal["left", "right"]] = {
    "pass": "left",
    "graph": "left",
    "nodes": "right",
    "after": "right",
    "weights": "right",
    "after ": "right",
}


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def _shape(row: ParityRow) -> str:
    return f"{row.batch}x{row.sequence}" if row.sequence else str(row.batch)


def _print_sharing(report: VariantReport, console: Console) -> None:
    total, stored = report.adapter_parameters, report.stored_adapter_parameters
    if stored < total:
        saved = 100 * (1 - stored / total)
        console.print(f"adapters: {total:,} parameters, {stored:,} in the file ({saved:.0f} % are shared)", soft_wrap=True)


def _drift_table(drifts: Sequence[Drift], title: str) -> Table:
    table = Table(title=title)
    for column in ("task", "mean |diff|", "max |diff|", "same answer", "metric", "before", "after"):
        table.add_column(column, justify="left" if column in ("task", "metric") else "right")
    for row in drifts:
        agreement = "-" if row.argmax_agreement is None else f"{100 * row.argmax_agreement:.1f} %"
        metric = ["-" if value is None else f"{value:.3f}" for value in (row.metric_before, row.metric_after)]
        table.add_row(row.task, f"{row.mean_abs:.3f}", f"{row.max_abs:.3f}", agreement, row.metric or "-", *metric)
    return table


def print_report(report: Report, console: Console) -> None:
    """What a person wants to know, without a table wider than a terminal."""
    for variant in report.variants:
        _print_variant(
            variant, f"{report.source}: {len(variant.tasks)} tasks, drop {variant.drop} of {report.layers} layers", console
        )
    shapes = ", ".join(dict.fromkeys(_shape(row) for row in report.parity))
    console.print(f"verified against single-task PyTorch at {shapes} (batch x length)", soft_wrap=True)
    stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in report.seconds.items())
    console.print(f"time: {stages}; {sum(report.seconds.values()):.1f} s in all", soft_wrap=True)
    console.print(f"wrote {report.output}", soft_wrap=True)
    console.print(f'try it: python -m runtime {report.output} --text "…"', soft_wrap=True)


def _print_variant(report: VariantReport, title: str, console: Console) -> None:
    tasks = Table(title=title)
    for column in ("task", "head", "labels", "in graph", "max diff", "argmax"):
        tasks.add_column(column, no_wrap=column != "task")
    for task in report.tasks:
        rows = [row for row in report.parity if row.task == task.name]
        tasks.add_row(
            task.name if task.setup == task.name else f"{task.name} = {task.setup}",
            task.head,
            str(len(task.labels)) if task.labels else "-",
            f"tasks{task.group}",
            f"{max(row.max_abs_diff for row in rows):.1e}",
            f"{100 * min(row.argmax_agreement for row in rows):.0f} %" if task.head != "regression" else "-",
        )
    console.print(tasks)
    console.print(f"computed once: {report.shared}")
    _print_sharing(report, console)
    for fusion in report.fusions:
        console.print(attention_table(fusion.table, fusion.kept))
    if report.drift:
        console.print(_drift_table(report.drift, "calibration texts: as exported against all adapters in all layers"))
    if report.evaluation:
        console.print(_drift_table(report.evaluation, "evaluation texts: the graph against PyTorch in fp32"))
    graph = report.graph
    console.print(
        f"graph: {graph.nodes} nodes ({graph.trunk_nodes} trunk, {graph.branch_nodes} tasks), {_size(graph.initializer_bytes)} "
        f"({_size(graph.trunk_bytes)} trunk, {_size(graph.branch_bytes)} adapters and heads)",
        soft_wrap=True,
    )
    console.print(_pass_table(graph.passes))
    if report.routed:
        console.print(
            f"routed: {report.routed}, where each row chooses its text and task, over the same weights", soft_wrap=True
        )


def _pass_table(steps: Sequence[PassRow]) -> Table:
    passes = Table(title="passes that changed the graph")
    for column, justify in _PASS_COLUMNS.items():
        passes.add_column(column, justify=justify)
    for step in steps:
        nodes, weights = (step.nodes_before, step.nodes_after), (step.bytes_before, step.bytes_after)
        if nodes[0] != nodes[1] or weights[0] != weights[1]:
            passes.add_row(step.name, step.graph, *map(str, nodes), *map(_size, weights))
    return passes
