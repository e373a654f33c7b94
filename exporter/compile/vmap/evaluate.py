"""Evaluation of operators that read only task weights and constants: at export, once per task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx.reference
import onnx_ir as ir

from exporter.compile.rewrite.builder import const_array
from exporter.compile.vmap.env import Env
from exporter.compile.vmap.forms import Constant

__all__ = ["evaluate"]


def evaluate(node: ir.Node, env: Env) -> list[Constant] | None:
    """Return the results of an operator for each task; None if an input depends on the graph's inputs."""
    inputs = [value for value in node.inputs if value is not None]
    if any(env.arrays(value) is None and const_array(value) is None for value in inputs):
        return None
    own = [env.arrays(value) for value in node.inputs]
    count = next(len(arrays) for arrays in own if arrays is not None)
    results = []
    for task in range(count):
        inputs_of_task = [
            const_array(value) if arrays is None else arrays[task] for value, arrays in zip(node.inputs, own, strict=True)
        ]
        results.append(_run_node(node, inputs_of_task))
    return [Constant(per_task) for per_task in zip(*results, strict=True)]


def _run_node(node: ir.Node, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """Evaluate one node by ONNX's reference implementation."""
    inputs = [
        None
        if array is None
        else ir.Value(name=f"x{i}", shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.from_numpy(array.dtype)))
        for i, array in enumerate(arrays)
    ]
    single = ir.Node(
        node.domain, node.op_type, inputs, attributes=list(node.attributes.values()), num_outputs=len(node.outputs)
    )
    for index, output in enumerate(single.outputs):
        output.name = f"y{index}"
    opset = {"": node.graph.opset_imports[""]} if node.graph is not None else {"": 20}
    graph = ir.Graph([v for v in inputs if v is not None], single.outputs, nodes=[single], opset_imports=opset, name="single")
    proto = ir.to_proto(ir.Model(graph, ir_version=10))
    feeds = {f"x{i}": array for i, array in enumerate(arrays) if array is not None}
    results = onnx.reference.ReferenceEvaluator(proto).run(None, feeds)
    return [np.asarray(result) for result in results]
