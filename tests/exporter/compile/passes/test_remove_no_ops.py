"""Operators whose output is their input."""

import numpy as np
import pytest

from exporter.compile.passes import RemoveNoOpsPass
from tests.helpers.pass_testing import parse, prove

HEAD = "(float[batch, sequence, 4] x) => (float[batch, sequence, 4] y)"


@pytest.mark.parametrize(
    ("constants", "operator"),
    [
        ("float zero = {0}", "Add(x, zero)"),
        ("float[1] zero = {0}", "Add(x, zero)"),
        ("float one = {1}", "Mul(x, one)"),
        ("float[1, 1] one = {1}", "Div(x, one)"),
        ("", "Cast<to = 1>(x)"),
        ("int64[3] ones = {1, 1, 1}", "Expand(x, ones)"),
        ("int64[1] ones = {1}", "Expand(x, ones)"),
        ("int64[3] once = {1, 1, 1}", "Tile(x, once)"),
        ("int64[3] same = {0, 0, 4}", "Reshape(x, same)"),
        ("int64[1] zero = {0}, int64[1] last = {9223372036854775807}, int64[1] one = {1}", "Slice(x, zero, last, one)"),
        (
            "int64[1] zero = {0}, int64[1] last = {9223372036854775807}, int64[1] axis = {-1}, int64[1] one = {1}",
            "Slice(x, zero, last, axis, one)",
        ),
        ("", "Transpose<perm = [0, 1, 2]>(x)"),
        ("int64[1] zero = {0}, int64[1] four = {4}, int64[1] axis = {2}", "Slice(x, zero, four, axis)"),
        ("int64[3] known = {0, -1, 4}", "Reshape(x, known)"),
    ],
)
def test_removes_what_changes_nothing(constants: str, operator: str) -> None:
    prove(RemoveNoOpsPass(), f"{HEAD} <{constants}> {{ h = {operator} y = Relu(h) }}", "Relu")


@pytest.mark.parametrize(
    ("constants", "operator"),
    [
        ("float[1, 1, 1, 1] zero = {0}", "Add(x, zero)"),  # makes rank 4
        ("float tiny = {1e-30}", "Add(x, tiny)"),
        ("float[4] zeros = {0, 0, 0, 0}", "Add(x, zeros)"),
        ("float one = {1}", "Div(one, x)"),
        ("", "Cast<to = 11>(x)"),
        ("int64[4] ones = {1, 1, 1, 1}", "Expand(x, ones)"),  # makes rank 4
        ("int64[4] once = {2, 1, 1, 1}", "Expand(x, once)"),
        ("int64[3] twice = {1, 2, 1}", "Tile(x, twice)"),
        ("int64[3] other = {-1, 2, 2}", "Reshape(x, other)"),
        ("int64[1] one = {1}, int64[1] last = {9223372036854775807}", "Slice(x, one, last)"),
        ("int64[1] zero = {0}, int64[1] end = {2}", "Slice(x, zero, end)"),
        ("int64[1] zero = {0}, int64[1] last = {9223372036854775807}, int64[1] two = {2}", "Slice(x, zero, last, two, two)"),
        ("", "Transpose<perm = [0, 2, 1]>(x)"),
        ("", "Transpose(x)"),
    ],
)
def test_keeps_what_only_looks_like_nothing(constants: str, operator: str) -> None:
    text = f"(float[batch, sequence, 4] x) => (bool y) <{constants}> {{ h = {operator} r = Size(h) y = Cast<to = 9>(r) }}"
    prove(RemoveNoOpsPass(), text, None)


def test_keeps_the_operator_that_names_an_output() -> None:
    prove(RemoveNoOpsPass(), f"{HEAD} <float zero = {{0}}> {{ y = Add(x, zero) }}", None)


def test_removes_a_chain_and_hands_a_known_shape_to_its_source() -> None:
    text = f"{HEAD} <float zero = {{0}}, int64[3] ones = {{1, 1, 1}}> {{ a = Add(x, zero) b = Expand(a, ones) y = Relu(b) }}"
    prove(RemoveNoOpsPass(), text, "Relu")


def test_removes_an_integer_sum_with_zero() -> None:
    text = "(int64[batch] x) => (int64[batch] y) <int64 zero = {0}> { h = Add(x, zero) y = Neg(h) }"
    prove(RemoveNoOpsPass(), text, "Neg")


def test_keeps_an_expand_to_a_computed_shape_that_may_differ() -> None:
    text = """(float[batch, 1] x, float[batch, sequence] z) => (float[batch, sequence] y) {
        s = Shape(z) h = Expand(x, s) y = Relu(h) }"""
    prove(RemoveNoOpsPass(), text, None)


def test_removes_an_expand_to_its_own_computed_shape() -> None:
    prove(RemoveNoOpsPass(), f"{HEAD} {{ s = Shape(x) h = Expand(x, s) y = Relu(h) }}", "Relu")


def test_keeps_a_neutral_scalar_that_the_caller_may_override() -> None:
    text = "(float[batch, 4] x, float zero) => (float[batch, 4] y) { h = Add(x, zero) y = Relu(h) }"
    prove(RemoveNoOpsPass(), text, None, initializers={"zero": np.zeros((), np.float32)})


def test_keeps_operators_of_other_domains() -> None:
    model = parse(f"{HEAD} <float zero = {{0}}> {{ h = Add(x, zero) y = Relu(h) }}")
    model.graph[0].domain = "other"
    assert not RemoveNoOpsPass()(model).modified


def test_removes_what_undoes_each_other() -> None:
    text = f"{HEAD} <int64[2] ends = {{0, 3}}> {{ u = Unsqueeze(x, ends) n = Squeeze(u, ends) y = Relu(n) }}"
    prove(RemoveNoOpsPass(), text, "Relu")


def test_removes_a_transpose_that_moves_only_axes_of_length_one() -> None:
    text = """(float[batch, 1, 1, sequence] x) => (float[batch, 1, 1, sequence] y) {
        t = Transpose<perm = [0, 2, 1, 3]>(x) y = Relu(t) }"""
    prove(RemoveNoOpsPass(), text, "Relu")


SCATTER = """(float[batch, 4] x, float[batch, 4] z) => (float[batch, 4] y)
    <int64 zero = {0}, int64 one = {1}, int64[1] last = {-1}> {
    s = Shape<start = 0, end = 1>(x) n = Squeeze(s) r = Range(zero, n, one) i = Unsqueeze(r, last) h = ScatterND(x, i, z)
    y = Relu(h) }"""


def test_removes_a_scatter_over_every_row() -> None:
    prove(RemoveNoOpsPass(), SCATTER, "Relu")


@pytest.mark.parametrize(
    ("old", "new"), [("ScatterND(", 'ScatterND<reduction = "add">('), ("zero = {0}", "zero = {1}"), ("one = {1}", "one = {2}")]
)
def test_keeps_a_scatter_that_does_more_or_less(old: str, new: str) -> None:
    text = SCATTER.replace(old, new).replace("float[batch, 4] z", "float[rows, 4] z" if "{" in new else "float[batch, 4] z")
    prove(RemoveNoOpsPass(), text, None)


GATHER = """(float[batch, sequence, 4] x) => (float[batch, 4] y) <int64 zero = {0}, int64 one = {1}, int64[1] column = {1}> {
    s = Shape<start = 0, end = 1>(x) n = Squeeze(s) r = Range(zero, n, one) i = Unsqueeze(r, column)
    h = ReduceMax<keepdims = 0>(x, column) g = GatherND(h, i) y = Relu(g) }"""


def test_removes_a_gather_of_every_row() -> None:
    prove(RemoveNoOpsPass(), GATHER, "ReduceMax Relu")


@pytest.mark.parametrize(
    ("old", "new"),
    [("one = {1}", "one = {-1}"), ("start = 0, end = 1", "start = 1, end = 2")],
)
def test_keeps_a_gather_of_other_rows(old: str, new: str) -> None:
    text = GATHER.replace(old, new)
    prove(RemoveNoOpsPass(), text.replace("(float[batch, 4] y)", "(float[rows, 4] y)"), None)


@pytest.mark.parametrize("operator", ["Mul(x, one)", "Div(x, one)", "Add(x, zero)", "MatMul(x, turned)"])
def test_keeps_what_changes_nothing_for_one_task_only(operator: str) -> None:
    """A learned scale of 1 or a bias of 0; the Transpose of a head with one label and one feature."""
    text = f"(float[batch, 1] x) => (float[batch, 1] y) {{ turned = Transpose<perm = [1, 0]>(w) h = {operator} y = Relu(h) }}"
    weights = {"one": np.ones(1, np.float32), "zero": np.zeros(1, np.float32), "w": np.ones((1, 1), np.float32)}
    prove(RemoveNoOpsPass(weights), text, None, initializers=weights)
