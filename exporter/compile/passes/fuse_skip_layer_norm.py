"""Adds and normalizes in one operator of ONNX Runtime."""

from __future__ import annotations

import onnx_ir as ir

from exporter.compile.rewrite.builder import Builder, const_array, known_shape, replace_value

__all__ = ["FuseSkipLayerNormPass"]


class FuseSkipLayerNormPass(ir.passes.InPlacePass):
    """LayerNormalization(x + r) becomes com.microsoft.SkipLayerNormalization, equal to rounding.

    1. x and r are tensors [batch, rows, features] of one shape; scale and bias of the norm are vectors over the features.
    2. Where x is y + b with a constant vector b that nothing else reads, the operator adds b as well.
    3. Where the sum is read elsewhere, as by a sequential adapter's residual, the operator gives it as its fourth output.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        build = Builder(model.graph, "")
        modified = False
        for node in list(model.graph):
            if node.op_type == "LayerNormalization" and node.domain == "" and _fuse(node, build):
                modified = True
        if modified:
            model.graph.opset_imports.setdefault("com.microsoft", 1)
        return ir.passes.PassResult(model, modified=modified)


def _fuse(norm: ir.Node, build: Builder) -> bool:
    total, scale, bias = [*norm.inputs, None][:3]
    add = None if total is None else total.producer()
    if total is None or add is None or add.op_type != "Add" or add.domain != "" or total.is_graph_output():
        return False
    shape = known_shape(total)
    if shape is None or len(shape) != 3 or any(known_shape(value) != shape for value in add.inputs):  # rule 1
        return False
    if norm.attributes.get_int("axis", -1) not in (-1, 2) or len(norm.outputs) != 1:
        return False
    if scale is None or len(scale.shape or ()) != 1:
        return False
    left, right = add.inputs
    offset = None
    for x, r in ((left, right), (right, left)):
        inner = _biased(x)
        if inner is not None:
            left, right, offset = inner[0], r, inner[1]  # rule 2
            break
    shared = len(list(total.uses())) > 1
    further = [f"{total.name}_{part}" for part in ("mean", "deviation", "sum")] if shared else []  # rule 3
    outputs = build.nodes(
        "SkipLayerNormalization",
        [left, right, scale, bias, *([] if offset is None else [offset])],
        attributes={"epsilon": norm.attributes.get_float("epsilon", 1e-5)},
        shapes=[total.shape, *([ir.Shape([1]), ir.Shape([1]), total.shape] if shared else [])],
        dtypes=[total.dtype, *([ir.DataType.FLOAT, ir.DataType.FLOAT, total.dtype] if shared else [])],
        hints=[norm.outputs[0].name, *further],
        domain="com.microsoft",
    )
    assert norm.graph is not None
    norm.graph.insert_before(add if shared else norm, build.take())
    replace_value(norm.outputs[0], outputs[0])
    norm.graph.remove(norm, safe=True)
    if shared:
        total.replace_all_uses_with(outputs[3])
    return True


def _biased(value: ir.Value | None) -> tuple[ir.Value, ir.Value] | None:
    """(y, b) of y + b that nothing else reads."""
    add = None if value is None else value.producer()
    if value is None or add is None or add.op_type != "Add" or add.domain != "" or len(list(value.uses())) != 1:
        return None
    for y, b in (add.inputs, tuple(reversed(add.inputs))):
        array = const_array(b)
        if y is not None and b is not None and array is not None and array.ndim == 1 and known_shape(y) == known_shape(value):
            return y, b
    return None
