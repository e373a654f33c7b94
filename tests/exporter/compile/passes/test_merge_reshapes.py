"""Operators that name the axes anew, one after another."""

import pytest

from exporter.compile.passes import MergeReshapesPass
from tests.helpers.pass_testing import prove

CONSTANTS = """<int64[1] one = {1}, int64[2] ends = {0, 3}, int64[3] flat = {0, 0, 4}, int64[2] rows = {-1, 4},
    int64[4] heads = {0, 0, 2, 2}, int64[3] open = {-1, 2, 4}, int64[4] four = {0, 2, 2, 2}>"""


@pytest.mark.parametrize(
    ("body", "operators"),
    [
        ("u = Unsqueeze(x, one) r = Reshape(u, rows)", "Reshape"),
        ("u = Reshape(x, heads) r = Reshape(u, rows)", "Reshape"),
        ("u = Reshape(x, heads) r = Reshape(u, flat)", "Reshape"),
        ("u = Unsqueeze(x, one) r = Unsqueeze(u, ends)", "Unsqueeze"),
        ("u = Reshape(x, rows) r = Unsqueeze(u, one)", "Reshape"),
        ("w = Reshape(x, rows) u = Unsqueeze(w, one) r = Squeeze(u, one)", "Reshape"),
        ("u = Reshape(x, open) r = Reshape(u, rows)", "Reshape"),
    ],
)
def test_makes_one_of_two(body: str, operators: str) -> None:
    text = f"(float[batch, 2, 4] x) => (float y) {CONSTANTS} {{ {body} n = Neg(r) y = ReduceMax<keepdims = 0>(n) }}"
    prove(MergeReshapesPass(), text, f"{operators} Neg ReduceMax")


@pytest.mark.parametrize(
    "body",
    [
        "u = Unsqueeze(x, one) r = Reshape(u, flat)",  # zeros that mean the new axes
        "u = Reshape(x, heads) r = Unsqueeze(u, one)",  # zeros whose axes move
        "u = Reshape(x, rows) v = Unsqueeze(u, one) s = ReduceSum<keepdims = 0>(u) r = Add(v, s)",  # read by others
        "u = Squeeze(z, one) r = Unsqueeze(u, one)",
    ],
)
def test_leaves_apart_what_cannot_be_one(body: str) -> None:
    text = f"""(float[batch, 2, 4] x, float[batch, 1, 4] z) => (float y) {CONSTANTS} {{
        {body} n = Neg(r) y = ReduceMax<keepdims = 0>(n) }}"""
    prove(MergeReshapesPass(), text, None)
