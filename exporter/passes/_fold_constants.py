"""Computes what is known at export time."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx_ir as ir
import onnxscript.optimizer

from ._build import const_array

__all__ = ["FoldConstantsPass"]


class FoldConstantsPass(ir.passes.InPlacePass):
    """onnxscript's constant folding, which also follows symbolic shapes, with two limits of our own.

    1. No operator that reads a protected initializer is folded, its Shape apart: task weights must keep their names until
       they are bound.
    2. Above `size_limit` elements nothing is folded but, with `transpose_weights`, a Transpose of a weight. Before groups are
       joined it is not: a folded copy hides that two groups read the same weight.

    A transposed weight is called after its source, "<source>_transposed", so that the graph still says which layer it is of.
    """

    def __init__(self, protected: Collection[str] = (), transpose_weights: bool = False, size_limit: int = 4096) -> None:
        super().__init__()
        self.transpose_weights = transpose_weights
        self.protected = frozenset(protected)
        self.size_limit = size_limit

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        def should_fold(node: ir.Node) -> bool | None:
            if any(value is not None and value.name in self.protected for value in node.inputs):
                return False  # rule 1
            source = const_array(node.inputs[0]) if node.op_type == "Transpose" else None
            if source is not None and source.size > self.size_limit:
                return self.transpose_weights  # rule 2
            return None

        sources = {
            node.outputs[0]: f"{node.inputs[0].name}_transposed"
            for node in model.graph
            if node.op_type == "Transpose" and node.inputs[0] is not None and node.inputs[0].is_initializer()
        }
        result = onnxscript.optimizer.fold_constants(
            model, input_size_limit=self.size_limit, output_size_limit=self.size_limit, should_fold=should_fold
        )
        _rename(model.graph, {str(value.name): name for value, name in sources.items()})
        return ir.passes.PassResult(model, modified=bool(result.modified))


def _rename(graph: ir.Graph, names: Mapping[str, str]) -> None:
    """Gives the initializers among the keys the names behind them, made unique."""
    taken = {value.name for node in graph for value in node.outputs} | {*graph.initializers}
    for old, name in names.items():
        if (value := graph.initializers.get(old)) is not None:
            number, new = 1, name
            while new in taken:
                number += 1
                new = f"{name}_{number}"
            taken.add(new)
            value.name = new
