"""One linear layer for each part that is read by itself."""

import pytest

from exporter.compile.passes import SplitLinearsPass
from tests.helpers.pass_testing import prove, rand

TEXT = """(float[batch, sequence, 4] x) => (float[batch, sequence, 6] y) <int64[2] sizes = {4, 2}> {
    m = MatMul(x, w) a = Add(m, b) p, q = Split<axis = -1>(a, sizes) n = Neg(q) y = Concat<axis = 2>(n, p) }"""
WEIGHTS = {"w": rand(4, 6), "b": rand(6)}


def test_gives_each_part_its_own_weights() -> None:
    model = prove(SplitLinearsPass(), TEXT, "MatMul Add MatMul Add Neg Concat", initializers=WEIGHTS, tolerance=1e-5)
    assert {"w", "b"}.isdisjoint(model.graph.initializers)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("n = Neg(q)", "z = ReduceSum<keepdims = 0>(a) n = Mul(q, z)"),  # the whole has a reader
        ("<axis = -1>(a, sizes) n = Neg(q)", "<axis = 2>(x, halves) n = Add(q, q)"),
    ],
)
def test_leaves_others_whole(old: str, new: str) -> None:
    text = TEXT.replace(old, new).replace("sizes = {4, 2}", "sizes = {4, 2}, int64[2] halves = {2, 2}")
    text = text.replace("float[batch, sequence, 6] y", "float[batch, sequence, 4] y") if "halves)" in text else text
    prove(SplitLinearsPass(), text, None, initializers=WEIGHTS)


@pytest.mark.parametrize("name", ["w", "b"])
def test_leaves_task_weights_whole(name: str) -> None:
    prove(SplitLinearsPass(protected=[name]), TEXT, None, initializers=WEIGHTS)
