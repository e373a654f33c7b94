"""Factors of attention."""

import pytest

from exporter.compile.passes import MoveScalesPass
from tests.helpers.pass_testing import prove

QK = "(float[batch, sequence, 4] q, float[batch, 4, sequence] k) => (float[batch, sequence, sequence] y)"


def test_scales_q_by_both_factors() -> None:
    text = f"{QK} <float c = {{0.5}}, float[1] d = {{3}}> {{ a = Mul(q, c) b = Mul(d, k) y = MatMul(a, b) }}"
    prove(MoveScalesPass(), text, "Mul MatMul", tolerance=1e-5)


HEADED = """(float[batch, 2, sequence, 4] q, float[batch, 2, 4, sequence] k) => (float[batch, 2, sequence, sequence] y)
    <float c = {0.35}, float none = {0}, float[1, 1, 1, 1, 1] high = {2}>"""


@pytest.mark.parametrize("scale", ["Mul(m, c)", "Mul(c, m)", "Div(m, c)"])
def test_scales_queries_instead_of_scores(scale: str) -> None:
    text = f"{HEADED} {{ m = MatMul(q, k) s = {scale} y = Softmax(s) }}"
    prove(MoveScalesPass(), text, "Mul MatMul Softmax", tolerance=1e-5)


@pytest.mark.parametrize(
    "body",
    [
        "s = Div(c, m) y = Softmax(s)",
        "s = Div(m, none) y = Abs(s)",
        "s = Mul(m, c) n = Softmax(s) y = Add(n, m)",  # a second reader of the scores
        "s = Mul(m, high) t = ReduceSum<keepdims = 0>(s) y = Add(q2, t)",
    ],
)
def test_keeps_the_scale_of_scores(body: str) -> None:
    text = f"{HEADED} {{ m = MatMul(q, k) {'q2 = Exp(m) ' if 'q2' in body else ''}{body} }}"
    prove(MoveScalesPass(), text, None)


@pytest.mark.parametrize(
    "body",
    [
        "b = Mul(k, c) y = MatMul(q, b)",  # q has no factor
        "a = Mul(q, c) b = Mul(k, c) n = MatMul(a, b) s = ReduceSum(b) y = Add(n, s)",  # a second reader
        "a = Mul(q, row) b = Mul(k, c) y = MatMul(a, b)",  # no scalar
        "a = Mul(q, c) b = Div(k, c) y = MatMul(a, b)",
    ],
)
def test_keeps_a_single_factor(body: str) -> None:
    prove(MoveScalesPass(), f"{QK} <float c = {{0.5}}, float[4] row = {{1, 2, 3, 4}}> {{ {body} }}", None)
