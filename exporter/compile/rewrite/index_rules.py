"""The rules of the operator table in `axes` for products and for operators that read or write by indices."""

from __future__ import annotations

import onnx_ir as ir

from exporter.compile.rewrite.axis_rules import Sources, aligned, only_first, same, shape_of, worked_axis


def matmul(node: ir.Node, axis: int) -> Sources:
    """Rule of MatMul: rows of the left matrix, columns of the right one, and the axes of both before these."""
    left, right = shape_of(node.inputs[0]), shape_of(node.inputs[1])
    after = shape_of(node.outputs[0])
    lead = len(after) - (len(left) > 1) - (len(right) > 1)
    if axis < lead:  # an axis before those of the matrices
        return aligned([left[:-2], right[:-2]], after[:lead], axis)
    if axis == lead and len(left) > 1:
        return (len(left) - 2, None)
    return (None, len(right) - 1)


def gemm(node: ir.Node, axis: int) -> Sources:
    """Rule of Gemm: rows of A, columns of B, each transposed or not."""
    rows, columns = node.attributes.get_int("transA", 0), 1 - node.attributes.get_int("transB", 0)
    offset = aligned([shape_of(value) for value in node.inputs[2:]], shape_of(node.outputs[0]), axis)
    if offset is None:
        return None
    return (rows, None, *offset) if axis == 0 else (None, columns, *offset)


def einsum(node: ir.Node, axis: int) -> Sources:
    """Rule of Einsum: an axis of the result is the axis of each operand that has the same letter, unless it is broadcast."""
    terms, arrow, result = node.attributes.get_string("equation", "").replace(" ", "").partition("->")
    operands = terms.split(",")
    if not arrow or "." in terms or any(len(set(letters)) < len(letters) for letters in (*operands, result)):
        return None
    after, found = shape_of(node.outputs[0])[axis], list[int | None]()
    for value, letters in zip(node.inputs, operands, strict=True):
        own = letters.index(result[axis]) if result[axis] in letters else None
        length = 1 if own is None else shape_of(value)[own]
        if length != 1 and not same(length, after):
            return None
        found.append(None if length == 1 else own)
    return tuple(found)


def gather(node: ir.Node, axis: int) -> Sources:
    """Rule of Gather: axes of the data other than the gathered one, and those of the indices."""
    worked, count = worked_axis(node, 0, len(shape_of(node.inputs[0]))), len(shape_of(node.inputs[1]))
    if axis < worked:
        return (axis, None)
    return (None, axis - worked) if axis < worked + count else (axis - count + 1, None)


def gather_elements(node: ir.Node, axis: int) -> Sources:
    """Rule of GatherElements, along all axes but the gathered one."""
    before, after = shape_of(node.inputs[0]), shape_of(node.outputs[0])
    if axis == worked_axis(node, 0, len(before)):
        return (None, axis)
    return (axis, axis) if same(before[axis], after[axis]) else None


def gather_nd(node: ir.Node, axis: int) -> Sources:
    """Rule of GatherND: first the batch axes, then the axes of the indices, then the axes of the data that no index names."""
    indices, shared = shape_of(node.inputs[1]), node.attributes.get_int("batch_dims", 0)
    if axis < shared:
        return (axis, axis)
    if axis < len(indices) - 1:
        return (None, axis)
    return (axis - (len(indices) - 1) + shared + indices[-1], None) if isinstance(indices[-1], int) else None


def scatter_elements(node: ir.Node, axis: int) -> Sources:
    """Rule of ScatterElements, along all axes but the scattered one."""
    after = shape_of(node.outputs[0])
    alike = all(same(shape_of(value)[axis], after[axis]) for value in node.inputs)
    return (axis, axis, axis) if alike and axis != worked_axis(node, 0, len(after)) else None


def scatter_nd(node: ir.Node, axis: int) -> Sources:
    """Rule of ScatterND, along the axes of the updates that no index names."""
    indices = shape_of(node.inputs[1])
    if not isinstance(indices[-1], int) or axis < indices[-1]:
        return None
    return (axis, None, axis - indices[-1] + len(indices) - 1)


def one_hot(node: ir.Node, axis: int) -> Sources:
    """Rule of OneHot, along the axes of the indices."""
    new = worked_axis(node, -1, len(shape_of(node.outputs[0])))
    return None if axis == new else only_first(node, axis - (axis > new))
