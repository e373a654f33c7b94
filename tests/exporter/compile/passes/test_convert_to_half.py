"""16-bit floats inside, 32-bit floats at the surface."""

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from exporter.compile.passes import ConvertToHalfPass
from exporter.compile.rewrite.axes import BINARY, UNARY
from tests.helpers.pass_testing import parse, prove, rand

LINEAR = "(float[batch, sequence, 8] x) => (float[batch, sequence, 6] y)"
HALF = 5e-3


def test_weights_are_halves_and_the_surface_is_not() -> None:
    text = f"{LINEAR} {{ m = MatMul(x, w) y = Relu(m) }}"
    weights = {"w": rand(8, 6)}
    model = prove(ConvertToHalfPass(), text, "Cast MatMul Relu Cast", initializers=weights, tolerance=HALF, idempotent=False)
    (weight,) = (value for value in model.graph.initializers.values())
    assert weight.dtype is not None
    assert weight.dtype.numpy() == np.float16


def test_powers_and_sums_stay_in_single_precision() -> None:
    # 300 squared is no half any more.
    body = "m = MatMul(x, w) b = Mul(m, big) s = Pow(b, two) r = Sqrt(s) y = Div(r, big)"
    text = f"{LINEAR} <float big = {{300}}, float two = {{2}}> {{ {body} }}"
    operators = "Cast MatMul Mul Cast Pow Cast Sqrt Div Cast"
    prove(ConvertToHalfPass(), text, operators, initializers={"w": rand(8, 6)}, tolerance=HALF, idempotent=False)


@pytest.mark.parametrize("operator", sorted({*UNARY, *BINARY} - {"And", "Cast", "Identity", "Not", "Or", "Xor"}))
def test_operators_of_the_table_keep_their_numbers(operator: str) -> None:
    numbers = np.concatenate([np.linspace(-199.7, 199.7, 81), rand(79)]).astype(np.float32)[None]
    if operator in ("Log", "Pow", "Sqrt"):
        numbers = np.abs(numbers) + np.float32(0.01)
    attributes = "<fmod = 1>" if operator == "Mod" else ""
    result = f"{operator}{attributes}(x{', other' if operator in BINARY else ''})"
    logical = operator in ("Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual")
    body = f"b = {result} y = Where(b, x, other)" if logical else f"y = {result}"
    text = f"(float[batch, 160] x) => (float[batch, 160] y) <float other = {{2.5}}> {{ {body} }}"
    found: list[Any] = []
    for model in (parse(text), ConvertToHalfPass()(parse(text)).model):
        with np.errstate(over="ignore", invalid="ignore"):
            # The reference computes halves as such; the CPU provider casts them.
            found += ReferenceEvaluator(ir.to_proto(model)).run(None, {"x": numbers})
    np.testing.assert_allclose(found[1], found[0], rtol=HALF, atol=HALF)


def test_operators_of_the_keep_list_stay_in_single_precision() -> None:
    text = f"{LINEAR} {{ m = MatMul(x, w) y = Tanh(m) }}"
    step = ConvertToHalfPass(keep=frozenset({"MatMul"}))
    prove(step, text, "MatMul Cast Tanh Cast", initializers={"w": rand(8, 6)}, tolerance=HALF, idempotent=False)


def test_a_mask_beyond_the_range_still_masks() -> None:
    text = """(float[batch, sequence] x, bool[batch, sequence] hidden) => (float[batch, sequence] y)
        <float least = {-3.4e38}> { m = Where(hidden, least, x) y = Softmax<axis = -1>(m) }"""
    prove(ConvertToHalfPass(), text, "Cast Where Softmax Cast", tolerance=HALF, idempotent=False)


def test_a_score_under_the_mask_stays_finite() -> None:
    text = """(float[batch, sequence] x, bool[batch, sequence] hidden) => (float[batch, sequence] y)
        <float least = {-3.4e38}, float none = {-inf}> { m = Where(hidden, least, none) y = Add(m, x) }"""
    # The least half for the least float: as far apart as the float is large.
    model = prove(ConvertToHalfPass(), text, "Where Cast Add Cast", tolerance=1.0, idempotent=False)
    least, none = (value.const_value.numpy() for value in model.graph.initializers.values() if value.const_value is not None)
    # The CPU provider adds halves in 32 bits: what a GPU does is computed here.
    assert np.isfinite(least + np.float16(-30_000))
    assert np.isneginf(none)


def test_a_cast_to_floats_gives_halves() -> None:
    text = "(int64[batch] x) => (float[batch] y) { f = Cast<to = 1>(x) y = Neg(f) }"
    model = prove(ConvertToHalfPass(), text, "Cast Neg Cast", idempotent=False)
    assert next(iter(model.graph)).attributes.get_int("to", 0) == 10


def test_a_graph_of_integers_stays() -> None:
    model = parse("(int64[batch] x) => (int64[batch] y) { y = Neg(x) }")
    assert not ConvertToHalfPass()(model).modified
