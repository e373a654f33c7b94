"""Multiply rows without flattening their axes."""

from __future__ import annotations

import onnx_ir as ir

from exporter.compile.rewrite.builder import Builder, known_shape
from exporter.compile.rewrite.match import producer
from exporter.compile.rewrite.node_pass import NodeRewritePass, Rewritten
from exporter.compile.rewrite.refusals import Refusal

__all__ = ["UnflattenLinearsPass"]


class UnflattenLinearsPass(NodeRewritePass):
    """Reshape to [rows, in], Gemm and Reshape to [batch, sequence, out] become MatMul and Add, equal up to rounding.

    GPT-2 writes its projections like this. A row of the result is then a row of the input for every later pass, and the batch
    keeps its axis. Only for a Gemm that multiplies nothing by a factor and whose result is read in the input's axes only.
    """

    op_types = ("Reshape",)

    def rewrite(self, node: ir.Node, build: Builder) -> Rewritten:
        """Replace the Reshape after a Gemm."""
        gemm = producer(node.inputs[0], "Gemm")
        flat = None if gemm is None else producer(gemm.inputs[0], "Reshape")
        if gemm is None or flat is None or flat.inputs[0] is None:
            return None
        x, output = flat.inputs[0], gemm.outputs[0]
        plain = all(gemm.attributes.get_float(name, 1.0) == 1.0 for name in ("alpha", "beta"))
        if not plain or gemm.attributes.get_int("transA", 0) != 0:
            return Refusal("the Gemm multiplies by a factor or transposes the rows")
        before, matrix, after = known_shape(x), known_shape(gemm.inputs[0]), known_shape(output)
        if before is None or matrix is None or after is None:
            return Refusal("the shapes around the Gemm are not known")
        if before[-1] != matrix[1]:
            return Refusal("the rows of the Gemm are not those of the input", gemm.inputs[0])
        if len(gemm.inputs) > 2 and gemm.inputs[2] is not None and len(known_shape(gemm.inputs[2]) or (0, 0)) > 1:
            return Refusal("what the Gemm adds is not one vector", gemm.inputs[2])
        readers = [use.node for use in output.uses()]
        if output.is_graph_output() or any(reader.op_type != "Reshape" for reader in readers):
            return Refusal("the result is also read as a matrix", output)
        if any(known_shape(reader.outputs[0]) != (*before[:-1], after[1]) for reader in readers):
            return Refusal("the result does not get the axes of the input", output)
        return build.once(output, lambda: _linear(gemm, x, build))


def _linear(gemm: ir.Node, x: ir.Value, build: Builder) -> ir.Value:
    weight, bias = gemm.inputs[1], gemm.inputs[2] if len(gemm.inputs) > 2 else None
    output = gemm.outputs[0]
    assert weight is not None  # Gemm has one
    assert x.shape is not None  # rewrite
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
