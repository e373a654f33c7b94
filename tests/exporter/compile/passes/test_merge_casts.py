"""Two Casts in a row."""

import pytest

from exporter.compile.passes import MergeCastsPass
from tests.helpers.pass_testing import prove


@pytest.mark.parametrize(
    ("kind", "between", "merged"),
    [("bool", 6, True), ("bool", 1, True), ("int32", 7, True), ("int32", 1, False), ("double", 1, False), ("float", 11, True)],
)
def test_merges_what_loses_nothing(kind: str, between: int, merged: bool) -> None:
    text = f"({kind}[batch] x) => (int64[batch] y) {{ a = Cast<to = {between}>(x) b = Cast<to = 7>(a) y = Neg(b) }}"
    prove(MergeCastsPass(), text, "Cast Neg" if merged else None)


def test_merges_three() -> None:
    text = "(bool[batch] x) => (bool[batch] y) { a = Cast<to = 6>(x) b = Cast<to = 7>(a) c = Cast<to = 9>(b) y = Not(c) }"
    prove(MergeCastsPass(), text, "Cast Not")
