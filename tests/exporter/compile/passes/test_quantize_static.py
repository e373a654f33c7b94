"""Matrix products in 8-bit integers, by measured ranges."""

import numpy as np
import onnx_ir as ir
import pytest

from exporter.compile.passes import QuantizeStaticPass
from exporter.compile.passes.quantize_static import quantized_activations
from exporter.compile.ranges import measure_ranges
from tests.helpers.pass_testing import op_types, parse, prove, rand

LINEAR = "(float[batch, sequence, 32] x) => (float[batch, sequence, 24] y)"
RANGES = {"x": (-4.0, 4.0)}  # of normal numbers
TOLERANCE = 0.2
ONCE = "DequantizeLinear QuantizeLinear DequantizeLinear MatMul"


def test_both_operands_are_rounded() -> None:
    text, weights = f"{LINEAR} {{ y = MatMul(x, w) }}", {"w": rand(32, 24)}
    model = prove(QuantizeStaticPass(RANGES, 1), text, ONCE, initializers=weights, tolerance=TOLERANCE, idempotent=False)
    assert {str(value.dtype) for value in model.graph.initializers.values()} == {"INT8", "UINT8", "FLOAT"}
    assert "w" not in model.graph.initializers


def test_an_operand_and_weight_of_two_products_are_rounded_once() -> None:
    text = f"{LINEAR} {{ a = MatMul(x, w) b = MatMul(x, w) y = Add(a, b) }}"
    step = QuantizeStaticPass(RANGES, 1)
    model = prove(step, text, f"{ONCE} MatMul Add", initializers={"w": rand(32, 24)}, tolerance=0.4, idempotent=False)
    assert op_types(model).count("DequantizeLinear") == 2


MOVED = "(float[batch, sequence, 32] x) => (float[sequence, batch, 24] y)"
TURN = "r = Relu(x) t = Transpose<perm = [1, 0, 2]>(r) y = MatMul(t, w)"


def test_numbers_are_rounded_before_they_are_moved() -> None:
    operators = "Relu DequantizeLinear QuantizeLinear DequantizeLinear Transpose MatMul"
    step = QuantizeStaticPass({"t": (0.0, 4.0)}, 1)
    weights = {"w": rand(32, 24)}
    prove(step, f"{MOVED} {{ {TURN} }}", operators, initializers=weights, tolerance=TOLERANCE, idempotent=False)


@pytest.mark.parametrize("other", ["r", "t"])
def test_what_others_read_is_not_rounded(other: str) -> None:
    reader = f"s = ReduceSum<keepdims = 1>({other}) y = Add(p, s)"
    model = parse(f"{MOVED} {{ {TURN.replace('y =', 'p =')} {reader} }}", {"w": rand(32, 24)})
    QuantizeStaticPass({"t": (0.0, 4.0)}, 1)(model)
    (total,) = (node for node in model.graph if node.op_type == "ReduceSum")
    assert [value.name for value in total.inputs if value is not None] == [other]


def test_zero_is_a_step_of_every_range() -> None:
    model = parse(f"{LINEAR} {{ r = Relu(x) s = Add(r, x) y = MatMul(s, w) }}", {"w": rand(32, 24)})
    QuantizeStaticPass({"s": (3.0, 5.0)}, 1)(model)
    (quantize,) = (node for node in model.graph if node.op_type == "QuantizeLinear")
    scale, zero = (value.const_value for value in quantize.inputs[1:] if value is not None)
    assert scale is not None
    assert zero is not None
    assert zero.numpy() == 0
    assert scale.numpy() == np.float32(5 / 255)


@pytest.mark.parametrize("weight", [rand(2, 32, 24), rand(32, 1)])
def test_stacks_and_small_weights_stay(weight: np.ndarray) -> None:
    text = f"(float[2, sequence, 32] x) => (float[2, sequence, {weight.shape[-1]}] y) {{ y = MatMul(x, w) }}"
    prove(QuantizeStaticPass({}, 64), text, None, initializers={"w": weight})


def test_a_missing_range_is_refused() -> None:
    model = parse(f"{LINEAR} {{ y = MatMul(x, w) }}", {"w": rand(32, 24)})
    with pytest.raises(ir.passes.PreconditionError, match="expected a range for each activation, found none for x"):
        QuantizeStaticPass({}, 1)(model)


def test_ranges_are_those_of_all_batches() -> None:
    text = """(int64[batch, sequence] ids) => (float[batch, sequence, 24] y)
        { f = Cast<to = 1>(ids) last = Constant<value_ints = [-1]>() u = Unsqueeze(f, last)
          e = MatMul(u, v) y = MatMul(e, w) }"""
    model = parse(text, {"v": np.ones((1, 32), np.float32), "w": rand(32, 24)})
    (activation,) = quantized_activations(model, least=64)
    batches = [{"ids": np.array([[3, -5]])}, {"ids": np.array([[9], [1]])}]
    assert measure_ranges(model, [str(activation.name)], batches) == {"e": (-5.0, 9.0)}


def test_nothing_to_measure() -> None:
    """No weight of a tiny model is large enough to be quantized."""
    assert measure_ranges(parse(f"{LINEAR} {{ y = MatMul(x, w) }}", {"w": rand(32, 24)}), [], []) == {}
