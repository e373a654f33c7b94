"""16-bit floats inside, 32-bit floats at the surface."""

import numpy as np

from exporter.compile.passes import ConvertToHalfPass
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
