"""Gives Reshape constant targets."""

from __future__ import annotations

import onnx_ir as ir

from ._build import Builder, const_array, known_shape

__all__ = ["StaticReshapesPass", "static_target"]


def static_target(before: tuple[int | ir.SymbolicDim, ...], after: tuple[int | ir.SymbolicDim, ...]) -> list[int] | None:
    """The output's dimensions with 0 for "as in the input" and -1 for one other; None with more unknowns or empty axes."""
    target: list[int] = []
    for axis, dim in enumerate(after):
        if isinstance(dim, int):
            if dim == 0:
                return None  # 0 would be read as "as in the input"
            target.append(dim)
        else:
            target.append(0 if axis < len(before) and before[axis] == dim else -1)
    return target if target.count(-1) <= 1 else None


class StaticReshapesPass(ir.passes.InPlacePass):
    """Replaces computed Reshape targets by constants such as [0, 0, 12, 64], bit-exact.

    The symbolic shapes of input and output tell which axes are copied. The arithmetic that computed the target is then dead,
    and a constant target holds at any batch size, which is what the vectoriser wants.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        build = Builder(model.graph, "")
        modified = False
        for node in list(model.graph):
            if node.op_type != "Reshape" or node.domain != "" or const_array(node.inputs[1]) is not None:
                continue
            before, after = known_shape(node.inputs[0]), known_shape(node.outputs[0])
            target = None if before is None or after is None else static_target(before, after)
            if target is None:
                continue
            node.replace_input_with(1, build.ints(target))
            node.attributes["allowzero"] = ir.AttrInt64("allowzero", 0)
            modified = True
        return ir.passes.PassResult(model, modified=modified)
