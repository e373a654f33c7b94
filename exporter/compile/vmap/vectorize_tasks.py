"""VectorizeTasks computes all tasks of one structure as one batch: a vmap over initializers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from exporter.compile.rewrite.builder import Builder, claim_names, refuse_subgraphs
from exporter.compile.vmap.env import Env
from exporter.compile.vmap.evaluate import evaluate
from exporter.compile.vmap.forms import Folded
from exporter.compile.vmap.layouts import TaskLayout
from exporter.compile.vmap.loop import compute_branch, fold, replace_branch, template_problems, weight_rule
from exporter.compile.vmap.per_task import TaskSplit
from exporter.compile.vmap.stem_rows import StemRows, joint_output, rows_of_stem, stem_output
from exporter.compile.vmap.stems import STEM
from exporter.compile.vmap.weight_rules import Stacks
from runtime.bundle import output_names

__all__ = ["VectorizeTasksPass"]


class VectorizeTasksPass(ir.passes.InPlacePass):
    """Turns the graph of one task (the template) into the graph of T tasks of the same structure.

    Everything that no task weight reaches is the trunk and stays as it is. The rest is the branch, and its values take one of
    four forms, in order of preference:

    1. Constant: computed from task weights and constants only. Evaluated here, once per task.
    2. Folded: the task axis is folded into the batch axis, task-major: [batch, ...] becomes [T x batch, ...]. An operator that
       treats the rows of a batch one by one runs unchanged at the larger batch. Trunk values that enter are tiled once, and
       shape arithmetic that depends on the batch is computed again from T x batch.
    3. Stacked: the same numbers as [T, rows, features], for operators with task weights: MatMul, Gemm, LayerNormalization and
       broadcasting arithmetic. Folded and stacked values are made from each other on demand, so that a chain of operators with
       task weights has no Reshape inside.
    4. PerTask: one value per task. Where an operator has no rule above, or the tasks' weights differ in shape (heads with
       different label counts), each task is computed by itself: slower, never wrong.

    Each output of the template becomes one output per task, named by `output_names`; names of the branch begin with "<group>/".
    With a single task there is nothing to vectorise: the template is its graph already.

    Groups with equal adapters and different heads have a common beginning, their stem:

    5. The stem is a group of all their tasks. It has one output, the folded value "<group>/stem".
    6. The rest of each group has this value as an input, of which it takes the rows of its tasks.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        weights: Mapping[str, Sequence[np.ndarray]],
        group: str,
        batch: str,
        is_stem: bool = False,
        stem: StemRows | None = None,
    ) -> None:
        """Bind tasks to the template.

        Args:
            tasks: the names of the T tasks.
            weights: initializer name in the template -> T arrays, one per task.
            group: the first part of all names in the branch.
            batch: the name of the batch axis.
            is_stem: whether the template is a stem (rule 5).
            stem: the rows of the tasks in the template's input `STEM` (rule 6); None for a whole branch.
        """
        super().__init__()
        self.tasks = tuple(tasks)
        self.weights = dict(weights)
        self.group = group
        self.batch = batch
        self.is_stem = is_stem
        self.stem = stem

    def requires(self, model: ir.Model) -> None:
        """Check tasks and weights."""
        graph = model.graph
        refuse_subgraphs(self, model)
        problems = template_problems(graph, self.tasks, self.weights)
        names = [value.name for value in graph.inputs]
        if self.stem is not None and names[-1:] != [STEM]:
            problems.append(f"expected {STEM!r} as the last input, found {names}")
        inputs = names if self.stem is None else names[:-1]
        if len(set(self.tasks)) != len(self.tasks) or set(self.tasks) & set(inputs):
            problems.append(f"the tasks {', '.join(self.tasks)} are not distinct names other than the inputs'")
        if self.is_stem and (len(self.tasks) < 2 or len(graph.outputs) != 1):
            problems.append(
                f"expected a stem of several tasks with one output, found {len(self.tasks)} and {len(graph.outputs)}"
            )
        if problems:
            raise ir.passes.PreconditionError(f"{type(self).__name__}: {'; '.join(problems)}")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Compute the branch for all tasks; with a single task, only rename it."""
        if len(self.tasks) == 1:
            self._name_branch(model.graph)
        else:
            _vectorize(model.graph, self)
        return ir.passes.PassResult(model, modified=True)

    def _name_branch(self, graph: ir.Graph) -> None:
        names = output_names(self.tasks[0], _fields(graph))
        # A dictionary: a set would rename, and thereby store, the weights in another order at every run.
        branch = {value: None for name, value in graph.initializers.items() if name in self.weights}
        if self.stem is not None:
            build = Builder(graph, f"{self.group}/")
            own, rows = rows_of_stem(graph, build, self.stem, 1, self.batch)
            own.replace_all_uses_with(rows)
            graph.insert_before(graph[0], build.take())
            branch[rows] = None
        for node in graph:
            if any(value in branch for value in node.inputs):
                branch.update(dict.fromkeys(node.outputs))
        for value in branch:
            if not str(value.name).startswith(f"{self.group}/"):
                value.name = f"{self.group}/{value.name}"
        claim_names(graph, names)
        for value, name in zip(graph.outputs, names, strict=True):
            value.name = name


def _fields(graph: ir.Graph) -> list[str]:
    return [str(value.name) for value in graph.outputs]


def _vectorize(graph: ir.Graph, settings: VectorizeTasksPass) -> None:
    build, tasks = Builder(graph, f"{settings.group}/"), settings.tasks
    env = Env(graph, build, TaskLayout(build, len(tasks)), settings.weights, settings.batch)
    if settings.stem is not None:
        own, rows = rows_of_stem(graph, build, settings.stem, len(tasks), settings.batch)
        env.bind(own, Folded(rows))
    stacks, split = Stacks(env), TaskSplit(env, tasks)
    branch = compute_branch(
        graph,
        env,
        (
            lambda node: evaluate(node, env),
            # If an input has one value per task, the tasks can share nothing.
            lambda node: split.split(node) if any(map(env.is_split, node.inputs)) else None,
            lambda node: weight_rule(node, env, stacks),
            lambda node: fold(node, env),
            split.split,
        ),
    )
    fields = _fields(graph)
    if settings.is_stem:
        (output,) = graph.outputs
        graph.outputs[:] = [joint_output(output, env, split)]
        replace_branch(graph, env, branch)
        claim_names(graph, [stem_output(settings.group)])
        graph.outputs[0].name = stem_output(settings.group)
        return
    outputs = [_bound(output, tasks, split) for output in graph.outputs]
    graph.outputs.clear()
    for bound in zip(*outputs, strict=True):
        graph.outputs.extend(bound)
    replace_branch(graph, env, branch)
    names = [name for task in tasks for name in output_names(task, fields)]
    claim_names(graph, names)
    for name, value in zip(names, graph.outputs, strict=True):
        value.name = name


def _bound(output: ir.Value, tasks: Sequence[str], split: TaskSplit) -> list[ir.Value]:
    """Return a separate value for each task, made by an Identity that clean-up removes where it can."""
    bound = []
    for task, value in zip(tasks, split.per_task(output), strict=True):
        shape = value.shape if value.shape is not None else ir.Shape([None] * len(output.shape or ()))
        hint = f"{task}_{output.name}"
        bound.append(split.build.node("Identity", [value], shape=shape, dtype=output.dtype, hint=hint))
    return bound
