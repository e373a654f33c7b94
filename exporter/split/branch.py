"""The part of a graph that depends on a task."""

from __future__ import annotations

import onnx_ir as ir

from exporter.group_names import group_of
from runtime.bundle import ROUTE_INPUTS

__all__ = ["branch_nodes"]


def branch_nodes(graph: ir.Graph) -> dict[ir.Node, None]:
    """Return the nodes that depend on the weights of a task or, in a routed graph, on the choice of rows, in order.

    The weights of a graph with slots are inputs.
    """
    values: set[ir.Value] = {value for name, value in graph.initializers.items() if group_of(name) is not None}
    values |= {value for value in graph.inputs if value.name in ROUTE_INPUTS or group_of(value.name) is not None}
    found: dict[ir.Node, None] = {}
    for node in graph:
        if any(value in values for value in node.inputs):
            found[node] = None
            values.update(node.outputs)
    return found
