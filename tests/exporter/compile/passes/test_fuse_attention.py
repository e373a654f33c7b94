"""Attention as one operator of ONNX Runtime."""

import pytest

from exporter.compile.passes import FuseAttentionPass
from tests.helpers.pass_testing import prove

_IN = "(float[batch, sequence, 6] q, float[batch, sequence, 6] k, float[batch, sequence, 6] v, float[{mask}] mask)"
_OUT = "(float[batch, sequence, 6] y) <int64[4] heads = {0, 0, 2, 3}, int64[3] flat = {0, 0, 6}>"
_QKV = """
    a = Reshape(q, heads) qh = Transpose<perm = [0, 2, 1, 3]>(a)
    b = Reshape(k, heads) kt = Transpose<perm = [0, 2, 3, 1]>(b)
    c = Reshape(v, heads) vh = Transpose<perm = [0, 2, 1, 3]>(c)
    s = MatMul(qh, kt)"""
_END = "o = MatMul(p, vh) t = Transpose<perm = [0, 2, 1, 3]>(o) r = Reshape(t, flat) y = Relu(r)"
MASKED = f"{_QKV} m = Add(s, mask) p = Softmax<axis = -1>(m) {_END}"
FUSED = "MultiHeadAttention Relu"


def _text(mask: str, body: str) -> str:
    return f"{_IN.format(mask=mask)} => {_OUT} {{ {body} }}"


def test_without_a_mask() -> None:
    body = f"{_QKV} p = Softmax<axis = -1>(s) {_END}"
    prove(FuseAttentionPass(), _text("1", body), FUSED, tolerance=1e-5)


def test_a_mask_for_all_rows_is_repeated_for_each() -> None:
    text = _text("batch, 1, 1, sequence", MASKED)
    prove(FuseAttentionPass(), text, f"Shape Concat Expand {FUSED}", tolerance=1e-5)


@pytest.mark.parametrize("mask", ["batch, 1, sequence, sequence", "1, 2, sequence, sequence"])
def test_a_whole_mask_is_taken_as_it_is(mask: str) -> None:
    prove(FuseAttentionPass(), _text(mask, MASKED), FUSED, tolerance=1e-5)


@pytest.mark.parametrize(
    "body",
    [
        MASKED.replace("Softmax<axis = -1>", "Softmax<axis = 2>"),
        MASKED.replace("Transpose<perm = [0, 2, 3, 1]>(b)", "Transpose<perm = [0, 2, 1, 3]>(b) kt = Identity(kx)").replace(
            "kt = Transpose", "kx = Transpose"
        ),
        MASKED.replace("m = Add(s, mask)", "d = Mul(s, s) m = Add(d, mask)"),  # scores of another kind
        MASKED.replace("y = Relu(r)", "z = ReduceSum<keepdims = 0>(p) y = Add(r, z)"),  # the probabilities have a second reader
    ],
)
def test_what_is_no_attention_stays(body: str) -> None:
    if "Identity" in body:
        body = body.replace("s = MatMul(qh, kt)", "u = Transpose<perm = [0, 1, 3, 2]>(kt) s = MatMul(qh, u)")
    prove(FuseAttentionPass(), _text("batch, 1, sequence, sequence", body), None)
