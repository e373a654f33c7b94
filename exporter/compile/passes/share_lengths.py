"""Reads every length from the graph's inputs."""

from __future__ import annotations

import onnx_ir as ir

from exporter.compile.rewrite.builder import Builder, const_array, known_shape, replace_value

__all__ = ["ShareLengthsPass"]


class ShareLengthsPass(ir.passes.InPlacePass):
    """Shape(x) becomes the lengths of the inputs' axes that x's axes are named after, and a Gather of one of them its Squeeze;
    bit-exact.

    Each length is then computed once, by CommonSubexpressionElimination, however many values are asked for theirs, and no value
    is kept for its shape alone. A Shape with an axis that is no number and no input's stays.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        sources = {
            dim: (value, axis)
            for value in reversed(graph.inputs)
            for axis, dim in reversed(list(enumerate(known_shape(value) or ())))
            if isinstance(dim, ir.SymbolicDim)
        }
        build = Builder(graph, "")
        modified = False
        for node in list(graph):
            part = _one_of(node)
            if part is not None:
                output = node.outputs[0]
                length = build.node("Squeeze", [part], shape=ir.Shape([]), dtype=part.dtype)
                graph.insert_before(node, build.take())
                replace_value(output, length)
                graph.remove(node, safe=True)
                modified = True
                continue
            dims = _asked(node)
            if dims is None or any(isinstance(dim, ir.SymbolicDim) and dim not in sources for dim in dims):
                continue
            plain = {"start", "end"} <= node.attributes.keys()
            if plain and len(dims) == 1 and isinstance(dims[0], ir.SymbolicDim) and sources[dims[0]][0] is node.inputs[0]:
                continue
            parts = []
            for dim in dims:
                if isinstance(dim, int):
                    parts.append(build.ints([dim]))
                    continue
                value, axis = sources[dim]
                span = {"start": axis, "end": axis + 1}
                parts.append(build.node("Shape", [value], attributes=span, shape=ir.Shape([1]), dtype=ir.DataType.INT64))
            found = parts[0]
            if len(parts) > 1:
                shape = ir.Shape([len(parts)])
                found = build.node("Concat", parts, attributes={"axis": 0}, shape=shape, dtype=ir.DataType.INT64)
            graph.insert_before(node, build.take())
            replace_value(node.outputs[0], found)
            graph.remove(node, safe=True)
            modified = True
        return ir.passes.PassResult(model, modified=modified)


def _one_of(node: ir.Node) -> ir.Value | None:
    """The value [1] that a Gather of one number takes, from several that are joined or from itself."""
    index = const_array(node.inputs[1]) if node.op_type == "Gather" and node.domain == "" else None
    source = node.inputs[0]
    if index is None or index.ndim != 0 or source is None:
        return None
    joined = source.producer()
    parts = [source] if joined is None or joined.op_type != "Concat" or joined.domain != "" else list(joined.inputs)
    if any(known_shape(value) != (1,) for value in parts) or not 0 <= int(index) < len(parts):
        return None
    return parts[int(index)]


def _asked(node: ir.Node) -> tuple[int | ir.SymbolicDim, ...] | None:
    """The dimensions that a Shape gives, one at least."""
    dims = known_shape(node.inputs[0]) if node.op_type == "Shape" and node.domain == "" else None
    if dims is None:
        return None
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(dims))
    return dims[start:end] or None
