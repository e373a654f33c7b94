"""The results of `inspect`, as data. Operations are those of one run at the inspection's shape; bytes are those of weights."""

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
        nodes: the number of operators.
        flops: floating-point operations.
        shared_bytes: weights that belong to no task, counted at the lowest level that reads them.
        task_bytes: weights of tasks.
    """

    level: str
    owner: str
    nodes: int
    flops: int
    shared_bytes: int
    task_bytes: int


@dataclass(frozen=True)
class TaskView:
    """The cost of one task.

    Attributes:
        name: the name of the task.
        group: the group with which it is computed; "trunk" if it has no weights.
        drop: it has no adapter in the layers 0 to drop - 1.
        flops: its share of the branch, level by level from the input up, which it adds to the trunk.
        bytes: its weights, which it adds to the file.
        alone_flops: a graph of only this task, level by level: its part of the trunk, and its share of the branch.
        alone_bytes: the weights of such a graph.
        padding_bytes: zeros in fp32 by which its adapter is padded to the size of others in its group.
        padding_operations: additional operations relative to those of its branch without these zeros.
    """

    name: str
    group: str
    drop: int
    flops: tuple[int, ...]
    bytes: int
    alone_flops: tuple[int, ...]
    alone_bytes: int
    padding_bytes: int
    padding_operations: float


@dataclass(frozen=True)
class OperatorView:
    """All nodes of one operator; matrix products are separated by their right operand.

    Attributes:
        name: the operator, and for matrix products the kind of operand.
        nodes: the number of nodes.
        matrix: operations of matrix products, exact.
        other: all other operations, estimated.
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
        file: the file name.
        drop: the drop of the variant.
        routed: whether each row selects its task.
        levels: names from the input up: "embeddings", "layer 0", …, "heads".
        cells: the share of each owner in each level; owners without nodes in a level are absent.
        tasks: the cost of each task, in the order of the outputs; empty for a routed graph, whose rows share one branch.
        operators: sorted by operations, the most first.
        products: operations of matrix products, exact, by the type in which they multiply: "float32", "float16", "int8".
        uncounted: nodes whose shapes are unknown; their operations are missing from all sums.
        bytes: bytes of the weights, each counted once.
        passes: nodes and bytes before and after each pass, in order.
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
        """Operations of one graph per task, each run once."""
        return sum(sum(task.alone_flops) for task in self.tasks)

    @property
    def alone_bytes(self) -> int:
        """Bytes of the weights of one file per task, all together."""
        return sum(task.alone_bytes for task in self.tasks)

    @property
    def drops(self) -> str:
        """The tasks' drops in words: "3", or "0 to 5" where they differ."""
        drops = [task.drop for task in self.tasks] or [self.drop]
        return str(min(drops)) if min(drops) == max(drops) else f"{min(drops)} to {max(drops)}"

    @property
    def groups(self) -> tuple[str, ...]:
        """The owners other than the trunk, by number."""
        found = {cell.owner for cell in self.cells} - {"trunk"}
        return tuple(sorted(found, key=lambda name: (len(name), name)))


@dataclass(frozen=True)
class Inspection:
    """The graphs of a bundle.

    Attributes:
        folder: the folder of the bundle.
        shape: the shape of the inputs: batch, and length if they have one.
        layers: the number of layers, as in the manifest.
        precision: the precision, such as "fp32".
        target: the target, such as "portable".
        opset: the ONNX operator set.
        graphs: the graphs of all variants, model.onnx first.
        weights_bytes: the size of the file that all graphs share.
        read_bytes: the weights of all graphs, added up: the size of separate files.
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
        """Return the inspection as JSON types, with the sums of each graph."""
        own = asdict(self)
        for document, graph in zip(own["graphs"], self.graphs, strict=True):
            sums = ("nodes", "flops", "trunk_flops", "alone_flops", "alone_bytes")
            document.update({name: getattr(graph, name) for name in sums})
        return {**own, "folder": str(self.folder)}
