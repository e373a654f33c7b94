"""Reshapes of tensors that may have no rows."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from exporter.compile.passes import MeasureLengthsPass
from tests.helpers.pass_testing import prove

GROUPED = (
    "(float[batch, 2, 2, sequence, 8] x) => (float[batch, 4, sequence, 8] y) <int64[4] t = {0, 4, -1, 8}> { y = Reshape(x, t) }"
)


PRODUCT = "(float[batch, 6, sequence, 4] x) => (float[batch, other, 3] y) <int64[3] t = {0, -1, 3}> { y = Reshape(x, t) }"
COPIED = "(float[batch, 2, 6, sequence] x) => (float[batch, 2, other] y) <int64[3] t = {0, 0, -1}> { y = Reshape(x, t) }"
KNOWN = "(float[batch, 3, 4] x) => (float[batch, 12] y) <int64[2] t = {0, -1}> { y = Reshape(x, t) }"


@pytest.mark.parametrize("rows", [0, 3])
@pytest.mark.parametrize(
    ("text", "operators", "before", "after"),
    [
        (GROUPED, "Shape Concat Reshape", [2, 2, 5, 8], [4, 5, 8]),
        (PRODUCT, "Shape Gather ReduceProd Div Concat Reshape", [6, 5, 4], [40, 3]),
        (COPIED, "Shape Gather ReduceProd Concat Reshape", [2, 6, 5], [2, 30]),
        (KNOWN, "Reshape", [3, 4], [12]),
    ],
    ids=["axis", "product", "copied", "known"],
)
def test_an_unknown_length_is_measured(rows: int, text: str, operators: str, before: list[int], after: list[int]) -> None:
    model = prove(MeasureLengthsPass(), text, operators)
    content = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": np.zeros((rows, *before), np.float32)})
    assert found.shape == (rows, *after)


@pytest.mark.parametrize("rows", [0, 3])
def test_a_batch_that_moves_is_no_axis_to_copy(rows: int) -> None:
    text = """(float[batch, 20] x) => (float[4, 5, batch] y) <int64[2] four_five = {4, 5}>
        { n = Shape<start = 0, end = 1>(x) t = Concat<axis = 0>(four_five, n) y = Reshape(x, t) }"""
    model = prove(MeasureLengthsPass(), text, "Shape Concat Reshape")
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": np.zeros((rows, 20), np.float32)})
    assert found.shape == (4, 5, rows)


@pytest.mark.parametrize(
    ("shapes", "target"),
    [
        ("float[batch, sequence, 8] x) => (float[batch, sequence, 2, 4] y", "0, 0, 2, 4"),
        ("float[batch, 2, 4] x) => (float[batch, 8] y", "-1, 8"),  # nothing is copied: -1 is 0
    ],
)
def test_other_targets_stay(shapes: str, target: str) -> None:
    count = target.count(",") + 1
    prove(MeasureLengthsPass(), f"({shapes}) <int64[{count}] t = {{{target}}}> {{ y = Reshape(x, t) }}", None)
