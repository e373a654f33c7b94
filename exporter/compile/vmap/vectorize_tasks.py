"""Computes all tasks of one structure as one batch: a vmap over initializers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from exporter.compile.rewrite.builder import Builder, claim_names, known_shape, refuse_subgraphs
from exporter.compile.rewrite.operators import BINARY, UNARY
from exporter.compile.vmap.layouts import TaskLayout, batch_axis
from exporter.compile.vmap.task_walk import TaskWalk, template_problems
from runtime.bundle import output_names

__all__ = ["VectorizeTasksPass"]


class VectorizeTasksPass(ir.passes.InPlacePass):
    """Turns the graph of one task (the template) into the graph of T tasks of the same structure.

    Everything that no task weight reaches is the trunk and stays as it is. The rest is the branch, and its values take one of
    four forms, in order of preference:

    1. weights: computed from task weights and constants alone. Evaluated here, once per task.
    2. folded: the task axis is folded into the batch axis, task-major: [batch, ...] becomes [T x batch, ...]. A folded
       operator is the template's own, run at another batch size: trunk values that enter are tiled once, and shape arithmetic
       that depends on the batch is derived again from T x batch.
    3. flat: the same numbers as [T, rows, features], for operators with task weights: MatMul, Gemm, LayerNormalization and
       broadcasting arithmetic. Folded and flat are made from each other on demand, so that a chain of flat operators has no
       Reshape inside.
    4. split: one value per task. Where an operator has no rule above, or the tasks' weights differ in shape (heads with other
       label counts), each task goes on alone: slower, never wrong.

    Each output of the template becomes one output per task, called as `output_names` says; names of the branch begin with
    "<group>/". With a single task there is nothing to vectorise: the template is its graph already.
    """

    def __init__(self, tasks: Sequence[str], weights: Mapping[str, Sequence[np.ndarray]], group: str, batch: str) -> None:
        """
        Args:
            tasks: the T names.
            weights: initializer name in the template -> T arrays, one per task.
            group: the first part of the branch's names.
            batch: the batch axis's name.
        """
        super().__init__()
        self.tasks = tuple(tasks)
        self.weights = dict(weights)
        self.group = group
        self.batch = batch

    def requires(self, model: ir.Model) -> None:
        graph = model.graph
        refuse_subgraphs(self, model)
        problems = template_problems(graph, self.tasks, self.weights)
        if len(set(self.tasks)) != len(self.tasks) or set(self.tasks) & {value.name for value in graph.inputs}:
            problems.append(f"the tasks {', '.join(self.tasks)} are not distinct names other than the inputs'")
        if problems:
            raise ir.passes.PreconditionError(f"{type(self).__name__}: {'; '.join(problems)}")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        if len(self.tasks) == 1:
            self._name_branch(model.graph)
        else:
            _Vectorizer(model.graph, self).run()
        return ir.passes.PassResult(model, modified=True)

    def _name_branch(self, graph: ir.Graph) -> None:
        names = output_names(self.tasks[0], _fields(graph))
        # A dictionary: a set would rename, and thereby store, the weights in an order of its own at every run.
        branch = {value: None for name, value in graph.initializers.items() if name in self.weights}
        for node in graph:
            if any(value in branch for value in node.inputs):
                branch.update(dict.fromkeys(node.outputs))
        for value in branch:
            value.name = f"{self.group}/{value.name}"
        claim_names(graph, names)
        for value, name in zip(graph.outputs, names, strict=True):
            value.name = name


def _fields(graph: ir.Graph) -> list[str]:
    return [str(value.name) for value in graph.outputs]


class _Vectorizer(TaskWalk):
    """One run of the pass over one graph."""

    def __init__(self, graph: ir.Graph, settings: VectorizeTasksPass) -> None:
        weights = {graph.initializers[name]: arrays for name, arrays in settings.weights.items() if name in graph.initializers}
        build = Builder(graph, f"{settings.group}/")
        super().__init__(graph, build, TaskLayout(build, len(settings.tasks)), weights, settings.batch)
        self.tasks = settings.tasks
        self.batch = settings.batch
        self.split: dict[ir.Value, list[ir.Value]] = {}
        self._singles: dict[ir.Value, list[ir.Value]] = {}

    def run(self) -> None:
        branch = self.walk()
        fields = _fields(self.graph)
        outputs = [self._bind_output(value) for value in self.graph.outputs]
        self.graph.outputs.clear()
        for bound in zip(*outputs, strict=True):
            self.graph.outputs.extend(bound)
        self.replace(branch)
        names = [name for task in self.tasks for name in output_names(task, fields)]
        claim_names(self.graph, names)
        for name, value in zip(names, self.graph.outputs, strict=True):
            value.name = name

    def _bind_output(self, output: ir.Value) -> list[ir.Value]:
        """A value of its own per task."""
        bound = []
        for task, value in zip(self.tasks, self._per_task(output), strict=True):
            # An Identity has a name of its own even where one value answers two tasks; clean-up removes it elsewhere.
            rank = len(output.shape or ())
            shape = value.shape if value.shape is not None else ir.Shape([None] * rank)
            hint = f"{task}_{output.name}"
            bound.append(self.build.node("Identity", [value], shape=shape, dtype=output.dtype, hint=hint))
        return bound

    def in_branch(self, value: ir.Value | None) -> bool:
        return value in self.split or super().in_branch(value)

    # Form 4

    def alone(self, node: ir.Node) -> bool:
        return any(value in self.split for value in node.inputs)

    def otherwise(self, node: ir.Node) -> None:
        self.split.update(zip(node.outputs, self._split_node(node), strict=True))

    def _split_node(self, node: ir.Node) -> list[list[ir.Value]]:
        """The node once per task: for each of its outputs, the values of the tasks."""
        inputs = [None if value is None else self._per_task(value) for value in node.inputs]
        results = []
        for task, name in enumerate(self.tasks):
            chosen = [None if values is None else values[task] for values in inputs]
            shapes = [self._split_shape(output, node, task) for output in node.outputs]
            results.append(self.build.clone(node, chosen, shapes, f".{name}"))
        return [list(values) for values in zip(*results, strict=True)]

    def _split_shape(self, output: ir.Value, node: ir.Node, task: int) -> ir.Shape | None:
        """The shape of one task's own value, where it is certain: tasks may differ in label counts."""
        own = [self.weights[value] for value in node.inputs if value in self.weights]
        split = [value for value in node.inputs if value in self.split]
        alike = all(len({array.shape for array in arrays}) == 1 for arrays in own)
        if alike and all(known_shape(self.split[value][task]) == known_shape(value) for value in split):
            return output.shape
        if node.domain != "" or output.shape is None:
            return None
        if node.op_type in ("Gemm", "MatMul") and node.inputs[1] in self.weights:
            shape = self.weights[node.inputs[1]][task].shape
            columns = shape[-1] if node.attributes.get_int("transB", 0) == 0 else shape[0]
            return ir.Shape([*list(output.shape)[:-1], columns]) if len(shape) == 2 else None
        if node.op_type in UNARY or (node.op_type in BINARY and known_shape(output) == known_shape(node.inputs[0])):
            # The first operand's shape is the result's: other operands broadcast into it.
            first = node.inputs[0]
            return self.split[first][task].shape if first in self.split else None
        return None

    def _per_task(self, value: ir.Value) -> list[ir.Value]:
        """The value of each task by itself."""
        if value in self.split:
            return self.split[value]
        if value not in self._singles:
            self._singles[value] = self._unbind(value)
        return self._singles[value]

    def _unbind(self, value: ir.Value) -> list[ir.Value]:
        count = len(self.tasks)
        if value in self.weights:
            arrays = self.weights[value]
            return [self.build.initializer(a, f"{value.name}.{task}") for a, task in zip(arrays, self.tasks, strict=True)]
        if not self.in_branch(value):
            return [value] * count
        folded = self.flat.folded(value)
        axis = batch_axis(value, self.batch)
        node = value.producer()
        if axis is None and node is not None:
            # Nothing to cut (a shape, say): computed again from what can be.
            return self._split_node(node)[list(node.outputs).index(value)]
        if axis is None:
            raise ir.passes.PassError(f"VectorizeTasksPass: {value.name!r} of shape {value.shape} has no batch axis to cut")
        parts = self.build.nodes(
            "Split",
            [folded],
            attributes={"axis": axis, "num_outputs": count},
            shapes=[value.shape] * count,
            dtypes=[value.dtype] * count,
            hints=[f"{value.name}.{task}" for task in self.tasks],
        )
        return list(parts)
