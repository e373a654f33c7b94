"""Several transposes as one."""

import pytest

from exporter.compile.passes import MergeTransposesPass
from tests.helpers.pass_testing import prove


def test_swaps_the_last_axes_without_reshapes() -> None:
    text = """(float[batch, 2, 3, 4] x) => (float[batch, 2, 4, 3] y)
        <int64[3] flat = {-1, 3, 4}, int64[4] back = {-1, 2, 4, 3}, float[batch, 2, 4, 3] r> {
        f = Reshape(x, flat) t = Transpose<perm = [0, 2, 1]>(f) r = Reshape(t, back) y = Relu(r) }"""
    prove(MergeTransposesPass(), text, "Transpose Relu")


def test_merges_the_swap_with_the_transpose_before() -> None:
    text = """(float[batch, 3, 2, 4] x) => (float[batch, 2, 4, 3] y)
        <int64[3] flat = {-1, 3, 4}, int64[4] back = {-1, 2, 4, 3}, float[batch, 2, 4, 3] r> {
        q = Transpose<perm = [0, 2, 1, 3]>(x) f = Reshape(q, flat) t = Transpose<perm = [0, 2, 1]>(f) r = Reshape(t, back)
        y = Relu(r) }"""
    prove(MergeTransposesPass(), text, "Transpose Relu")


def test_makes_one_transpose_of_two() -> None:
    text = """(float[batch, sequence, 3, 4] x) => (float[sequence, 4, batch, 3] y) {
        t = Transpose<perm = [1, 2, 0, 3]>(x) u = Transpose<perm = [0, 3, 2, 1]>(t) y = Relu(u) }"""
    prove(MergeTransposesPass(), text, "Transpose Relu")


def test_makes_one_transpose_of_three() -> None:
    text = """(float[batch, sequence, 3] x) => (float[sequence, batch, 3] y) {
        t = Transpose<perm = [1, 2, 0]>(x) u = Transpose<perm = [1, 2, 0]>(t) v = Transpose<perm = [2, 1, 0]>(u)
        y = Relu(v) }"""
    prove(MergeTransposesPass(), text, "Transpose Relu")


def test_keeps_the_first_transpose_for_its_other_reader() -> None:
    text = """(float[batch, sequence, 3] x) => (float[sequence, batch, 3] y, float[3, sequence, batch] z) {
        t = Transpose<perm = [1, 0, 2]>(x) z = Transpose<perm = [2, 0, 1]>(t) y = Relu(t) }"""
    prove(
        MergeTransposesPass(),
        text.replace("z =", "u =").replace("y = Relu(t)", "y = Relu(t) z = Relu(u)"),
        "Transpose Transpose Relu Relu",
    )


@pytest.mark.parametrize(
    "body",
    [
        "t = Transpose<perm = [0, 2, 1]>(x) r = Relu(t) y = Transpose<perm = [0, 2, 1]>(r)",  # something in between
        "y = Transpose<perm = [0, 2, 1]>(x)",
        "t = Transpose(x) y = Transpose<perm = [1, 2, 0]>(t)",  # the default order is not written down
    ],
)
def test_leaves_single_transposes_alone(body: str) -> None:
    prove(MergeTransposesPass(), f"(float[batch, 3, sequence] x) => (float[a, b, c] y) {{ {body} }}", None)


def test_leaves_reshapes_alone_that_do_more_than_swap() -> None:
    text = """(float[batch, 2, 3, 4] x) => (float[batch, 2, 3, 4] y)
        <int64[3] flat = {-1, 3, 4}, int64[4] back = {-1, 2, 3, 4}, float[batch, 2, 3, 4] r> {
        f = Reshape(x, flat) t = Transpose<perm = [0, 2, 1]>(f) r = Reshape(t, back) y = Relu(r) }"""
    prove(MergeTransposesPass(), text, None)


def test_leaves_a_swap_alone_that_crosses_heads() -> None:
    text = """(float[batch, 2, 3, 4] x) => (float[batch, 2, 4, 3] y)
        <int64[3] flat = {-1, 6, 4}, int64[4] back = {-1, 2, 4, 3}, float[batch, 2, 4, 3] r> {
        f = Reshape(x, flat) t = Transpose<perm = [0, 2, 1]>(f) r = Reshape(t, back) y = Relu(r) }"""
    prove(MergeTransposesPass(), text, None)


def test_leaves_an_output_alone() -> None:
    text = """(float[batch, sequence, 3] x) => (float[3, sequence, batch] y) {
        t = Transpose<perm = [1, 0, 2]>(x) y = Transpose<perm = [2, 0, 1]>(t) }"""
    prove(MergeTransposesPass(), text, None)
