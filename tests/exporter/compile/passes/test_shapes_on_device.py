"""Arithmetic on lengths stays off the host."""

import numpy as np
import pytest

from exporter.compile.passes import ShapesOnDevicePass
from tests.helpers.pass_testing import prove, rand

_MASK = "(float[batch, 1, 1, sequence] m, float[batch, sequence, 6] q) => (float[batch, 1, sequence, sequence] y)"
_ONES = "<int64[2] ones = {1, 1}, int64[1] one = {1}, int64[1] six = {6}>"


def test_a_mask_gets_the_rows_of_the_query() -> None:
    for leading in ("one, one", "ones"):
        body = f"n = Shape<start = 1, end = 2>(q) t = Concat<axis = 0>({leading}, n, one) e = Expand(m, t) y = Relu(e)"
        prove(ShapesOnDevicePass(), f"{_MASK} {_ONES} {{ {body} }}", "Slice Reshape Shape Expand Relu")


def test_a_token_is_repeated_for_each_text() -> None:
    text = "(float[batch, sequence, 6] x, float[1, 1, 6] c) => (float[batch, 1, 6] y)"
    body = "n = Shape<start = 0, end = 1>(x) t = Concat<axis = 0>(n, one, six) e = Expand(c, t) y = Relu(e)"
    prove(ShapesOnDevicePass(), f"{text} {_ONES} {{ {body} }}", "Slice Shape Expand Relu")


def test_a_vector_is_its_own_measure() -> None:
    text = "(float[batch] x, float[1, 6] c) => (float[batch, 6] y)"
    body = "n = Shape(x) t = Concat<axis = 0>(n, six) e = Expand(c, t) y = Relu(e)"
    prove(ShapesOnDevicePass(), f"{text} {_ONES} {{ {body} }}", "Reshape Shape Expand Relu")


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        ("n = Shape<start = 1, end = 2>(q) t = Concat<axis = 0>(n, one, n, one) e = Expand(m, t)", "2 lengths"),
        (
            "n = Shape<start = 1, end = 2>(q) z = Add(n, n) t = Concat<axis = 0>(one, one, z, one) e = Expand(m, t)",
            "not that of",
        ),
        (
            "n = Shape<start = 1, end = 2>(q) t = Concat<axis = 0>(one, six, n, one) e = Expand(m, t)",
            "a constant of the target",
        ),
        ("n = Shape<start = 0, end = 2>(q) t = Concat<axis = 0>(one, n, one) e = Expand(m, t)", "a part of the target"),
    ],
)
def test_other_targets_stay(body: str, refused: str) -> None:
    text = "(float[batch, 1, 1, sequence] m, float[batch, sequence, 6] q) => (float[a, b, c, d] y)"
    model = prove(step := ShapesOnDevicePass(), f"{text} {_ONES} {{ {body} y = Relu(e) }}", None)
    assert len(model.graph) >= 3
    assert [refused in each.reason for each in step.refusals] == [True]


_RESHAPE = """(float[batch, 2, 3] x) => ({shape} y) <int64[1] one = {{1}}, int64[1] six = {{6}}, int64[1] zero = {{0}}>
    {{ n = Shape<start = 0, end = 1>(x) t = Concat<axis = 0>({target}) e = Reshape(x, t) y = Relu(e) }}"""


@pytest.mark.parametrize(("target", "shape"), [("n, six", "float[a, b]"), ("n, one, six", "float[a, b, c]")])
def test_a_reshape_needs_no_length(target: str, shape: str) -> None:
    prove(ShapesOnDevicePass(), _RESHAPE.format(target=target, shape=shape), "Reshape Relu")


@pytest.mark.parametrize(("target", "shape"), [("n, zero, one", "float[a, b, c]"), ("n, n, six", "float[a, b, c]")])
def test_an_ambiguous_reshape_stays(target: str, shape: str) -> None:
    sizes = [{"batch": 1, "sequence": 1}]
    reason = "the target is not one length and positive constants, and no value has that shape"
    text = _RESHAPE.format(target=target, shape=shape).replace(
        "batch, 2, 3", "batch, 1, 6" if "n, n" in target else "batch, 2, 3"
    )
    prove(ShapesOnDevicePass(), text, None, sizes=sizes, refused=reason)


def test_a_reshape_back_takes_the_shape_from_before() -> None:
    text = """(float[batch, sequence, 4] x) => (float[batch, sequence, 4] y)
        <int64[2] flat = {-1, 4}, int64[1] any = {-1}, int64[1] four = {4}, float[batch, sequence, 4] e>
        { r = Relu(x) f = Reshape(r, flat) m = MatMul(f, w) n = Shape<start = 1, end = 2>(x)
        t = Concat<axis = 0>(any, n, four) e = Reshape(m, t) y = Relu(e) }"""
    prove(ShapesOnDevicePass(), text, "Relu Reshape MatMul Shape Reshape Relu", initializers={"w": rand(4, 4)})


def test_a_reshape_back_after_a_bottleneck() -> None:
    text = """(float[batch, sequence, 4] x) => (float[batch, sequence, 4] y)
        <int64[2] flat = {-1, 4}, int64[1] any = {-1}, int64[1] four = {4}, float[batch, sequence, 4] e>
        { r = Relu(x) f = Reshape(r, flat) d = MatMul(f, w) db = Add(d, b) a = Tanh(db) u = MatMul(a, w) ub = Add(u, b)
        n = Shape<start = 1, end = 2>(x) t = Concat<axis = 0>(any, n, four) e = Reshape(ub, t) y = Relu(e) }"""
    expected = "Relu Reshape MatMul Add Tanh MatMul Add Shape Reshape Relu"
    prove(ShapesOnDevicePass(), text, expected, initializers={"w": rand(4, 4), "b": rand(4)})


def _positions(slice_of: str, length: int = 16) -> str:
    text = "(float[batch, sequence] x) => (float[a, b, 4] y) <int64[1] zero = {0}, int64[1] axis = {1}, int64[1] step = {1}>"
    return f"{text} {{ n = Shape<start = 1, end = 2>(x) {slice_of} g = Gather(w, p) y = Relu(g) }}"


def test_the_first_positions_are_the_first_rows() -> None:
    weights = {"w": rand(16, 4), "counted": np.arange(16)[None]}
    found = prove(
        ShapesOnDevicePass(),
        _positions("p = Slice(counted, zero, n, axis, step)"),
        "Shape Slice Unsqueeze Relu",
        initializers=weights,
    )
    assert "counted" not in found.graph.initializers
    weights = {"w": rand(16, 4), "counted": np.arange(16)}
    body = _positions("p = Slice(counted, zero, n)").replace("float[a, b, 4] y", "float[a, 4] y")
    prove(ShapesOnDevicePass(), body, "Shape Slice Relu", initializers=weights)


@pytest.mark.parametrize(
    ("counted", "rows", "refused"),
    [
        (np.arange(16)[None] + 1, 17, []),
        (np.arange(16)[None], 17, ["the table has another number of rows"]),
        (np.arange(15, -1, -1)[None], 16, []),
    ],
)
def test_other_positions_stay(counted: np.ndarray, rows: int, refused: list[str]) -> None:
    weights = {"w": rand(rows, 4), "counted": counted}
    prove(step := ShapesOnDevicePass(), _positions("p = Slice(counted, zero, n, axis, step)"), None, initializers=weights)
    assert [each.reason for each in step.refusals] == refused
    weights = {"w": rand(16, 4), "counted": np.arange(16)[None]}
    prove(step, _positions("p = Slice(counted, step, n, axis, step)"), None, initializers=weights)
    assert [each.reason for each in step.refusals] == ["the rows are not the first ones"]
