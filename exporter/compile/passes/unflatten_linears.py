"""Multiplies rows where they are, without laying them end to end first."""

from __future__ import annotations

import onnx_ir as ir

from exporter.compile.rewrite.builder import Builder, known_shape, replace_value

__all__ = ["UnflattenLinearsPass"]


class UnflattenLinearsPass(ir.passes.InPlacePass):
    """Reshape to [rows, in], Gemm and Reshape to [batch, sequence, out] become MatMul and Add, equal to rounding.

    GPT-2's projections are written so. A row of the result is then a row of the input for every later pass, and the batch keeps
    its axis. Only for a Gemm that multiplies nothing by a factor and whose result is read in the input's axes alone.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        build = Builder(model.graph, "")
        modified = False
        for node in list(model.graph):
            if node.op_type == "Gemm" and node.domain == "" and (found := _rows(node)) is not None:
                x, readers = found
                result = _linear(node, x, build)
                model.graph.insert_before(node, build.take())
                for reader in readers:
                    replace_value(reader.outputs[0], result)
                    model.graph.remove(reader, safe=True)
                model.graph.remove(node, safe=True)
                modified = True
        return ir.passes.PassResult(model, modified=modified)


def _rows(gemm: ir.Node) -> tuple[ir.Value, list[ir.Node]] | None:
    """x of Gemm(x as a matrix), and the Reshapes that bring x's axes back."""
    flat = gemm.inputs[0].producer() if gemm.inputs[0] is not None else None
    plain = all(gemm.attributes.get_float(name, 1.0) == 1.0 for name in ("alpha", "beta"))
    if flat is None or flat.op_type != "Reshape" or flat.domain != "" or not plain or gemm.attributes.get_int("transA", 0) != 0:
        return None
    x, output = flat.inputs[0], gemm.outputs[0]
    before, matrix, after = known_shape(x), known_shape(gemm.inputs[0]), known_shape(output)
    if x is None or before is None or matrix is None or after is None or before[-1] != matrix[1]:
        return None
    readers = [use.node for use in output.uses()]
    back = all(node.op_type == "Reshape" and known_shape(node.outputs[0]) == (*before[:-1], after[1]) for node in readers)
    return (x, readers) if readers and back and not output.is_graph_output() else None


def _linear(gemm: ir.Node, x: ir.Value, build: Builder) -> ir.Value:
    weight, bias = gemm.inputs[1], gemm.inputs[2] if len(gemm.inputs) > 2 else None
    output = gemm.outputs[0]
    assert weight is not None  # Gemm has one
    assert x.shape is not None  # _rows
    assert output.shape is not None
    shape = ir.Shape([*list(x.shape)[:-1], output.shape[1]])
    if gemm.attributes.get_int("transB", 0) != 0:
        assert weight.shape is not None  # a matrix of known size, or `output` would have none
        turned = ir.Shape(list(weight.shape)[::-1])
        name = f"{weight.name}_transposed"
        weight = build.node("Transpose", [weight], attributes={"perm": [1, 0]}, shape=turned, dtype=weight.dtype, hint=name)
    product = build.node("MatMul", [x, weight], shape=shape, dtype=output.dtype)
    if bias is None:
        return product
    return build.node("Add", [product, bias], shape=shape, dtype=output.dtype, hint=f"{output.name}_rows")
