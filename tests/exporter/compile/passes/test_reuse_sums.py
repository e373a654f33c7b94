"""Sums that are there already."""

import pytest

from exporter.compile.passes import ReuseSumsPass
from tests.helpers.pass_testing import prove

F = "float[batch, sequence, 4]"
THREE = f"({F} a, {F} b, {F} c) => ({F} y, {F} z)"


@pytest.mark.parametrize("parts", ["a, b", "b, a"])
@pytest.mark.parametrize("total", ["b, c", "c, b"])
@pytest.mark.parametrize("outer", ["ab, c", "c, ab"])
def test_adds_the_sum_that_exists(parts: str, total: str, outer: str) -> None:
    text = f"{THREE} {{ bc = Add({total}) z = Relu(bc) ab = Add({parts}) y = Add({outer}) }}"
    model = prove(ReuseSumsPass(), text, "Add Relu Add", tolerance=1e-6)
    assert {value.name for value in model.graph[-1].inputs if value is not None} == {"a", "bc"}


def test_reuses_the_double_of_a_value() -> None:
    text = f"{THREE} {{ bb = Add(b, b) d = Add(bb, c) z = Relu(d) ab = Add(a, b) y = Add(ab, b) }}"
    prove(ReuseSumsPass(), text, "Add Add Relu Add", tolerance=1e-6)


@pytest.mark.parametrize(
    "body",
    [
        "z = Relu(c) ab = Add(a, b) y = Add(ab, c)",  # b + c is computed nowhere
        "ab = Add(a, b) y = Add(ab, c) z = Add(b, c)",  # only later
        "z = Add(b, c) ab = Add(a, b) n = Relu(ab) m = Add(ab, c) y = Add(m, n)",  # a + b is needed anyway
        "z = Add(b, c) ab = Sub(a, b) y = Add(ab, c)",
        "z = Add(b, c) ab = Add(a, b) y = Add(ab, ab)",
    ],
)
def test_leaves_other_sums_alone(body: str) -> None:
    prove(ReuseSumsPass(), f"{THREE} {{ {body} }}", None)


@pytest.mark.parametrize("small", ["a", "b", "c"])
def test_leaves_sums_alone_whose_shapes_differ(small: str) -> None:
    text = THREE.replace(f"{F} {small}", f"float[sequence, 4] {small}")
    prove(ReuseSumsPass(), f"{text} {{ bc = Add(b, c) z = Relu(bc) ab = Add(a, b) y = Add(ab, c) }}", None)


def test_leaves_a_sum_alone_whose_only_match_is_its_own_part() -> None:
    prove(ReuseSumsPass(), f"{THREE} {{ z = Relu(c) ab = Add(a, b) y = Add(ab, a) }}", None)


def test_leaves_a_part_alone_that_is_an_output() -> None:
    text = f"({F} a, {F} b, {F} c) => ({F} y, {F} z, {F} ab) {{ z = Add(b, c) ab = Add(a, b) y = Add(ab, c) }}"
    prove(ReuseSumsPass(), text, None)
