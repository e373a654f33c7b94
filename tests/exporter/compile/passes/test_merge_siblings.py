"""The members of a stack as one batch."""

import pytest

from exporter.compile.passes import MergeSiblingsPass
from tests.helpers.pass_testing import prove, rand

WEIGHTS = {
    **{f"d{number}": rand(4, 2, seed=number) for number in range(3)},
    **{f"u{number}": rand(2, 4, seed=number) for number in range(3)},
    **{f"b{number}": rand(2, seed=number) for number in range(3)},
    **{f"c{number}": rand(4, seed=number) for number in range(3)},
}
_HEADER = "(float[batch, sequence, 4] x) => (float[n, batch, sequence, 4] y) <int64[1] first = {0}, float half = {0.5}>"
_END = "y = Concat<axis = 0>(s0, s1, s2)"


def _member(number: int) -> str:
    """A bottleneck: down, activation, up, residual."""
    n = number
    return f"""d{n}x = MatMul(x, d{n}) b{n}x = Add(b{n}, d{n}x) r{n} = Relu(b{n}x) u{n}x = MatMul(r{n}, u{n})
        c{n}x = Add(u{n}x, c{n}) m{n} = Mul(c{n}x, half) a{n} = Add(m{n}, x) s{n} = Unsqueeze(a{n}, first)"""


def _text(members: str, end: str = _END, header: str = _HEADER) -> str:
    return f"{header} {{ {members} {end} }}"


MEMBERS = " ".join(map(_member, range(3)))


def test_bottlenecks_become_two_products() -> None:
    operators = "MatMul Reshape Transpose Add Relu MatMul Add Mul Reshape Add Shape Concat Reshape"
    prove(MergeSiblingsPass(), _text(MEMBERS), operators, initializers=WEIGHTS, tolerance=1e-5)


def test_known_rows_need_no_shape_arithmetic() -> None:
    header = _HEADER.replace("sequence", "1")
    operators = "MatMul Reshape Transpose Add Relu MatMul Add Mul Reshape Add Reshape"
    prove(MergeSiblingsPass(), _text(MEMBERS, header=header), operators, initializers=WEIGHTS, tolerance=1e-5)


def test_an_activation_may_read_its_input_twice() -> None:
    swish = MEMBERS
    for n in range(3):
        swish = swish.replace(f"r{n} = Relu(b{n}x)", f"g{n} = Sigmoid(b{n}x) r{n} = Mul(b{n}x, g{n})")
    operators = "MatMul Reshape Transpose Add Sigmoid Mul MatMul Add Mul Reshape Add Shape Concat Reshape"
    prove(MergeSiblingsPass(), _text(swish), operators, initializers=WEIGHTS, tolerance=1e-5)


@pytest.mark.parametrize(
    "text",
    [
        _text(MEMBERS, end="y = Concat<axis = 0>(s0, s1, s0)"),  # a member twice
        _text(MEMBERS.replace("Relu(b1x)", "Tanh(b1x)")),  # members that are not alike
        _text(MEMBERS.replace("MatMul(x, d2)", "MatMul(z, d2)").replace("d0x =", "z = Neg(x) d0x =")),  # of something else
        _text(MEMBERS, end=f"{_END} w = Neg(r1)"),  # a second reader in between
        _text(MEMBERS.replace("first)", "last)"), header=_HEADER.replace("<", "<int64[1] last = {1}, ")),
    ],
)
def test_what_must_stay(text: str) -> None:
    if "w = Neg" in text:
        text = text.replace("sequence, 4] y)", "sequence, 4] y, float[batch, sequence, 2] w)")
    prove(MergeSiblingsPass(), text, None, initializers=WEIGHTS)
