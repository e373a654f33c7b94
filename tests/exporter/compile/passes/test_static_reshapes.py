"""Reshape targets that hold at any size."""

import pytest

from exporter.compile.passes import StaticReshapesPass
from tests.helpers.pass_testing import prove

DIMS = """zero = Constant<value_ints = [0]>() one = Constant<value_ints = [1]>() two = Constant<value_ints = [2]>()
    six = Constant<value_ints = [6]>() s = Shape(x) b = Gather(s, zero) t = Gather(s, one)"""


@pytest.mark.parametrize(
    ("shape", "target", "numbers"),
    [
        ("batch, sequence, 2, 3", "b, t, two, minus", [0, 0, 2, 3]),  # copied axes
        ("batch, sequence, 6", "b, t, six", [0, 0, 6]),
        ("rows, 6", "minus, six", [-1, 6]),  # one unknown
        ("batch, 2, columns", "b, two, minus", [0, 2, -1]),
    ],
)
def test_gives_a_computed_target_the_known_dimensions(shape: str, target: str, numbers: list[int]) -> None:
    text = f"""(float[batch, sequence, 6] x) => (float[{shape}] y) <float[{shape}] r> {{
        {DIMS} minus = Constant<value_ints = [-1]>() t2 = Concat<axis = 0>({target}) r = Reshape(x, t2) y = Relu(r) }}"""
    model = prove(StaticReshapesPass(), text, "Reshape Relu")
    target_value = model.graph[0].inputs[1]
    assert target_value is not None
    assert target_value.const_value is not None
    assert target_value.const_value.numpy().tolist() == numbers


def test_drops_allowzero_with_the_computed_target() -> None:
    text = f"""(float[batch, sequence, 6] x) => (float[batch, sequence, 6] y) {{
        {DIMS} t2 = Concat<axis = 0>(b, t, six) y = Reshape<allowzero = 1>(x, t2) }}"""
    assert prove(StaticReshapesPass(), text, "Reshape").graph[0].attributes.get_int("allowzero", 1) == 0


def test_keeps_a_target_with_two_unknown_axes() -> None:
    text = f"""(float[batch, sequence, 6] x) => (float[sequence, batch, 6] y) {{
        {DIMS} t2 = Concat<axis = 0>(t, b, six) y = Reshape(x, t2) }}"""
    prove(StaticReshapesPass(), text, None)


def test_keeps_a_target_that_the_caller_feeds() -> None:
    text = (
        "(float[batch, sequence, 6] x, int64[r] target) => (float y) { h = Reshape(x, target) y = ReduceSum<keepdims = 0>(h) }"
    )
    prove(StaticReshapesPass(), text, None)


def test_keeps_a_target_with_an_empty_axis() -> None:
    text = f"""(float[batch, sequence, 0] x) => (float[batch, sequence, 0] y) {{
        {DIMS} t2 = Concat<axis = 0>(b, t, zero) y = Reshape<allowzero = 1>(x, t2) }}"""
    prove(StaticReshapesPass(), text, None)


def test_keeps_a_constant_target() -> None:
    text = "(float[batch, 6] x) => (float[batch, 2, 3] y) <int64[3] t = {-1, 2, 3}> { y = Reshape(x, t) }"
    prove(StaticReshapesPass(), text, None)
