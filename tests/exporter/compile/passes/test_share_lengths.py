"""Lengths are read from the inputs."""

import onnx_ir.passes.common as common

from exporter.compile.passes import ShareLengthsPass
from tests.helpers.pass_testing import prove

HEAD = "(float[batch, sequence] x, float[sequence, 4] z)"


def test_reads_a_length_from_the_first_input_that_has_it() -> None:
    text = f"{HEAD} => (int64[2] y) {{ h = MatMul(x, z) n = Relu(h) s = Shape(n) y = Neg(s) }}"
    prove(ShareLengthsPass(), text, "Shape Concat Neg")


def test_equal_lengths_are_then_one() -> None:
    text = f"""{HEAD} => (int64[1] y) {{ a = Shape<start = 1>(x) t = Relu(z) b = Shape<end = 1>(t) y = Add(a, b) }}"""
    model = prove(ShareLengthsPass(), text, "Shape Shape Add")
    common.CommonSubexpressionEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)
    assert [node.op_type for node in model.graph] == ["Shape", "Add"]


def test_takes_one_of_several_lengths_as_it_is() -> None:
    text = f"""{HEAD} => (int64 y) <int64 i = {{1}}> {{ s = Shape(x) n = Gather(s, i) y = Neg(n) }}"""
    prove(ShareLengthsPass(), text, "Shape Squeeze Neg")


def test_leaves_lengths_that_no_input_has() -> None:
    text = "(float[batch, sequence] x) => (int64[2] y) { i = NonZero(x) s = Shape(i) y = Neg(s) }"
    prove(ShareLengthsPass(), text, None)
    prove(ShareLengthsPass(), f"{HEAD} => (int64[1] y) {{ s = Shape<start = 1, end = 2>(x) y = Neg(s) }}", None)


def test_names_the_length_of_a_range() -> None:
    text = f"""{HEAD} => (int64[counted] y) <int64 zero = {{0}}, int64 one = {{1}}> {{
        a = Shape<start = 0, end = 1>(x) n = Squeeze(a) r = Range(zero, n, one) y = Neg(r) }}"""
    model = prove(ShareLengthsPass(), text, "Shape Squeeze Range Neg")
    assert str(next(node for node in model.graph if node.op_type == "Range").outputs[0].shape) == "[batch]"
    prove(ShareLengthsPass(), text.replace("Range(zero", "Range(one"), None)
