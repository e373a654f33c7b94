"""Computes rows, each of an input row and a task of its own choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from exporter.compile.rewrite.builder import Builder, claim_names, known_shape, refuse_subgraphs
from exporter.compile.rewrite.operators import BINARY
from exporter.compile.vmap.layouts import RowLayout, batch_axis
from exporter.compile.vmap.task_walk import TaskWalk, template_problems
from runtime.bundle import ROUTE_INPUTS

__all__ = ["RouteTasksPass"]

_ROWS = "rows"
# Operators whose operands broadcast against each other; a task weight may then vary along any axis but the batch's.
_BROADCASTING = BINARY | {"Expand", "PRelu", "Where"}


class RouteTasksPass(ir.passes.InPlacePass):
    """Turns the graph of one task (the template) into a graph whose rows choose their task: a vmap over initializers and rows.

    The graph gets two inputs, `row_ids` and `task_ids`, int64 [rows]: row i is row row_ids[i] of the other inputs, answered by
    task task_ids[i] of all tasks. The trunk is computed once per input row; trunk values that enter the branch are gathered by
    row_ids, and stacks of task weights by task_ids. Branch values take the forms 1 to 3 of `VectorizeTasksPass`, with rows in
    the place of tasks x batch; there is no form 4, and what has no rule is refused.

    1. Outputs: "<group>/logits" [rows of the group, most labels of the group] and "<group>/places" [rows of the group], where
       those rows stand among all rows.
    2. Columns beyond a task's labels are minus infinity: softmax and sigmoid give them probability 0, and argmax never takes
       them.
    3. A group that does not have all tasks first selects its rows, of which there may be none. With `every_row` it answers all
       rows instead, those of other groups as its first task, and their place is one beyond the last: how many rows a group has
       is then no question that the run answers, which TensorRT does not support.
    4. The weights of a single task are used as they are.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        weights: Mapping[str, Sequence[np.ndarray]],
        group: str,
        batch: str,
        numbers: Sequence[int],
        total: int,
        every_row: bool = False,
    ) -> None:
        """
        Args:
            tasks, weights, group, batch: as in `VectorizeTasksPass`.
            numbers: each task's number in task_ids, ascending.
            total: how many tasks there are in all groups.
            every_row: see rule 3.
        """
        super().__init__()
        self.tasks = tuple(tasks)
        self.weights = dict(weights)
        self.group = group
        self.batch = batch
        self.numbers = tuple(numbers)
        self.total = total
        self.every_row = every_row

    def requires(self, model: ir.Model) -> None:
        graph = model.graph
        refuse_subgraphs(self, model)
        problems = template_problems(graph, self.tasks, self.weights)
        if list(self.numbers) != sorted({n for n in self.numbers if 0 <= n < self.total}) or len(self.numbers) != len(
            self.tasks
        ):
            problems.append(f"expected {len(self.tasks)} ascending numbers below {self.total}, found {list(self.numbers)}")
        if not graph.inputs or not all(batch_axis(value, self.batch) == 0 for value in graph.inputs):
            problems.append(f"expected inputs whose first axis is {self.batch!r}")
        shapes = [known_shape(value) for value in graph.outputs]
        if len(shapes) != 1 or shapes[0] is None or len(shapes[0]) != 2:
            problems.append(f"expected one output [{self.batch}, labels], found {[value.shape for value in graph.outputs]}")
        if problems:
            raise ir.passes.PreconditionError(f"{type(self).__name__}: {'; '.join(problems)}")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        _Router(model.graph, self).run()
        return ir.passes.PassResult(model, modified=True)


class _Router(TaskWalk):
    """One run of the pass over one graph."""

    def __init__(self, graph: ir.Graph, settings: RouteTasksPass) -> None:
        weights = {graph.initializers[name]: arrays for name, arrays in settings.weights.items() if name in graph.initializers}
        build = Builder(graph, f"{settings.group}/")
        batch_input = graph.inputs[0]
        self.group = settings.group
        self.tasks = settings.tasks
        self.inputs = _add_inputs(graph)
        rows, row_ids, task_ids, self.places = _select(build, self.inputs, settings)
        self.layout = RowLayout(build, batch_input, settings.batch, rows, row_ids, task_ids)
        super().__init__(graph, build, self.layout, weights, settings.batch)

    def run(self) -> None:
        output = self.graph.outputs[0]
        branch = self.walk()
        logits = self._masked(output)
        self.graph.outputs.clear()
        self.replace(branch)
        self.graph.outputs.extend((logits, self.places))
        for value in self.weights:
            if value.is_initializer():  # a single task's
                value.name = f"{self.group}/{value.name}"
        names = [f"{self.group}/logits", f"{self.group}/places"]
        claim_names(self.graph, names)
        for name, value in zip(names, self.graph.outputs, strict=True):
            value.name = name

    def alone(self, node: ir.Node) -> bool:  # noqa: ARG002 - the signature is TaskWalk's
        return False

    def reads_weights(self, node: ir.Node) -> bool:
        if len(self.tasks) == 1:  # rule 4
            return self.folded(node, {value: self._only(value) for value in node.inputs if value in self.weights})
        return self.flat.rule(node) or self._broadcast(node)

    def otherwise(self, node: ir.Node) -> None:
        read = [str(value.name) for value in node.inputs if value in self.weights]
        found = f"{node.op_type} ({node.name!r}), which "
        found += f"reads {', '.join(read)}" if read else "may compute across the rows of a batch"
        raise ir.passes.PassError(f"RouteTasksPass: there is no rule by which rows choose their task in {found}")

    def _only(self, value: ir.Value) -> ir.Value:
        """The weight of a single task."""
        if not value.is_initializer() and value not in self.fold.branch:
            self.fold.branch[value] = self.build.initializer(self.weights[value][0], str(value.name))
        return self.fold.branch.get(value, value)

    def _broadcast(self, node: ir.Node) -> bool:
        """A task weight that broadcasts along the batch, as a value with that axis: [rows, ...]."""
        output = node.outputs[0]
        shape = known_shape(output)
        if node.op_type not in _BROADCASTING or node.domain != "" or shape is None or batch_axis(output, self.fold.batch) != 0:
            return False
        given = {}
        for value in node.inputs:
            if value is None or value not in self.weights:
                continue
            arrays = self.weights[value]
            whole = [array.reshape((1,) * (len(shape) - array.ndim) + array.shape) for array in arrays]
            if len({array.shape for array in whole}) != 1 or whole[0].ndim != len(shape) or whole[0].shape[0] != 1:
                return False
            given[value] = self.layout.stack([array[0] for array in whole], str(value.name))
        return self.folded(node, given)

    def _masked(self, output: ir.Value) -> ir.Value:
        """The output with rule 2."""
        if output in self.weights:
            raise ir.passes.PassError("RouteTasksPass: expected logits that depend on the inputs, found those of weights alone")
        logits, widths = self.flat.folded(output), self.flat.widths.get(output)
        if widths is None:
            # An Identity has a name of its own, also where the output is one of the trunk's; clean-up removes it elsewhere.
            return self.build.node("Identity", [logits], shape=logits.shape, dtype=output.dtype)
        valid = self.layout.stack([np.arange(max(widths)) < width for width in widths], "labels")
        assert output.dtype is not None
        nothing = self.build.constant(np.array(-np.inf, output.dtype.numpy()))
        return self.build.node("Where", [valid, logits, nothing], shape=valid.shape, dtype=output.dtype)


def _add_inputs(graph: ir.Graph) -> list[ir.Value]:
    claim_names(graph, ROUTE_INPUTS)
    added = [ir.Value(name=name, shape=ir.Shape([_ROWS]), type=ir.TensorType(ir.DataType.INT64)) for name in ROUTE_INPUTS]
    graph.inputs.extend(added)
    return added


def _select(build: Builder, inputs: Sequence[ir.Value], settings: RouteTasksPass) -> tuple[str, ir.Value, ir.Value, ir.Value]:
    """(name of the axis, row_ids, task_ids within the group, places among all rows) of the group's rows."""
    row_ids, task_ids = inputs
    int64, all_rows, zero = ir.DataType.INT64, ir.Shape([_ROWS]), build.constant(np.array(0))

    def count() -> ir.Value:
        every = build.node("Shape", [row_ids], shape=ir.Shape([1]), dtype=int64)
        return build.node("Squeeze", [every], shape=ir.Shape([]), dtype=int64)

    if len(settings.numbers) == settings.total:
        bounds = [zero, count(), build.constant(np.array(1))]
        return _ROWS, row_ids, task_ids, build.node("Range", bounds, shape=all_rows, dtype=int64, hint="places")
    rows = f"{settings.group}_{_ROWS}"
    own = ir.Shape([rows])
    numbers = np.full(settings.total, -1)
    numbers[list(settings.numbers)] = np.arange(len(settings.numbers))
    local = build.node("Gather", [build.constant(numbers), task_ids], shape=all_rows, dtype=int64, hint="task_ids")
    mask = build.node("GreaterOrEqual", [local, zero], shape=all_rows, dtype=ir.DataType.BOOL)
    if settings.every_row:
        total = count()
        places = build.node("Range", [zero, total, build.constant(np.array(1))], shape=all_rows, dtype=int64)
        places = build.node("Where", [mask, places, total], shape=all_rows, dtype=int64, hint="places")
        return _ROWS, row_ids, build.node("Max", [local, zero], shape=all_rows, dtype=int64, hint="own_task_ids"), places
    found = build.node("NonZero", [mask], shape=ir.Shape([1, rows]), dtype=int64)
    places = build.node("Squeeze", [found, build.ints([0])], shape=own, dtype=int64, hint="places")
    chosen = [build.node("Gather", [ids, places], shape=own, dtype=int64, hint=f"own_{ids.name}") for ids in (row_ids, local)]
    return rows, chosen[0], chosen[1], places
