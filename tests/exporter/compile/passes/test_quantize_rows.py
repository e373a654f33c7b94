"""Matrix products in 8-bit integers, each row by its own range."""

import numpy as np
import onnx_ir as ir
import pytest

from exporter.compile.pair_sums import ProvePairSumsPass
from exporter.compile.passes import QuantizeRowsPass
from exporter.compile.passes.lower_opset import LowerOpsetPass
from tests.helpers.pass_testing import compute, op_types, parse, prove, rand, random_feeds

LINEAR = "(float[batch, sequence, 32] x) => (float[batch, sequence, 24] y)"
TEXT = f"{LINEAR} {{ y = MatMul(x, w) }}"
STACK = "(float[3, sequence, 32] x) => (float[3, sequence, 24] y) { y = MatMul(x, w) }"
ROWS = "ReduceMax ReduceMin Neg Max Div QuantizeLinear"
PRODUCT = {False: "MatMulInteger Cast Mul Mul", True: "MatMulIntegerToFloat Mul"}
SIZES = {"batch": 4, "sequence": 5}
# What the 254 steps of activations and of weights leave of 32 products.
TOLERANCE = 0.15

pytestmark = pytest.mark.parametrize("fused", [False, True], ids=["standard", "fused"])


def _quantized(text: str, weights: dict[str, np.ndarray], fused: bool) -> ir.Model:
    model = parse(text, weights)
    QuantizeRowsPass(1, fused)(model)
    return model


@pytest.mark.parametrize(("text", "shape"), [(TEXT, (32, 24)), (STACK, (3, 32, 24))], ids=["matrix", "stack"])
def test_products_become_integers(fused: bool, text: str, shape: tuple[int, ...]) -> None:
    weight = rand(*shape) * np.logspace(-2, 0, 24, dtype=np.float32)  # a scale for all would lose the small columns
    operators = f"{ROWS} {PRODUCT[fused]}"
    model = prove(QuantizeRowsPass(1, fused), text, operators, initializers={"w": weight}, tolerance=TOLERANCE)
    stored = {name: value.const_value.numpy() for name, value in model.graph.initializers.items() if value.const_value}
    assert stored["w_int8"].dtype == np.int8
    assert stored["w_scale"].shape == (24,) if len(shape) == 2 else (3, 1, 24)


def test_what_two_products_read_is_quantized_once(fused: bool) -> None:
    weights = {"w": rand(32, 24), "v": rand(32, 24, seed=1)}
    operators = f"{ROWS} {PRODUCT[fused]} {PRODUCT[fused]} Add"
    text = f"{LINEAR} {{ a = MatMul(x, w) b = MatMul(x, v) y = Add(a, b) }}"
    prove(QuantizeRowsPass(1, fused), text, operators, initializers=weights, tolerance=2 * TOLERANCE)


@pytest.mark.parametrize("seed", range(5))
def test_the_error_is_bounded_by_the_steps_of_row_and_column(fused: bool, seed: int) -> None:
    """|x W - found| <= sum of |x| dW + dx |W| + dx dW, where dx and dW are half a step."""
    weight = rand(32, 24, seed=seed) * np.logspace(-3, 1, 24, dtype=np.float32)
    model = _quantized(TEXT, {"w": weight}, fused)
    x = rand(4, 5, 32, seed=seed) * np.logspace(-20, 20, 20, dtype=np.float32).reshape(4, 5, 1)
    (found,) = compute(model, {"x": x})
    exact = x.astype(np.float64) @ weight.astype(np.float64)
    half_x = np.abs(x).max(-1, keepdims=True).astype(np.float64) / 254
    half_w = np.abs(weight).max(0).astype(np.float64) / 254
    bound = np.abs(x).sum(-1, keepdims=True) * half_w + half_x * np.abs(weight).sum(0) + 32 * half_x * half_w
    assert (np.abs(found - exact) <= 1.001 * bound).all()


@pytest.mark.parametrize(("text", "shape"), [(TEXT, (32, 24)), (STACK, (3, 32, 24))], ids=["matrix", "stack"])
def test_a_row_does_not_depend_on_other_rows(fused: bool, text: str, shape: tuple[int, ...]) -> None:
    model = _quantized(text, {"w": rand(*shape)}, fused)
    feeds = random_feeds(model, SIZES)
    (alone,) = compute(model, {"x": feeds["x"][:, :1]})
    feeds["x"][:, 1:] *= 1000
    (others,) = compute(model, feeds)
    np.testing.assert_array_equal(alone, others[:, :1])


@pytest.mark.parametrize("text", ["Relu(x)", "Sigmoid(x)", "Gelu(x)", 'Gelu<approximate = "tanh">(x)'])
def test_no_minimum_of_what_has_a_bound(fused: bool, text: str) -> None:
    operators = f"{text.split('(')[0].split('<')[0]} ReduceMax Max Div QuantizeLinear {PRODUCT[fused]}"
    text = f"{LINEAR} {{ h = {text} y = MatMul(h, w) }}"
    model = prove(QuantizeRowsPass(1, fused), text, operators, initializers={"w": rand(32, 24)}, tolerance=TOLERANCE)
    x = np.linspace(-4, 0, 32 * 20, dtype=np.float32).reshape(4, 5, 32)  # rows without a positive number
    expected = compute(parse(text, {"w": rand(32, 24)}), {"x": x})[0]
    np.testing.assert_allclose(compute(model, {"x": x})[0], expected, atol=TOLERANCE)


def test_a_row_of_zeros_stays_zero(fused: bool) -> None:
    model = _quantized(TEXT, {"w": rand(32, 24)}, fused)
    x = random_feeds(model, SIZES)["x"]
    x[1, 2] = 0
    (found,) = compute(model, {"x": x})
    assert not found[1, 2].any()
    assert np.isfinite(found).all()


def test_not_a_number_stays_in_its_row(fused: bool) -> None:
    model = _quantized(TEXT, {"w": rand(32, 24)}, fused)
    x = random_feeds(model, SIZES)["x"]
    (clean,) = compute(model, {"x": x})
    x[1, 2, 3], x[3, 4, 0] = np.nan, np.inf
    (found,) = compute(model, {"x": x})
    spoilt = np.zeros((4, 5), bool)
    spoilt[1, 2] = spoilt[3, 4] = True
    np.testing.assert_array_equal(found[~spoilt], clean[~spoilt])


def test_no_row_is_no_error(fused: bool) -> None:
    model = _quantized(TEXT, {"w": rand(32, 24)}, fused)
    assert compute(model, {"x": np.zeros((0, 5, 32), np.float32)})[0].shape == (0, 5, 24)


def test_opset_17_has_the_same_numbers(fused: bool) -> None:
    models = [parse(TEXT, {"w": rand(32, 24)}, opset=18) for _ in range(2)]
    for model in models:
        QuantizeRowsPass(1, fused)(model)
    LowerOpsetPass()(models[1])
    feeds = random_feeds(models[0], SIZES)
    newer, older = (compute(model, feeds)[0] for model in models)
    np.testing.assert_array_equal(newer, older)


GATHERED = "(float[rows, sequence, 32] x, int64[rows] task_ids) => (float[rows, sequence, 24] y)"


def test_gathered_weights_give_the_numbers_of_the_stack(fused: bool) -> None:
    """A routed graph has the answers of the graph of all tasks."""
    stack = rand(3, 32, 24) * np.logspace(-2, 0, 24, dtype=np.float32)
    ids = np.array([2, 0, 2, 1])
    text = f"{GATHERED} {{ g = Gather(w, task_ids) y = MatMul(x, g) }}"
    model = _quantized(text, {"w": stack}, fused)
    assert op_types(model) == [*ROWS.split(), "Gather", "Gather", *PRODUCT[fused].split()]
    assert "w" not in model.graph.initializers
    ProvePairSumsPass()(model)
    x = rand(4, 5, 32)
    (found,) = compute(model, {"x": x, "task_ids": ids})
    wanted = _quantized(STACK, {"w": stack}, fused)
    for row, task in enumerate(ids):
        (every,) = compute(wanted, {"x": np.tile(x[row], (3, 1, 1))})
        np.testing.assert_array_equal(found[row], every[task])
    assert compute(model, {"x": x[:0], "task_ids": ids[:0]})[0].shape == (0, 5, 24)


def test_heads_with_masked_labels_stay_in_floats(fused: bool) -> None:
    """The graph of all tasks computes such heads apart, in floats."""
    body = "g = Gather(w, task_ids) p = MatMul(x, g) c = Gather(b, task_ids) s = Squeeze(p, one) a = Add(s, c)"
    body += " y = Where(m, a, nothing)"
    text = f"(float[rows, 1, 32] x, int64[rows] task_ids, bool[rows, 24] m) => (float[rows, 24] y) {{ {body} }}"
    weights = {"w": rand(3, 32, 24), "b": rand(3, 24), "one": np.array([1]), "nothing": np.array(-np.inf, np.float32)}
    assert "MatMul" in op_types(_quantized(text, weights, fused))
    assert "MatMul" not in op_types(_quantized(text, {**weights, "nothing": np.array(0, np.float32)}, fused))


@pytest.mark.parametrize(
    ("body", "least"),
    [
        ("y = MatMul(x, w)", 32 * 24 + 1),  # too small to be worth it
        ("z = Mul(x, x) t = Transpose<perm = [0, 2, 1]>(z) n = MatMul(z, t) y = MatMul(n, x)", 1),  # no weight
    ],
)
def test_leaves_other_products_as_they_are(fused: bool, body: str, least: int) -> None:
    text = f"(float[batch, 24, 32] x) => (float[batch, 24, {24 if 'w)' in body else 32}] y) {{ {body} }}"
    prove(QuantizeRowsPass(least, fused), text, None, initializers={"w": rand(32, 24)} if "w)" in body else None)
    assert op_types(parse(text, {"w": rand(32, 24)} if "w)" in body else None)).count("MatMul") > 0
