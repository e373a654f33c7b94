"""Merge two Casts into one."""

from __future__ import annotations

import onnx_ir as ir

from exporter.compile.rewrite.builder import Builder
from exporter.compile.rewrite.match import producer
from exporter.compile.rewrite.node_pass import NodeRewritePass, Rewritten
from exporter.compile.rewrite.refusals import Refusal

__all__ = ["MergeCastsPass"]

_FLOATS = (ir.DataType.FLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE)
# Type -> the types that hold all of its numbers.
_HELD: dict[ir.DataType, frozenset[ir.DataType]] = {
    ir.DataType.BOOL: frozenset({ir.DataType.INT32, ir.DataType.INT64, *_FLOATS}),
    ir.DataType.INT32: frozenset({ir.DataType.INT64, ir.DataType.DOUBLE}),
    ir.DataType.FLOAT16: frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE}),
    ir.DataType.FLOAT: frozenset({ir.DataType.DOUBLE}),
}


class MergeCastsPass(NodeRewritePass):
    """A Cast reads the original value if the Cast before it loses no numbers; bit-exact.

    A Cast back to the original type then changes nothing, and RemoveNoOps removes it.
    """

    op_types = ("Cast",)
    repeats = True

    def rewrite(self, node: ir.Node, _build: Builder) -> Rewritten:
        """Let a Cast read the input of a lossless Cast."""
        inner = producer(node.inputs[0], "Cast")
        if inner is None or (source := inner.inputs[0]) is None or source.dtype is None:
            return None
        between = ir.DataType(inner.attributes.get_int("to", 0))
        if between not in _HELD.get(source.dtype, ()):
            return Refusal(f"the first Cast, from {source.dtype} to {between}, loses numbers")
        node.replace_input_with(0, source)
        return node.outputs[0]
