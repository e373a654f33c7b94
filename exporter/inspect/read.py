"""Reading an exported folder into an `Inspection`."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from exporter.errors import ExportError
from exporter.group_names import group_of, is_stem
from exporter.inspect.flops import Cost, node_cost, product_type
from exporter.inspect.parts import TRUNK, Parts, find_parts
from exporter.inspect.shapes import Known, concrete_values
from exporter.inspect.views import Cell, GraphView, Inspection, OperatorView, TaskView
from runtime.bundle import Manifest, VariantEntry, check_files, read_manifest
from runtime.bundle.interface import BATCH
from runtime.errors import BundleError
from runtime.hub import Access, bundle_folder
from runtime.ort.external_data import locations

# The default length, or the longest that the model takes.
_LENGTH = 128


def inspect_bundle(folder: str | os.PathLike[str], shape: Sequence[int] | None = None) -> Inspection:
    """Read the bundle in `folder` and count its operations.

    Args:
        folder: a folder that an export wrote, or its hub id.
        shape: the shape of the inputs, (batch,) or (batch, length); by default 1 x 128, or the longest that the model takes.

    Raises:
        ExportError: the folder is not a bundle, a file is damaged, or the model does not take the shape.
    """
    try:
        folder, _ = bundle_folder(folder, Access())
        manifest = read_manifest(folder)
        check_files(folder, manifest)
    except BundleError as error:
        raise ExportError(str(error)) from error
    sizes, shape = _sizes(manifest, shape)
    graphs = [
        _read_graph(Path(folder), manifest, variant, name, sizes)
        for variant in manifest.variants
        for name in (variant.model, variant.routed)
        if name
    ]
    return Inspection(
        folder=Path(folder),
        shape=shape,
        layers=manifest.layers,
        precision=manifest.precision,
        target=manifest.target,
        opset=manifest.opset,
        graphs=tuple(graphs),
        weights_bytes=_weights_bytes(Path(folder), manifest),
        read_bytes=sum(graph.bytes for graph in graphs),
        versions=manifest.versions,
    )


def count_cells(graph: ir.Graph, shape: tuple[int, int]) -> tuple[Cell, ...]:
    """Count the operations of a graph that the compiler finished.

    Args:
        graph: the graph.
        shape: batch and length of the inputs.
    """
    axes = {str(dim.value) for value in graph.inputs for dim in value.shape or () if not isinstance(dim, int)}
    known = concrete_values(graph, dict.fromkeys(axes, shape[1]) | {BATCH: shape[0]})
    return tuple(_cells(graph, find_parts(graph, {}), {node: node_cost(node, known) for node in graph}))


def _sizes(manifest: Manifest, shape: Sequence[int] | None) -> tuple[dict[str, int], tuple[int, ...]]:
    """Return the sizes of the named axes, and the shape as the user gives it."""
    axes = list(dict.fromkeys(axis for entry in manifest.inputs for axis in entry.axes if axis != BATCH))
    longest = min((manifest.max_lengths[axis] for axis in axes if axis in manifest.max_lengths), default=None)
    if shape is None:
        length = _LENGTH if longest is None else min(_LENGTH, longest)
        shape = (1, length) if axes else (1,)
    if len(shape) != (2 if axes else 1) or min(shape) < 1:
        expected = "BATCHxLENGTH, such as 1x128" if axes else "BATCH, such as 1: the inputs have no length"
        raise ExportError(f"the shape must be {expected}, found {'x'.join(map(str, shape))}")
    if axes and longest is not None and shape[1] > longest:
        raise ExportError(f"the model takes lengths up to {longest}, found {shape[1]} in the shape {shape[0]}x{shape[1]}")
    # A routed graph is counted with as many rows as there are texts.
    return {"rows": shape[0], **dict.fromkeys(axes, shape[-1]), BATCH: shape[0]}, tuple(shape)


def _read_graph(folder: Path, manifest: Manifest, variant: VariantEntry, name: str, sizes: Mapping[str, int]) -> GraphView:
    try:
        graph = ir.load(folder / name).graph
    except Exception as error:  # protobuf and onnx-ir raise many types for a file that is not a graph
        raise ExportError(f"{folder / name} cannot be read as an ONNX graph: {error}; export it again") from error
    try:
        known = concrete_values(graph, sizes)
    except KeyError as error:
        expected = ", ".join(sizes)
        raise ExportError(
            f"{folder / name}: expected inputs with the axes {expected}, found {error}; export it again"
        ) from error
    routed = name == variant.routed
    bits = {output: 1 << number for number, task in enumerate(manifest.tasks) for output in task.outputs}
    if routed:
        bits = {str(value.name): (1 << len(manifest.tasks)) - 1 for value in graph.outputs}
    parts = find_parts(graph, bits)
    costs = {node: node_cost(node, known) for node in graph}
    return GraphView(
        file=name,
        drop=variant.drop,
        routed=routed,
        levels=parts.levels,
        cells=tuple(_cells(graph, parts, costs)),
        tasks=() if routed else tuple(_tasks(graph, parts, costs, manifest, variant)),
        operators=tuple(_operators(costs)),
        products=_products(costs, known),
        uncounted=tuple(f"{node.op_type} {node.name}" for node, cost in costs.items() if cost is None),
        bytes=sum(_nbytes(value) for value in graph.initializers.values()),
        passes=() if routed else variant.passes,
    )


def _weights_bytes(folder: Path, manifest: Manifest) -> int:
    """Return the size of the weights file, which all variants share."""
    model = folder / manifest.variants[0].model
    return sum(model.with_name(name).stat().st_size for name in locations(model.read_bytes()))


def _nbytes(value: ir.Value) -> int:
    return value.const_value.nbytes if value.const_value is not None else 0


def _flops(cost: Cost | None) -> int:
    return 0 if cost is None else cost.total


def _products(costs: Mapping[ir.Node, Cost | None], known: Mapping[ir.Value, Known]) -> dict[str, int]:
    sums: dict[str, int] = defaultdict(int)
    for node, cost in costs.items():
        if cost is not None and cost.matrix:
            sums[product_type(node, known)] += cost.matrix
    return dict(sorted(sums.items()))


def _cells(graph: ir.Graph, parts: Parts, costs: Mapping[ir.Node, Cost | None]) -> Iterable[Cell]:
    sums: dict[tuple[int, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    read: set[ir.Value] = set()
    # From the input up, so that a weight counts in the lowest level that reads it.
    for node in sorted(graph, key=parts.level.__getitem__):
        row = sums[parts.level[node], parts.owner[node]]
        row[0] += 1
        row[1] += _flops(costs[node])
        for value in node.inputs:
            if value is not None and value.is_initializer() and value not in read:
                read.add(value)
                row[3 if group_of(value.name) else 2] += _nbytes(value)
    owners = sorted({owner for _, owner in sums}, key=lambda owner: (owner != TRUNK, len(owner), owner))
    for (level, owner), row in sorted(sums.items(), key=lambda item: (item[0][0], owners.index(item[0][1]))):
        yield Cell(parts.levels[level], owner, *row)


def _tasks(
    graph: ir.Graph, parts: Parts, costs: Mapping[ir.Node, Cost | None], manifest: Manifest, variant: VariantEntry
) -> Iterable[TaskView]:
    group_bits: dict[str, int] = defaultdict(int)
    groups = {}
    for number, task in enumerate(manifest.tasks):
        producers = [value.producer() for value in graph.outputs if value.name in task.outputs]
        groups[number] = next((parts.owner[node] for node in producers if node is not None), TRUNK)
        group_bits[groups[number]] |= 1 << number
    for number, task in enumerate(manifest.tasks):
        bit = 1 << number
        mates = group_bits[groups[number]]
        flops, alone = [0.0] * len(parts.levels), [0.0] * len(parts.levels)
        weights: dict[ir.Value, float] = {}
        for node in graph:
            if not parts.serves[node] & bit:
                continue
            branch = parts.owner[node] != TRUNK
            # A group's nodes compute all its tasks at once, those of a stem all tasks that they serve. A graph of only one task
            # does all the work that groups share.
            together = parts.serves[node] if is_stem(parts.owner[node]) else parts.serves[node] & mates
            share = together.bit_count() if branch else 1
            alone[parts.level[node]] += _flops(costs[node]) / share
            if branch:
                flops[parts.level[node]] += _flops(costs[node]) / parts.serves[node].bit_count()
            for value in node.inputs:
                if value is not None and value.is_initializer():
                    of_task = group_of(value.name) is not None
                    weights[value] = _nbytes(value) / (share if of_task else 1)
        yield TaskView(
            name=task.name,
            group=groups[number],
            drop=variant.tasks[task.name].drop,
            flops=tuple(round(count) for count in flops),
            bytes=round(sum(size for value, size in weights.items() if group_of(value.name))),
            alone_flops=tuple(round(count) for count in alone),
            alone_bytes=round(sum(weights.values())),
            padding_bytes=variant.tasks[task.name].padding_bytes,
            padding_operations=variant.tasks[task.name].padding_operations,
        )


def _operand(node: ir.Node) -> str:
    """Describe the operand by which a matrix product multiplies."""
    # A weight may be stored in 8 bits.
    makers = [value.producer() for value in node.inputs if value is not None]
    stored = [
        value for maker in makers if maker is not None and maker.op_type == "DequantizeLinear" for value in maker.inputs[:1]
    ]
    weights = [value for value in (*node.inputs, *stored) if value is not None and value.is_initializer()]
    if not weights:
        return "activations"
    return "task weights" if any(group_of(value.name) for value in weights) else "shared weights"


def _operators(costs: Mapping[ir.Node, Cost | None]) -> Iterable[OperatorView]:
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for node, cost in costs.items():
        name = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
        row = sums[f"{name}, {_operand(node)}" if cost is not None and cost.matrix else name]
        row[0] += 1
        row[1] += 0 if cost is None else cost.matrix
        row[2] += 0 if cost is None else cost.other
    for name, row in sorted(sums.items(), key=lambda item: (-item[1][1] - item[1][2], -item[1][0], item[0])):
        yield OperatorView(name, *row)
