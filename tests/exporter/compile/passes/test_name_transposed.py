"""A transposed weight says whose it is."""

from exporter.compile.passes import NameTransposedPass
from tests.helpers.pass_testing import parse, prove, rand

TEXT = """(float[batch, 4] x) => (float[batch, 6] y) {
    t = Transpose(w) u = Transpose(w) a = MatMul(x, t) b = MatMul(x, u) y = Add(a, b) }"""


def test_names_follow_the_source() -> None:
    model = prove(NameTransposedPass(), TEXT, "Transpose Transpose MatMul MatMul Add", initializers={"w": rand(6, 4)})
    assert [node.outputs[0].name for node in model.graph][:2] == ["w_transposed", "w_transposed_2"]


def test_leaves_outputs_and_inputs_alone() -> None:
    prove(
        NameTransposedPass(),
        "(float[batch, 4] x) => (float[4, 6] y) { y = Transpose(w) }",
        None,
        initializers={"w": rand(6, 4)},
    )
    prove(NameTransposedPass(), "(float[batch, 4] x) => (float[4, batch] y) { z = Neg(x) t = Transpose(z) y = Neg(t) }", None)


def test_a_taken_name_stays_whose_it_is() -> None:
    text = "(float[batch, 4] x) => (float[batch, 6] y) { w_transposed = Neg(x) t = Transpose(w) y = MatMul(w_transposed, t) }"
    model = parse(text, {"w": rand(6, 4)})
    NameTransposedPass()(model)
    assert [node.outputs[0].name for node in model.graph] == ["w_transposed", "w_transposed_2", "y"]


def test_a_transpose_of_a_transpose_is_of_the_same_weight() -> None:
    text = "(float[batch, 6] x) => (float[batch, 4] y) { t = Transpose(w) u = Transpose(t) y = MatMul(x, u) }"
    model = prove(NameTransposedPass(), text, "Transpose Transpose MatMul", initializers={"w": rand(6, 4)})
    assert [node.outputs[0].name for node in model.graph] == ["w_transposed", "w_transposed_2", "y"]
