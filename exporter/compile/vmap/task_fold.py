"""Trunk values as the branch sees them, with the batch axis that the layout gives it."""

from __future__ import annotations

from typing import Literal

import onnx_ir as ir

from exporter.compile.rewrite.builder import Builder, const_array, known_shape
from exporter.compile.rewrite.operators import BINARY, UNARY
from exporter.compile.vmap.layouts import Layout, batch_axis

_Kind = Literal["constant", "shape", "data"]


# Operators whose results at one position of any axis come from that position of their operands.
_BY_POSITION = (
    UNARY
    | BINARY
    | {"Clip", "ConstantOfShape", "Expand", "Gemm", "PRelu", "Range", "Shape", "Squeeze", "Tile", "Transpose", "Trilu"}
    | {"Unsqueeze", "Where"}
)
# Operators that combine, order, cut or join positions along one axis or several.
_ALONG_AXES = frozenset(
    {"ArgMax", "ArgMin", "Concat", "CumSum", "Gather", "GatherElements", "GatherND", "GroupNormalization", "Hardmax"}
    | {"LayerNormalization", "LogSoftmax", "LpNormalization", "Pad", "ReverseSequence", "Slice", "Softmax", "Split", "TopK"}
    | {f"Reduce{kind}" for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")}
)
_DEFAULT_AXIS = {"ArgMax": 0, "ArgMin": 0, "Gather": 0, "GatherElements": 0, "Split": 0}
# Where the axes are an input.
_AXES_INPUT = {"CumSum": 1, "Slice": 3} | {name: 1 for name in _ALONG_AXES if name.startswith("Reduce")}


def _axes(node: ir.Node, rank: int) -> set[int] | None:
    """The axes along which one of _ALONG_AXES works; None where that is not known."""
    if node.op_type in _AXES_INPUT:
        position = _AXES_INPUT[node.op_type]
        given = node.inputs[position] if len(node.inputs) > position else None
        if given is None:
            return set(range(rank))
        array = const_array(given)
        return None if array is None else {int(axis) % rank for axis in array.reshape(-1)}
    if node.op_type == "LayerNormalization":
        return set(range(node.attributes.get_int("axis", -1) % rank, rank))
    if node.op_type == "GatherND":
        # Axes that both operands count alike come first.
        first, indices = node.attributes.get_int("batch_dims", 0), known_shape(node.inputs[1])
        return set(range(first, first + indices[-1])) if indices and isinstance(indices[-1], int) else None
    if node.op_type in ("GroupNormalization", "Pad", "ReverseSequence"):
        return None
    return {node.attributes.get_int("axis", _DEFAULT_AXIS.get(node.op_type, -1)) % rank}


class TaskFold:
    """Maps a trunk value to the same value with the branch's batch axis; remembers what it made.

    - constants stay as they are;
    - shape arithmetic (computed from Shape operators and constants alone) is made again from the axis's new length;
    - data is tiled or gathered along its batch axis, once; or its producer is run again, where the layout cannot do that.

    Attributes:
        batch: the batch axis's name in the template.
        branch: branch value of the template -> its folded form; filled by the vectoriser.
    """

    def __init__(self, graph: ir.Graph, build: Builder, layout: Layout, batch: str) -> None:
        self._build = build
        self._layout = layout
        self.batch = batch
        self._inputs = list(graph.inputs)
        self.branch: dict[ir.Value, ir.Value] = {}
        self._trunk: dict[ir.Value, ir.Value] = {}
        self._kinds: dict[ir.Value, _Kind] = {}
        for node in graph:
            self._classify(node)

    def _classify(self, node: ir.Node) -> None:
        kinds = {self._kind(value) for value in node.inputs if value is not None}
        if node.op_type == "Shape":
            kind: _Kind = "shape"
        elif kinds <= {"constant"}:
            kind = "constant"
        else:
            kind = "shape" if kinds <= {"constant", "shape"} else "data"
        for output in node.outputs:
            self._kinds[output] = kind

    def _kind(self, value: ir.Value) -> _Kind:
        return "constant" if const_array(value) is not None else self._kinds.get(value, "data")

    def __call__(self, value: ir.Value) -> ir.Value:
        """The folded form of a trunk value, or of a branch value that has one already."""
        if value in self.branch:
            return self.branch[value]
        if value not in self._trunk:
            kind = self._kind(value)
            self._trunk[value] = value if kind == "constant" else self._again(value) if kind == "shape" else self._enter(value)
        return self._trunk[value]

    def _again(self, value: ir.Value) -> ir.Value:
        node = value.producer()
        assert node is not None  # a shape value is computed
        if node.op_type == "Shape" and node.inputs[0] is not None and node.inputs[0] not in self.branch:
            return self._scaled_shape(node)
        inputs = [None if v is None else self(v) for v in node.inputs]
        if all(new is old for new, old in zip(inputs, node.inputs, strict=True)):
            return value
        outputs = self._build.clone(node, inputs, [self.folded_shape(output) for output in node.outputs], "_folded")
        self._trunk.update(zip(node.outputs, outputs, strict=True))
        return self._trunk[value]

    def _scaled_shape(self, node: ir.Node) -> ir.Value:
        """Shape(x) with the length of the branch's batch axis."""
        x, output = node.inputs[0], node.outputs[0]
        assert x is not None
        if x.shape is None:
            raise ir.passes.PassError(f"TaskFold: the shape of {x.name!r} is unknown, so its batch axis is")
        rank = len(x.shape)
        start, end, _ = slice(node.attributes.get_int("start", 0), node.attributes.get_int("end", rank)).indices(rank)
        axis = batch_axis(x, self.batch)
        if axis is None or not start <= axis < end:
            return output
        return self._layout.lengths(output, axis - start, end - start, x.shape[axis])

    def _enter(self, value: ir.Value) -> ir.Value:
        if value.shape is None or any(isinstance(d, ir.SymbolicDim) and d.value is None for d in value.shape):
            raise ir.passes.PassError(f"TaskFold: the shape of {value.name!r} is unknown, so its batch axis is")
        axis = batch_axis(value, self.batch)
        if axis is None:
            return value
        entered = self._layout.enter(value, axis, self.folded_shape(value))
        if entered is not None:
            return entered
        node = value.producer()
        if node is None or not self.keeps_tasks_apart(node):
            raise ir.passes.PassError(
                f"TaskFold: expected the rows of {value.name!r} along an axis of their own, found the shape {value.shape} from "
                f"{node.op_type if node is not None else 'an input'}"
            )
        return self._again(value)

    def keeps_tasks_apart(self, node: ir.Node) -> bool:
        """Whether the operator treats each position of the batch axis by itself, so that tasks do not mix.

        1. Of operators that are not listed here, nothing is assumed.
        2. It must not reduce, order, cut, join or contract along the batch axis.
        3. A Reshape must leave the batch where it is, outermost or behind the same axes.
        """
        x, output = node.inputs[0] if node.inputs else None, node.outputs[0]
        if node.domain != "" or node.op_type not in _BY_POSITION | _ALONG_AXES | {"MatMul", "Reshape"}:
            return False  # rule 1
        axis = None if x is None else batch_axis(x, self.batch)
        if x is None or axis is None:
            # What varies along the batch is another operand (the indices of a Gather, the scores of a MatMul).
            return node.op_type in _BY_POSITION | {"Gather", "MatMul"} or batch_axis(output, self.batch) is None
        if node.op_type == "Reshape":  # rule 3
            before, after = known_shape(x), known_shape(output)
            same = batch_axis(output, self.batch) == axis
            return before is not None and after is not None and same and before[:axis] == after[:axis]
        if node.op_type == "MatMul":
            return axis != len(x.shape or ()) - 1
        if node.op_type in _ALONG_AXES:
            touched = _axes(node, len(x.shape or ()))
            return touched is not None and axis not in touched
        return True

    def folded_shape(self, value: ir.Value) -> ir.Shape | None:
        """The template's shape with the length of the branch's batch axis."""
        if value.shape is None:
            return None
        axis = batch_axis(value, self.batch)
        return ir.Shape(
            [self._layout.length(dim) if i == axis and not isinstance(dim, int) else dim for i, dim in enumerate(value.shape)]
        )

    def folded_dims(self, value: ir.Value) -> ir.Value:
        """The target of a Reshape from flat to folded: [-1, d1, ..., features]."""
        assert value.shape is not None
        dims = list(value.shape)[1:]
        if all(isinstance(dim, int) for dim in dims):
            return self._build.ints([-1, *(int(dim) for dim in dims)])  # type: ignore[arg-type]
        parts = [self._build.ints([-1])]
        parts += [self._build.ints([dim]) if isinstance(dim, int) else self._input_dim(dim, value) for dim in dims]
        return self._build.node("Concat", parts, attributes={"axis": 0}, dtype=ir.DataType.INT64, shape=ir.Shape([len(parts)]))

    def _input_dim(self, dim: ir.SymbolicDim, value: ir.Value) -> ir.Value:
        for graph_input in self._inputs:
            for axis, known in enumerate(graph_input.shape or ()):
                if known == dim:
                    return self._build.node(
                        "Shape",
                        [graph_input],
                        attributes={"start": axis, "end": axis + 1},
                        dtype=ir.DataType.INT64,
                        shape=ir.Shape([1]),
                    )
        raise ir.passes.PassError(f"TaskFold: the axis {dim} of {value.name!r} is no axis of a graph input")
