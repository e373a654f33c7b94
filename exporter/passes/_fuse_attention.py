"""Recognizes attention and hands it to one operator of ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ._build import Builder, const_array, known_shape, refuse_subgraphs, take_over

__all__ = ["FuseAttentionPass"]

_SPLIT, _TURNED = [0, 2, 1, 3], [0, 2, 3, 1]


@dataclass(frozen=True)
class _Attention:
    """The rows q, k, v [batch, rows, heads x size], the mask that is added to the scores, and the last node of the pattern."""

    query: ir.Value
    key: ir.Value
    value: ir.Value
    mask: ir.Value | None
    heads: int
    output: ir.Value


class FuseAttentionPass(ir.passes.InPlacePass):
    """softmax(q kᵀ + mask) v over heads becomes com.microsoft.MultiHeadAttention, equal to rounding.

    1. q, k and v are split into heads by Reshape to [0, 0, heads, size] and Transpose, and the result is joined the same way.
    2. Nothing else reads the values in between.
    3. The scale of the scores is part of q's weights by now (FoldScales); the operator's own is 1.
    4. The operator wants a mask [batch or 1, heads or 1, rows, columns]: one row for all is repeated, once per mask. A mask of
       another rank, or scores that something else is added to, stay as they are.
    """

    def requires(self, model: ir.Model) -> None:
        refuse_subgraphs(self, model)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        build = Builder(model.graph, "")
        masks: dict[tuple[ir.Value, object], ir.Value] = {}
        modified = False
        for node in list(model.graph):
            found = _match(node)
            if found is None:
                continue
            fused = _fuse(found, build, masks)
            model.graph.insert_before(node, build.take())
            take_over(found.output, fused)
            modified = True
        if modified:
            model.graph.opset_imports.setdefault("com.microsoft", 1)
        return ir.passes.PassResult(model, modified=modified)


def _fuse(found: _Attention, build: Builder, masks: dict[tuple[ir.Value, object], ir.Value]) -> ir.Value:
    query, shape = found.query, known_shape(found.query)
    assert shape is not None  # _match
    inputs: list[ir.Value | None] = [query, found.key, found.value]
    if found.mask is not None:
        key = (found.mask, shape[1])
        if key not in masks:
            masks[key] = _whole_mask(found.mask, query, build)
        inputs += [None, None, masks[key]]
    return build.nodes(
        "MultiHeadAttention",
        inputs,
        attributes={"num_heads": found.heads, "scale": 1.0},
        shapes=[found.output.shape],
        dtypes=[found.output.dtype],
        hints=[f"{found.output.name}_attention"],
        domain="com.microsoft",
    )[0]


def _whole_mask(mask: ir.Value, query: ir.Value, build: Builder) -> ir.Value:  # rule 4
    shape, rows = known_shape(mask), (known_shape(query) or (0, 0))[1]
    assert shape is not None  # _match
    if shape[2] == rows:
        return mask
    # Rows are as many as the query has, whatever the mask says of its other axes.
    length = build.node("Shape", [query], attributes={"start": 1, "end": 2}, dtype=ir.DataType.INT64, shape=ir.Shape([1]))
    sizes = [build.ints([1, 1]), length, build.ints([1])]
    target = build.node("Concat", sizes, attributes={"axis": 0}, dtype=ir.DataType.INT64, shape=ir.Shape([4]))
    whole = ir.Shape([shape[0], shape[1], rows, shape[3]])
    return build.node("Expand", [mask, target], shape=whole, dtype=mask.dtype, hint=f"{mask.name}_rows")


def _match(node: ir.Node) -> _Attention | None:
    """The pattern that ends in the Reshape `node`."""
    joined = _only(node, "Reshape")
    turned = None if joined is None else _made_by(joined, "Transpose")
    context = None if turned is None or _perm(turned) != _SPLIT else _made_by(turned.inputs[0], "MatMul")
    if joined is None or context is None:
        return None
    probabilities, value = _made_by(context.inputs[0], "Softmax"), _heads(context.inputs[1], _SPLIT)
    if probabilities is None or value is None or probabilities.attributes.get_int("axis", -1) not in (-1, 3):
        return None
    scores, mask = _scores(probabilities.inputs[0])
    if scores is None:
        return None
    query, key = _heads(scores.inputs[0], _SPLIT), _heads(scores.inputs[1], _TURNED)
    if query is None or key is None or not query[1] == key[1] == value[1]:
        return None
    after, before = known_shape(node.outputs[0]), known_shape(query[0])
    if before is None or after is None or len(after) != 3 or after[:2] != before[:2]:
        return None
    return _Attention(query[0], key[0], value[0], mask, query[1], node.outputs[0])


def _only(node: ir.Node, op_type: str) -> ir.Value | None:
    return node.inputs[0] if node.op_type == op_type and node.domain == "" else None


def _made_by(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The operator of that type that makes a value which nothing else reads."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != op_type or node.domain != "" or value is None or value.is_graph_output():
        return None
    return node if len(list(value.uses())) == 1 else None  # rule 2


def _perm(node: ir.Node) -> list[int]:
    return list(node.attributes.get_ints("perm", ()))


def _heads(value: ir.Value | None, perm: list[int]) -> tuple[ir.Value, int] | None:  # rule 1
    """(x, heads) of x [batch, rows, heads x size] split into heads."""
    turned = _made_by(value, "Transpose")
    split = None if turned is None or _perm(turned) != perm else _made_by(turned.inputs[0], "Reshape")
    if split is None or split.inputs[0] is None or len(known_shape(split.inputs[0]) or ()) != 3:
        return None
    target = const_array(split.inputs[1])
    if target is None or target.size != 4 or target[:2].tolist() != [0, 0] or min(target[2:]) < 1:
        return None
    return split.inputs[0], int(target[2])


def _scores(value: ir.Value | None) -> tuple[ir.Node | None, ir.Value | None]:
    """(the product of q and k, the mask added to it)."""
    product, total = _made_by(value, "MatMul"), _made_by(value, "Add")
    if product is not None or total is None:
        return product, None
    for scores, mask in (total.inputs, tuple(reversed(total.inputs))):
        product = _made_by(scores, "MatMul")
        shape, whole = known_shape(mask), known_shape(scores)
        if product is None or shape is None or whole is None or len(shape) != 4 or len(whole) != 4:
            continue
        if shape[3] == whole[3] and shape[2] in (1, whole[2]):
            return product, mask
    return None, None
