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


@pytest.mark.parametrize("rows", [0, 3])
def test_an_unknown_length_is_measured(rows: int) -> None:
    model = prove(MeasureLengthsPass(), GROUPED, "Shape Concat Reshape")
    content = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": np.zeros((rows, 2, 2, 5, 8), np.float32)})
    assert found.shape == (rows, 4, 5, 8)


@pytest.mark.parametrize(
    ("shapes", "target"),
    [
        ("float[batch, sequence, 8] x) => (float[batch, sequence, 2, 4] y", "0, 0, 2, 4"),
        ("float[batch, 2, 4] x) => (float[batch, 8] y", "-1, 8"),  # nothing is copied: -1 is 0
        ("float[batch, sequence, 8] x) => (float[batch, other, 16] y", "0, -1, 16"),
    ],
)
def test_other_targets_stay(shapes: str, target: str) -> None:
    count = target.count(",") + 1
    prove(MeasureLengthsPass(), f"({shapes}) <int64[{count}] t = {{{target}}}> {{ y = Reshape(x, t) }}", None)
