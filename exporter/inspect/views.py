"""The findings of `inspect`, as data. Operations are of one run at the inspection's shape; bytes are of weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runtime.bundle import PassRow


@dataclass(frozen=True)
class Cell:
    """One owner's share of one layer.

    Attributes:
        level: "embeddings", "layer 3", "heads".
        owner: "trunk", or the group of tasks: "tasks0".
        nodes: operators.
        flops: floating-point operations.
        trunk_bytes: weights that all tasks could read, counted where they are read first.
        task_bytes: weights of tasks.
    """

    level: str
    owner: str
    nodes: int
    flops: int
    trunk_bytes: int
    task_bytes: int


@dataclass(frozen=True)
class TaskView:
    """The cost of one task.

    Attributes:
        name: the task's own.
        group: the group that it is computed with, "trunk" where it has no weights.
        drop: its adapters are not in the layers 0 to drop - 1.
        flops: its share of the branch, level by level from the input up: what it adds to the trunk.
        bytes: its own weights, that is what it adds to the file.
        alone_flops: a graph of only this task, level by level: what it needs of the trunk, and its share of the branch.
        alone_bytes: the weights of such a graph.
    """

    name: str
    group: str
    drop: int
    flops: tuple[int, ...]
    bytes: int
    alone_flops: tuple[int, ...]
    alone_bytes: int


@dataclass(frozen=True)
class OperatorView:
    """All nodes of one operator, matrix products apart by what they multiply with.

    `matrix`: operations of matrix products, exact; `other`: of the rest, roughly.
    """

    name: str
    nodes: int
    matrix: int
    other: int

    @property
    def flops(self) -> int:
        """All operations."""
        return self.matrix + self.other


@dataclass(frozen=True)
class GraphView:
    """One graph of the bundle.

    Attributes:
        file: its name.
        drop: the variant's.
        routed: whether each row chooses its task.
        levels: from the input up.
        cells: what each owner does in each level, where it does anything.
        tasks: what each task costs, in the order of the outputs; empty for a routed graph, whose rows share one branch.
        operators: by operations, the most first.
        products: operations of matrix products, exact, by the type they multiply: "float32", "float16", "int8".
        uncounted: nodes whose shapes are unknown: they are missing from all operations here.
        bytes: weights, each counted once.
        passes: what the compiler did, in order.
    """

    file: str
    drop: int
    routed: bool
    levels: tuple[str, ...]
    cells: tuple[Cell, ...]
    tasks: tuple[TaskView, ...]
    operators: tuple[OperatorView, ...]
    products: Mapping[str, int]
    uncounted: tuple[str, ...]
    bytes: int
    passes: tuple[PassRow, ...]

    @property
    def nodes(self) -> int:
        """The number of operators."""
        return sum(cell.nodes for cell in self.cells)

    @property
    def flops(self) -> int:
        """All operations."""
        return sum(cell.flops for cell in self.cells)

    @property
    def trunk_flops(self) -> int:
        """Operations of the trunk."""
        return sum(cell.flops for cell in self.cells if cell.owner == "trunk")

    @property
    def alone_flops(self) -> int:
        """Of one graph per task, all of them run once."""
        return sum(sum(task.alone_flops) for task in self.tasks)

    @property
    def alone_bytes(self) -> int:
        """Of one file per task, all together."""
        return sum(task.alone_bytes for task in self.tasks)

    @property
    def drops(self) -> str:
        """The tasks' drops in words: "3", or "0 to 5" where they differ."""
        drops = [task.drop for task in self.tasks] or [self.drop]
        return str(min(drops)) if min(drops) == max(drops) else f"{min(drops)} to {max(drops)}"

    @property
    def groups(self) -> tuple[str, ...]:
        """The owners but the trunk, by number."""
        found = {cell.owner for cell in self.cells} - {"trunk"}
        return tuple(sorted(found, key=lambda name: (len(name), name)))


@dataclass(frozen=True)
class Inspection:
    """A bundle.

    Attributes:
        folder: where it is.
        shape: of the inputs: batch, and the length where they have one.
        layers: of the trunk, as the manifest says.
        precision: fp32, ….
        target: portable, ….
        opset: version of the standard operators.
        graphs: of all variants, the bundle's own first.
        weights_bytes: the file that all graphs share.
        read_bytes: the weights of all graphs, summed over the graphs: what they would take apart.
        versions: package -> version at export.
    """

    folder: Path
    shape: tuple[int, ...]
    layers: int
    precision: str
    target: str
    opset: int
    graphs: tuple[GraphView, ...]
    weights_bytes: int
    read_bytes: int
    versions: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """The inspection as JSON types, the sums of each graph included."""
        own = asdict(self)
        for document, graph in zip(own["graphs"], self.graphs, strict=True):
            sums = ("nodes", "flops", "trunk_flops", "alone_flops", "alone_bytes")
            document.update({name: getattr(graph, name) for name in sums})
        return {**own, "folder": str(self.folder)}
