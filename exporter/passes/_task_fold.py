"""Trunk values as the branch sees them: the batch axis made T times as long, task-major."""

from __future__ import annotations

from typing import Literal

import onnx_ir as ir

from ._build import Builder, const_array

_Kind = Literal["constant", "shape", "data"]


def batch_axis(value: ir.Value, batch: str) -> int | None:
    """The only axis whose length is the batch or a multiple of it; None where there is none or where the shape is unknown."""
    if value.shape is None:
        return None
    axes = [
        axis
        for axis, dim in enumerate(value.shape)
        if isinstance(dim, ir.SymbolicDim) and dim.value is not None and batch in dim.free_symbols()
    ]
    return axes[0] if len(axes) == 1 else None


class TaskFold:
    """Maps a trunk value to the same value at T times the batch size; remembers what it made.

    - constants stay as they are;
    - shape arithmetic (computed from Shape operators and constants alone) is made again from T x batch;
    - data is tiled along its batch axis, once.
    """

    def __init__(self, graph: ir.Graph, build: Builder, tasks: int, batch: str) -> None:
        self._build = build
        self._tasks = tasks
        self._batch = batch
        self._inputs = list(graph.inputs)
        self.folded: dict[ir.Value, ir.Value] = {}
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
        if value not in self.folded:
            kind = self._kind(value)
            self.folded[value] = value if kind == "constant" else self._again(value) if kind == "shape" else self._tile(value)
        return self.folded[value]

    def _again(self, value: ir.Value) -> ir.Value:
        node = value.producer()
        assert node is not None  # a shape value is computed
        if node.op_type == "Shape" and node.inputs[0] is not None and node.inputs[0] not in self.folded:
            return self._scaled_shape(node)
        inputs = [None if v is None else self(v) for v in node.inputs]
        if all(new is old for new, old in zip(inputs, node.inputs, strict=True)):
            return value
        outputs = self._build.clone(node, inputs, [self.folded_shape(output) for output in node.outputs], "_folded")
        self.folded.update(zip(node.outputs, outputs, strict=True))
        return self.folded[value]

    def _scaled_shape(self, node: ir.Node) -> ir.Value:
        """Shape(x) with the batch axis's length times T."""
        x, output = node.inputs[0], node.outputs[0]
        assert x is not None
        if x.shape is None:
            raise ir.passes.PassError(f"TaskFold: the shape of {x.name!r} is unknown, so its batch axis is")
        rank = len(x.shape)
        start, end, _ = slice(node.attributes.get_int("start", 0), node.attributes.get_int("end", rank)).indices(rank)
        axis = batch_axis(x, self._batch)
        if axis is None or not start <= axis < end:
            return output
        factors = self._build.ints(self._tasks if i == axis else 1 for i in range(start, end))
        return self._build.node("Mul", [output, factors], shape=output.shape, dtype=output.dtype, hint=f"{output.name}_folded")

    def _tile(self, value: ir.Value) -> ir.Value:
        if value.shape is None or any(isinstance(d, ir.SymbolicDim) and d.value is None for d in value.shape):
            raise ir.passes.PassError(f"TaskFold: the shape of {value.name!r} is unknown, so its batch axis is")
        axis = batch_axis(value, self._batch)
        if axis is None:
            return value
        repeats = self._build.ints(self._tasks if i == axis else 1 for i in range(len(value.shape)))
        return self._build.node(
            "Tile", [value, repeats], shape=self.folded_shape(value), dtype=value.dtype, hint=f"{value.name}_tasks"
        )

    def folded_shape(self, value: ir.Value) -> ir.Shape | None:
        """The template's shape with the batch axis T times as long."""
        if value.shape is None:
            return None
        axis = batch_axis(value, self._batch)
        return ir.Shape([dim * self._tasks if i == axis else dim for i, dim in enumerate(value.shape)])

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
