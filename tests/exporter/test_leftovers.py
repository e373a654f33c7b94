"""The scanner of compiled graphs sees what it is there for."""

import pytest

from tests.helpers.leftovers import leftovers
from tests.helpers.pass_testing import parse

HEAD = "(float[batch, sequence, 4] x, float[batch, 1, 4] u) => (float[batch, sequence, 4] y)"
CONSTANTS = "<int64[3] same = {0, 0, 4}, int64[1] one = {1}, int64[3] ones = {1, 1, 1}, int64[2] flat = {-1, 4}>"


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("h = Reshape(x, same) y = Relu(h)", "changes nothing: Reshape"),
        ("h = Transpose<perm = [0, 1, 2]>(x) y = Relu(h)", "changes nothing: Transpose"),
        ("h = Tile(x, ones) y = Relu(h)", "changes nothing: Tile"),
        ("a = Unsqueeze(x, one) b = Squeeze(a, one) y = Relu(b)", "brings back the shape of x: Squeeze"),
        ("a = Transpose<perm = [1, 0, 2]>(x) b = Transpose<perm = [1, 0, 2]>(a) y = Relu(b)", "two of one kind: a: Transpose"),
        ("a = Unsqueeze(x, one) b = Reshape(a, flat) c = Mul(b, b) s = Shape(x) y = Reshape(c, s)", "two for one Reshape: a"),
        ("a = Relu(x) b = Relu(x) y = Add(a, b)", "as a: Relu"),
        ("s = Shape(x) e = Expand(u, s) y = Add(x, e)", "would be broadcast: Expand"),
        ("c = Cast<to = 1>(x) y = Relu(c)", "casts to the type that is there: Cast"),
        ("a = Shape(x) r = Relu(x) b = Shape(r) s = Max(a, b) y = Expand(u, s)", "the numbers of a: Shape"),
    ],
)
def test_names_what_could_be_left_out(body: str, found: str) -> None:
    assert any(line.startswith(found) for line in leftovers(parse(f"{HEAD} {CONSTANTS} {{ {body} }}")))


def test_names_nothing_else() -> None:
    body = "t = Transpose<perm = [0, 2, 1]>(x) m = MatMul(x, t) p = Softmax(m) y = MatMul(p, x)"
    assert leftovers(parse(f"{HEAD} {CONSTANTS} {{ {body} }}")) == []
