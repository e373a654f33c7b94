"""Remove Identity operators."""

from __future__ import annotations

import onnx_ir as ir

from exporter.compile.rewrite.builder import Builder
from exporter.compile.rewrite.node_pass import NodeRewritePass, Rewritten

__all__ = ["DropIdentitiesPass"]


class DropIdentitiesPass(NodeRewritePass):
    """Readers of Identity(x) read x, bit-exact.

    An output of the graph that is Identity(x) becomes x, under the name of the output. The Identity stays if x has a name that
    must not change: of an input, of a weight, or of another output. onnx-ir's own pass merges two outputs of one value.
    """

    op_types = ("Identity",)

    def rewrite(self, node: ir.Node, _build: Builder) -> Rewritten:
        """Replace a copy by the original."""
        source = node.inputs[0]
        if source is not None and node.outputs[0].is_graph_output():
            named = source.is_graph_output() or source.is_graph_input() or source.is_initializer()
            return None if named else source
        return source
