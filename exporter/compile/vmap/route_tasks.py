"""RouteTasks computes rows, each of which selects an input row and a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from exporter.compile.rewrite.axes import BROADCASTING, OPERATORS
from exporter.compile.rewrite.builder import Builder, claim_names, known_shape, refuse_subgraphs
from exporter.compile.vmap.batch import Batch
from exporter.compile.vmap.env import Env
from exporter.compile.vmap.evaluate import evaluate
from exporter.compile.vmap.forms import Folded, Form, PerRow
from exporter.compile.vmap.leading_rows import can_lead, lead, leading_rows
from exporter.compile.vmap.loop import Rule, compute_branch, fold, replace_branch, template_problems, weight_rule
from exporter.compile.vmap.padded_columns import carry, padded
from exporter.compile.vmap.row_layout import RowLayout
from exporter.compile.vmap.row_selection import add_route_inputs, rows_of_routed_stem, select_rows
from exporter.compile.vmap.stem_rows import StemRows, stem_output
from exporter.compile.vmap.table_rows import look_up
from exporter.compile.vmap.weight_rules import Stacks

__all__ = ["RouteTasksPass"]


class RouteTasksPass(ir.passes.InPlacePass):
    """Turns the template into a graph in which each row selects its task: a vmap over initializers and rows.

    The graph gets two inputs, `row_ids` and `task_ids`, int64 [rows]: row i is row row_ids[i] of the other inputs, computed
    for task task_ids[i] of all tasks. The trunk is computed once per input row; trunk values that enter the branch are gathered
    by row_ids, and stacks of task weights by task_ids. Branch values take the forms 1 to 3 of `VectorizeTasksPass`, with rows
    in place of tasks x batch. Form 4 is not used: an operator without a rule is refused.

    1. Outputs: "<group>/logits" [rows of the group, largest label count of the group], and "<group>/places" [rows of the
       group], the positions of these rows among all rows.
    2. Columns beyond a task's labels are minus infinity: softmax and sigmoid give them probability 0, and argmax never
       selects them. Operators may carry them along, such as the selection of a decoder's last token: `carry`.
    3. A group that does not have all tasks first selects its rows; there may be none. With `every_row` it computes all rows
       instead: those of other groups for its first task, with a place that is one beyond the last row. The number of rows of a
       group then does not depend on `task_ids`, as TensorRT requires.
    4. The weights of a single task are used as they are.
    5. With more numbers than tasks, the tasks are examples, and the caller replaces their stacks by inputs with a place for
       each number.
    6. A stem, as in `VectorizeTasksPass`, has one output, "<group>/stem" [rows of the tasks of all its groups, ...]. The rest
       of each group has it as an input, of which it takes its rows.
    7. A table of each task, in which tokens or positions are looked up, is a part of one table of all tasks: `look_up`.
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
        is_stem: bool = False,
        stem: StemRows | None = None,
        stem_numbers: Sequence[int] | None = None,
    ) -> None:
        """Bind tasks to the template.

        Args:
            tasks: as in `VectorizeTasksPass`.
            weights: as in `VectorizeTasksPass`.
            group: as in `VectorizeTasksPass`.
            batch: as in `VectorizeTasksPass`.
            numbers: each task's number in task_ids, in any order; more of them by rule 5.
            total: the number of tasks in all groups, or of numbers by rule 5.
            every_row: see rule 3.
            is_stem: whether the template is a stem (rule 6).
            stem: the template's input `STEM` (rule 6); None for a whole branch.
            stem_numbers: the numbers of the tasks of the stem in task_ids.
        """
        super().__init__()
        self.tasks = tuple(tasks)
        self.weights = dict(weights)
        self.group = group
        self.batch = batch
        self.numbers = tuple(numbers)
        self.total = total
        self.every_row = every_row
        self.is_stem = is_stem
        self.stem = stem
        self.stem_numbers = tuple(stem_numbers or ())

    def requires(self, model: ir.Model) -> None:
        """Check tasks, weights and numbers, and that inputs and output have the batch first."""
        graph = model.graph
        refuse_subgraphs(self, model)
        problems = template_problems(graph, self.tasks, self.weights)
        valid = {n for n in self.numbers if 0 <= n < self.total}
        if not len(self.tasks) <= len(self.numbers) == len(valid):
            problems.append(f"expected {len(self.tasks)} different numbers below {self.total}, found {list(self.numbers)}")
        batch = Batch(self.batch, graph.inputs)
        if not graph.inputs or not all(batch.axis(value) == 0 for value in graph.inputs):
            problems.append(f"expected inputs whose first axis is {self.batch!r}")
        shapes = [known_shape(value) for value in graph.outputs]
        if (
            len(shapes) != 1
            or shapes[0] is None
            or str(shapes[0][0]) != self.batch
            or (len(shapes[0]) != 2 and not self.is_stem)
        ):
            problems.append(f"expected one output [{self.batch}, labels], found {[value.shape for value in graph.outputs]}")
        if problems:
            raise ir.passes.PreconditionError(f"{type(self).__name__}: {'; '.join(problems)}")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Compute the branch for rows that select their task."""
        _Router(model.graph, self).run()
        return ir.passes.PassResult(model, modified=True)


class _Router:
    """One run of the pass over one graph."""

    def __init__(self, graph: ir.Graph, settings: RouteTasksPass) -> None:
        build = Builder(graph, f"{settings.group}/")
        batch_input = graph.inputs[0]
        self.graph = graph
        self.group = settings.group
        self.is_single = len(settings.tasks) == 1
        self.is_stem = settings.is_stem
        own = None if settings.stem is None else graph.inputs[-1]
        rows, row_ids, task_ids, self.places = select_rows(build, add_route_inputs(graph), settings)
        layout = RowLayout(build, batch_input, settings.batch, rows, row_ids, task_ids)
        self.layout, self.has_examples = layout, len(settings.numbers) > len(settings.tasks)
        self.env = Env(graph, build, layout, settings.weights, settings.batch)
        self.stacks = Stacks(self.env)
        if settings.stem is not None and own is not None:
            self.env.bind(own, Folded(rows_of_routed_stem(graph, build, own, rows, self.places, settings)))

    def run(self) -> None:
        env, output = self.env, self.graph.outputs[0]
        rules: list[Rule] = [lambda node: evaluate(node, env)]
        if self.is_single:
            rules += [self._with_only_task]
        else:
            rules += [
                lambda node: weight_rule(node, env, self.stacks),
                self._with_rows_of_weights,
                lambda node: lead(node, env),
                lambda node: carry(node, env),
            ]
            if not self.has_examples:  # rule 5: the tables of all tasks are no stack
                rules += [lambda node: look_up(node, env, self.layout)]
        branch = compute_branch(self.graph, env, [*rules, lambda node: fold(node, env), self._refuse])
        if self.is_stem:
            if not env.can_fold(output):
                raise ir.passes.PassError(f"RouteTasksPass: expected one row of {output.name!r} per text, found {output.shape}")
            folded = env.folded(output)
            self.graph.outputs[:] = [env.build.node("Identity", [folded], shape=folded.shape, dtype=output.dtype)]
            replace_branch(self.graph, env, branch)
            claim_names(self.graph, [stem_output(self.group)])
            self.graph.outputs[0].name = stem_output(self.group)
            return
        logits = self._masked(output)
        self.graph.outputs.clear()
        replace_branch(self.graph, env, branch)
        self.graph.outputs.extend((logits, self.places))
        for value in env.constants():
            if value.is_initializer():  # a single task's
                value.name = f"{self.group}/{value.name}"
        names = [f"{self.group}/logits", f"{self.group}/places"]
        claim_names(self.graph, names)
        for name, value in zip(names, self.graph.outputs, strict=True):
            value.name = name

    def _refuse(self, node: ir.Node) -> list[Form]:
        read = [str(value.name) for value in node.inputs if value is not None and self.env.arrays(value) is not None]
        found = f"{node.op_type} ({node.name!r}), which "
        found += f"reads {', '.join(read)}" if read else "may compute across the rows of a batch"
        raise ir.passes.PassError(f"RouteTasksPass: there is no rule by which each row selects its task in {found}")

    def _with_only_task(self, node: ir.Node) -> list[Form] | None:
        """Compute an operator with the weights of a single task, by rule 4; without the batch, if it reads none."""
        env, given = self.env, {}
        for value in node.inputs:
            if value is not None and env.arrays(value) is not None:
                given[value] = self._only(value)
            elif value is not None and (held := env.held(value, PerRow)) is not None:
                given[value] = held.value
        if not given:
            return None
        if (forms := fold(node, env, given)) is not None:
            return forms
        others = [value for value in node.inputs if value is not None and value not in given]
        if any(value in env or env.batch.axis(value) is not None for value in (*others, *node.outputs)):
            return None
        inputs = [None if value is None else given.get(value, value) for value in node.inputs]
        return [PerRow(value) for value in env.build.clone(node, inputs, [output.shape for output in node.outputs], "")]

    def _only(self, value: ir.Value) -> ir.Value:
        """Return the weight of a single task."""
        arrays = self.env.arrays(value)
        if value.is_initializer() or arrays is None:
            return value
        if (held := self.env.held(value, Folded)) is None:
            held = Folded(self.env.build.initializer(arrays[0], str(value.name)))
            self.env.keep(value, held)
        return held.value

    def _with_rows_of_weights(self, node: ir.Node) -> list[Form] | None:
        """Compute an operator with a task weight that broadcasts along the batch: the weight gets that axis, [rows, ...].

        The weight may vary along any other axis. Values that are looked up per row enter in the same way.
        """
        output = node.outputs[0]
        shape = known_shape(output)
        if node.op_type not in BROADCASTING or node.domain != "" or shape is None or self.env.batch.axis(output) != 0:
            return None
        whole, looked_up = {}, list[ir.Value]()
        for index, value in enumerate(node.inputs):
            arrays = None if value is None else self.env.arrays(value)
            if value is not None and self.env.held(value, PerRow) is not None:
                if not can_lead(value, len(shape), self.env):
                    return None
                looked_up.append(value)
            if value is None or arrays is None:
                continue
            if index == OPERATORS[node.op_type].sizes:
                return None  # lengths, which differ between tasks
            whole[value] = [array.reshape((1,) * (len(shape) - array.ndim) + array.shape) for array in arrays]
            if len({array.shape for array in whole[value]}) != 1:
                return None
            if whole[value][0].ndim != len(shape) or whole[value][0].shape[0] != 1:
                return None
        if self.env.uses(node, dict.fromkeys((*whole, *looked_up), output)) is None:
            return None
        stack = self.env.layout.stack
        given = {value: leading_rows(value, len(shape), self.env) for value in looked_up}
        given |= {value: stack([array[0] for array in arrays], str(value.name)) for value, arrays in whole.items()}
        return fold(node, self.env, given) if given else None

    def _masked(self, output: ir.Value) -> ir.Value:
        """Return the output, masked by rule 2."""
        env = self.env
        if env.arrays(output) is not None:
            raise ir.passes.PassError("RouteTasksPass: expected logits that depend on the inputs, found those of weights only")
        widths = env.widths(output)
        logits = self._logits(output)
        if widths is None:
            # The Identity gives the output a separate name, even if it is a trunk value; clean-up removes it otherwise.
            return env.build.node("Identity", [logits], shape=logits.shape, dtype=output.dtype)
        valid = env.layout.stack([np.arange(max(widths)) < width for width in widths], "labels")
        assert output.dtype is not None
        nothing = env.build.constant(np.array(-np.inf, output.dtype.numpy()))
        return env.build.node("Where", [valid, logits, nothing], shape=valid.shape, dtype=output.dtype)

    def _logits(self, output: ir.Value) -> ir.Value:
        if self.env.widths(output) is not None:
            if (wide := padded(output, self.env)) is not None and wide.axis == 1:
                return wide.value
            raise ir.passes.PassError(f"RouteTasksPass: expected the labels in the last axis of {output.name!r}")
        if not self.env.can_fold(output):
            raise ir.passes.PassError(f"RouteTasksPass: expected one row of {output.name!r} per text, found {output.shape}")
        return self.env.folded(output)
