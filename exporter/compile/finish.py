"""The last step of the compiler: names and order of the outputs, and nothing that holds for the trace only."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import onnx_ir.passes.common as common

from exporter.plan import Plan
from runtime.bundle import FIRST_TASKS


def finish(graph: ir.Model, plan: Plan) -> None:
    """Rename and sort the outputs, and remove metadata of the trace, in place."""
    names = plan.outputs
    by_name = {value.name: value for value in graph.graph.outputs}
    ordered = [(by_name[old], new) for task in plan.tasks for old, new in zip(task.outputs, names[task.name], strict=True)]
    graph.graph.outputs.clear()
    graph.graph.outputs.extend(value for value, _ in ordered)
    for value, name in ordered:
        value.name = name
    strip(graph)


def write_first_tasks(graph: ir.Model, first_tasks: Sequence[int]) -> None:
    """Store the number of one task of each group in the metadata of a routed graph, in place.

    The runtime adds a row of each for providers that cannot compute a group without rows. A single group always has rows.
    """
    if len(first_tasks) > 1:
        graph.metadata_props[FIRST_TASKS] = " ".join(map(str, first_tasks))


def strip(graph: ir.Model) -> None:
    """Remove metadata and shapes that are only valid for the trace, in place."""
    # torch stores stack traces with local paths.
    common.ClearMetadataAndDocStringPass()(graph)
    for node in graph.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                # ONNX Runtime reuses buffers based on these shapes. Passes can invalidate them; ONNX Runtime infers them again.
                value.shape = None
    graph.graph.name = "adapterdrop"
    graph.producer_name, graph.producer_version = "adapterdrop-onnx", None
    common.NameFixPass()(graph)
