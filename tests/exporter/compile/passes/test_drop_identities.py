"""Copies, and outputs that are copies."""

import pytest

from exporter.compile.passes import DropIdentitiesPass
from tests.helpers.pass_testing import prove, rand

HEAD = "(float[batch, 4] x) => (float[batch, 4] y)"


def test_drops_copies() -> None:
    prove(DropIdentitiesPass(), f"{HEAD} {{ a = Identity(x) b = Relu(a) c = Identity(b) y = Neg(c) }}", "Relu Neg")


def test_an_output_takes_the_place_of_its_copy() -> None:
    prove(DropIdentitiesPass(), f"{HEAD} {{ a = Relu(x) b = Neg(a) y = Identity(a) }}", "Relu")


@pytest.mark.parametrize("source", ["x", "w"])
def test_keeps_a_copy_of_an_input_or_weight(source: str) -> None:
    text = "(float[2, 4] x) => (float[2, 4] y, float[2, 4] z) { y = Identity(source) z = Neg(x) }".replace("source", source)
    prove(DropIdentitiesPass(), text, None, initializers={"w": rand(2, 4)})


def test_keeps_the_names_of_two_outputs() -> None:
    text = "(float[batch] x) => (float[batch] y, float[batch] z) { a = Relu(x) y = Identity(a) z = Identity(a) }"
    prove(DropIdentitiesPass(), text, "Relu Identity")
