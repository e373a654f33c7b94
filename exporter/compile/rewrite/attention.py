"""The pattern of multi-head attention."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from exporter.compile.rewrite.builder import const_array, known_shape
from exporter.compile.rewrite.match import expect_producer, operands, producer, second_reader
from exporter.compile.rewrite.refusals import Refusal

__all__ = ["SPLIT", "TURNED", "Attention", "match_attention"]

SPLIT, TURNED = [0, 2, 1, 3], [0, 2, 3, 1]


@dataclass(frozen=True)
class Attention:
    """softmax(q kᵀ + mask) v; nothing else reads the values in between.

    Attributes:
        query, key, value: [batch, rows, heads x size]; the scale of the scores is part of q by now (FoldScales).
        mask: the value that is added to the scores, [batch or 1, heads or 1, rows or 1, columns], or None.
        heads: the number of heads.
        scores: q kᵀ [batch, heads, rows, columns], before the mask.
        probabilities: the result of the softmax, of the same shape.
        output: the joined heads, [batch, rows, heads x size].
    """

    query: ir.Value
    key: ir.Value
    value: ir.Value
    mask: ir.Value | None
    heads: int
    scores: ir.Value
    probabilities: ir.Value
    output: ir.Value


def match_attention(softmax: ir.Node) -> Attention | Refusal | None:
    """Return the attention that a Softmax belongs to; None if its result is not multiplied by anything.

    q, k and v are split into heads by Reshape to [0, 0, heads, size] and Transpose, and the result is joined the same way.
    """
    probabilities = softmax.outputs[0]
    context = next((use.node for use in probabilities.uses() if use.idx == 0 and use.node.op_type == "MatMul"), None)
    if softmax.op_type != "Softmax" or softmax.domain != "" or context is None or context.domain != "":
        return None
    if readers := second_reader(probabilities):
        return Refusal(f"the softmax {readers}", probabilities)
    if softmax.attributes.get_int("axis", -1) not in (-1, 3):
        return Refusal(f"the softmax is over axis {softmax.attributes.get_int('axis', -1)}, not over the last of four")
    scores = _scores(softmax.inputs[0])
    if isinstance(scores, Refusal):
        return scores
    product, mask = scores
    parts = []
    for value, perm, what in (
        (product.inputs[0], SPLIT, "the query"),
        (product.inputs[1], TURNED, "the key"),
        (context.inputs[1], SPLIT, "the value"),
    ):
        part = _heads(value, perm, what)
        if isinstance(part, Refusal):
            return part
        parts.append(part)
    (query, heads), (key, others), (given, more) = parts
    if not heads == others == more:
        return Refusal(f"query, key and value have {heads}, {others} and {more} heads")
    output = _joined(context, query)
    if isinstance(output, Refusal):
        return output
    return Attention(query, key, given, mask, heads, product.outputs[0], probabilities, output)


def _perm(node: ir.Node) -> list[int]:
    return list(node.attributes.get_ints("perm", ()))


def _reader(value: ir.Value, op_type: str, what: str) -> ir.Node | Refusal:
    """Return the only reader of the value, which must have that type."""
    if readers := second_reader(value):
        return Refusal(f"{what} {readers}", value)
    (use,) = value.uses()
    found = use.node.op_type == op_type and use.node.domain == "" and use.idx == 0
    return use.node if found else Refusal(f"{what} is read by {use.node.op_type}, not by {op_type}", value)


def _joined(context: ir.Node, query: ir.Value) -> ir.Value | Refusal:
    """Return the joined heads, [batch, rows, heads x size]."""
    turned = _reader(context.outputs[0], "Transpose", "the product of softmax and value")
    if isinstance(turned, Refusal):
        return turned
    if _perm(turned) != SPLIT:
        return Refusal(f"the heads are joined by a Transpose of {_perm(turned)}, not of {SPLIT}", turned.outputs[0])
    joined = _reader(turned.outputs[0], "Reshape", "the transposed result")
    if isinstance(joined, Refusal):
        return joined
    after, before = known_shape(joined.outputs[0]), known_shape(query)
    if before is None or after is None:
        return Refusal("the shape of the joined heads is not known", joined.outputs[0])
    if len(after) != 3 or after[:2] != before[:2]:
        return Refusal("the joined heads are not [batch, rows, heads x size] as the query is", joined.outputs[0])
    return joined.outputs[0]


def _heads(value: ir.Value | None, perm: list[int], what: str) -> tuple[ir.Value, int] | Refusal:
    """Return (x, heads), where the value is x [batch, rows, heads x size] split into heads."""
    turned = expect_producer(value, "Transpose", what)
    if isinstance(turned, Refusal):
        return turned
    if _perm(turned) != perm:
        return Refusal(f"{what} is split by a Transpose of {_perm(turned)}, not of {perm}", value)
    split = expect_producer(turned.inputs[0], "Reshape", f"{what} before its Transpose")
    if isinstance(split, Refusal):
        return split
    x, target = split.inputs[0], const_array(split.inputs[1])
    before, after = known_shape(x), known_shape(split.outputs[0])
    if x is None or before is None or after is None:
        return Refusal(f"the shape of {what} is not known", x)
    if target is None or target.size != 4 or min(target[2:]) < 1:
        return Refusal(f"the size of a head of {what} is not known", split.outputs[0])
    if len(before) != 3 or after[:2] != before[:2]:
        return Refusal(f"{what} is not [batch, rows, heads x size] before it is split into heads", x)
    return x, int(target[2])


def _scores(value: ir.Value | None) -> tuple[ir.Node, ir.Value | None] | Refusal:
    """Return (the product of q and k, the mask that is added to it)."""
    if producer(value, "Add") is None:
        plain = expect_producer(value, "MatMul", "what the softmax reads")
        return plain if isinstance(plain, Refusal) else (plain, None)
    total = expect_producer(value, "Add", "the sum of scores and mask")
    if isinstance(total, Refusal):
        return total
    refusal: Refusal | None = None
    for scores, mask in operands(total):
        product = producer(scores, "MatMul")
        if product is None:
            continue
        shape, whole = known_shape(mask), known_shape(scores)
        if readers := second_reader(scores):
            refusal = refusal or Refusal(f"the product of query and key {readers}", scores)
        elif shape is None or whole is None:
            unknown = ("mask", mask) if shape is None else ("product of query and key", scores)
            refusal = refusal or Refusal(f"the shape of the {unknown[0]} is not known", unknown[1])
        elif len(shape) != 4 or len(whole) != 4 or shape[3] != whole[3] or shape[2] not in (1, whole[2]):
            dims = ", ".join(map(str, shape))
            refusal = refusal or Refusal(f"the mask is [{dims}], not [batch or 1, heads or 1, rows or 1, columns]", mask)
        else:
            return product, mask
    return refusal or Refusal("the sum that the softmax reads has no product of query and key in it", value)
