"""An inspection as tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from exporter.inspect import numbers as _numbers
from exporter.inspect.views import GraphView, Inspection
from runtime.bundle import PassRow
from runtime.printable import printable

# Further operators are added up: their share is small.
_OPERATORS = 8


def print_inspection(inspection: Inspection, graph: GraphView, console: Console) -> None:
    """Print all graphs of the bundle in a few lines, and `graph`, one of them, in detail."""
    shape = "x".join(map(str, inspection.shape))
    folder = printable(str(inspection.folder))
    console.print(
        f"{folder}: {inspection.precision}, target {inspection.target}, opset {inspection.opset}; exported with "
        + ", ".join(f"{name} {inspection.versions[name]}" for name in ("torch", "adapters") if name in inspection.versions),
        soft_wrap=True,
        markup=False,
    )
    console.print(_graph_table(inspection, shape))
    stored = f"stored once: {_numbers.size(inspection.weights_bytes)} of weights"
    if len(inspection.graphs) > 1:
        stored += f"; the {len(inspection.graphs)} graphs would take {_numbers.size(inspection.read_bytes)} separately"
    if graph.alone_bytes:
        stored += (
            f"; a file per task of {graph.file} would take {_numbers.size(graph.alone_bytes)}, "
            f"{_numbers.times(graph.alone_bytes, graph.bytes)} times as much as its {_numbers.size(graph.bytes)}"
        )
    console.print(stored, soft_wrap=True, markup=False)
    console.print(_level_table(graph, shape))
    if (named := len(graph.levels) - 2) < inspection.layers:
        console.print(
            f"the names of the weights distinguish {named} of {inspection.layers} layers: layers that share their weights, or "
            "whose weights have no names, stand in one row",
            soft_wrap=True,
        )
    if graph.routed and len(graph.groups) > 1:
        console.print("each group is counted as if all rows selected its tasks: a row runs only the branch of its group")
    if graph.tasks:
        console.print(_task_table(graph))
        console.print(_model(graph), soft_wrap=True, markup=False)
    console.print(_operator_table(graph))
    if graph.uncounted:
        names = ", ".join(graph.uncounted[:5])
        console.print(
            f"not counted, because their shapes are unknown: {len(graph.uncounted)} nodes ({names}, …)", soft_wrap=True
        )
    if graph.passes:
        console.print(_pass_table(graph.passes))


def _table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, justify="right")
    return table


def _graph_table(inspection: Inspection, shape: str) -> Table:
    table = _table(f"graphs, at {shape}", ("graph",), ("drop", "nodes", "computed", "in the trunk", "weights"))
    for graph in inspection.graphs:
        table.add_row(
            graph.file,
            str(graph.drop),
            str(graph.nodes),
            _numbers.flops(graph.flops),
            _numbers.share(graph.trunk_flops, graph.flops),
            _numbers.size(graph.bytes),
        )
    return table


def _level_table(graph: GraphView, shape: str) -> Table:
    owners = ("trunk", *graph.groups)
    counts = {owner: sum(task.group == owner for task in graph.tasks) for owner in graph.groups}
    headers = [owner if not counts.get(owner) else f"{owner} ({counts[owner]})" for owner in owners]
    right = (*headers, "shared weights", "task weights")
    table = _table(f"{graph.file}: operations and weights from the heads down to the input, at {shape}", ("part",), right)
    for level in reversed(graph.levels):
        cells = {cell.owner: cell for cell in graph.cells if cell.level == level}
        flops = [_numbers.flops(cells[owner].flops) if owner in cells else "" for owner in owners]
        sizes = (sum(cell.shared_bytes for cell in cells.values()), sum(cell.task_bytes for cell in cells.values()))
        table.add_row(level, *flops, *(_numbers.size(count) if count else "" for count in sizes))
    table.add_section()
    sums = [_numbers.flops(sum(cell.flops for cell in graph.cells if cell.owner == owner)) for owner in owners]
    sizes = (sum(cell.shared_bytes for cell in graph.cells), sum(cell.task_bytes for cell in graph.cells))
    table.add_row("sum", *sums, *map(_numbers.size, sizes))
    return table


def _task_table(graph: GraphView) -> Table:
    is_padded = any(task.padding_bytes for task in graph.tasks)
    table = _table(
        "what each task adds, and a graph of only that task",
        ("task", "group"),
        ("drop", "adds", "share", "weights", "single graph", *(["zeros"] if is_padded else [])),
    )
    for task in graph.tasks:
        zeros = f"{_numbers.size(task.padding_bytes)}, + {100 * task.padding_operations:.1f} %" if task.padding_bytes else ""
        table.add_row(
            printable(task.name),
            task.group,
            str(task.drop),
            _numbers.flops(sum(task.flops)),
            _numbers.share(sum(task.flops), graph.flops),
            _numbers.size(task.bytes),
            _numbers.flops(sum(task.alone_flops)),
            *([zeros] if is_padded else []),
        )
    return table


def _model(graph: GraphView) -> str:
    """Describe the cost as trunk + tasks x branch."""
    terms = [f"{_numbers.flops(graph.trunk_flops)} (trunk, once)"]
    for group in graph.groups:
        tasks = [task for task in graph.tasks if task.group == group]
        total = sum(sum(task.flops) for task in tasks)
        if tasks:
            terms.append(f"{len(tasks)} x {_numbers.flops(total / len(tasks))} ({group})")
    ratio = _numbers.times(graph.alone_flops, graph.flops)
    return (
        f"{_numbers.flops(graph.flops)} = {' + '.join(terms)}; a graph per task, each run once, takes "
        f"{_numbers.flops(graph.alone_flops)}, {ratio} times as much"
    )


def _operator_table(graph: GraphView) -> Table:
    table = _table(
        "operations by operator; matrix products exact, rest estimated", ("operator",), ("nodes", "operations", "share")
    )
    for operator in graph.operators[:_OPERATORS]:
        share = _numbers.share(operator.flops, graph.flops)
        table.add_row(operator.name, str(operator.nodes), _numbers.flops(operator.flops), share)
    if others := graph.operators[_OPERATORS:]:
        flops = sum(operator.flops for operator in others)
        nodes = sum(operator.nodes for operator in others)
        table.add_row(f"{len(others)} others", str(nodes), _numbers.flops(flops), _numbers.share(flops, graph.flops))
    return table


def _pass_table(rows: Sequence[PassRow]) -> Table:
    """Return the nodes that each pass added or removed, graph by graph; a pass that runs several times is one row."""
    graphs = list(dict.fromkeys(row.graph for row in rows))
    nodes: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    weights: dict[str, int] = defaultdict(int)
    for row in rows:
        nodes[row.name][row.graph] += row.nodes_after - row.nodes_before
        weights[row.name] += row.bytes_after - row.bytes_before
    right = (*("joined" if graph == "all" else graph for graph in graphs), "weights")
    table = _table("nodes that each pass of the compiler added or removed", ("pass",), right)
    for name, changes in nodes.items():
        if any(changes.values()) or weights[name]:
            change = ("-" if weights[name] < 0 else "+") + _numbers.size(abs(weights[name])) if weights[name] else ""
            table.add_row(name, *(f"{changes[graph]:+d}" if changes[graph] else "" for graph in graphs), change)
    return table
