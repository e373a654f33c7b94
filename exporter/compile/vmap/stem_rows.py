"""The value between a stem and the rest of its groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from exporter.compile.rewrite.builder import Builder
from exporter.compile.vmap.env import Env
from exporter.compile.vmap.per_task import TaskSplit
from exporter.compile.vmap.stems import STEM

__all__ = ["StemRows", "joint_output", "rows_of_stem", "stem_output"]


@dataclass(frozen=True)
class StemRows:
    """Where the tasks of a group are in the output of its stem.

    Attributes:
        name: name of this output: [tasks x batch, ...], task-major; in a routed graph [rows of these tasks, ...].
        first: number of the group's first task there.
        tasks: names of all tasks of the stem.
    """

    name: str
    first: int
    tasks: tuple[str, ...]


def stem_output(group: str) -> str:
    """Return the name of the output of a stem."""
    return f"{group}/{STEM}"


def joint_output(output: ir.Value, env: Env, split: TaskSplit) -> ir.Value:
    """Return the output of a stem for all tasks, [tasks x batch, ...]."""
    if env.can_fold(output):
        # The Identity gives the output a separate name; clean-up removes it.
        folded = env.folded(output)
        return env.build.node("Identity", [folded], shape=folded.shape, dtype=output.dtype)
    parts = split.per_task(output)
    return env.build.node("Concat", parts, attributes={"axis": 0}, shape=env.folded_shape(output), dtype=output.dtype)


def rows_of_stem(graph: ir.Graph, build: Builder, stem: StemRows, tasks: int, batch: str) -> tuple[ir.Value, ir.Value]:
    """Give a group the rows of its tasks in the output of a stem.

    Args:
        graph: the graph of the group. Its last input is `STEM`, of one task; afterwards it is that of all tasks of the stem.
        build: makes the nodes.
        stem: where the tasks are.
        tasks: number of tasks of the group.
        batch: the name of the batch axis.

    Returns:
        The input of one task, which is no longer one, and the rows of all tasks of the group, [tasks x batch, ...].
    """
    own = graph.inputs[-1]
    dims = list(own.shape or ())
    assert isinstance(dims[0], ir.SymbolicDim)  # groups are divided at a value with the batch first
    whole = ir.Value(name=stem.name, shape=ir.Shape([dims[0] * len(stem.tasks), *dims[1:]]), type=own.type)
    graph.inputs[-1] = whole
    shape = ir.Shape([dims[0] * tasks if tasks > 1 else dims[0], *dims[1:]])
    bounds = [_row(graph, build, number, batch) for number in (stem.first, stem.first + tasks)]
    if stem.first + tasks == len(stem.tasks):
        bounds[1] = build.ints([np.iinfo(np.int64).max])
    rows = build.node("Slice", [whole, *bounds, build.ints([0])], shape=shape, dtype=own.dtype, hint="own_tasks")
    return own, rows


def _row(graph: ir.Graph, build: Builder, task: int, batch: str) -> ir.Value:
    """Return the first row of a task, [1]."""
    if task == 0:
        return build.ints([0])
    places = ((value, axis) for value in graph.inputs for axis, dim in enumerate(value.shape or ()) if str(dim) == batch)
    value, axis = next(places)  # every model has such an input
    int64, one = ir.DataType.INT64, ir.Shape([1])
    length = build.node("Shape", [value], attributes={"start": axis, "end": axis + 1}, shape=one, dtype=int64)
    return build.node("Mul", [length, build.ints([task])], shape=one, dtype=int64)
