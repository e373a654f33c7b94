"""Linear layers on rows that were laid end to end."""

import pytest

from exporter.compile.passes import UnflattenLinearsPass
from tests.helpers.pass_testing import prove, rand

BODY = """{ n = Shape<end = 2>(x) t = Concat<axis = 0>(n, width) f = Reshape(x, rows) g = Gemm(f, w, b) r = Reshape(g, t)
    y = Relu(r) }"""
TEXT = f"""(float[batch, sequence, 4] x) => (float[batch, sequence, 6] y)
    <int64[2] rows = {{-1, 4}}, int64[1] width = {{6}}, float[batch, sequence, 6] r,
    float[many, 4] f, float[many, 6] g> {BODY}"""
WEIGHTS = {"w": rand(4, 6), "b": rand(6)}


def test_multiplies_the_rows_where_they_are() -> None:
    prove(UnflattenLinearsPass(), TEXT, "MatMul Add Relu", initializers=WEIGHTS, tolerance=1e-5)


def test_turns_a_transposed_weight_and_needs_no_bias() -> None:
    text = TEXT.replace("Gemm(f, w, b)", "Gemm<transB = 1>(f, w)")
    prove(UnflattenLinearsPass(), text, "Transpose MatMul Relu", initializers={"w": rand(6, 4)}, tolerance=1e-5)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Gemm(", "Gemm<alpha = 2.0>("),
        ("y = Relu(r)", "z = ReduceSum<keepdims = 0>(g) y = Add(r, z)"),  # the rows are read as they lie
    ],
)
def test_leaves_other_products_alone(old: str, new: str) -> None:
    prove(UnflattenLinearsPass(), TEXT.replace(old, new), None, initializers=WEIGHTS)


def test_leaves_a_matrix_that_is_added() -> None:
    text = TEXT.replace("g = Gemm(f, w, b)", "c = Relu(f) d = MatMul(c, w) g = Gemm(f, w, d)").replace(
        "float[many, 6] g>", "float[many, 6] g, float[many, 6] d>"
    )
    prove(UnflattenLinearsPass(), text, None, initializers=WEIGHTS, refused="what the Gemm adds is not one vector")
