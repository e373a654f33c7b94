"""Walks a template's graph from its task weights on and computes the branch for all tasks at once, where a rule allows it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
import onnx.reference
import onnx_ir as ir

from exporter.compile.rewrite.builder import Builder, const_array
from exporter.compile.vmap.layouts import Layout
from exporter.compile.vmap.task_flat import TaskFlat
from exporter.compile.vmap.task_fold import TaskFold

__all__ = ["TaskWalk", "template_problems"]


def template_problems(graph: ir.Graph, tasks: Sequence[str], weights: Mapping[str, Sequence[np.ndarray]]) -> list[str]:
    """What is wrong with tasks and weights that are to be bound to the template."""
    problems = []
    if not graph.outputs:
        problems.append("the template has no output")
    for name, arrays in weights.items():
        if len(arrays) != len(tasks):
            problems.append(f"expected {len(tasks)} arrays for {name}, found {len(arrays)}")
        template = const_array(graph.initializers.get(name))
        if template is not None and any(a.dtype != template.dtype or a.ndim != template.ndim for a in arrays):
            problems.append(f"{name} differs from the template in type or rank")
    return problems


class TaskWalk(ABC):
    """One run over one graph. Values of the branch take a form of the first three that `VectorizeTasksPass` lists; what else
    there is decides the subclass.

    Attributes:
        weights: initializer, or value computed from initializers and constants alone -> one array per task.
    """

    def __init__(
        self, graph: ir.Graph, build: Builder, layout: Layout, weights: Mapping[ir.Value, Sequence[np.ndarray]], batch: str
    ) -> None:
        self.graph = graph
        self.build = build
        self.weights = dict(weights)
        self.fold = TaskFold(graph, build, layout, batch)
        self.flat = TaskFlat(build, self.fold, layout, self.weights, batch)

    def walk(self) -> list[ir.Node]:
        """Computes the branch; returns the template's own nodes of it, which are then superfluous."""
        branch = []
        for node in self.graph:
            if any(self.in_branch(value) for value in node.inputs):
                branch.append(node)
                self._visit(node)
        return branch

    def replace(self, branch: Sequence[ir.Node]) -> None:
        """Puts what was built in the place of the template's branch, whose outputs are no outputs of the graph any more."""
        self.graph.remove(reversed(branch), safe=True)
        self.graph.extend(self.build.take())
        for value in self.weights:
            if value.is_initializer() and not value.uses():
                del self.graph.initializers[str(value.name)]

    def in_branch(self, value: ir.Value | None) -> bool:
        return value is not None and any(value in form for form in (self.weights, self.fold.branch, self.flat.values))

    @abstractmethod
    def alone(self, node: ir.Node) -> bool:
        """Whether the node takes no form that all tasks share, because one of its inputs does not."""

    @abstractmethod
    def otherwise(self, node: ir.Node) -> None:
        """Computes a node for which there is no rule."""

    def reads_weights(self, node: ir.Node) -> bool:
        """Computes a node that reads task weights for all tasks at once. False: there is no way, and nothing was done."""
        return self.flat.rule(node)

    def _visit(self, node: ir.Node) -> None:
        inputs = [value for value in node.inputs if value is not None]
        if all(value in self.weights or const_array(value) is not None for value in inputs):
            self._evaluate(node)
        elif self.alone(node) or not self._vectorized(node):
            self.otherwise(node)

    # Form 1

    def _evaluate(self, node: ir.Node) -> None:
        count = len(next(self.weights[value] for value in node.inputs if value in self.weights))
        results = []
        for task in range(count):
            arrays = [
                None if v is None else self.weights[v][task] if v in self.weights else const_array(v) for v in node.inputs
            ]
            results.append(_run_node(node, arrays))
        for index, output in enumerate(node.outputs):
            self.weights[output] = [result[index] for result in results]

    # Forms 2 and 3

    def _vectorized(self, node: ir.Node) -> bool:
        """Computes the node for all tasks at once, if there is a way."""
        if any(value in self.weights for value in node.inputs):
            return self.reads_weights(node)
        return self.flat.elementwise(node) or self.folded(node, {})

    def folded(self, node: ir.Node, given: Mapping[ir.Value, ir.Value]) -> bool:
        """The template's own operator on folded inputs; `given` holds those of its task weights."""
        if not self.fold.keeps_tasks_apart(node) or any(value in self.flat.widths for value in node.inputs):
            return False
        inputs = [
            None if value is None else given[value] if value in given else self.flat.folded(value) for value in node.inputs
        ]
        shapes = [self.fold.folded_shape(output) for output in node.outputs]
        self.fold.branch.update(zip(node.outputs, self.build.clone(node, inputs, shapes, ""), strict=True))
        return True


def _run_node(node: ir.Node, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """Evaluates one node by ONNX's reference implementation."""
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
