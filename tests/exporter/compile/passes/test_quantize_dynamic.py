"""Matrix products in 8-bit integers."""

import numpy as np
import pytest

from exporter.compile.passes import QuantizeDynamicPass
from tests.helpers.pass_testing import op_types, parse, prove, rand

LINEAR = "(float[batch, sequence, 32] x) => (float[batch, sequence, 24] y)"
# What the activation's 256 steps and the weight's 254 leave of 32 products.
TOLERANCE = 0.15
_TWICE = "DynamicQuantizeLinear MatMulInteger Cast Mul Mul MatMulInteger Cast Mul Mul Add"


def test_a_product_becomes_integers_and_one_scale_per_column() -> None:
    weight = rand(32, 24) * np.logspace(-2, 0, 24, dtype=np.float32)  # a scale for all would lose the small columns
    text = f"{LINEAR} {{ y = MatMul(x, w) }}"
    operators = "DynamicQuantizeLinear MatMulInteger Cast Mul Mul"
    model = prove(QuantizeDynamicPass(least=1), text, operators, initializers={"w": weight}, tolerance=TOLERANCE)
    stored = {name: value.const_value.numpy() for name, value in model.graph.initializers.items() if value.const_value}
    assert "w" not in stored
    assert stored["w_int8"].dtype == np.int8
    # Half a step, which is at most the 254th part of two weights.
    assert (np.abs(stored["w_int8"] * stored["w_scale"] - weight) <= 0.5001 * stored["w_scale"]).all()
    assert (stored["w_scale"] <= 2 * np.abs(weight).max(0) / 127).all()
    # Each column uses its whole range: the largest sum of two neighbours of one sign is 127 before both are rounded.
    positive, negative = (np.maximum(sign * stored["w_int8"].astype(int), 0) for sign in (1, -1))
    sums = np.maximum(positive[::2] + positive[1::2], negative[::2] + negative[1::2]).max(0)
    assert set(sums.tolist()) <= {126, 127, 128}


def test_what_two_products_read_is_quantized_once() -> None:
    text = f"{LINEAR} {{ a = MatMul(x, w) b = MatMul(x, v) y = Add(a, b) }}"
    weights = {"w": rand(32, 24), "v": rand(32, 24, seed=1)}
    model = prove(QuantizeDynamicPass(least=1), text, _TWICE, initializers=weights, tolerance=2 * TOLERANCE)
    assert op_types(model).count("DynamicQuantizeLinear") == 1


def test_a_stack_has_scales_per_task() -> None:
    text = "(float[3, sequence, 32] x) => (float[3, sequence, 24] y) { y = MatMul(x, w) }"
    weight = rand(3, 32, 24) * np.array([0.01, 1, 0.1], np.float32)[:, None, None]
    model = prove(
        QuantizeDynamicPass(least=1),
        text,
        "DynamicQuantizeLinear MatMulInteger Cast Mul Mul",
        initializers={"w": weight},
        tolerance=TOLERANCE,
    )
    assert model.graph.initializers["w_scale"].shape == (3, 1, 24)


def test_a_column_of_zeros_stays_zero() -> None:
    weight = rand(32, 24)
    weight[:, 5] = 0
    model = prove(
        QuantizeDynamicPass(least=1),
        f"{LINEAR} {{ y = MatMul(x, w) }}",
        "DynamicQuantizeLinear MatMulInteger Cast Mul Mul",
        initializers={"w": weight},
        tolerance=TOLERANCE,
    )
    assert not model.graph.initializers["w_int8"].const_value.numpy()[:, 5].any()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("body", "least"),
    [
        ("y = MatMul(x, w)", 32 * 24 + 1),  # too small to be worth it
        ("z = Mul(x, x) t = Transpose<perm = [0, 2, 1]>(z) n = MatMul(z, t) y = MatMul(n, x)", 1),  # no weight
    ],
)
def test_leaves_other_products_alone(body: str, least: int) -> None:
    text = f"(float[batch, 24, 32] x) => (float[batch, 24, {24 if 'w)' in body else 32}] y) {{ {body} }}"
    prove(QuantizeDynamicPass(least), text, None, initializers={"w": rand(32, 24)} if "w)" in body else None)


def test_halves_are_not_quantized() -> None:
    model = parse(
        "(float16[batch, 32] x) => (float16[batch, 24] y) { y = MatMul(x, w) }", {"w": rand(32, 24).astype(np.float16)}
    )
    assert not QuantizeDynamicPass(least=1)(model).modified
