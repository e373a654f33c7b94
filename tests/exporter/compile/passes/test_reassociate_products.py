"""Products in the order that takes the fewest operations."""

import pytest

from exporter.compile.passes import ReassociateProductsPass
from tests.helpers.pass_testing import prove, rand

WEIGHTS = {"w": rand(6, 4), "b": rand(4)}
P = "(float[batch, sequence, 1, 3] p, float[batch, sequence, 3, 6] m) => (float[batch, sequence, 1, 4] y)"
Q = "(float[batch, sequence, 1, 4] q, float[batch, sequence, 3, 6] m) => (float[batch, sequence, 1, 3] y)"
TURN = "t = Transpose<perm = [0, 1, 3, 2]>(k) s = MatMul(q, t) y = Relu(s)"


def test_weighs_before_it_multiplies() -> None:
    text = f"{P} {{ v = MatMul(m, w) c = MatMul(p, v) y = Relu(c) }}"
    prove(ReassociateProductsPass(), text, "MatMul MatMul Relu", initializers={"w": WEIGHTS["w"]}, tolerance=1e-5)


@pytest.mark.parametrize("key", ["h = MatMul(m, w) k = Add(h, b)", "h = MatMul(m, w) k = Add(b, h)"])
def test_sends_the_query_through_the_weights_of_the_key(key: str) -> None:
    operators = "Transpose MatMul Transpose MatMul Unsqueeze MatMul Add Relu"
    prove(ReassociateProductsPass(), f"{Q} {{ {key} {TURN} }}", operators, initializers=WEIGHTS, tolerance=1e-5)


def test_weights_that_are_transposed() -> None:
    """As they are before a task's own are bound."""
    text = f"{Q} {{ w = Transpose<perm = [1, 0]>(u) k = MatMul(m, w) {TURN} }}"
    prove(ReassociateProductsPass(), text, "MatMul Transpose MatMul Relu", initializers={"u": rand(4, 6)}, tolerance=1e-5)
    text = f"{P} {{ w = Transpose<perm = [1, 0]>(u) v = MatMul(m, w) c = MatMul(p, v) y = Relu(c) }}"
    prove(ReassociateProductsPass(), text, "Transpose MatMul MatMul Relu", initializers={"u": rand(4, 6)}, tolerance=1e-5)


def test_a_key_without_a_bias() -> None:
    text = f"{Q} {{ k = MatMul(m, w) {TURN} }}"
    operators = "Transpose MatMul Transpose MatMul Relu"
    prove(ReassociateProductsPass(), text, operators, initializers={"w": WEIGHTS["w"]}, tolerance=1e-5)


def _rows(count: str) -> str:
    return P.replace("1, 3] p", f"{count}, 3] p").replace("1, 4] y", f"{count}, 4] y")


@pytest.mark.parametrize(
    ("text", "used"),
    [
        (f"{P} {{ v = MatMul(m, w) a = Add(v, b) c = MatMul(p, a) y = Relu(c) }}", "wb"),  # p b is b only if p's rows sum to 1
        (f"{P} {{ v = MatMul(m, w) c = MatMul(p, v) r = ReduceSum<keepdims = 1>(v) y = Add(c, r) }}", "w"),  # a second reader
        (f"{_rows('3')} {{ v = MatMul(m, w) c = MatMul(p, v) y = Relu(c) }}", "w"),  # as many rows
        (f"{_rows('sequence')} {{ v = MatMul(m, w) c = MatMul(p, v) y = Relu(c) }}", "w"),  # their number is unknown
        (f"{P} {{ v = MatMul(m, w) y = MatMul(p, v) }}", "w"),  # the output keeps its name
        (f"{Q} {{ h = MatMul(m, w) k = Mul(h, b) {TURN} }}", "wb"),
    ],
)
def test_other_products_stay(text: str, used: str) -> None:
    prove(ReassociateProductsPass(), text, None, initializers={name: WEIGHTS[name] for name in used})
