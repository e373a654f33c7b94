"""Name transposed weights after their source."""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["NameTransposedPass"]


class NameTransposedPass(ir.passes.InPlacePass):
    """The result of a Transpose of the weight "w" is called "w_transposed", of a Transpose of that "w_transposed_2"; bit-exact.

    The initializer that takes its place when it is computed at export, once or once per task, inherits the name: a graph then
    says which layer each of its matrices is of, where torch.onnx calls them val_61.
    """

    # Not a NodeRewritePass: names are changed, not operators.

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rename the results, sources first."""
        graph = model.graph
        taken = {value.name for node in graph for value in node.outputs} | {*graph.initializers}
        taken |= {value.name for value in graph.inputs}
        roots: dict[ir.Value, str] = {value: str(value.name) for value in graph.initializers.values()}
        modified = False
        for node in graph:
            root = roots.get(node.inputs[0]) if node.op_type == "Transpose" and node.inputs[0] is not None else None
            output = node.outputs[0]
            if root is None or node.domain != "" or output.is_graph_output():
                continue
            roots[output] = root
            wanted = f"{root}_transposed"
            if str(output.name).startswith(wanted):
                continue
            name, number = wanted, 1
            while name in taken:
                number += 1
                name = f"{wanted}_{number}"
            taken.add(name)
            output.name = name
            modified = True
        return ir.passes.PassResult(model, modified=modified)
