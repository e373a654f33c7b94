"""Reasons for which a pass leaves a pattern as it is."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from exporter.compile import passes
from tests.exporter.compile.passes.test_fuse_attention import MASKED
from tests.helpers.pass_testing import Arrays, parse, prove, rand

X = "(float[batch, sequence, 4] x) => (float[batch, sequence, 4] y)"
W: Arrays = {"w": rand(4, 4), "b": rand(4), "u": rand(4, 4, seed=1), "v": rand(4, seed=1)}
_ATTENTION = (
    "(float[batch, sequence, 6] q, float[batch, sequence, 6] k, float[batch, sequence, 6] v, float[{mask}] mask) => "
    "(float[batch, sequence, 6] y) <int64[4] heads = {{0, 0, 2, 3}}, int64[3] flat = {{0, 0, 6}}> {{ {body} }}"
)


@pytest.mark.parametrize(
    ("body", "mask", "reason"),
    [
        (
            MASKED.replace("y = Relu(r)", "e = ReduceSum<keepdims = 0>(p) y = Add(r, e)"),
            "batch, 1, 1, sequence",
            "the softmax has 2 readers",
        ),
        (
            MASKED.replace("y = Relu(r)", "e = ReduceSum<keepdims = 0>(s) y = Add(r, e)"),
            "batch, 1, 1, sequence",
            "the product of query and key has 2 readers",
        ),
        (
            MASKED,
            "sequence, sequence",
            "the mask is [sequence, sequence], not [batch or 1, heads or 1, rows or 1, columns]",
        ),
        (
            MASKED.replace("<axis = -1>", "<axis = 2>"),
            "batch, 1, 1, sequence",
            "the softmax is over axis 2, not over the last of four",
        ),
        (
            MASKED.replace("m = Add(s, mask)", "m = Max(s, mask)"),
            "batch, 1, 1, sequence",
            "what the softmax reads is made by Max, not made by MatMul",
        ),
        (
            MASKED.replace("r = Reshape(t, flat) y = Relu(r)", "u = Relu(t) y = Reshape(u, flat)"),
            "batch, 1, 1, sequence",
            "the transposed result is read by Relu, not by Reshape",
        ),
    ],
)
def test_attention_is_not_fused(body: str, mask: str, reason: str) -> None:
    prove(passes.FuseAttentionPass(), _ATTENTION.format(mask=mask, body=body), None, refused=reason)


@pytest.mark.parametrize(
    ("step", "text", "reason"),
    [
        (
            passes.QuantizeDynamicPass(17),
            f"{X} {{ y = MatMul(x, w) }}",
            "the weight has fewer than 17 numbers: quantizing its operand would cost more",
        ),
        (
            passes.QuantizeStaticPass({}, 17),
            f"{X} {{ y = MatMul(x, w) }}",
            "the weight has fewer than 17 numbers: quantizing its operand would cost more",
        ),
        (
            passes.QuantizeDynamicPass(1),
            "(float[batch, 4] x, float[4, 4] z) => (float[batch, 4] y) { y = MatMul(x, z) }",
            "the right operand is computed at run time",
        ),
        (
            passes.FoldScalesPass(),
            f"{X} <float c = {{2}}> {{ m = MatMul(x, w) a = Add(m, b) n = Mul(a, c) y = Add(n, a) }}",
            "the linear layer has 2 readers",
        ),
        (
            passes.FoldScalesPass(),
            f"{X} <float c = {{2}}> {{ m = MatMul(x, w) n = Mul(m, c) y = Relu(n) }}",
            "nothing is added to the product",
        ),
        (
            passes.MergeCastsPass(),
            "(float[batch] x) => (int64[batch] y) { a = Cast<to = 6>(x) b = Cast<to = 7>(a) y = Neg(b) }",
            "the first Cast, from FLOAT to INT32, loses numbers",
        ),
        (
            passes.MergeReshapesPass(),
            "(float[2, 4] x) => (float[2, 1, 2, 2] y, float[2, 2, 2] z) <int64[3] t = {0, 2, 2}, int64[1] one = {1}> "
            "{ r = Reshape(x, t) y = Unsqueeze(r, one) z = Relu(r) }",
            "the result of the Reshape has 2 readers",
        ),
        (
            passes.DropExpandsPass(),
            "(float[batch, 1] m) => (float[batch, 4] y) <int64[2] wide = {1, 4}> { e = Expand(m, wide) y = Softmax(e) }",
            "Softmax reads the full shape",
        ),
        (
            passes.DropNanGuardsPass(),
            "(float[batch, 4] s) => (float[batch, 4] y) <float zero = {0}> "
            "{ p = Softmax(s) n = IsNaN(p) g = Where(n, zero, p) y = Relu(g) }",
            "no finite mask is added to the scores",
        ),
        (
            passes.ReuseSumsPass(),
            "(float[4] p, float[4] q, float[batch, 4] r) => (float[batch, 4] y, float[batch, 4] z) "
            "{ qr = Add(q, r) z = Relu(qr) pq = Add(p, q) y = Add(pq, r) }",
            "the summands are not known to have one shape",
        ),
        (
            passes.FuseSkipLayerNormPass(),
            "(float[batch, 4] x, float[batch, 4] r) => (float[batch, 4] y) "
            "{ s = Add(x, r) n = LayerNormalization<axis = -1>(s, b, v) y = Relu(n) }",
            "the summands are not known to be of one shape [batch, rows, features]",
        ),
        (
            passes.SplitLinearsPass({"w"}),
            "(float[batch, 4] x) => (float[batch, 2] y) "
            "{ m = MatMul(x, w) a = Add(m, b) p, q = Split<axis = -1, num_outputs = 2>(a) y = Mul(p, q) }",
            "the weights belong to a task",
        ),
        (
            passes.MergeSiblingsPass(),
            "(float[batch, 4] x) => (float[n, batch, 4] y) <int64[1] first = {0}> { c = MatMul(x, w) d = Relu(c) "
            "e = MatMul(x, u) f = Tanh(e) g = Unsqueeze(d, first) h = Unsqueeze(f, first) y = Concat<axis = 0>(g, h) }",
            "the members are not alike (Relu, Tanh)",
        ),
        (
            passes.ReassociateProductsPass(),
            "(float[batch, 1, 3] p, float[batch, 3, 4] x) => (float[batch, 1, 4] y) "
            "{ m = MatMul(x, w) a = Add(m, b) c = MatMul(p, a) y = Relu(c) }",
            "a bias is added to what is mixed",
        ),
        (
            passes.MoveScalesPass(),
            "(float[batch, 2, n, 4] q, float[batch, 2, 4, n] k) => (float[batch, 2, n, n] y, float[batch, 2, n, n] z) "
            "<float c = {2}> { m = MatMul(q, k) s = Mul(m, c) y = Softmax(s) z = Relu(m) }",
            "the product has 2 readers",
        ),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, ir.passes.PassBase) else "",
)
def test_a_pattern_is_left_with_a_reason(step: ir.passes.InPlacePass, text: str, reason: str) -> None:
    weights = {name: array for name, array in W.items() if f", {name})" in text or f", {name}, " in text}
    prove(step, text, None, initializers=weights, refused=reason)


def test_operators_that_stay_in_floats_are_named() -> None:
    step = passes.ConvertToHalfPass()
    model = parse("(float[batch, 4] x) => (float[batch, 4] y) { e = Exp(x) y = Relu(e) }")
    step(model)
    assert [(each.tensor, each.reason) for each in step.refusals] == [
        ("e", "Exp leaves the range of a half for numbers that networks hold")
    ]


def test_a_single_query_keeps_projections_that_others_read() -> None:
    attention = MASKED.replace("Reshape(k,", "Reshape(kx,").replace("Reshape(v,", "Reshape(vx,")
    text = (
        "(float[batch, 1, 6] q, float[batch, sequence, 4] x, float[batch, 1, 1, sequence] mask) => "
        "(float[batch, 1, 6] y, float[batch, sequence, 6] again) <int64[4] heads = {0, 0, 2, 3}, int64[3] flat = {0, 0, 6}> "
        f"{{ kx = MatMul(x, wk) vx = MatMul(x, wk) {attention} again = Relu(kx) }}"
    )
    step = passes.AbsorbProjectionsPass()
    model = parse(text, {"wk": rand(4, 6)})
    step(model)
    (refused,) = step.refusals
    assert refused.reason == "the key is not a product by a constant matrix that nothing else reads"
    assert refused.tensor == "kx"
