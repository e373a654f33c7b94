"""Attention of one query without projected keys and values."""

import pytest

from exporter.compile.passes import AbsorbProjectionsPass
from tests.helpers.pass_testing import prove, rand

WEIGHTS = {"wk": rand(4, 6), "wv": rand(4, 6, seed=1), "bk": rand(6), "bv": rand(6, seed=1), "low": rand(2, 6)}
_IN = "(float[batch, 1, 6] q, float[batch, sequence, 4] x, float[batch, sequence, 6] z, float[batch, 1, 1, sequence] mask)"
_OUT = (
    "(float[batch, 1, 6] y) <int64[4] heads = {0, 0, 2, 3}, int64[3] flat = {0, 0, 6}, int64[1] zero = {0}, int64[1] two = {2}>"
)
_ATTENTION = """
    a = Reshape(q, heads) qh = Transpose<perm = [0, 2, 1, 3]>(a)
    b = Reshape(k, heads) kt = Transpose<perm = [0, 2, 3, 1]>(b)
    c = Reshape(v, heads) vh = Transpose<perm = [0, 2, 1, 3]>(c)
    s = MatMul(qh, kt) m = Add(s, mask) p = Softmax<axis = -1>(m) o = MatMul(p, vh)
    t = Transpose<perm = [0, 2, 1, 3]>(o) r = Reshape(t, flat) y = Relu(r)"""
KEY = "kx = MatMul(x, wk) k = Add(kx, bk)"
VALUE = "vx = MatMul(x, wv) v = Add(bv, vx)"
SCORES = "Reshape Transpose MatMul Transpose Transpose MatMul Unsqueeze"
VALUES = "Squeeze MatMul Transpose MatMul Transpose Reshape Add"


def _text(projections: str, inputs: str = _IN) -> str:
    return f"{inputs} => {_OUT} {{ {projections} {_ATTENTION} }}"


def test_the_query_and_the_mixed_rows_are_multiplied_instead() -> None:
    operators = f"{SCORES} Add Softmax {VALUES} Relu"
    prove(AbsorbProjectionsPass(), _text(f"{KEY} {VALUE}"), operators, initializers=WEIGHTS, tolerance=1e-5)


def test_what_is_added_to_the_products_is_added_to_the_results() -> None:
    split, joined = "Reshape Transpose", "MatMul Transpose Reshape Add"
    key = f"{KEY.replace('k =', 'kb =')} k = Add(kb, z)"
    low = "narrow = Slice(x, zero, two, two) lora = MatMul(narrow, low)"
    value = f"{VALUE.replace('v =', 'vb =')} {low} v = Add(vb, lora)"
    operators = f"Slice MatMul {SCORES} {split} {split} MatMul Add Add Softmax {VALUES} {split} {joined} Relu"
    prove(AbsorbProjectionsPass(), _text(f"{key} {value}"), operators, initializers=WEIGHTS, tolerance=1e-5)


def test_a_weight_that_is_also_read_whole_is_stored_once() -> None:
    scores = SCORES.replace("Reshape Transpose", "Reshape Reshape Transpose Transpose")
    operators = f"MatMul {scores} Add Softmax {VALUES} Relu"
    text = _text(f"{KEY} {VALUE} whole = MatMul(x, wk)").replace("6] y)", "6] y, float[batch, sequence, 6] whole)")
    model = prove(AbsorbProjectionsPass(), text, operators, initializers=WEIGHTS, tolerance=1e-5)
    assert [name for name in model.graph.initializers if name.startswith("wk")] == ["wk"]


@pytest.mark.parametrize(
    "text",
    [
        _text(f"{KEY} {VALUE}", _IN.replace("batch, 1, 6", "batch, sequence, 6")),  # several queries
        _text("k = Relu(z) v = Neg(z)"),  # no projections
        _text(
            f"{KEY} {VALUE}", _IN.replace("batch, sequence, 4", "1, sequence, 4")
        ),  # one text for all queries: projected once
    ],
)
def test_what_must_stay(text: str) -> None:
    prove(AbsorbProjectionsPass(), text, None, initializers={name: WEIGHTS[name] for name in ("wk", "wv", "bk", "bv")})
