"""One value per task: the form of last resort, for operators that no rule computes for all tasks at once."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from exporter.compile.rewrite.axes import BINARY, UNARY
from exporter.compile.rewrite.builder import known_shape
from exporter.compile.vmap.env import Env
from exporter.compile.vmap.forms import PerTask

__all__ = ["TaskSplit"]


class TaskSplit:
    """Splits values and computes operators task by task: slower, never wrong."""

    def __init__(self, env: Env, tasks: Sequence[str]) -> None:
        """Set the environment and the names of its tasks."""
        self._env = env
        self.build = env.build
        self._tasks = tuple(tasks)

    def split(self, node: ir.Node) -> list[PerTask]:
        """Run the operator once per task."""
        inputs = [None if value is None else self.per_task(value) for value in node.inputs]
        results = []
        for task, name in enumerate(self._tasks):
            chosen = [None if values is None else values[task] for values in inputs]
            shapes = [self._shape(output, node, task) for output in node.outputs]
            results.append(self._env.build.clone(node, chosen, shapes, f".{name}"))
        return [PerTask(values) for values in zip(*results, strict=True)]

    def per_task(self, value: ir.Value) -> Sequence[ir.Value]:
        """Return the value of each task."""
        if (held := self._env.held(value, PerTask)) is None:
            held = PerTask(self._part(value))
            self._env.keep(value, held)
        return held.values

    def _part(self, value: ir.Value) -> Sequence[ir.Value]:
        env, count = self._env, len(self._tasks)
        arrays = env.arrays(value)
        if arrays is not None:
            return [env.build.initializer(a, f"{value.name}.{task}") for a, task in zip(arrays, self._tasks, strict=True)]
        if value not in env:
            return [value] * count
        axis, node = env.batch.axis(value), value.producer()
        if axis is None:
            # Without a batch axis (lengths) there is nothing to split: the operator is computed per task instead.
            assert node is not None  # of the inputs of the branch, only weights have no producer
            return self.split(node)[list(node.outputs).index(value)].values
        return env.build.nodes(
            "Split",
            [env.folded(value)],
            attributes={"axis": axis, "num_outputs": count},
            shapes=[value.shape] * count,
            dtypes=[value.dtype] * count,
            hints=[f"{value.name}.{task}" for task in self._tasks],
        )

    def _shape(self, output: ir.Value, node: ir.Node, task: int) -> ir.Shape | None:
        """Return the shape of one task's value if it is certain; tasks may differ in label counts."""
        own = [arrays for value in node.inputs if (arrays := self._env.arrays(value)) is not None]
        held = {value: self._env.held(value, PerTask) for value in node.inputs if value in self._env}
        split = {value: form for value, form in held.items() if form is not None and self._env.arrays(value) is None}
        alike = all(len({array.shape for array in arrays}) == 1 for arrays in own)
        if alike and all(known_shape(form.values[task]) == known_shape(value) for value, form in split.items()):
            return output.shape
        if node.domain != "" or output.shape is None:
            return None
        if node.op_type in ("Gemm", "MatMul") and (matrices := self._env.arrays(node.inputs[1])) is not None:
            shape = matrices[task].shape
            columns = shape[-1] if node.attributes.get_int("transB", 0) == 0 else shape[0]
            return ir.Shape([*list(output.shape)[:-1], columns]) if len(shape) == 2 else None
        first = node.inputs[0]
        if node.op_type in UNARY or (node.op_type in BINARY and known_shape(output) == known_shape(first)):
            # The first operand's shape is the result's: other operands broadcast into it.
            return split[first].values[task].shape if first in split else None
        return None
