"""A residual and its norm as one operator of ONNX Runtime."""

import pytest

from exporter.compile.passes import FuseSkipLayerNormPass
from tests.helpers.pass_testing import prove, rand

HEAD = "(float[batch, sequence, 8] x, float[batch, sequence, 8] r) => (float[batch, sequence, 8] y)"
WEIGHTS = {"g": rand(8), "b": rand(8, seed=1), "c": rand(8, seed=2)}
NORM = "n = LayerNormalization<axis = -1, epsilon = 0.00001>(s, g, b)"


@pytest.mark.parametrize(
    ("body", "operators"),
    [
        (f"s = Add(x, r) {NORM} y = Relu(n)", "SkipLayerNormalization Relu"),
        (f"h = Add(x, c) s = Add(h, r) {NORM} y = Relu(n)", "SkipLayerNormalization Relu"),
        (f"h = Add(c, x) s = Add(r, h) {NORM} y = Relu(n)", "SkipLayerNormalization Relu"),
        (f"s = Add(x, r) {NORM} y = Add(n, s)", "SkipLayerNormalization Add"),  # a sequential adapter's residual
        (f"h = Add(x, c) s = Add(h, r) {NORM} k = Mul(n, h) y = Add(k, s)", "Add SkipLayerNormalization Mul Add"),
    ],
)
def test_sum_and_norm_become_one(body: str, operators: str) -> None:
    prove(FuseSkipLayerNormPass(), f"{HEAD} {{ {body} }}", operators, initializers=WEIGHTS, tolerance=1e-5)


@pytest.mark.parametrize(
    "body",
    [
        f"s = Mul(x, r) {NORM} y = Relu(n)",
        f"s = Add(x, c) {NORM} y = Relu(n)",  # no residual
        "s = Add(x, r) n = LayerNormalization<axis = 1>(s, w) y = Relu(n)",
    ],
)
def test_what_is_no_residual_stays(body: str) -> None:
    weights = {**WEIGHTS, "w": rand(1, 8)}
    used = {name: array for name, array in weights.items() if f"{name})" in body or f"{name}," in body}
    prove(FuseSkipLayerNormPass(), f"{HEAD} {{ {body} }}", None, initializers=used)
