"""Makes one Cast of two."""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["MergeCastsPass"]

# Type -> those that hold each of its numbers.
_HELD: dict[ir.DataType, frozenset[ir.DataType]] = {
    ir.DataType.BOOL: frozenset(
        {ir.DataType.INT32, ir.DataType.INT64, ir.DataType.FLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE}
    ),
    ir.DataType.INT32: frozenset({ir.DataType.INT64, ir.DataType.DOUBLE}),
    ir.DataType.FLOAT16: frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE}),
    ir.DataType.FLOAT: frozenset({ir.DataType.DOUBLE}),
}


class MergeCastsPass(ir.passes.InPlacePass):
    """A Cast of what was cast to a type that holds all its numbers reads the original, bit-exact.

    A Cast back to the original's type is then one to the type that is there, which RemoveNoOps removes.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in model.graph:
            while (source := _original(node)) is not None:
                node.replace_input_with(0, source)
                modified = True
        return ir.passes.PassResult(model, modified=modified)


def _original(node: ir.Node) -> ir.Value | None:
    """x of Cast(Cast(x)) where the first one loses nothing."""
    if node.op_type != "Cast" or node.domain != "" or node.inputs[0] is None:
        return None
    inner = node.inputs[0].producer()
    source = inner.inputs[0] if inner is not None and inner.op_type == "Cast" and inner.domain == "" else None
    if inner is None or source is None or source.dtype is None:
        return None
    return source if inner.attributes.get_int("to", 0) in _HELD.get(source.dtype, ()) else None
