"""Weights that are stored once."""

import numpy as np

from exporter.compile.passes import MergeWeightsPass
from tests.helpers.pass_testing import prove, rand

TEXT = "(float[batch, 4] x) => (float[batch, 4] y) { a = MatMul(x, v) b = MatMul(a, w) y = Add(a, b) }"


def test_equal_weights_are_stored_once_in_any_memory_order() -> None:
    weight = rand(4, 4)
    model = prove(
        MergeWeightsPass(), TEXT, "MatMul MatMul Add", initializers={"v": weight, "w": np.asfortranarray(weight.copy())}
    )
    assert list(model.graph.initializers) == ["v"]


def test_weights_that_differ_in_a_bit_stay_apart() -> None:
    weight = np.zeros((4, 4), np.float32)
    model = prove(MergeWeightsPass(), TEXT, None, initializers={"v": weight, "w": -weight})
    assert list(model.graph.initializers) == ["v", "w"]


def test_weights_of_another_shape_stay_apart() -> None:
    text = "(float[batch, 4] x) => (float[batch, 4] y) { a = Add(x, v) y = Add(a, w) }"
    prove(MergeWeightsPass(), text, None, initializers={"v": np.ones((1, 4), np.float32), "w": np.ones(4, np.float32)})
