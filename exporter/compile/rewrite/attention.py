"""Recognizes attention over heads."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from exporter.compile.rewrite.builder import const_array, known_shape, sole_producer

__all__ = ["SPLIT", "TURNED", "Attention", "match_attention"]

SPLIT, TURNED = [0, 2, 1, 3], [0, 2, 3, 1]


@dataclass(frozen=True)
class Attention:
    """softmax(q kᵀ + mask) v, whose inner values nothing else reads.

    Attributes:
        query, key, value: [batch, rows, heads x size]; the scale of the scores is part of q by now (FoldScales).
        mask: what is added to the scores, [batch or 1, heads or 1, rows or 1, columns], or None.
        heads: their number.
        scores: q kᵀ [batch, heads, rows, columns], before the mask.
        probabilities: what the softmax gives, of the same shape.
        output: the heads side by side, [batch, rows, heads x size].
    """

    query: ir.Value
    key: ir.Value
    value: ir.Value
    mask: ir.Value | None
    heads: int
    scores: ir.Value
    probabilities: ir.Value
    output: ir.Value


def match_attention(node: ir.Node) -> Attention | None:
    """The attention whose heads the Reshape `node` puts side by side; None where it does not.

    q, k and v are split into heads by Reshape to [0, 0, heads, size] and Transpose, and the result is joined the same way.
    """
    joined = node.inputs[0] if node.op_type == "Reshape" and node.domain == "" else None
    turned = None if joined is None else sole_producer(joined, "Transpose")
    context = None if turned is None or _perm(turned) != SPLIT else sole_producer(turned.inputs[0], "MatMul")
    if joined is None or context is None:
        return None
    probabilities, value = sole_producer(context.inputs[0], "Softmax"), _heads(context.inputs[1], SPLIT)
    if probabilities is None or value is None or probabilities.attributes.get_int("axis", -1) not in (-1, 3):
        return None
    scores, mask = _scores(probabilities.inputs[0])
    if scores is None:
        return None
    query, key = _heads(scores.inputs[0], SPLIT), _heads(scores.inputs[1], TURNED)
    if query is None or key is None or not query[1] == key[1] == value[1]:
        return None
    after, before = known_shape(node.outputs[0]), known_shape(query[0])
    if before is None or after is None or len(after) != 3 or after[:2] != before[:2]:
        return None
    return Attention(query[0], key[0], value[0], mask, query[1], scores.outputs[0], probabilities.outputs[0], node.outputs[0])


def _perm(node: ir.Node) -> list[int]:
    return list(node.attributes.get_ints("perm", ()))


def _heads(value: ir.Value | None, perm: list[int]) -> tuple[ir.Value, int] | None:
    """(x, heads) of x [batch, rows, heads x size] split into heads."""
    turned = sole_producer(value, "Transpose")
    split = None if turned is None or _perm(turned) != perm else sole_producer(turned.inputs[0], "Reshape")
    if split is None or split.inputs[0] is None or len(known_shape(split.inputs[0]) or ()) != 3:
        return None
    target = const_array(split.inputs[1])
    before, after = known_shape(split.inputs[0]), known_shape(split.outputs[0])
    if target is None or target.size != 4 or before is None or after is None or after[:2] != before[:2] or min(target[2:]) < 1:
        return None
    return split.inputs[0], int(target[2])


def _scores(value: ir.Value | None) -> tuple[ir.Node | None, ir.Value | None]:
    """(the product of q and k, the mask added to it)."""
    product, total = sole_producer(value, "MatMul"), sole_producer(value, "Add")
    if product is not None or total is None:
        return product, None
    for scores, mask in (total.inputs, tuple(reversed(total.inputs))):
        product = sole_producer(scores, "MatMul")
        shape, whole = known_shape(mask), known_shape(scores)
        if product is None or shape is None or whole is None or len(shape) != 4 or len(whole) != 4:
            continue
        if shape[3] == whole[3] and shape[2] in (1, whole[2]):
            return product, mask
    return None, None
