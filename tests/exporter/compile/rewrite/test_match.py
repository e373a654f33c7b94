"""Patterns that several passes look for."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from exporter.compile.rewrite.match import Linear, counts_from_zero, match_linear
from exporter.compile.rewrite.refusals import Refusal
from tests.helpers.pass_testing import parse, rand

HEADER = "(float[batch, 4] x, float[batch, 3] v) => (float[batch, 3] y, float[batch, 3] z)"


def _value(body: str, name: str = "a") -> ir.Value:
    model = parse(f"{HEADER} {{ {body} }}", {"w": rand(4, 3), "t": rand(3, 4), "b": rand(3)})
    return next(value for node in model.graph for value in node.outputs if value.name == name)


@pytest.mark.parametrize(
    ("body", "bias"),
    [
        ("a = MatMul(x, w) y = Relu(a) z = Neg(v)", None),
        ("m = MatMul(x, w) a = Add(m, b) y = Relu(a) z = Neg(v)", "b"),
        ("m = MatMul(x, w) a = Add(b, m) y = Relu(a) z = Neg(v)", "b"),
        ("w2 = Transpose<perm = [1, 0]>(t) m = MatMul(x, w2) a = Add(m, b) y = Relu(a) z = Neg(v)", "b"),
    ],
)
def test_a_linear_layer_is_found(body: str, bias: str | None) -> None:
    linear = match_linear(_value(body))
    assert isinstance(linear, Linear)
    assert (linear.x.name, linear.bias and linear.bias.name) == ("x", bias)
    assert linear.total.outputs[0].name == "a"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("m = MatMul(x, w) a = Add(m, b) y = Relu(a) z = Neg(a)", "the linear layer has 2 readers"),
        ("m = MatMul(x, w) a = Add(m, b) y = Relu(a) z = Neg(m)", "the product of the linear layer has 2 readers"),
        ("m = MatMul(x, w) a = Add(m, v) y = Relu(a) z = Neg(v)", "what is added to the product is not constant"),
    ],
)
def test_a_linear_layer_is_refused_with_a_reason(body: str, reason: str) -> None:
    found = match_linear(_value(body))
    assert isinstance(found, Refusal)
    assert found.reason == reason


def test_other_products_are_no_linear_layers() -> None:
    assert match_linear(_value("u = Transpose<perm = [1, 0]>(x) a = MatMul(x, u) y = MatMul(a, v) z = Neg(v)")) is None


@pytest.mark.parametrize(("start", "step", "counts"), [(0, 1, True), (1, 1, False), (0, 2, False)])
def test_positions_are_counted_from_zero(start: int, step: int, counts: bool) -> None:
    text = f"(int64 n) => (int64[m] y) <int64 a = {{{start}}}, int64 b = {{{step}}}> {{ r = Range(a, n, b) y = Neg(r) }}"
    assert counts_from_zero(parse(text).graph[0].outputs[0]) is counts
