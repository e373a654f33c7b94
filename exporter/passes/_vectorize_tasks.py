"""Computes all tasks of one structure as one batch: a vmap over initializers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir

from ._build import Builder, const_array, known_shape
from ._task_fold import TaskFold, batch_axis

__all__ = ["VectorizeTasksPass"]

_UNARY = frozenset(
    "Abs Elu Erf Exp Gelu HardSigmoid HardSwish Identity LeakyRelu Log Mish Neg Relu Selu Sigmoid Softplus Softsign Sqrt Tanh".split()
)
_BINARY = frozenset("Add Div Max Min Mul Pow Sub".split())


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

    The template's output becomes one output per task; names of the branch begin with "<group>/". With a single task there is
    nothing to vectorise: the template is its graph already.
    """

    def __init__(self, tasks: Sequence[str], weights: Mapping[str, Sequence[np.ndarray]], group: str, batch: str) -> None:
        """
        Args:
            tasks: the T output names.
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
        wrong = [name for name, arrays in self.weights.items() if len(arrays) != len(self.tasks)]
        if wrong:
            raise ir.passes.PreconditionError(f"{type(self).__name__}: expected {len(self.tasks)} arrays for {', '.join(wrong)}")
        if len(model.graph.outputs) != 1:
            raise ir.passes.PreconditionError(f"{type(self).__name__}: the template has {len(model.graph.outputs)} outputs, not one")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        if len(self.tasks) == 1:
            self._name_branch(model.graph)
        else:
            _Vectorizer(model.graph, self).run()
        return ir.passes.PassResult(model, modified=True)

    def _name_branch(self, graph: ir.Graph) -> None:
        branch = {value for name, value in graph.initializers.items() if name in self.weights}
        for node in graph:
            if any(value in branch for value in node.inputs):
                branch.update(node.outputs)
        for value in branch:
            value.name = f"{self.group}/{value.name}"
        graph.outputs[0].name = self.tasks[0]


class _Vectorizer:
    """One run of the pass over one graph."""

    def __init__(self, graph: ir.Graph, settings: VectorizeTasksPass) -> None:
        self.graph = graph
        self.tasks = settings.tasks
        self.group = settings.group
        self.batch = settings.batch
        self.build = Builder(graph, f"{settings.group}/")
        self.fold = TaskFold(graph, self.build, len(settings.tasks), settings.batch)
        self.weights: dict[ir.Value, Sequence[np.ndarray]] = {
            graph.initializers[name]: arrays for name, arrays in settings.weights.items() if name in graph.initializers
        }
        self.flat: dict[ir.Value, ir.Value] = {}
        self.split: dict[ir.Value, list[ir.Value]] = {}
        self._stacks: dict[tuple[ir.Value, tuple[int, ...]], ir.Value] = {}
        self._singles: dict[ir.Value, list[ir.Value]] = {}

    def run(self) -> None:
        branch = []
        for node in self.graph:
            if any(self._in_branch(value) for value in node.inputs):
                branch.append(node)
                self._visit(node)
        output = self.graph.outputs[0]
        per_task = self._per_task(output)
        self.graph.outputs.clear()
        for name, value in zip(self.tasks, per_task, strict=True):
            # An Identity gives the output its name even where one value answers two tasks; clean-up removes it elsewhere.
            named = self.build.node("Identity", [value], shape=output.shape, dtype=output.dtype, hint=f"{name}_logits")
            if value.shape is not None:
                named.shape = ir.Shape(value.shape)
            self.graph.outputs.append(named)
        new_nodes = self.build.take()
        self.graph.remove(reversed(branch), safe=True)
        self.graph.extend(new_nodes)
        for value in list(self.weights):
            if value.is_initializer() and not value.uses():
                del self.graph.initializers[value.name]
        for name, value in zip(self.tasks, self.graph.outputs, strict=True):
            value.name = name

    def _in_branch(self, value: ir.Value | None) -> bool:
        return value is not None and (
            value in self.weights or value in self.flat or value in self.split or value in self.fold.folded
        )

    def _visit(self, node: ir.Node) -> None:
        inputs = [value for value in node.inputs if value is not None]
        if all(value in self.weights or const_array(value) is not None for value in inputs):
            self._evaluate(node)
        elif any(value in self.split for value in inputs) or not self._vectorized(node):
            self._visit_split(node)

    # Form 1

    def _evaluate(self, node: ir.Node) -> None:
        results = []
        for task in range(len(self.tasks)):
            arrays = [None if v is None else self.weights[v][task] if v in self.weights else const_array(v) for v in node.inputs]
            results.append(_run_node(node, arrays))
        for index, output in enumerate(node.outputs):
            self.weights[output] = [result[index] for result in results]

    # Forms 2 and 3

    def _vectorized(self, node: ir.Node) -> bool:
        """Whether the node could be computed for all tasks at once."""
        if any(value in self.weights for value in node.inputs):
            rule = {"MatMul": self._matmul, "Gemm": self._gemm, "LayerNormalization": self._layer_norm}.get(node.op_type)
            if rule is not None:
                return rule(node)
            return node.op_type in _BINARY and self._arithmetic(node)
        if node.op_type in _UNARY | _BINARY and self._elementwise(node):
            return True
        return self._folded_clone(node)

    def _folded_clone(self, node: ir.Node) -> bool:
        inputs = [None if value is None else self._folded(value) for value in node.inputs]
        shapes = [self.fold.folded_shape(output) for output in node.outputs]
        for output, new in zip(node.outputs, self.build.clone(node, inputs, shapes, ""), strict=True):
            self.fold.folded[output] = new
        return True

    def _elementwise(self, node: ir.Node) -> bool:
        """Flat arithmetic among flat values of one shape and scalars: nothing to reshape in between."""
        flats = [value for value in node.inputs if value in self.flat]
        others = [value for value in node.inputs if value not in self.flat]
        if not flats or any(known_shape(value) != known_shape(flats[0]) for value in flats):
            return False
        if any((array := const_array(value)) is None or array.size != 1 for value in others):
            return False
        inputs = [self.flat.get(value, value) for value in node.inputs if value is not None]
        self.flat[node.outputs[0]] = self.build.clone(node, inputs, [self.flat[flats[0]].shape], "")[0]
        return True

    def _matmul(self, node: ir.Node) -> bool:
        x, weight = node.inputs
        if x is None or weight is None or x in self.weights:
            return False
        stack = self._stack(weight, 3)
        if stack is None or not self._can_flatten(x):
            return False
        self.flat[node.outputs[0]] = self._flat_node("MatMul", [self._flat(x), stack], node.outputs[0])
        return True

    def _gemm(self, node: ir.Node) -> bool:
        x, weight, bias = [*node.inputs, None][:3]
        scaled = any(node.attributes.get_float(name, 1.0) != 1.0 for name in ("alpha", "beta"))
        if x is None or weight not in self.weights or x in self.weights or scaled or node.attributes.get_int("transA", 0):
            return False
        if bias is not None and bias not in self.weights:
            return False
        order = (1, 0) if node.attributes.get_int("transB", 0) else (0, 1)
        stack = self._stack(weight, 3, order)
        offset = None if bias is None else self._row_stack(bias)
        if stack is None or (bias is not None and offset is None) or not self._can_flatten(x):
            return False
        y = self._flat_node("MatMul", [self._flat(x), stack], node.outputs[0])
        self.flat[node.outputs[0]] = y if offset is None else self._flat_node("Add", [y, offset], node.outputs[0])
        return True

    def _arithmetic(self, node: ir.Node) -> bool:
        """x with a task weight that broadcasts along the last axis."""
        weight = next(value for value in node.inputs if value in self.weights)
        x = next((value for value in node.inputs if value not in self.weights), None)
        stack = self._row_stack(weight)
        if x is None or stack is None or not self._can_flatten(x):
            return False
        if known_shape(x) != known_shape(node.outputs[0]):
            return False  # the weight would widen x
        flat = self._flat(x)
        self.flat[node.outputs[0]] = self._flat_node(
            node.op_type, [stack if value is weight else flat for value in node.inputs], node.outputs[0]
        )
        return True

    def _layer_norm(self, node: ir.Node) -> bool:
        """LN(x) with task weights = scale x LN(x) with unit weights + bias."""
        x, scale, bias = [*node.inputs, None][:3]
        rank = None if x is None or x.shape is None else len(x.shape)
        if x is None or scale not in self.weights or x in self.weights or rank is None:
            return False
        if node.attributes.get_int("axis", -1) not in (-1, rank - 1) or len(node.outputs) != 1:
            return False
        scales, biases = self._row_stack(scale), None if bias is None else self._row_stack(bias)
        if scales is None or (bias is not None and biases is None) or not self._can_flatten(x):
            return False
        output = node.outputs[0]
        unit = self.build.constant(np.ones_like(self.weights[scale][0]))
        flat = self._flat(x)
        # The flat form has rank 3, so the last axis is named from the end.
        kept = {"epsilon": node.attributes.get_float("epsilon", 1e-5), "stash_type": node.attributes.get_int("stash_type", 1), "axis": -1}
        y = self.build.node("LayerNormalization", [flat, unit], attributes=kept, shape=flat.shape, dtype=output.dtype)
        y = self._flat_node("Mul", [y, scales], output)
        self.flat[output] = y if biases is None else self._flat_node("Add", [y, biases], output)
        return True

    def _flat_node(self, op_type: str, inputs: Sequence[ir.Value], like: ir.Value) -> ir.Value:
        shape = ir.Shape([len(self.tasks), None, like.shape[-1] if like.shape else None])
        return self.build.node(op_type, inputs, shape=shape, dtype=like.dtype, hint=like.name)

    def _can_flatten(self, value: ir.Value) -> bool:
        shape = known_shape(value)
        return shape is not None and len(shape) > 1 and isinstance(shape[-1], int) and batch_axis(value, self.batch) == 0

    def _flat(self, value: ir.Value) -> ir.Value:
        if value not in self.flat:
            assert value.shape is not None  # _can_flatten
            target = self.build.ints([len(self.tasks), -1, int(value.shape[-1])])  # type: ignore[arg-type]
            shape = ir.Shape([len(self.tasks), None, value.shape[-1]])
            self.flat[value] = self.build.node(
                "Reshape", [self._folded(value), target], shape=shape, dtype=value.dtype, hint=f"{value.name}_flat"
            )
        return self.flat[value]

    def _folded(self, value: ir.Value) -> ir.Value:
        if value in self.flat and value not in self.fold.folded:
            self.fold.folded[value] = self.build.node(
                "Reshape",
                [self.flat[value], self.fold.folded_dims(value)],
                shape=self.fold.folded_shape(value),
                dtype=value.dtype,
                hint=f"{value.name}_folded",
            )
        return self.fold(value)

    def _stack(self, weight: ir.Value, rank: int, order: tuple[int, ...] | None = None) -> ir.Value | None:
        """The tasks' weights as one initializer [T, ...]; None where their shapes differ or have another rank."""
        arrays = self.weights.get(weight)
        if arrays is None or len({array.shape for array in arrays}) != 1 or arrays[0].ndim != rank - 1:
            return None
        order = order or tuple(range(rank - 1))
        key = (weight, order)
        if key not in self._stacks:
            name = str(weight.name)
            self._stacks[key] = self.build.initializer(np.stack([array.transpose(order) for array in arrays]), name)
        return self._stacks[key]

    def _row_stack(self, weight: ir.Value) -> ir.Value | None:
        """A weight that varies along the last axis at most, as [T, 1, n]."""
        arrays = self.weights.get(weight)
        if arrays is None or len({array.shape for array in arrays}) != 1 or arrays[0].size != (arrays[0].shape or (1,))[-1]:
            return None
        key = (weight, (-1,))
        if key not in self._stacks:
            stacked = np.stack([array.reshape(1, -1) for array in arrays])
            self._stacks[key] = self.build.initializer(stacked, str(weight.name))
        return self._stacks[key]

    # Form 4

    def _visit_split(self, node: ir.Node) -> None:
        inputs = [None if value is None else self._per_task(value) for value in node.inputs]
        for output in node.outputs:
            self.split[output] = []
        for task, name in enumerate(self.tasks):
            chosen = [None if values is None else values[task] for values in inputs]
            shapes = [self._split_shape(output, node, task) for output in node.outputs]
            for output, new in zip(node.outputs, self.build.clone(node, chosen, shapes, f".{name}"), strict=True):
                self.split[output].append(new)

    def _split_shape(self, output: ir.Value, node: ir.Node, task: int) -> ir.Shape | None:
        """The template's shape, unless the tasks' weights differ in shape: then the last axis is this task's own."""
        sizes = [self.weights[value][task].shape for value in node.inputs if value in self.weights]
        own = [self.weights[value] for value in node.inputs if value in self.weights]
        if all(len({array.shape for array in arrays}) == 1 for arrays in own) and not any(v in self.split for v in node.inputs):
            return output.shape
        if node.op_type in ("Gemm", "MatMul") and len(sizes) >= 1 and output.shape is not None:
            columns = sizes[0][0] if node.attributes.get_int("transB", 0) else sizes[0][-1]
            return ir.Shape([*list(output.shape)[:-1], columns])
        if node.op_type in _UNARY | _BINARY and output.shape is not None:
            widths = [self.split[v][task].shape for v in node.inputs if v in self.split]
            if widths and widths[0] is not None:
                return ir.Shape([*list(output.shape)[:-1], widths[0][-1]])
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
        if not self._in_branch(value):
            return [value] * count
        folded = self._folded(value)
        axis = batch_axis(value, self.batch)
        if axis is None:
            raise ir.passes.PassError(
                f"VectorizeTasksPass: the value {value.name!r} of shape {value.shape} depends on the task but has no batch axis; "
                "expected one axis named after the batch"
            )
        parts = self.build.nodes(
            "Split",
            [folded],
            attributes={"axis": axis, "num_outputs": count},
            shapes=[value.shape] * count,
            dtypes=[value.dtype] * count,
            hints=[f"{value.name}.{task}" for task in self.tasks],
        )
        return list(parts)


def _run_node(node: ir.Node, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """Evaluates one node by ONNX's reference implementation."""
    inputs = [
        None if array is None else ir.Value(name=f"x{i}", shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.from_numpy(array.dtype)))
        for i, array in enumerate(arrays)
    ]
    single = ir.Node(node.domain, node.op_type, inputs, attributes=list(node.attributes.values()), num_outputs=len(node.outputs))
    for index, output in enumerate(single.outputs):
        output.name = f"y{index}"
    opset = {"": node.graph.opset_imports[""]} if node.graph is not None else {"": 20}
    graph = ir.Graph([v for v in inputs if v is not None], single.outputs, nodes=[single], opset_imports=opset, name="single")
    proto = ir.to_proto(ir.Model(graph, ir_version=10))
    feeds = {f"x{i}": array for i, array in enumerate(arrays) if array is not None}
    results = onnx.reference.ReferenceEvaluator(proto).run(None, feeds)
    return [np.asarray(result) for result in results]
