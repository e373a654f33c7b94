"""Guards against rows without a token."""

import pytest

from exporter.compile.passes import DropNanGuardsPass
from tests.helpers.pass_testing import prove

TEXT = """(float[batch, sequence] s, bool[batch, 1] c) => (float[batch, sequence] y)
    <float zero = {0}, float least = {-3e38}, float nothing = {-inf}, int64[1] last = {1}> {
    w = Where(c, zero, least) m = Unsqueeze(w, last) k = Squeeze(m, last) t = Add(s, k) p = Softmax(t) n = IsNaN(p)
    g = Where(n, zero, p) y = Relu(g) }"""


def test_drops_a_guard_under_a_finite_mask() -> None:
    prove(DropNanGuardsPass(), TEXT, "Where Unsqueeze Squeeze Add Softmax Relu")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("zero, least", "zero, nothing"),
        ("t = Add(s, k)", "t = Mul(s, k)"),
        ("p = Softmax(t)", "p = Sqrt(t)"),
        ("IsNaN(p)", "IsNaN(t)"),
        ("c, zero, least) m", "c, s, least) m"),
    ],
)
def test_keeps_a_guard_that_may_be_needed(old: str, new: str) -> None:
    assert old in TEXT
    prove(DropNanGuardsPass(), TEXT.replace(old, new), None)
